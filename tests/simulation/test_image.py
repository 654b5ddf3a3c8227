"""A window equals the crop of the whole image; every domain has its colour; shrinking averages areas."""

from __future__ import annotations

import numpy as np
import pytest

from spamcaf.errors import InputError
from spamcaf.simulation.image import area_weights, shrunk
from spamcaf.simulation.section import SimulatedTissue
from spamcaf.simulation.tissue_map import DOMAINS


@pytest.fixture(scope="module")
def whole(tissue: SimulatedTissue) -> np.ndarray:
    height, width, _ = tissue.image_shape
    return tissue.render(0, 0, width, height)


@pytest.mark.parametrize("window", [(0, 0, 1, 1), (250, 500, 13, 300), (1000, 777, 600, 31), (1899, 1899, 1, 1)])
def test_a_window_of_a_fresh_tissue_is_the_crop_of_the_whole(
    tissue: SimulatedTissue, whole: np.ndarray, window: tuple[int, int, int, int]
) -> None:
    x0, y0, width, height = window
    fresh = SimulatedTissue(tissue.settings).render(*window)
    assert fresh.dtype == np.uint8 and fresh.shape == (height, width, 3)
    np.testing.assert_array_equal(fresh, whole[y0 : y0 + height, x0 : x0 + width])


def test_blocks_join_without_a_seam(whole: np.ndarray) -> None:
    step = np.abs(np.diff(whole.astype(float), axis=1)).mean(axis=(0, 2))
    inside = np.delete(step, np.arange(255, len(step), 256))
    assert step[255::256].mean() < inside.mean() + 3 * inside.std() / np.sqrt(len(step[255::256]))


def test_tissue_fills_most_of_the_image_and_glass_is_white(tissue: SimulatedTissue, whole: np.ndarray) -> None:
    column, row = np.random.default_rng(0).integers(0, 1900, (2, 4000))
    domain = tissue.domain(np.stack([column, row], axis=1) + 0.5)
    assert 0.75 < (domain >= 0).mean() < 0.85
    assert whole[row, column][domain < 0].mean() > 238
    assert whole[row, column][domain >= 0].mean() < 215


def test_every_domain_has_a_colour_of_its_own(tissue: SimulatedTissue, whole: np.ndarray) -> None:
    column, row = np.random.default_rng(1).integers(0, 1900, (2, 20_000))
    domain = tissue.domain(np.stack([column, row], axis=1) + 0.5)
    colours = np.stack([whole[row, column][domain == i].mean(axis=0) for i in range(len(DOMAINS))])
    gaps = np.linalg.norm(colours[:, None] - colours, axis=-1)[np.triu_indices(len(DOMAINS), 1)]
    assert gaps.min() > 8


def test_pixels_are_rgb_stained_pink_and_violet(tissue: SimulatedTissue, whole: np.ndarray) -> None:
    stained = whole[whole.min(axis=-1) < 190].astype(float)
    red, green, blue = stained.mean(axis=0)
    assert red > green + 20 and blue > green + 20


def test_resolution_changes_the_sampling_and_not_the_tissue(tissue: SimulatedTissue, whole: np.ndarray) -> None:
    finer = SimulatedTissue(tissue.settings.model_copy(update={"mpp": 0.5})).render(1600, 1600, 512, 512)
    halved = finer.reshape(256, 2, 256, 2, 3).mean(axis=(1, 3))
    crop = whole[800:1056, 800:1056]
    assert np.corrcoef(halved.ravel(), crop.ravel())[0, 1] > 0.95


def test_a_window_beyond_the_image_is_refused(tissue: SimulatedTissue) -> None:
    with pytest.raises(InputError, match="1900 x 1900"):
        tissue.render(1800, 0, 101, 10)


@pytest.mark.parametrize(("n_from", "n_to"), [(10, 10), (10, 3), (317, 200), (7, 1)])
def test_every_source_pixel_counts_equally(n_from: int, n_to: int) -> None:
    weights = area_weights(n_from, n_to)
    np.testing.assert_allclose(np.asarray(weights.sum(axis=1)).ravel(), 1)
    np.testing.assert_allclose(np.asarray(weights.sum(axis=0)).ravel(), n_to / n_from)


def test_strips_give_block_means_whatever_their_height() -> None:
    image = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    expected = np.rint(image.reshape(20, 2, 30, 2, 3).mean(axis=(1, 3)))
    for height in (40, 7):
        strips = [image[top : top + height] for top in range(0, 40, height)]
        small = shrunk(strips, (40, 60), 30)
        assert np.abs(small - expected).max() <= 1  # halves may round either way
    np.testing.assert_array_equal(shrunk([image], (40, 60), 100), image)
