"""Fetching the published files of data sets."""
