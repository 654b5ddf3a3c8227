"""Wiring of the transfer pipeline."""

from __future__ import annotations

from kedro.pipeline import Node, Pipeline

from spamcaf.pipelines.feature_extraction.nodes import embed_slide, embed_spots
from spamcaf.pipelines.inference.nodes import write_spatialdata
from spamcaf.pipelines.transfer import nodes


def create_pipeline(**kwargs: object) -> Pipeline:
    """Return the pipeline; `kwargs` is Kedro's convention."""
    section, sites, tissue = laid = ["unmeasured_section", "unmeasured_sites", "unmeasured_tissue"]
    settings = ["params:tiles", "params:compute", "params:fit.model", "params:fit.finetune"]
    inference = ["params:compute", "params:inference", "params:seed", "backbone_loader"]
    steps = [
        Node(nodes.lay_sites, ["slide", "params:transfer", "params:tissue"], laid, name="lay_sites"),
        Node(
            embed_slide,
            [section, "slide", tissue, "backbone", "stored_unmeasured_slide_blocks", *settings],
            "unmeasured_slide_features",
            name="embed_unmeasured_slide",
            tags="gpu",
        ),
        Node(
            embed_spots,
            [section, "slide", tissue, "backbone", "unmeasured_slide_features", "stored_unmeasured_blocks", *settings],
            "unmeasured_features",
            name="embed_unmeasured",
            tags="gpu",
        ),
        Node(
            nodes.predict_unmeasured,
            ["transfer_model", section, sites, "unmeasured_features", tissue, *inference],
            "transferred",
            name="predict_unmeasured",
            tags="gpu",
        ),
        Node(nodes.plot_transferred, ["transferred", "params:report"], "transferred_maps", name="plot_transferred"),
        Node(
            write_spatialdata,
            ["transferred", section, "slide"],
            "transferred_spatialdata",
            name="write_transferred_spatialdata",
        ),
    ]
    return Pipeline(steps, namespace="transfer", prefix_datasets_with_namespace=False)
