"""Curves and pictures of a run, from the files that it left."""
