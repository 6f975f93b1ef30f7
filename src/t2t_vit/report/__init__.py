"""Curves and figures of a run, from the files that it wrote."""
