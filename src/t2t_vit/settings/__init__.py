"""Every configuration key, its range, and who wins.

schema         the keys: names, defaults, meanings, sections
values         what a key may hold, and the way from text to a value
rules          what keys mean beside each other
names          the name that a misspelt one, or another tool's word, is likely to mean
commands       which options each command has, and which keys it uses
devices        cuda:1, cpu, mps -> the keys that say the same
command_line   the words of a command line -> Options
help           the look of --help
file           a YAML file -> values, and back
resolution     command line, checkpoint, file and defaults -> one Config
"""
