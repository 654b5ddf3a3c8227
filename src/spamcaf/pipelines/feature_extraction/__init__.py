"""What the backbone sees at spots and sites."""

from spamcaf.pipelines.feature_extraction.pipeline import create_pipeline

__all__ = ["create_pipeline"]
