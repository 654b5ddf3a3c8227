"""Similarity of places by picture and by distance: the kernels of the program Gaussian process."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.distance import cdist

from spamcaf.sections.places import Sites

IMAGE_KERNELS = ("target", "surround")
SPACE_KERNELS = ("matern_2", "matern_5", "exponential_3")

Array = NDArray[np.float32]


@dataclass(frozen=True)
class Pictures:
    """What the image kernels see of places: the tile there, and the mean of the 3 x 3 tiles, both (site, feature)."""

    target: Array
    surround: Array

    @classmethod
    def of(cls, sites: Sites) -> Pictures:
        """Return the pictures of `sites`."""
        return cls(np.asarray(sites.target, np.float32), sites.neighbours.mean(axis=1, dtype=np.float32))


def _matern_three_halves(distance: NDArray[np.float64]) -> NDArray[np.float64]:
    scaled = np.sqrt(3.0) * distance
    return (1 + scaled) * np.exp(-scaled)


def _space_kernels(a_um: NDArray[np.float64], b_um: NDArray[np.float64], pitch_um: float) -> Array:
    """Return (kernel, a, b) by distance: Matern-3/2 of 2 and of 5 pitches, exponential of 3."""
    pitches = cdist(a_um, b_um) / pitch_um
    kernels = (_matern_three_halves(pitches / 2), _matern_three_halves(pitches / 5), np.exp(-pitches / 3))
    return np.stack(kernels).astype(np.float32)


@dataclass(frozen=True)
class _Linear:
    """A linear kernel: features centred on the context and divided by ONE number, so dead channels stay dead."""

    mean: Array  # (feature,)
    scale: float

    @classmethod
    def on(cls, features: Array) -> _Linear:
        mean = features.mean(axis=0)
        scale = float(np.sqrt(np.square(features - mean).sum(axis=1).mean()))
        return cls(mean, scale or 1.0)

    def __call__(self, features: Array) -> Array:
        return (features - self.mean) / self.scale


@dataclass(frozen=True)
class _Space:
    """The space kernels centred on the context and scaled to mean diagonal 1."""

    xy_um: NDArray[np.float64]  # (spot, 2)
    pitch_um: float
    row_mean: Array  # (kernel, spot)

    @classmethod
    def on(cls, xy_um: NDArray[np.float64], pitch_um: float) -> _Space:
        return cls(xy_um, pitch_um, _space_kernels(xy_um, xy_um, pitch_um).mean(axis=2))

    @property
    def grand_mean(self) -> Array:
        return self.row_mean.mean(axis=1)  # (kernel,)

    @property
    def scale(self) -> Array:
        return np.maximum(1 - self.grand_mean, np.float32(1e-6))

    def cross(self, xy_um: NDArray[np.float64]) -> tuple[Array, Array]:
        """Return kernels (kernel, site, spot) and their diagonal (kernel, site)."""
        raw = _space_kernels(xy_um, self.xy_um, self.pitch_um)
        site_mean = raw.mean(axis=2)
        grand = self.grand_mean[:, None]
        diagonal = (1 - 2 * site_mean + grand) / self.scale[:, None]
        raw -= site_mean[:, :, None]
        raw -= self.row_mean[:, None, :]
        raw += grand[:, :, None]
        raw /= self.scale[:, None, None]
        return raw, diagonal


@dataclass(frozen=True)
class Kernels:
    """The kernels of a context: each centred on its spots and scaled to mean diagonal 1 there.

    Without positions (`space` is None) only the pictures speak, as between two sections.
    """

    target: _Linear
    surround: _Linear
    context_target: Array  # (spot, feature), centred and scaled
    context_surround: Array
    space: _Space | None

    @classmethod
    def on(cls, pictures: Pictures, xy_um: NDArray[np.float64] | None, pitch_um: float) -> Kernels:
        """Return the kernels of context spots with `pictures`, at `xy_um` (spot, 2) or at no known place."""
        target, surround = _Linear.on(pictures.target), _Linear.on(pictures.surround)
        space = None if xy_um is None else _Space.on(xy_um, pitch_um)
        return cls(target, surround, target(pictures.target), surround(pictures.surround), space)

    def cross(self, pictures: Pictures, xy_um: NDArray[np.float64]) -> tuple[Array, Array]:
        """Return the kernels (kernel, site, spot) of sites with the context, and their diagonal (kernel, site)."""
        target, surround = self.target(pictures.target), self.surround(pictures.surround)
        kernels = np.stack([target @ self.context_target.T, surround @ self.context_surround.T])
        diagonal = np.stack([np.square(target).sum(axis=1), np.square(surround).sum(axis=1)])
        if self.space is None:
            return kernels, diagonal
        space, space_diagonal = self.space.cross(xy_um)
        return np.concatenate([kernels, space]), np.concatenate([diagonal, space_diagonal])

    def gram(self) -> Array:
        """Return the kernels (kernel, spot, spot) within the context."""
        image = np.stack([f @ f.T for f in (self.context_target, self.context_surround)])
        if self.space is None:
            return image
        return np.concatenate([image, self.space.cross(self.space.xy_um)[0]])
