"""Batches -> exact metrics."""
