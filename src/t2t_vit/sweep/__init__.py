"""Many runs of one configuration with other values of some keys, each a process of its own, in one folder."""
