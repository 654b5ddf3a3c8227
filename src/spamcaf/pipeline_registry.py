"""The pipelines by name."""

from __future__ import annotations

from kedro.framework.project import find_pipelines
from kedro.pipeline import Pipeline

from spamcaf.names import CHAIN


def register_pipelines() -> dict[str, Pipeline]:
    """Return every pipeline under `pipelines/`, and the chain of the five as the default."""
    pipelines = find_pipelines(raise_errors=True)
    if all(name in pipelines for name in CHAIN):
        pipelines["__default__"] = sum((pipelines[name] for name in CHAIN), Pipeline([]))
    return pipelines
