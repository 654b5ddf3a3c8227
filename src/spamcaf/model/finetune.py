"""Fine-tuning: the backbone's last blocks trained together with the network, from maps that were computed before."""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from spamcaf.histology.backbone import LastBlocks
from spamcaf.model.data import FeaturePCA
from spamcaf.model.network import SpamcafInput, SpamcafNetwork, SpamcafOutput, SpamcafShape

TILES = 256
"""Tiles that pass the last blocks together where no gradient is kept."""


class FineTunedNetwork(SpamcafNetwork):
    """The SpaMCAF network whose target branch reads what its own copy of the backbone's last blocks makes of a tile.

    Neighbour tiles, section and context stay those of the frozen backbone. Until `is_tuned` the target's components are
    those of the frozen backbone, too: the network is trained first, the blocks in the last epochs with it, so that they
    do not follow a network that knows nothing yet (Kumar et al. 2022, Fine-tuning can distort pretrained features,
    ICLR), and at a fraction of the cost.
    """

    axes: Tensor
    is_tuned = True
    is_quick = False  # in evaluation, one view of each tile instead of all

    def __init__(self, shape: SpamcafShape, last_blocks: LastBlocks, pca: FeaturePCA) -> None:
        super().__init__(shape)
        self.last_blocks = copy.deepcopy(last_blocks).requires_grad_(True)
        self.register_buffer("axes", torch.from_numpy(pca.axes.T / pca.scale), persistent=False)  # (feature, component)

    def forward(self, given: SpamcafInput) -> SpamcafOutput:
        """Return the four heads' scores; in training one random view of each tile counts, else the mean of all."""
        if not self.is_tuned:
            return super().forward(given)
        assert given.maps is not None
        assert given.origin is not None
        site, view = given.maps.shape[:2]
        if self.training:
            rows = torch.arange(site, device=given.maps.device)
            features = self.last_blocks(given.maps[rows, torch.randint(view, (site,), device=rows.device)].float())
        else:
            view = 1 if self.is_quick else view
            parts = given.maps[:, :view].flatten(0, 1).split(TILES)
            features = torch.cat([self.last_blocks(part.float()) for part in parts]).unflatten(0, (site, view)).mean(1)
        return super().forward(given._replace(target=(features.float() - given.origin) @ self.axes))
