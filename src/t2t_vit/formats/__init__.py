"""Byte formats: what lies in a file, without knowing what it is for."""
