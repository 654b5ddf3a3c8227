"""Features are those of the tiles themselves, whatever the order of sites, batches, blocks and threads."""

from __future__ import annotations

import logging
from dataclasses import replace

import numpy as np
import pytest
import torch

from spamcaf.errors import InputError
from spamcaf.histology.backbone import Backbone
from spamcaf.histology.embedding import Embedder, EmbeddingJob, embed_blocks
from spamcaf.histology.features import FeatureKey, Features, join_blocks
from spamcaf.histology.slide import ArrayPixels, Slide
from spamcaf.histology.tiles import CENTRE, WindowGeometry, distinct, read_tile, read_tiles
from spamcaf.parameters import TileSettings

CPU = torch.device("cpu")
N = 5
IDS = [f"site{i}" for i in range(N)]
XY = np.column_stack([np.linspace(50, 550, N), np.linspace(250, 20, N)])
GEOMETRY = WindowGeometry.of(TileSettings(), 4.0)
KEY = FeatureKey("s", "b", "v", "i", 84)


def job_of(slide: Slide, block: int = 64, *, with_whole: bool = False, views: int = 1) -> EmbeddingJob:
    geometry = WindowGeometry.of(TileSettings(views=views), 4.0)
    return EmbeddingJob(slide, geometry, IDS, XY, replace(KEY, block=block), with_whole)


def run(job: EmbeddingJob, backbone: Backbone, batch: int = 64, threads: int = 1) -> Features:
    embedder = Embedder(backbone, CPU, torch.float32, batch)
    return join_blocks(list(embed_blocks(job, embedder, job.starts(), threads)))


def windows_of(features: Features, ids: list[str]) -> np.ndarray:
    return features.windows[features.rows(ids)]


def test_features_are_those_of_the_normalised_tiles(slide: Slide, mean_colour: Backbone) -> None:
    features = run(job_of(slide), mean_colour)
    assert features.windows.shape == (N, 9, 3)
    assert features.windows.dtype == np.float32
    for name, (x, y) in zip(IDS, XY, strict=True):
        (row,) = features.rows([name])
        window, n_padded = slide.read(int(x - 41.5), int(np.floor(y - 41.5)), 84, 84)
        for i in range(9):
            top, left = 28 * (i // 3), 28 * (i % 3)
            tile = window[top : top + 28, left : left + 28].reshape(-1, 3).mean(axis=0) / 255
            np.testing.assert_allclose(
                features.windows[row, i], (tile - mean_colour.mean) / mean_colour.std, atol=0.06, err_msg=f"{name} {i}"
            )
        assert features.n_px_padded[row] == n_padded
    assert features.n_px_padded.max() > 0


def test_features_are_those_of_one_tile_at_a_time(slide: Slide, convolution: Backbone) -> None:
    features = run(job_of(slide), convolution)
    mean, std = (torch.tensor(values)[:, None, None] for values in (convolution.mean, convolution.std))
    for name, places in zip(IDS, GEOMETRY.tiles(XY).tolist(), strict=True):
        for i, place in enumerate(places):
            tile, _ = read_tile(slide, *place)
            pixels = (torch.from_numpy(tile).permute(2, 0, 1).float() / 255 - mean) / std
            expected = convolution.network(pixels[None])[0].numpy()
            np.testing.assert_allclose(windows_of(features, [name])[0, i], expected, atol=1e-5)


@pytest.mark.parametrize(("batch", "block"), [(5, 64), (64, 1), (7, 3)])
def test_batches_and_blocks_do_not_change_values(slide: Slide, convolution: Backbone, batch: int, block: int) -> None:
    expected, found = run(job_of(slide), convolution), run(job_of(slide, block), convolution, batch)
    assert sorted(found.ids) == IDS
    np.testing.assert_allclose(windows_of(found, IDS), windows_of(expected, IDS), atol=1e-5)
    np.testing.assert_array_equal(found.n_px_padded, expected.n_px_padded)


@pytest.mark.parametrize("threads", [0, 3])
def test_threads_do_not_change_a_bit(slide: Slide, convolution: Backbone, threads: int) -> None:
    expected, found = run(job_of(slide, 2), convolution), run(job_of(slide, 2), convolution, threads=threads)
    assert found.ids == expected.ids
    np.testing.assert_array_equal(found.windows, expected.windows)


def test_the_order_of_sites_does_not_matter(slide: Slide, convolution: Backbone) -> None:
    mixed = [3, 0, 4, 2, 1]
    other = replace(job_of(slide, 2), ids=[IDS[i] for i in mixed], xy_px=XY[mixed])
    expected, found = run(job_of(slide, 2), convolution), run(other, convolution)
    assert found.ids == expected.ids
    np.testing.assert_array_equal(found.windows, expected.windows)
    np.testing.assert_array_equal(found.n_px_padded, expected.n_px_padded)


@pytest.mark.parametrize("views", [1, 12])
def test_a_part_of_the_blocks_is_the_same_part_of_the_whole(slide: Slide, convolution: Backbone, views: int) -> None:
    job, embedder = job_of(slide, 2, views=views), Embedder(convolution, CPU, torch.float32, 64)
    blocks = list(embed_blocks(job, embedder, [0, 2, 4], 1))
    assert [(block.start, len(block.ids)) for block in blocks] == [(0, 2), (2, 2), (4, 1)]
    (alone,) = embed_blocks(job, embedder, [2], 1)
    assert alone.ids == blocks[1].ids
    np.testing.assert_array_equal(alone.windows, blocks[1].windows)


def test_a_tile_that_several_sites_share_is_computed_once(slide: Slide, mean_colour: Backbone) -> None:
    """On a square lattice one tile wide, 3 x 4 sites have 5 x 6 tiles."""
    xy = np.array([[100.0 + 28 * column, 100.0 + 28 * row] for row in range(3) for column in range(4)])
    job = EmbeddingJob(slide, GEOMETRY, [str(i) for i in range(12)], xy, KEY)
    features = run(job, mean_colour)
    assert sum(mean_colour.network.sizes) == 30
    for i, place in enumerate(xy):
        alone = run(EmbeddingJob(slide, GEOMETRY, ["a"], place[None], KEY), mean_colour)
        np.testing.assert_allclose(windows_of(features, [str(i)])[0], alone.windows[0], atol=1e-6)


def test_without_further_views_features_are_the_networks_to_the_last_bit(slide: Slide, convolution: Backbone) -> None:
    job, embedder = job_of(slide), Embedder(convolution, CPU, torch.float32, 64)
    once, which = distinct(GEOMETRY.tiles(XY[job.order]).reshape(-1, 3))
    expected = embedder.embed(read_tiles(slide, once, None).tiles).numpy()[which].reshape(N, 9, -1)
    np.testing.assert_array_equal(run(job, convolution).windows, expected)


def views_by_hand(tile: np.ndarray, shifted: list[np.ndarray]) -> dict[int, list[np.ndarray]]:
    """The views of a tile, by their number."""
    turns = [np.rot90(tile, k) for k in range(4)]
    eight = turns + [np.flipud(turn) for turn in turns]
    return {2: [tile, np.fliplr(tile)], 4: turns, 8: eight, 12: eight + shifted}


@pytest.mark.parametrize("views", [2, 4, 8, 12])
def test_the_target_tile_is_the_mean_over_its_views(slide: Slide, convolution: Backbone, views: int) -> None:
    plain, found = run(job_of(slide), convolution), run(job_of(slide, views=views), convolution)
    embedder = Embedder(convolution, CPU, torch.float32, 64)
    for name, (x, y, width) in zip(IDS, GEOMETRY.tiles(XY)[:, CENTRE].tolist(), strict=True):
        shifted = [read_tile(slide, x + dx, y + dy, width)[0] for dx, dy in [(-7, 0), (7, 0), (0, -7), (0, 7)]]
        by_hand = views_by_hand(read_tile(slide, x, y, width)[0], shifted)[views]
        expected = embedder.embed(np.stack(by_hand)).numpy().mean(axis=0)
        np.testing.assert_allclose(windows_of(found, [name])[0, CENTRE], expected, atol=1e-5)
    difference = np.abs(found.windows - plain.windows).max(axis=(0, 2))
    assert difference[CENTRE] > 0.01
    assert np.delete(difference, CENTRE).max() < 1e-5
    np.testing.assert_array_equal(found.n_px_padded, plain.n_px_padded)


def test_numbers_of_views_give_different_features(slide: Slide, convolution: Backbone) -> None:
    found = [run(job_of(slide, views=views), convolution).windows[:, CENTRE] for views in (1, 2, 4, 8, 12)]
    assert min(np.abs(a - b).max() for i, a in enumerate(found) for b in found[:i]) > 1e-4


def test_a_target_tile_with_views_is_plain_where_it_is_a_neighbour(slide: Slide, convolution: Backbone) -> None:
    """Sites in a row, one tile apart, in one block: the tile to the right of a site is the target of the next."""
    xy = np.column_stack([100.0 + 28 * np.arange(4), np.full(4, 150.0)])
    plain = replace(job_of(slide), xy_px=xy, ids=IDS[:4])
    viewed = replace(plain, geometry=replace(GEOMETRY, views=12))
    expected, found = (windows_of(run(job, convolution), IDS[:4]) for job in (plain, viewed))
    np.testing.assert_allclose(found[:-1, CENTRE + 1], expected[1:, CENTRE], atol=1e-5)
    np.testing.assert_allclose(found[1:, CENTRE - 1], expected[:-1, CENTRE], atol=1e-5)
    assert np.abs(found[:, CENTRE] - expected[:, CENTRE]).max(axis=1).min() > 1e-3


@pytest.mark.parametrize(("views", "n_passes"), [(1, 30), (2, 42), (12, 162)])
def test_views_take_one_pass_each_and_shared_tiles_still_one_in_all(
    slide: Slide, mean_colour: Backbone, views: int, n_passes: int
) -> None:
    xy = np.array([[100.0 + 28 * column, 100.0 + 28 * row] for row in range(3) for column in range(4)])
    run(EmbeddingJob(slide, replace(GEOMETRY, views=views), [str(i) for i in range(12)], xy, KEY), mean_colour)
    assert sum(mean_colour.network.sizes) == n_passes


def test_out_of_memory_halves_the_batch_with_one_warning(
    slide: Slide, mean_colour: Backbone, caplog: pytest.LogCaptureFixture
) -> None:
    expected = run(job_of(slide), mean_colour, batch=18)
    network = mean_colour.network
    network.limit, network.sizes = 10, []
    with caplog.at_level(logging.WARNING):
        found = run(job_of(slide), mean_colour, batch=18)
    np.testing.assert_array_equal(found.windows, expected.windows)
    assert caplog.text.count("9 tiles at a time") == len(caplog.records) == 1
    assert max(network.sizes[1:]) == 9


def test_out_of_memory_with_one_tile_is_an_error(slide: Slide, mean_colour: Backbone) -> None:
    mean_colour.network.limit = 0
    with pytest.raises(InputError, match="too little free GPU memory for tiny"):
        run(job_of(slide), mean_colour, batch=4)


def test_a_compiled_network_gives_the_same_whatever_the_number_of_tiles(convolution: Backbone) -> None:
    tiles = np.random.default_rng(0).integers(0, 256, (7, 224, 224, 3), np.uint8)
    expected = Embedder(convolution, CPU, torch.float32, 4).embed(tiles).numpy()
    compiled = Embedder(convolution, CPU, torch.float32, 4, is_compiled=True)
    for n in (7, 1):
        np.testing.assert_allclose(compiled.embed(tiles[:n]).numpy(), expected[:n], atol=1e-5)


def test_without_a_compiler_one_sentence_explains_it(convolution: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    from torch._inductor import config

    torch._dynamo.reset()
    monkeypatch.setattr(config.cpp, "cxx", ("/nowhere/c++",))
    monkeypatch.setattr(config, "force_disable_caches", True)
    tiles = np.zeros((1, 224, 224, 3), np.uint8)
    with pytest.raises(InputError, match=r"compute\.compile"):
        Embedder(convolution, CPU, torch.float32, 3, is_compiled=True).embed(tiles)


def test_bf16_inside_is_float32_outside(convolution: Backbone) -> None:
    tiles = np.random.default_rng(0).integers(0, 256, (4, 224, 224, 3), np.uint8)
    exact = Embedder(convolution, CPU, torch.float32, 64).embed(tiles).numpy()
    rough = Embedder(convolution, CPU, torch.bfloat16, 64).embed(tiles).numpy()
    assert rough.dtype == np.float32
    assert not np.array_equal(rough, exact)
    cosine = (rough * exact).sum(axis=1) / np.linalg.norm(rough, axis=1) / np.linalg.norm(exact, axis=1)
    assert cosine.min() > 0.999


def test_the_whole_window_is_shrunk_to_one_tile(slide: Slide, mean_colour: Backbone) -> None:
    features = run(job_of(slide, with_whole=True), mean_colour)
    assert features.whole.shape == (N, 3)
    assert features.whole.dtype == np.float32
    for row, name in zip(features.rows(IDS), IDS, strict=True):
        x0, y0 = GEOMETRY.corners(XY[IDS.index(name)][None])[0]
        window, _ = slide.read(int(x0), int(y0), 84, 84)
        expected = (window.mean(axis=(0, 1)) / 255 - mean_colour.mean) / mean_colour.std
        np.testing.assert_allclose(features.whole[row], expected, atol=0.02)


def test_the_whole_window_leaves_the_tiles_as_they_are(slide: Slide, convolution: Backbone) -> None:
    without, with_it = run(job_of(slide), convolution), run(job_of(slide, with_whole=True), convolution)
    assert without.whole is None
    np.testing.assert_allclose(with_it.windows, without.windows, atol=1e-6)
    np.testing.assert_array_equal(with_it.n_px_padded, without.n_px_padded)


def test_views_leave_the_whole_window_as_it_is(slide: Slide, convolution: Backbone) -> None:
    plain = run(job_of(slide, with_whole=True), convolution)
    found = run(job_of(slide, with_whole=True, views=12), convolution)
    np.testing.assert_allclose(found.whole, plain.whole, atol=1e-6)
    np.testing.assert_allclose(found.windows, run(job_of(slide, views=12), convolution).windows, atol=1e-6)


def test_a_stain_changes_every_tile(slide: Slide, mean_colour: Backbone) -> None:
    inverted = run(replace(job_of(slide), stain=lambda tile: 255 - tile), mean_colour)
    plain = run(job_of(slide), mean_colour)
    total = (1 - 2 * np.array(mean_colour.mean)) / mean_colour.std
    np.testing.assert_allclose(inverted.windows + plain.windows, np.broadcast_to(total, plain.windows.shape), atol=1e-4)


def test_swapped_channels_swapped_axes_and_a_shift_change_features(mean_colour: Backbone) -> None:
    """Red grows to the right, green downwards, blue is constant: a tile's mean tells where it lies."""
    x, y = np.meshgrid(np.arange(600), np.arange(300))
    image = np.stack([x * 0.4, y * 0.8, np.full_like(x, 77)], axis=-1).astype(np.uint8)
    features = run(job_of(Slide(ArrayPixels(image, "f"), "s")), mean_colour)
    colours = windows_of(features, IDS[1:4]) * mean_colour.std + mean_colour.mean
    for site, (x_site, y_site) in enumerate(XY[1:4]):
        row, column = np.divmod(np.arange(9), 3)
        expected = np.column_stack([(x_site + 28 * (column - 1)) * 0.4, (y_site + 28 * (row - 1)) * 0.8])
        np.testing.assert_allclose(colours[site, :, :2] * 255, expected, atol=0.9)
        np.testing.assert_allclose(colours[site, :, 2] * 255, 77, atol=0.01)


def test_rows_that_are_decoded_whole_are_read_from_top_to_bottom(slide: Slide) -> None:
    xy = np.array([[500.0, 40], [10, 30], [300, 20], [200, 50]])
    tiled = replace(job_of(slide), xy_px=xy, ids=IDS[:4])
    assert tiled.order.tolist() == [1, 3, 2, 0]
    assert replace(tiled, slide=replace(slide, is_striped=True)).order.tolist() == [2, 1, 0, 3]
