"""The setting tiles.dense reaches the features of spots and grid, and their key."""

from __future__ import annotations

import json
import logging
from collections import Counter
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from torch import Tensor, nn

from spamcaf.errors import InputError
from spamcaf.histology.backbone import Backbone, BackboneIdentity
from spamcaf.histology.features import Features, StoredBlock, join_blocks
from spamcaf.histology.slide import ArrayPixels, Slide
from spamcaf.histology.tissue import Tissue
from spamcaf.names import SECTION_METADATA, SPATIAL, SectionField
from spamcaf.parameters import ComputeSettings, TileSettings
from spamcaf.pipelines.feature_extraction.nodes import embed_grid, embed_slide, embed_spots
from spamcaf.sections.sites import SITE_ID, SUB_INDEX, X_PX, Y_PX

N = 20
XY = np.random.default_rng(0).uniform(100, 300, (N, 2))
SECTION = AnnData(np.zeros((N, 1)), obs=pd.DataFrame(index=[f"b{i}" for i in range(N)]), obsm={SPATIAL: XY})
SECTION.uns[SECTION_METADATA] = {SectionField.MPP.value: 4.0}
GRID = pd.DataFrame({SITE_ID: [f"b{i}_s1" for i in range(N)], SUB_INDEX: 1, X_PX: XY[:, 0] + 5, Y_PX: XY[:, 1] - 7})
SLIDE = Slide(ArrayPixels(np.random.default_rng(1).integers(0, 255, (400, 400, 3), np.uint8), "f"), "s")
TISSUE = Tissue(np.ones((4, 4), bool), np.zeros((4, 4, 3), np.uint8), 100)
COMPUTE = ComputeSettings(device="cpu", precision="float32")
PASSES: Counter[str] = Counter()


class Map(nn.Module):
    """A convolutional network of three features, counting its tiles."""

    def forward_features(self, pixels: Tensor) -> Tensor:
        PASSES["tiles"] += len(pixels)
        return nn.functional.avg_pool2d(pixels, 16)

    def forward(self, pixels: Tensor) -> Tensor:
        return self.forward_features(pixels).mean(dim=(2, 3))


IDENTITY = BackboneIdentity("map", "here", "0" * 64, "c", 3, "MIT", mpp=0.5)
BACKBONE = Backbone(Map(), (0.5,) * 3, (0.5,) * 3, IDENTITY)


def slide_map(tiles: TileSettings, model: str = "spamcaf", stored: list[StoredBlock] | None = None) -> Features:
    blocks = embed_slide(SECTION, SLIDE, TISSUE, BACKBONE, stored or [], tiles, COMPUTE, model)
    return join_blocks(list(blocks))


def spots(dense: bool, model: str = "spamcaf", stored: list[StoredBlock] | None = None, **tiles: float) -> Features:
    settings = TileSettings(dense=dense, **tiles)
    of_map = slide_map(settings, model)
    blocks = embed_spots(SECTION, SLIDE, TISSUE, BACKBONE, of_map, stored or [], settings, COMPUTE, model)
    return join_blocks(list(blocks))


def test_dense_features_are_near_the_exact_ones_of_the_same_spots() -> None:
    exact, dense = spots(dense=False), spots(dense=True)
    names = SECTION.obs_names.tolist()
    difference = exact.windows[exact.rows(names)] - dense.windows[dense.rows(names)]
    assert 0 < np.abs(difference).max() < 0.05
    np.testing.assert_array_equal(exact.n_px_padded[exact.rows(names)], dense.n_px_padded[dense.rows(names)])


def test_spots_and_grid_are_of_one_view_that_is_not_the_exact_one() -> None:
    tiles = TileSettings(dense=True)
    grid = join_blocks(
        list(embed_grid(GRID, SECTION, SLIDE, TISSUE, BACKBONE, slide_map(tiles), [], tiles, COMPUTE, "spamcaf"))
    )
    assert grid.key.view == spots(dense=True).key.view != spots(dense=False).key.view
    assert "2 x 2 tiles over a place" in json.loads(grid.key.view)["dense"]


def test_what_is_stored_is_not_computed_again() -> None:
    tiles = TileSettings(dense=True)
    whole = slide_map(tiles)
    PASSES.clear()
    blocks = [StoredBlock(whole.key, start) for start in range(0, whole.n_total, whole.key.block)]
    assert not slide_map(tiles, stored=blocks).ids
    assert PASSES["tiles"] == 1  # that tells how many features lie across a tile
    assert not spots(dense=True, stored=[StoredBlock(spots(dense=True).key, 0)]).ids


def test_spots_and_a_finer_grid_take_no_pass_of_their_own() -> None:
    tiles = TileSettings(dense=True)
    whole = slide_map(tiles)
    PASSES.clear()
    found = [
        join_blocks(list(embed_spots(SECTION, SLIDE, TISSUE, BACKBONE, whole, [], tiles, COMPUTE, "spamcaf"))),
        join_blocks(list(embed_grid(GRID, SECTION, SLIDE, TISSUE, BACKBONE, whole, [], tiles, COMPUTE, "spamcaf"))),
    ]
    assert [len(features.ids) for features in found] == [N, N]
    assert not PASSES["tiles"]


def test_by_default_a_backbone_decides_for_which_it_was_shown_to_lose_nothing() -> None:
    shown = replace(BACKBONE, identity=replace(IDENTITY, dense=True))
    sizes = [
        join_blocks(list(embed_slide(SECTION, SLIDE, TISSUE, each, [], TileSettings(), COMPUTE, "spamcaf"))).n_total
        for each in (BACKBONE, shown)
    ]
    assert sizes[0] == 0 < sizes[1]


def test_the_released_network_is_refused() -> None:
    with pytest.raises(InputError, match="fit.model"):
        spots(dense=True, model="released")


@pytest.mark.parametrize(("tile_um", "is_warned_of"), [(112.0, False), (115.0, False), (224.0, True)])
def test_another_scale_than_the_backbones_is_warned_of(
    tile_um: float, is_warned_of: bool, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        spots(dense=False, tile_um=tile_um)
    assert ("trained at 0.5 um/px" in caplog.text) == is_warned_of


def test_a_backbone_without_a_map_is_refused() -> None:
    bare = replace(BACKBONE, network=nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()))
    tiles = TileSettings(dense=True)
    with pytest.raises(InputError, match="gives no map"):
        list(embed_slide(SECTION, SLIDE, TISSUE, bare, [], tiles, COMPUTE, "spamcaf"))
