"""What the peers share: frozen features on one scale, a seeded machine, and spots set aside for validation."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from spamcaf.compute import Machine, computing, seeded
from spamcaf.parameters import ComputeSettings
from spamcaf.sections.sites import CHUNK, Sites, SiteSource, iter_chunks

if TYPE_CHECKING:
    from torch import Tensor

Expression = NDArray[np.float32]
DEFAULT_COMPUTE = ComputeSettings()
VALIDATION_SHARE = 0.2
"""Share of the measured spots that chooses the epoch, where the original stops by its validation score."""


class Scaling(NamedTuple):
    """Centre (feature,) and one scale for all features.

    Scaling each by its own deviation would blow up nearly constant ones. The root of the mean square is 1 afterwards.
    """

    centre: NDArray[np.float32]
    scale: float

    @classmethod
    def of(cls, features: NDArray[np.float32]) -> Scaling:
        """Return the scaling of features (..., feature) by their own mean."""
        centre = features.reshape(-1, features.shape[-1]).mean(axis=0, dtype=np.float64).astype(np.float32)
        return cls(centre, float(np.sqrt(np.square(features - centre, dtype=np.float64).mean())) or 1.0)

    def apply(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return features (..., feature), scaled."""
        return ((features - self.centre) / self.scale).astype(np.float32)


def read(sites: SiteSource, take: Callable[[Sites], NDArray[np.float32]]) -> NDArray[np.float32]:
    """Return what `take` takes of each site, read in parts so that whole windows never lie in memory together."""
    return np.concatenate([take(part) for part in iter_chunks(sites, CHUNK)])


def target_features(sites: SiteSource) -> NDArray[np.float32]:
    """Return the features (site, feature) of the tiles at the sites."""
    return read(sites, lambda part: part.target)


@contextmanager
def training(compute: ComputeSettings, seed: int) -> Iterator[Machine]:
    """Give a device with torch seeded on it; one CPU thread, unless the settings name another number."""
    # on busy cores a second thread cost twice the time
    limited = compute.model_copy(update={"threads": compute.threads or 1, "precision": "float32"})
    with computing(limited) as machine, seeded(seed, machine.device):
        yield machine


def on_device(array: NDArray[np.floating] | NDArray[np.integer], machine: Machine) -> Tensor:
    """Return an array as a tensor on the machine's device, numbers with a fraction as float32."""
    import torch

    kind = torch.float32 if np.issubdtype(array.dtype, np.floating) else torch.int64
    return torch.as_tensor(array).to(machine.device, kind)


def hold_out(n_spots: int, seed: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Split the measured spots at random into those to learn from and those that choose the epoch; both have some."""
    order = np.random.default_rng(seed).permutation(n_spots)
    n_validation = max(1, round(VALIDATION_SHARE * n_spots))
    return np.sort(order[n_validation:]), np.sort(order[:n_validation])


def array_positions(xy_um: NDArray[np.float64], pitch_um: float) -> NDArray[np.int64]:
    """Return the whole pitches (site, 2), column and row, from the left-most and upper-most site."""
    return np.rint((xy_um - xy_um.min(axis=0)) / pitch_um).astype(np.int64)
