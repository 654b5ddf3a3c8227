"""Dense features: exact on the grid, by area elsewhere, the same after a cut, bounded in memory."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import timm
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor, nn

from spamcaf.errors import InputError
from spamcaf.histology.backbone import Backbone, BackboneIdentity, ClassAndMean, FeatureMap
from spamcaf.histology.dense import (
    Band,
    DenseEmbedder,
    FeatureGrid,
    PoolingJob,
    SlideMapJob,
    dense_view,
    embed_map,
    is_dense,
    map_side,
    pool_windows,
    reachable_px,
)
from spamcaf.histology.embedding import Embedder, EmbeddingJob, embed_blocks
from spamcaf.histology.features import FeatureKey, Features, join_blocks
from spamcaf.histology.slide import ArrayPixels, Slide
from spamcaf.histology.tiles import WindowGeometry, read_tile
from spamcaf.histology.tissue import Tissue
from spamcaf.parameters import TileSettings

CPU = torch.device("cpu")
GEOMETRY = WindowGeometry.of(TileSettings(), 4.0)
TILE = GEOMETRY.tile_px
HALF = 3e-3  # of float16, for features up to 4


class MeanOfPatches(nn.Module):
    """A convolutional network in timm's manner: a 7 x 7 map of mean colours, counting its tiles."""

    def __init__(self) -> None:
        super().__init__()
        self.n_tiles = 0

    def forward_features(self, pixels: Tensor) -> Tensor:
        self.n_tiles += len(pixels)
        return nn.functional.avg_pool2d(pixels, 32)

    def forward(self, pixels: Tensor) -> Tensor:
        return self.forward_features(pixels).mean(dim=(2, 3))


def backbone(network: nn.Module) -> Backbone:
    return Backbone(network, (0.5, 0.4, 0.3), (0.2, 0.3, 0.4), BackboneIdentity("net", "here", "0" * 64, "c", 3, "MIT"))


@pytest.fixture(scope="module")
def slide() -> Slide:
    coarse = np.random.default_rng(0).integers(0, 255, (60, 80, 3), np.uint8)
    return Slide(ArrayPixels(np.kron(coarse, np.ones((6, 6, 1), np.uint8)), "f"), "s")


@pytest.fixture(scope="module")
def vit() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return timm.create_model("test_vit", num_classes=0, img_size=224, reg_tokens=2).eval()


def centre(x: float, y: float) -> list[float]:
    """Where a site lies whose window begins at pixel (x, y)."""
    return [x + 3 * TILE // 2, y + 3 * TILE // 2]


def job_of(slide: Slide, xy: object, key: FeatureKey, kind: type[EmbeddingJob] = PoolingJob) -> EmbeddingJob:
    xy_px = np.array(xy, np.float64).reshape(-1, 2)
    return kind(slide, GEOMETRY, [f"site{i}" for i in range(len(xy_px))], xy_px, key)


def map_job(slide: Slide, network: nn.Module, xy: object, block: int = 64, overlap: int = 2) -> SlideMapJob:
    parts, centres = backbone(network), np.array(xy, np.float64).reshape(-1, 2)
    side = map_side(parts)
    how = (slide, GEOMETRY, side, centres, parts.identity, "s", dense_view(side))
    return SlideMapJob.of(*how, block=block, overlap=overlap)


def mapped(
    job: SlideMapJob, network: nn.Module, starts: list[int] | None = None, batch: int = 64, threads: int = 0
) -> list[Features]:
    embedder = DenseEmbedder(backbone(network), CPU, torch.float32, batch)
    if isinstance(network, MeanOfPatches):
        network.n_tiles = 0
    return list(embed_map(job, embedder, job.starts() if starts is None else starts, threads))


def dense(
    slide: Slide,
    network: nn.Module,
    xy: object,
    block: int = 64,
    batch: int = 64,
    threads: int = 0,
    overlap: int = 2,
    done: set[int] | None = None,
) -> list[Features]:
    job = map_job(slide, network, xy, block, overlap)
    slide_map = join_blocks(mapped(job, network, batch=batch, threads=threads))
    pooling = job_of(slide, xy, replace(slide_map.key, sites="i", block=block))
    assert isinstance(pooling, PoolingJob)
    return list(pool_windows(slide_map, pooling, done or set()))


def by_id(features: Features, n: int) -> NDArray[np.float32]:
    return features.windows[features.rows([f"site{i}" for i in range(n)])]


def tokens(slide: Slide, network: nn.Module, row: float, column: float) -> Tensor:
    """The map of a tile of the grid, or one half off it, straight from the network, (row, column, feature)."""
    tile, _ = read_tile(slide, int(column * TILE), int(row * TILE), TILE)
    parts = backbone(network)
    mean, std = (torch.tensor(v).reshape(1, 3, 1, 1) for v in (parts.mean, parts.std))
    with torch.inference_mode():
        pixels = torch.from_numpy(tile).permute(2, 0, 1)[None].float() / 255
        return FeatureMap(network)((pixels - mean) / std)[0]


def test_a_site_on_the_grid_gets_the_mean_of_its_tiles_tokens(slide: Slide, vit: nn.Module) -> None:
    (found,) = dense(slide, vit, [centre(TILE, 2 * TILE)], overlap=1)
    expected = [tokens(slide, vit, 2 + i, 1 + j).mean(dim=(0, 1)) for i in range(3) for j in range(3)]
    np.testing.assert_allclose(found.windows[0], torch.stack(expected), atol=HALF)


def token_image(slide: Slide, vit: nn.Module, offset: tuple[float, float]) -> NDArray[np.float32]:
    """Tokens of 6 x 6 tiles from -1 tile and an offset on; a tile is 28 px and 14 tokens, so a token is 2 x 2 px."""
    rows, columns = (np.arange(-1, 5) + part for part in offset)
    tiles = [torch.cat([tokens(slide, vit, row, column) for column in columns], dim=1) for row in rows]
    return torch.cat(tiles).numpy().repeat(2, axis=0).repeat(2, axis=1)


@pytest.mark.parametrize("overlap", [1, 2])
def test_a_shifted_site_gets_tokens_by_their_area(slide: Slide, vit: nn.Module, overlap: int) -> None:
    x, y = 9, 23
    offsets = [(i, j) for i in (0.0, 0.5)[:overlap] for j in (0.0, 0.5)[:overlap]]
    expected = np.zeros((9, 64), np.float32)
    for offset in offsets:
        image = token_image(slide, vit, offset)
        top, left = (round(pixel + TILE - part * TILE) for pixel, part in zip((y, x), offset, strict=True))
        for k in range(9):
            row, column = top + k // 3 * TILE, left + k % 3 * TILE
            expected[k] += image[row : row + TILE, column : column + TILE].mean(axis=(0, 1)) / len(offsets)
    (found,) = dense(slide, vit, [centre(x, y)], overlap=overlap)
    np.testing.assert_allclose(found.windows[0], expected, atol=HALF)


def test_a_convolutional_network_on_the_grid_gives_its_exact_features(slide: Slide) -> None:
    xy = [centre(c * TILE, r * TILE) for r in (0, 1, 3, -1) for c in (0, 2)]
    exact_job = job_of(slide, xy, FeatureKey("s", "b", "v", "i", GEOMETRY.window_px), EmbeddingJob)
    embedder = Embedder(backbone(MeanOfPatches()), CPU, torch.float32, 64)
    exact = join_blocks(list(embed_blocks(exact_job, embedder, exact_job.starts(), 0)))
    found = join_blocks(dense(slide, MeanOfPatches(), xy, overlap=1))
    np.testing.assert_allclose(by_id(found, len(xy)), by_id(exact, len(xy)), atol=HALF)


SITES = np.random.default_rng(1).uniform((-20, -20), (110, 190), (40, 2))


def test_padded_pixels_are_those_of_the_exact_mode(slide: Slide) -> None:
    found = join_blocks(dense(slide, MeanOfPatches(), SITES))
    windows = GEOMETRY.windows(SITES)[:, 0].tolist()
    expected = [slide.read(x, y, width, width)[1] for x, y, width in windows]
    assert found.n_px_padded[found.rows([f"site{i}" for i in range(40)])].tolist() == expected
    assert max(expected) > 0


def test_every_place_is_computed_once(slide: Slide) -> None:
    network = MeanOfPatches()
    dense(slide, network, np.repeat(SITES, 20, axis=0), block=7)
    x, y, _ = 2 * (np.ptp(GEOMETRY.windows(SITES)[:, 0], axis=0) // TILE + 5)
    assert network.n_tiles <= x * y


def test_features_do_not_depend_on_blocks_batches_threads_or_other_sites(slide: Slide, vit: nn.Module) -> None:
    expected = by_id(join_blocks(dense(slide, vit, SITES)), 40)
    for found in (dense(slide, vit, SITES, block=3, batch=5), dense(slide, vit, SITES, threads=2)):
        np.testing.assert_allclose(by_id(join_blocks(found), 40), expected, atol=HALF)
    alone = by_id(join_blocks(dense(slide, vit, SITES[:1])), 1)
    np.testing.assert_allclose(alone, expected[:1], atol=HALF)


def test_a_map_that_was_cut_off_goes_on_bit_by_bit(slide: Slide, vit: nn.Module) -> None:
    job = map_job(slide, vit, SITES)
    whole = mapped(job, vit)
    rest = mapped(job, vit, starts=[128, 512])
    assert [block.start for block in rest] == [128, 512]
    for block, expected in zip(rest, [whole[2], whole[8]], strict=True):
        assert block.ids == expected.ids
        np.testing.assert_array_equal(block.windows, expected.windows)


def test_rows_of_the_map_that_are_stored_are_not_computed_again(slide: Slide) -> None:
    network = MeanOfPatches()
    job = map_job(slide, network, SITES)
    mapped(job, network)
    first = network.n_tiles
    mapped(job, network, starts=job.starts()[-2:])
    assert 0 < network.n_tiles < first / 2


def test_sites_that_are_stored_are_not_averaged_again(slide: Slide) -> None:
    whole = dense(slide, MeanOfPatches(), SITES, block=8)
    rest = dense(slide, MeanOfPatches(), SITES, block=8, done={0, 8, 24, 32})
    assert [block.start for block in rest] == [16]
    np.testing.assert_array_equal(rest[0].windows, whole[2].windows)
    (mark,) = dense(slide, MeanOfPatches(), SITES, block=8, done=set(range(0, 40, 8)))
    assert not mark.ids
    assert mark.n_total == 40


def test_few_bands_of_the_map_are_held_and_each_is_read_once(slide: Slide, monkeypatch: pytest.MonkeyPatch) -> None:
    from spamcaf.histology import dense as module

    held, read = list[int](), list[int]()
    pool, load = module._Bands.pool, module._Bands._band

    def watched(self: module._Bands, corner: NDArray[np.int64]) -> NDArray[np.float32]:
        result = pool(self, corner)
        held.append(len(self._held))
        return result

    def loaded(self: module._Bands, strip: int) -> Band:
        read.append(strip)
        return load(self, strip)

    monkeypatch.setattr(module._Bands, "pool", watched)
    monkeypatch.setattr(module._Bands, "_band", loaded)
    dense(slide, MeanOfPatches(), SITES, block=8)
    assert max(held) <= 4
    assert len(read) == len(set(read))


def test_any_site_on_tissue_lies_on_the_map(slide: Slide) -> None:
    rng = np.random.default_rng(5)
    tissue = Tissue(rng.random((23, 31)) < 0.2, np.zeros((23, 31, 3), np.uint8), 15.5)
    sites = rng.uniform((0, 0), (480, 360), (4000, 2))
    sites = sites[tissue.holds(sites)]
    network = MeanOfPatches()
    around = reachable_px(tissue, np.array([[-20.0, 400.0]]))
    whole = join_blocks(mapped(map_job(slide, network, around), network))
    own = join_blocks(mapped(map_job(slide, network, sites), network))
    assert len(sites) > 200
    assert set(own.ids) < set(whole.ids)


def test_a_map_of_another_slide_is_refused(slide: Slide) -> None:
    slide_map = join_blocks(mapped(map_job(slide, MeanOfPatches(), SITES), MeanOfPatches()))
    pooling = job_of(slide, SITES, replace(slide_map.key, slide="other"))
    assert isinstance(pooling, PoolingJob)
    with pytest.raises(InputError, match="differ in slide"):
        list(pool_windows(slide_map, pooling, set()))


def test_a_map_of_one_feature_is_not_overlapped(slide: Slide) -> None:
    class Mean(MeanOfPatches):
        def forward_features(self, pixels: Tensor) -> Tensor:
            return super().forward_features(pixels).mean(dim=(2, 3), keepdim=True)

    (found,) = dense(slide, Mean(), [centre(9, 23)])
    (expected,) = dense(slide, Mean(), [centre(9, 23)], overlap=1)
    np.testing.assert_array_equal(found.windows, expected.windows)


def test_no_site_is_one_empty_block(slide: Slide) -> None:
    slide_map = join_blocks(mapped(map_job(slide, MeanOfPatches(), SITES), MeanOfPatches()))
    pooling = job_of(slide, np.empty((0, 2)), slide_map.key)
    assert isinstance(pooling, PoolingJob)
    (found,) = pool_windows(slide_map, pooling, set())
    assert (found.ids, found.n_total) == ((), 0)


@pytest.mark.parametrize(
    ("dense", "views", "model", "finetune", "loses_nothing", "expected"),
    [
        ("auto", 1, "spamcaf", 0, True, True),
        ("auto", 1, "spamcaf", 0, False, False),
        ("auto", 12, "spamcaf", 0, True, False),
        ("auto", 1, "released", 0, True, False),
        ("auto", 1, "spamcaf", 2, True, False),
        (True, 1, "spamcaf", 0, False, True),
        (False, 1, "spamcaf", 0, True, False),
    ],
)
def test_the_mode_is_dense_where_asked_or_known_to_lose_nothing(
    dense: object, views: int, model: str, finetune: int, loses_nothing: bool, expected: bool
) -> None:
    tiles = TileSettings.model_validate({"dense": dense, "views": views})
    assert is_dense(tiles, model, finetune, loses_nothing=loses_nothing) == expected


def test_whole_windows_are_refused() -> None:
    with pytest.raises(InputError, match="fit.model"):
        is_dense(TileSettings(dense=True), "released", 0, loses_nothing=True)


def test_a_backbone_without_a_map_is_refused() -> None:
    with pytest.raises(InputError, match="gives no map"):
        map_side(backbone(nn.AdaptiveAvgPool2d(1)))


def test_a_network_whose_map_has_its_channels_last_gives_the_same(slide: Slide) -> None:
    class Last(MeanOfPatches):
        output_fmt = "NHWC"

        def forward_features(self, pixels: Tensor) -> Tensor:
            return super().forward_features(pixels).permute(0, 2, 3, 1)

    (found,), (expected,) = (dense(slide, network, SITES[:1]) for network in (Last(), MeanOfPatches()))
    np.testing.assert_array_equal(found.windows, expected.windows)


def test_a_map_that_is_no_square_is_refused() -> None:
    class Wide(MeanOfPatches):
        def forward_features(self, pixels: Tensor) -> Tensor:
            return super().forward_features(pixels)[..., 1:]

    with pytest.raises(InputError, match="no square map"):
        map_side(backbone(Wide()))


def test_a_backbone_that_pools_twice_gives_its_patch_tokens_too(slide: Slide, vit: nn.Module) -> None:
    (found,) = dense(slide, ClassAndMean(vit), [centre(TILE, TILE)])
    (expected,) = dense(slide, vit, [centre(TILE, TILE)])
    np.testing.assert_array_equal(found.windows, expected.windows)


def test_the_exact_network_is_left_as_it_was(vit: nn.Module) -> None:
    parts = backbone(vit)
    embedder = DenseEmbedder(parts, CPU, torch.float32, 8)
    assert parts.network is vit
    assert (map_side(parts), embedder.width) == (14, 64)


FINE = 20


def band(rows: int, columns: int, row0: int = 0, column0: int = 0) -> tuple[np.ndarray, Band]:
    features = np.random.default_rng(0).normal(size=(rows, columns, 3)).astype(np.float32)
    padded = np.concatenate([np.zeros((rows, 1, 3), np.float32), features], axis=1)
    return features, Band(padded, row0, column0)


@given(x=st.integers(-60, 300), y=st.integers(-60, 300), row0=st.integers(-3, 3), column0=st.integers(-3, 3))
def test_a_box_gets_every_feature_by_its_area_inside(x: int, y: int, row0: int, column0: int) -> None:
    features, pooled = band(12, 15, row0, column0)
    x_edges, y_edges = (np.array([start, start + 30, start + 100, start + 130]) / FINE for start in (x, y))
    found = pooled.pool(x_edges, y_edges)
    fine = features.astype(np.float64).repeat(FINE, axis=0).repeat(FINE, axis=1) / FINE**2
    for i in range(3):
        for j in range(3):
            rows, columns = (
                slice(*(np.clip(np.round(edges[k : k + 2] * FINE) - FINE * zero, 0, None).astype(int)))
                for edges, k, zero in ((y_edges, i, row0), (x_edges, j, column0))
            )
            np.testing.assert_allclose(found[i, j], fine[rows, columns].sum(axis=(0, 1)), atol=1e-4)


def test_a_box_on_the_features_borders_is_their_sum() -> None:
    features, pooled = band(8, 8)
    found = pooled.pool(np.array([2.0, 4.0]), np.array([1.0, 3.0]))
    np.testing.assert_allclose(found[0, 0], features[1:3, 2:4].sum(axis=(0, 1)), atol=1e-5)


CORNERS = [(0, 0), (224, -224), (1, 0), (223, 225), (-1, -1), (-225, 5), (112, 111), (-113, 336)]


@pytest.mark.parametrize("corner", CORNERS)
def test_every_tile_over_a_window_is_named_once(corner: tuple[int, int]) -> None:
    x, y = corner
    pixels = np.stack(np.meshgrid(np.arange(x, x + 672), np.arange(y, y + 672)), axis=-1).reshape(-1, 2)
    expected = np.unique(pixels[:, ::-1] // 224, axis=0)
    np.testing.assert_array_equal(FeatureGrid(224, 16).cells(np.array([corner, corner])), expected)


@pytest.mark.parametrize("corner", CORNERS)
@pytest.mark.parametrize("side", [7, 14, 16])
def test_overlapping_tiles_are_those_over_any_strip_that_is_touched(corner: tuple[int, int], side: int) -> None:
    feature_grid = FeatureGrid(224, side, overlap=2)
    begins = {index: feature_grid.at(index) for index in range(-10, 20)}
    expected = []
    for pixel in corner:
        low, high = pixel * side / 224, (pixel + 672) * side / 224
        strips = [i for i in range(-9, 19) if begins[i] < high and begins[i + 1] > low]
        expected.append(range(strips[0] - 1, strips[-1] + 1))
    found = feature_grid.tiles(feature_grid.cells(np.array([corner])))
    assert found.tolist() == [[row, column] for row in expected[1] for column in expected[0]]


@pytest.mark.parametrize(("tile_px", "side"), [(187, 14), (224, 16), (161, 7)])
def test_overlapping_tiles_lie_on_the_same_features_to_half_a_pixel(tile_px: int, side: int) -> None:
    feature_grid = FeatureGrid(tile_px, side, overlap=2)
    for index in range(-5, 6):
        assert abs(feature_grid.at(index) * tile_px / side - feature_grid.at_px(index)) <= 0.5
        assert feature_grid.at(index + 2) - feature_grid.at(index) == side


def test_sites_apart_leave_the_tiles_between_them_out() -> None:
    tiles = FeatureGrid(224, 16).cells(np.array([(0, 0), (2240, 2240)]))
    assert tiles.tolist() == [[r + z, c + z] for z in (0, 10) for r in range(3) for c in range(3)]


def test_edges_are_tile_borders_in_features() -> None:
    np.testing.assert_allclose(FeatureGrid(187, 14).edges(374), [28, 42, 56, 70])
