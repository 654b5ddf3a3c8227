"""Types that nodes are annotated with.

Kedro resolves a node's annotations at run time to find its typed parameters. The real types of heavy packages would
cost seconds at every `kedro --help`; at run time their names stand for anything.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from anndata import AnnData
    from matplotlib.figure import Figure
    from pandas import DataFrame
    from spatialdata import SpatialData

    from spamcaf.datasets.inputs import OtherSections, References
    from spamcaf.download.fetch import RemoteFiles
    from spamcaf.histology.backbone import Backbone
    from spamcaf.histology.slide import Slide
    from spamcaf.model.training import Checkpoints
    from spamcaf.peers.models import TrainedModel
    from spamcaf.simulation.section import SimulatedTissue

    OpenSlide = Callable[[], Slide | None]
else:
    AnnData = Backbone = Checkpoints = DataFrame = Figure = Any
    OpenSlide = OtherSections = References = RemoteFiles = SimulatedTissue = SpatialData = TrainedModel = Any

__all__ = [
    "AnnData",
    "Backbone",
    "Checkpoints",
    "DataFrame",
    "Figure",
    "OpenSlide",
    "OtherSections",
    "References",
    "RemoteFiles",
    "SimulatedTissue",
    "SpatialData",
    "TrainedModel",
]
