"""Wiring of the download pipeline: `kedro run --pipelines download --env dlpfc` fetches what is missing."""

from __future__ import annotations

from kedro.pipeline import Node, Pipeline

from spamcaf.pipelines.download import nodes


def create_pipeline(**kwargs: object) -> Pipeline:
    """Return the pipeline; `kwargs` is Kedro's convention."""
    steps = [
        Node(nodes.fetch_raw_files, "remote_files", "download_report", name="fetch_raw_files"),
        # a node of its own, so that the report of a failed run is stored before the run ends
        Node(nodes.require_all_files, "download_report", None, name="require_all_files"),
    ]
    return Pipeline(steps, namespace="download", prefix_datasets_with_namespace=False)
