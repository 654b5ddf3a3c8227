"""Features do not depend on batches or blocks, and what is done already is not computed again."""

from __future__ import annotations

import logging
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from spamcaf.histology.backbone import Backbone, BackboneIdentity
from spamcaf.histology.embedding import Embedder, embed_sites
from spamcaf.histology.features import FeatureKey, Features, join_blocks
from spamcaf.histology.slide import ArrayPixels, Slide
from spamcaf.histology.tiles import WindowGeometry
from spamcaf.parameters import TileSettings

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.5)
CPU = torch.device("cpu")
N = 5
IDS = [f"site{i}" for i in range(N)]
XY = np.column_stack([np.linspace(50, 550, N), np.linspace(250, 20, N)])
GEOMETRY = WindowGeometry.of(TileSettings(), 4.0)


class MeanColour(nn.Module):
    """Three features: the mean colour; runs out of memory above `limit` tiles."""

    def __init__(self, limit: int = 10**6) -> None:
        super().__init__()
        self.limit, self.sizes = limit, list[int]()

    def forward(self, pixels: Tensor) -> Tensor:
        self.sizes.append(len(pixels))
        if len(pixels) > self.limit:
            raise torch.cuda.OutOfMemoryError("too many tiles")
        return pixels.mean(dim=(2, 3))


def backbone(network: nn.Module) -> Backbone:
    return Backbone(network, MEAN, STD, BackboneIdentity("mean", "here", "0" * 64, "c", 3, "MIT"))


@pytest.fixture
def slide() -> Slide:
    coarse = np.random.default_rng(0).integers(0, 255, (30, 60, 3), np.uint8)
    return Slide(ArrayPixels(np.kron(coarse, np.ones((10, 10, 1), np.uint8)), "f"), "s")


def run(
    slide: Slide,
    network: nn.Module,
    batch: int,
    block: int = 64,
    done: set[int] | None = None,
    *,
    with_whole: bool = False,
) -> list[Features]:
    embedder = Embedder(backbone(network), CPU, torch.float32, batch)
    key = FeatureKey("s", "b", "v", "i", 400)
    return list(embed_sites(slide, embedder, GEOMETRY, IDS, XY, key, done or set(), block, with_whole=with_whole))


@pytest.fixture
def convolution() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 16, stride=16), nn.GELU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()


def test_features_are_those_of_the_normalised_tiles(slide: Slide) -> None:
    (features,) = run(slide, MeanColour(), batch=64)
    assert features.windows.shape == (N, 9, 3)
    assert features.windows.dtype == np.float32
    for i, (x, y) in enumerate(XY):
        window, n_padded = slide.read(round(x - 42), round(y - 42), 84, 84)
        tile = window[28:56, 28:56].reshape(-1, 3).mean(axis=0) / 255
        np.testing.assert_allclose(Features.target_of(features.windows)[i], (tile - MEAN) / STD, atol=0.06)
        assert features.n_px_padded[i] == n_padded
    assert features.n_px_padded.max() > 0


@pytest.mark.parametrize(("batch", "block"), [(5, 64), (64, 1), (7, 3)])
def test_batches_and_blocks_do_not_change_values(slide: Slide, convolution: nn.Module, batch: int, block: int) -> None:
    expected = run(slide, convolution, batch=63)[0]
    found = join_blocks(run(slide, convolution, batch, block))
    assert found.ids == tuple(IDS)
    np.testing.assert_allclose(found.windows, expected.windows, atol=1e-5)
    np.testing.assert_array_equal(found.n_px_padded, expected.n_px_padded)


def test_blocks_come_in_order_and_cover_every_site_once(slide: Slide) -> None:
    blocks = run(slide, MeanColour(), batch=64, block=2)
    assert [b.start for b in blocks] == [0, 2, 4]
    assert [len(b.ids) for b in blocks] == [2, 2, 1]
    assert all(b.start + len(b.ids) == c.start for b, c in pairwise(blocks))
    assert {b.n_total for b in blocks} == {N}


def test_done_blocks_are_skipped_and_the_rest_is_the_same(slide: Slide) -> None:
    network = MeanColour()
    blocks = run(slide, network, batch=64, block=2, done={0, 4})
    assert [b.start for b in blocks] == [2]
    assert sum(network.sizes) == 2 * 9
    np.testing.assert_array_equal(blocks[0].windows, run(slide, MeanColour(), batch=64, block=2)[1].windows)


def test_out_of_memory_halves_the_batch_and_says_so(slide: Slide, caplog: pytest.LogCaptureFixture) -> None:
    network = MeanColour(limit=10)
    with caplog.at_level(logging.WARNING):
        (found,) = run(slide, network, batch=40)
    np.testing.assert_array_equal(found.windows, run(slide, MeanColour(), batch=40)[0].windows)
    assert "9 tiles at a time" in caplog.text
    assert max(network.sizes[1:]) == 9


def test_out_of_memory_with_one_tile_is_an_error(slide: Slide) -> None:
    with pytest.raises(torch.cuda.OutOfMemoryError):
        run(slide, MeanColour(limit=0), batch=4)


def test_bf16_inside_is_float32_outside(slide: Slide, convolution: nn.Module) -> None:
    windows = torch.rand(2, 3, 672, 672, generator=torch.Generator().manual_seed(0)) * 255
    exact = Embedder(backbone(convolution), CPU, torch.float32, 64).embed(windows)
    rough = Embedder(backbone(convolution), CPU, torch.bfloat16, 64).embed(windows)
    assert rough.dtype == np.float32
    assert not np.array_equal(rough, exact)
    np.testing.assert_allclose(rough, exact, atol=0.02)


def test_the_whole_window_is_seen_shrunk_to_one_tile(slide: Slide) -> None:
    (features,) = run(slide, MeanColour(), batch=64, with_whole=True)
    assert features.whole.shape == (N, 3)
    assert features.whole.dtype == np.float32
    for i, (x, y) in enumerate(XY):
        window, _ = slide.read(round(x - 42), round(y - 42), 84, 84)
        np.testing.assert_allclose(features.whole[i], (window.mean(axis=(0, 1)) / 255 - MEAN) / STD, atol=0.02)


def test_the_whole_window_leaves_the_tiles_as_they_are(slide: Slide, convolution: nn.Module) -> None:
    (without,) = run(slide, convolution, batch=18)
    (with_it,) = run(slide, convolution, batch=18, with_whole=True)
    assert without.whole is None
    np.testing.assert_array_equal(with_it.windows, without.windows)
    np.testing.assert_array_equal(with_it.n_px_padded, without.n_px_padded)


def test_blocks_do_not_change_the_whole_window(slide: Slide, convolution: nn.Module) -> None:
    (expected,) = run(slide, convolution, batch=64, with_whole=True)
    found = join_blocks(run(slide, convolution, batch=5, block=2, with_whole=True))
    np.testing.assert_allclose(found.whole, expected.whole, atol=1e-5)
