"""Fetching the published files of a data set; not part of the default chain."""

from spamcaf.pipelines.download.pipeline import create_pipeline

__all__ = ["create_pipeline"]
