"""Readers of sections, one per kind of files."""
