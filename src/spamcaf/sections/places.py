"""What every predictor is given, ours and the baselines alike: places to predict, and measured places to learn from."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, Self

import numpy as np
from numpy.typing import NDArray

PART = 2048
"""Sites that are looked at together where memory must not grow with a grid: 75 MB at 1024 features."""

Index = NDArray[np.intp] | NDArray[np.bool_] | slice


class SiteSource(Protocol):
    """Sites whose pictures may lie in files: `at` brings some of them into memory. `Sites` is one, all in memory."""

    @property
    def xy_um(self) -> NDArray[np.float64]:
        """Positions (site, 2) in micrometres."""
        ...

    def __len__(self) -> int: ...

    def at(self, index: Index) -> Sites:
        """Return the sites at `index`."""
        ...


@dataclass(frozen=True)
class Sites:
    """Places described by position and picture.

    `xy_um` is (site, 2) float64 in micrometres, `target` (site, feature) float32 the backbone's features of the tile at
    the site, `neighbours` (site, 9, feature) float32 those of the 3 x 3 tiles around it, row by row; index 4 is the
    centre and equals `target`. `whole` (site, feature) float32 are those of the whole window shrunk to one tile,
    where a model asks for them.
    """

    xy_um: NDArray[np.float64]
    target: NDArray[np.float32]
    neighbours: NDArray[np.float32]
    whole: NDArray[np.float32] | None = None

    def __post_init__(self) -> None:
        n = len(self.xy_um)
        if any(len(part) != n for part in (self.target, self.neighbours, self.whole) if part is not None):
            raise ValueError(
                f"Expected one position, target and window per site, found {n} positions, {len(self.target)} targets, "
                f"{len(self.neighbours)} windows and {'no' if self.whole is None else len(self.whole)} shrunk windows. "
                "Select all of them by the same site ids."
            )

    def __len__(self) -> int:
        return len(self.xy_um)

    def at(self, index: Index) -> Self:
        """Return the sites at `index`."""
        whole = None if self.whole is None else self.whole[index]
        return type(self)(self.xy_um[index], self.target[index], self.neighbours[index], whole)


@dataclass(frozen=True)
class Measured:
    """Measured spots: where they are and what was counted there.

    `expression` is (spot, gene) float32, log1p of counts per 10 000; `depth` (spot,) float64 the total UMI count.
    """

    sites: Sites
    expression: NDArray[np.float32]
    depth: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.sites)

    def at(self, index: Index) -> Self:
        """Return the spots at `index`."""
        return type(self)(self.sites.at(index), self.expression[index], self.depth[index])


def in_parts(sites: SiteSource, size: int) -> Iterator[Sites]:
    """Yield the sites in their order, at most `size` at a time; no site at all is one empty part."""
    for start in range(0, max(len(sites), 1), size):
        yield sites.at(slice(start, start + size))


def stack(parts: Sequence[Measured]) -> Measured:
    """Return the spots of several sections, one after the other; their positions are each section's own."""
    sites = [part.sites for part in parts]
    whole = [s.whole for s in sites if s.whole is not None]
    return Measured(
        Sites(
            np.concatenate([s.xy_um for s in sites]),
            np.concatenate([s.target for s in sites]),
            np.concatenate([s.neighbours for s in sites]),
            np.concatenate(whole) if len(whole) == len(sites) else None,
        ),
        np.concatenate([part.expression for part in parts]),
        np.concatenate([part.depth for part in parts]),
    )
