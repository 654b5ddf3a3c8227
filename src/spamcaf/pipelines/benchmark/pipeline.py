"""Wiring of the benchmark pipeline."""

from __future__ import annotations

from kedro.pipeline import Node, Pipeline

from spamcaf.pipelines.benchmark import nodes


def create_pipeline(**kwargs: object) -> Pipeline:
    """Return the pipeline; `kwargs` is Kedro's convention."""
    steps = [
        Node(
            nodes.run_benchmark,
            ["sessions", "params:benchmark", "params:split", "params:seed"],
            ["benchmark", "benchmark_record", "benchmark_report"],
            name="run_benchmark",
        )
    ]
    return Pipeline(steps, namespace="benchmark", prefix_datasets_with_namespace=False)
