from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from spamcaf.model.data import ImageFeatures, PooledSections
from spamcaf.model.gaussian_process import IMAGE_KERNELS, SPACE_KERNELS, Kernels
from spamcaf.sections.sites import Measured

PITCH_UM = 100.0


KernelsOf = Callable[..., Kernels]


@pytest.fixture
def kernels(kernels_of: KernelsOf, visible: Measured) -> Kernels:
    return kernels_of(visible)


def centred(measured: Measured) -> ImageFeatures:
    image_features = ImageFeatures.of(measured.sites)
    return image_features.minus(image_features.centre())


def test_each_kernel_is_centred_with_mean_diagonal_one_and_positive(kernels: Kernels) -> None:
    gram = kernels.gram()
    assert len(gram) == len(IMAGE_KERNELS + SPACE_KERNELS)
    for kernel in gram.astype(np.float64):
        np.testing.assert_allclose(kernel.mean(axis=0), 0, atol=1e-5)
        assert np.diagonal(kernel).mean() == pytest.approx(1, abs=1e-4)
        assert np.linalg.eigvalsh((kernel + kernel.T) / 2).min() > -1e-4


def test_sites_at_the_spots_see_the_gram_matrix(kernels: Kernels, visible: Measured) -> None:
    cross, diagonal = kernels.cross(centred(visible), visible.sites.xy_um)
    gram = kernels.gram()
    np.testing.assert_allclose(cross, gram, atol=1e-5)
    np.testing.assert_allclose(diagonal, np.stack([np.diagonal(k) for k in gram]), atol=1e-5)


def test_without_positions_only_pictures_speak(kernels_of: KernelsOf, visible: Measured) -> None:
    kernels = kernels_of(visible, with_space=False)
    moved = visible.sites.xy_um + 1e6
    here = kernels.cross(centred(visible), visible.sites.xy_um)[0]
    np.testing.assert_array_equal(kernels.cross(centred(visible), moved)[0], here)
    assert len(here) == len(IMAGE_KERNELS)


def test_a_nearly_dead_channel_stays_dead(visible: Measured) -> None:
    image_features, section = centred(visible), np.zeros(len(visible), np.int64)
    dead = 1e-6 * np.random.default_rng(0).normal(size=(len(visible), 1)).astype(np.float32)
    more = ImageFeatures(
        np.hstack([image_features.target, dead]), image_features.neighbourhood, image_features.residual_norm2
    )
    plain = Kernels.on(image_features, None, section, PITCH_UM).gram()
    np.testing.assert_allclose(Kernels.on(more, None, section, PITCH_UM).gram(), plain, atol=1e-4)


def test_distance_counts_in_pitches(kernels_of: KernelsOf, visible: Measured) -> None:
    stretched = replace(visible, sites=replace(visible.sites, xy_um=2 * visible.sites.xy_um))
    twice = kernels_of(stretched, pitch_um=2 * PITCH_UM).gram()
    np.testing.assert_allclose(twice, kernels_of(visible).gram(), atol=1e-5)


def test_space_ends_at_the_border_of_a_section_and_pictures_do_not(pool_of_three: PooledSections) -> None:
    pooled = pool_of_three
    kernels = Kernels.on(pooled.image_features, pooled.sites.xy_um, pooled.section, PITCH_UM)
    gram, apart = kernels.gram(), pooled.section[:, None] != pooled.section
    n_image = len(IMAGE_KERNELS)
    assert np.abs(gram[n_image:, apart]).max() == 0
    assert np.abs(gram[:n_image, apart]).max() > 0.1
    target_section = pooled.section == 0
    cross, _ = kernels.cross(pooled.image_features.at(target_section), pooled.sites.xy_um[target_section])
    np.testing.assert_allclose(cross, gram[:, target_section], atol=1e-5)
