"""From raw files to a checked section, its split, gene panel, tissue and grid."""

from spamcaf.pipelines.ingestion.pipeline import create_pipeline

__all__ = ["create_pipeline"]
