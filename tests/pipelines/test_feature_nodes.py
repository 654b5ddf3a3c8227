"""What the nodes of feature extraction compute, and what makes stored features stale."""

from __future__ import annotations

import logging

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from torch import nn

from spamcaf.histology.backbone import Backbone, BackboneIdentity
from spamcaf.histology.features import Features, StoredBlock, join_blocks
from spamcaf.histology.slide import ArrayPixels, Slide
from spamcaf.histology.tiles import CENTRE
from spamcaf.histology.tissue import Tissue
from spamcaf.names import SECTION_METADATA, SPATIAL, SectionField
from spamcaf.parameters import ComputeSettings, TileSettings
from spamcaf.pipelines.feature_extraction.nodes import embed_grid, embed_slide, embed_spots
from spamcaf.sections.sites import SITE_ID, SUB_INDEX, X_PX, Y_PX

N = 70
XY = np.random.default_rng(0).uniform(50, 350, (N, 2))
SECTION = AnnData(np.zeros((N, 1)), obs=pd.DataFrame(index=[f"b{i}" for i in range(N)]), obsm={SPATIAL: XY})
SECTION.uns[SECTION_METADATA] = {SectionField.MPP.value: 4.0}
IMAGE = np.random.default_rng(1).integers(40, 200, (400, 400, 3), np.uint8)
SLIDE = Slide(ArrayPixels(IMAGE, "f"), "s")
TISSUE = Tissue(np.ones((40, 40), bool), IMAGE[::10, ::10], 10.0)
COMPUTE = ComputeSettings(device="cpu", precision="float32")
IDENTITY = BackboneIdentity("mean", "here", "0" * 64, "c", 3, "MIT")
BACKBONE = Backbone(nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()), (0.5,) * 3, (0.5,) * 3, IDENTITY)
(NO_MAP,) = embed_slide(SECTION, SLIDE, TISSUE, BACKBONE, [], TileSettings(), COMPUTE, "spamcaf")


def spots(
    slide: Slide = SLIDE,
    tissue: Tissue = TISSUE,
    compute: ComputeSettings = COMPUTE,
    stored: list[StoredBlock] | None = None,
    **tiles: object,
) -> list[Features]:
    settings = TileSettings(**tiles)
    return list(embed_spots(SECTION, slide, tissue, BACKBONE, NO_MAP, stored or [], settings, compute, "spamcaf"))


@pytest.mark.parametrize(
    "changed",
    [
        {"tile_um": 100.0},
        {"unit": "pixels"},
        {"stain": "macenko"},
        {"views": 2},
        {"compute": ComputeSettings(device="cpu", precision="bf16")},
        {"slide": Slide(ArrayPixels(IMAGE, "g"), "s")},
    ],
    ids=["width", "unit", "stain", "views", "precision", "slide"],
)
def test_what_changes_features_changes_the_key(changed: dict[str, object]) -> None:
    first, again, other = spots()[0].key, spots()[0].key, spots(**changed)[0].key
    assert first == again != other


def test_the_key_tells_views_and_without_them_is_that_of_earlier_versions() -> None:
    earlier = (
        '{"precision": "float32", "resized": "each tile by itself, bilinear with antialias, uint8", "stain": "none", '
        '"tile": "112 um", "tile_px": 224, "tiles_across": 3}'
    )
    views = [spots(views=n)[0].key.view for n in (1, 2, 4, 8, 12)]
    assert views[0] == earlier
    assert len(set(views)) == 5


def test_spots_and_sites_between_them_get_the_same_views() -> None:
    """Shifts move the mean colour, turns do not."""
    grid = pd.DataFrame({SITE_ID: SECTION.obs_names, SUB_INDEX: 1, X_PX: XY[:, 0], Y_PX: XY[:, 1]})
    found = [
        join_blocks(list(embed_grid(grid, SECTION, SLIDE, TISSUE, BACKBONE, NO_MAP, [], tiles, COMPUTE, "spamcaf")))
        for tiles in (TileSettings(), TileSettings(views=12))
    ]
    plain, viewed = (features.windows[features.rows(SECTION.obs_names)] for features in found)
    of_spots = join_blocks(spots(views=12))
    assert found[1].key.view == of_spots.key.view
    np.testing.assert_allclose(viewed, of_spots.windows[of_spots.rows(SECTION.obs_names)], atol=1e-5)
    difference = np.abs(viewed - plain).max(axis=(0, 2))
    assert difference[CENTRE] > 1e-3
    assert np.delete(difference, CENTRE).max() < 1e-5


def test_how_fast_it_is_computed_does_not() -> None:
    assert spots(batch=3)[0].key == spots()[0].key


def test_another_tissue_changes_stains_and_nothing_else() -> None:
    half = np.zeros((40, 40), bool)
    half[:20] = True
    other = Tissue(half, TISSUE.thumbnail, 10.0)
    assert spots(tissue=other)[0].key == spots()[0].key
    assert spots(tissue=other, stain="macenko")[0].key != spots(stain="macenko")[0].key


def test_stains_change_features_and_differ_from_unchanged_ones_in_the_view() -> None:
    plain, common = join_blocks(spots()), join_blocks(spots(stain="macenko"))
    assert plain.ids == common.ids
    assert np.abs(plain.windows - common.windows).max() > 0.05
    assert plain.key.view != common.key.view


def test_only_missing_blocks_are_computed_and_progress_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    first, second = spots()
    with caplog.at_level(logging.INFO):
        (missing,) = spots(stored=[StoredBlock(first.key, first.start)])
    assert missing.ids == second.ids
    assert "1 blocks are stored" in caplog.text
    assert "70 of 70 sites" in caplog.text
    (nothing,) = spots(stored=[StoredBlock(block.key, block.start) for block in (first, second)])
    assert nothing.ids == ()


def test_a_grid_of_spots_alone_has_one_empty_block() -> None:
    grid = pd.DataFrame({SITE_ID: ["b0_s0"], SUB_INDEX: [0], X_PX: [60.0], Y_PX: [60.0]})
    (block,) = embed_grid(grid, SECTION, SLIDE, TISSUE, BACKBONE, NO_MAP, [], TileSettings(), COMPUTE, "spamcaf")
    assert (block.ids, block.n_total) == ((), 0)
