"""Similarity of places by picture and by distance: the kernels of the program Gaussian process."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.distance import cdist

from spamcaf.learning.pictures import HOME, Pictures

IMAGE_KERNELS = ("target", "surround")
SPACE_KERNELS = ("matern_2", "matern_5", "exponential_3")

Array = NDArray[np.float32]


def _matern_three_halves(distance: NDArray[np.float64]) -> NDArray[np.float64]:
    scaled = np.sqrt(3.0) * distance
    return (1 + scaled) * np.exp(-scaled)


def space_kernels(pitches: NDArray[np.float64]) -> Array:
    """Return (kernel, ...) by distance in pitches: Matern-3/2 of 2 and of 5 pitches, exponential of 3."""
    kernels = (_matern_three_halves(pitches / 2), _matern_three_halves(pitches / 5), np.exp(-pitches / 3))
    return np.stack(kernels).astype(np.float32)


def space_scale(xy_um: NDArray[np.float64], pitch_um: float) -> Array:
    """Return what a space kernel (kernel,) is divided by, so that its mean diagonal over centred spots is 1."""
    grand_mean = space_kernels(cdist(xy_um, xy_um) / pitch_um).mean(axis=(1, 2))
    return np.maximum(1 - grand_mean, np.float32(1e-6))


def spread(features: Array) -> float:
    """Return the ONE number by which centred features are divided, so that dead channels stay dead."""
    return float(np.sqrt(np.square(features).sum(axis=1).mean())) or 1.0


@dataclass(frozen=True)
class _Space:
    """The space kernels centred on the context and scaled to mean diagonal 1."""

    xy_um: NDArray[np.float64]  # (spot, 2)
    pitch_um: float
    row_mean: Array  # (kernel, spot)

    @classmethod
    def on(cls, xy_um: NDArray[np.float64], pitch_um: float) -> _Space:
        return cls(xy_um, pitch_um, space_kernels(cdist(xy_um, xy_um) / pitch_um).mean(axis=2))

    @property
    def grand_mean(self) -> Array:
        return self.row_mean.mean(axis=1)  # (kernel,)

    @property
    def scale(self) -> Array:
        return np.maximum(1 - self.grand_mean, np.float32(1e-6))

    def cross(self, xy_um: NDArray[np.float64]) -> tuple[Array, Array]:
        """Return kernels (kernel, site, spot) and their diagonal (kernel, site)."""
        raw = space_kernels(cdist(xy_um, self.xy_um) / self.pitch_um)
        site_mean = raw.mean(axis=2)
        grand = self.grand_mean[:, None]
        diagonal: Array = (1 - 2 * site_mean + grand) / self.scale[:, None]
        raw -= site_mean[:, :, None]
        raw -= self.row_mean[:, None, :]
        raw += grand[:, :, None]
        raw /= self.scale[:, None, None]
        return raw, diagonal


@dataclass(frozen=True)
class Kernels:
    """The kernels of a context of spots, each centred by section and scaled to mean diagonal 1.

    Pictures are shared between sections, space is not: its kernels are 0 between two sections. Without positions
    (`spaces` is empty) only the pictures speak.
    """

    target: Array  # (spot, feature), scaled
    surround: Array
    scales: tuple[float, float]
    spaces: dict[int, tuple[NDArray[np.intp], _Space]]  # section -> its rows and kernels

    @classmethod
    def on(
        cls, pictures: Pictures, xy_um: NDArray[np.float64] | None, section: NDArray[np.int64], pitch_um: float
    ) -> Kernels:
        """Return the kernels of spots with centred `pictures`, at `xy_um` (spot, 2) of their `section` (spot,).

        `xy_um` is None where places are unknown, or not to be looked at.
        """
        spaces: dict[int, tuple[NDArray[np.intp], _Space]] = {}
        if xy_um is not None:
            for number in np.unique(section).tolist():
                rows = np.flatnonzero(section == number)
                spaces[number] = (rows, _Space.on(xy_um[rows], pitch_um))
        scales = spread(pictures.target), spread(pictures.surround)
        return cls(pictures.target / scales[0], pictures.surround / scales[1], scales, spaces)

    def cross(self, pictures: Pictures, xy_um: NDArray[np.float64]) -> tuple[Array, Array]:
        """Return the kernels (kernel, site, spot) of home sites with the context, and their diagonal (kernel, site).

        `pictures` are counted from the centre of the home section.
        """
        target, surround = pictures.target / self.scales[0], pictures.surround / self.scales[1]
        kernels: Array = np.stack([target @ self.target.T, surround @ self.surround.T])
        lengths = np.stack([np.square(target).sum(axis=1), np.square(surround).sum(axis=1)])
        diagonal: Array = lengths + pictures.outside.T / np.array(self.scales, np.float32)[:, None] ** 2
        if not self.spaces:
            return kernels, diagonal
        near: Array = np.zeros((len(SPACE_KERNELS), *kernels.shape[1:]), np.float32)
        rows, space = self.spaces[HOME]
        near[:, :, rows], space_diagonal = space.cross(xy_um)
        return np.concatenate([kernels, near], dtype=np.float32), np.concatenate([diagonal, space_diagonal])

    def gram(self) -> Array:
        """Return the kernels (kernel, spot, spot) within the context."""
        image = np.stack([f @ f.T for f in (self.target, self.surround)])
        if not self.spaces:
            return image
        space = np.zeros((len(SPACE_KERNELS), *image.shape[1:]), np.float32)
        for rows, kernels in self.spaces.values():
            space[:, rows[:, None], rows] = kernels.cross(kernels.xy_um)[0]
        return np.concatenate([image, space])
