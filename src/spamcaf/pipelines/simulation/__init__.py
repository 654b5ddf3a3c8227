"""Writing the simulated section as Space Ranger would: `kedro run --pipelines simulation` shows how real ones lie."""

from __future__ import annotations

from kedro.pipeline import Node, Pipeline

from spamcaf.pipelines.types import SimulatedTissue


def pass_on(truth: SimulatedTissue) -> SimulatedTissue:
    """Hand the simulated tissue to the dataset that writes it."""
    return truth


def create_pipeline(**kwargs: object) -> Pipeline:
    """Return the pipeline; `kwargs` is Kedro's convention."""
    return Pipeline([Node(pass_on, "truth", "simulated_outs", name="write_simulated_section")])
