from __future__ import annotations

import numpy as np
import pytest

from spamcaf.learning.kernels import IMAGE_KERNELS, SPACE_KERNELS, Kernels, Pictures
from spamcaf.sections.places import Measured

PITCH_UM = 100.0


@pytest.fixture
def kernels(visible: Measured) -> Kernels:
    return Kernels.on(Pictures.of(visible.sites), visible.sites.xy_um, PITCH_UM)


def test_each_kernel_is_centred_with_mean_diagonal_one_and_positive(kernels: Kernels) -> None:
    gram = kernels.gram()
    assert len(gram) == len(IMAGE_KERNELS + SPACE_KERNELS)
    for kernel in gram.astype(np.float64):
        np.testing.assert_allclose(kernel.mean(axis=0), 0, atol=1e-5)
        assert np.diagonal(kernel).mean() == pytest.approx(1, abs=1e-4)
        assert np.linalg.eigvalsh((kernel + kernel.T) / 2).min() > -1e-4


def test_sites_at_the_spots_see_the_gram_matrix(kernels: Kernels, visible: Measured) -> None:
    cross, diagonal = kernels.cross(Pictures.of(visible.sites), visible.sites.xy_um)
    gram = kernels.gram()
    np.testing.assert_allclose(cross, gram, atol=1e-5)
    np.testing.assert_allclose(diagonal, np.stack([np.diagonal(k) for k in gram]), atol=1e-5)


def test_without_positions_only_pictures_speak(visible: Measured) -> None:
    kernels = Kernels.on(Pictures.of(visible.sites), None, PITCH_UM)
    moved = visible.sites.xy_um + 1e6
    here = kernels.cross(Pictures.of(visible.sites), visible.sites.xy_um)[0]
    np.testing.assert_array_equal(kernels.cross(Pictures.of(visible.sites), moved)[0], here)
    assert len(here) == len(IMAGE_KERNELS)


def test_a_nearly_dead_channel_stays_dead(visible: Measured) -> None:
    pictures = Pictures.of(visible.sites)
    dead = 1e-6 * np.random.default_rng(0).normal(size=(len(visible), 1)).astype(np.float32)
    more = Pictures(np.hstack([pictures.target, dead]), pictures.surround)
    plain = Kernels.on(pictures, None, PITCH_UM).gram()
    np.testing.assert_allclose(Kernels.on(more, None, PITCH_UM).gram(), plain, atol=1e-4)


def test_distance_counts_in_pitches(visible: Measured) -> None:
    pictures, xy_um = Pictures.of(visible.sites), visible.sites.xy_um
    twice = Kernels.on(pictures, 2 * xy_um, 2 * PITCH_UM).gram()
    np.testing.assert_allclose(twice, Kernels.on(pictures, xy_um, PITCH_UM).gram(), atol=1e-5)
