"""What the network is shown of a section: tensors on the device, and batches of sites with their context."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from spamcaf.learning.projection import Projection
from spamcaf.network.spamcaf import SpamcafInput
from spamcaf.sections.sites import Sites


@dataclass(frozen=True)
class SiteView:
    """Projected pictures and positions of sites: (site, component), (site, 9, component), (site, 2)."""

    target: Tensor
    neighbours: Tensor
    xy_um: Tensor

    @classmethod
    def of(
        cls,
        sites: Sites,
        centre: NDArray[np.float32],
        origin_um: NDArray[np.float64],
        projection: Projection,
        device: torch.device,
    ) -> SiteView:
        """Return the view of `sites`, pictures counted from `centre` and positions from `origin_um`.

        `centre` (feature,) or (site, feature) is the mean tile of the sites' section, `origin_um` (2,) or (site, 2) a
        place of it.
        """
        tile_centre = centre if centre.ndim == 1 else centre[:, None]
        return cls(
            torch.from_numpy(projection(sites.target - centre)).to(device),
            torch.from_numpy(projection(sites.neighbours - tile_centre)).to(device),
            torch.from_numpy((sites.xy_um - origin_um).astype(np.float32)).to(device),
        )

    @classmethod
    def stack(cls, views: list[SiteView]) -> SiteView:
        """Return all sites of `views`, one after the other."""
        return cls(*(torch.cat([getattr(view, name) for view in views]) for name in ("target", "neighbours", "xy_um")))

    def without_places(self) -> SiteView:
        """Return the same pictures at unknown positions."""
        return SiteView(self.target, self.neighbours, torch.full_like(self.xy_um, torch.nan))


@dataclass(frozen=True)
class SpotView:
    """The spots of a section: pictures, positions and program scores (spot, program)."""

    sites: SiteView
    scores: Tensor

    def around(
        self, sites: SiteView, rows: Tensor | slice, index: Tensor, seen: Tensor, section: Tensor | slice = slice(None)
    ) -> SpamcafInput:
        """Return the input for `rows` of `sites`, with this section's spots `index` (site, neighbour) as context.

        The global branch is shown the spots `section`. Scores that are not `seen` (site, neighbour) are blanked, so
        nothing depends on the attention's mask alone.
        """
        xy_um = sites.xy_um[rows]
        return SpamcafInput(
            target=sites.target[rows],
            neighbours=sites.neighbours[rows],
            xy_um=xy_um,
            section_target=self.sites.target[section],
            section_xy_um=self.sites.xy_um[section],
            context_scores=self.scores[index] * seen[..., None],
            context_target=self.sites.target[index],
            context_offset_um=self.sites.xy_um[index] - xy_um[:, None],
            context_seen=seen,
        )

    def blind(self) -> SpotView:
        """Return the spots with positions unknown, as on a section that was never measured."""
        return SpotView(self.sites.without_places(), self.scores)
