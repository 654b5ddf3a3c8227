"""Wiring of the transfer pipeline."""

from __future__ import annotations

from kedro.pipeline import Node, Pipeline

from spamcaf.pipelines.feature_extraction.nodes import embed_spots
from spamcaf.pipelines.transfer import nodes


def create_pipeline(**kwargs: object) -> Pipeline:
    """Return the pipeline; `kwargs` is Kedro's convention."""
    laid = ["unmeasured_section", "unmeasured_sites", "unmeasured_tissue"]
    return Pipeline(
        [
            Node(nodes.lay_sites, ["slide", "params:transfer", "params:tissue"], laid, name="lay_sites"),
            Node(
                embed_spots,
                [
                    "unmeasured_section",
                    "slide",
                    "unmeasured_tissue",
                    "backbone",
                    "stored_unmeasured_blocks",
                    "params:tiles",
                    "params:compute",
                    "params:fit.model",
                ],
                "unmeasured_features",
                name="embed_unmeasured",
                tags="gpu",
            ),
            Node(
                nodes.predict_unmeasured,
                [
                    "transfer_model",
                    "unmeasured_section",
                    "unmeasured_sites",
                    "unmeasured_features",
                    "unmeasured_tissue",
                    "params:compute",
                    "params:inference",
                    "params:seed",
                ],
                "transferred",
                name="predict_unmeasured",
                tags="gpu",
            ),
            Node(nodes.plot_transferred, ["transferred", "params:report"], "transferred_maps", name="plot_transferred"),
            Node(
                nodes.write_transferred_spatialdata,
                ["transferred", "unmeasured_section", "slide"],
                "transferred_spatialdata",
                name="write_transferred_spatialdata",
            ),
        ],
        namespace="transfer",
        prefix_datasets_with_namespace=False,
    )
