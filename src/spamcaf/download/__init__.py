"""Download of the published files of data sets."""
