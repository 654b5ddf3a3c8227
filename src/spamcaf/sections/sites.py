"""Sites to predict and spots that were measured: the grid of sites, and what predictors get as input.

A site is a point of tissue with coordinates and image features; a spot is a site with measured counts.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from spamcaf.errors import InputError
from spamcaf.limits import GIB, available_bytes
from spamcaf.names import SECTION_METADATA, SPATIAL, Obs, SectionField
from spamcaf.sections.lattice import INDEX_STEPS, UNIT_BASIS, Lattice, LatticeKind

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

SITE_ID, X_PX, Y_PX = "site_id", "x_px", "y_px"
SUB_INDEX = Obs.SUB_INDEX.value
CHUNK = 2048  # sites that are read together where memory must not grow with a grid: 75 MB at 1024 features
ROWS = 8192
"""Rows of large matrices that are computed at a time: beside such a part, what is computed takes no more memory."""
IN_MEMORY = 8192
"""Measured spots whose features are held in memory, 375 MB at 1280 features; those of more stay in their store."""
Index = NDArray[np.intp] | NDArray[np.bool_] | slice
SITE_BYTES = 400  # of a site's row in a table while it is made, with its names
_MIN_SITES = 20  # image features are taken relative to the section's mean: a handful of sites gives no stable mean


class SiteSource(Protocol):
    """Sites whose features may lie in files: `at` reads some of them into memory. `Sites` are all in memory."""

    @property
    def xy_um(self) -> NDArray[np.float64]:
        """Coordinates (site, 2) in micrometres."""

    @property
    def target(self) -> NDArray[np.float32]:
        """Features (site, feature) of the tile at each site, all in memory."""

    @property
    def neighbours(self) -> NDArray[np.float32]:
        """Features (site, 9, feature) of the 3 x 3 tiles, all in memory."""

    def __len__(self) -> int: ...

    def at(self, index: Index) -> Sites:
        """Return the sites at `index`."""


@dataclass(frozen=True)
class Sites:
    """Sites with coordinates, and with the backbone's features of the tiles there."""

    xy_um: NDArray[np.float64]  # (site, 2), micrometres
    target: NDArray[np.float32]  # (site, feature), of the tile at the site
    neighbours: NDArray[np.float32]  # (site, 9, feature), of the 3 x 3 tiles, row by row; index 4 equals `target`
    whole: NDArray[np.float32] | None = None  # (site, feature), of the window shrunk to one tile; where needed
    maps: NDArray[np.float16] | None = None  # (site, view, ...), of the tile before the backbone's last blocks
    colours: NDArray[np.float32] | None = None  # (site, 54), `tile_colours` of the 3 x 3 tiles; where needed

    def __post_init__(self) -> None:
        n = len(self.xy_um)
        parts = (self.target, self.neighbours, self.whole, self.maps, self.colours)
        if any(len(part) != n for part in parts if part is not None):
            raise ValueError(
                f"Expected one position, target and window per site, found {n} positions, {len(self.target)} targets, "
                f"{len(self.neighbours)} windows and {'no' if self.whole is None else len(self.whole)} shrunk windows. "
                "Select all of them by the same site ids."
            )

    def __len__(self) -> int:
        return len(self.xy_um)

    def at(self, index: Index) -> Self:
        """Return the sites at `index`."""
        more: list[Any] = [None if part is None else part[index] for part in (self.whole, self.maps, self.colours)]
        return type(self)(self.xy_um[index], self.target[index], self.neighbours[index], *more)


@dataclass(frozen=True)
class Measured:
    """Measured spots; the features of many stay in their store, see `IN_MEMORY`."""

    sites: SiteSource
    expression: NDArray[np.float32]  # (spot, gene), log1p of counts per 10 000
    depth: NDArray[np.float64]  # (spot,), the total UMI count
    others: NDArray[np.float32] | None = None  # (spot, other gene), of genes that only help to learn gene programs

    @property
    def all_expression(self) -> NDArray[np.float32]:
        """Expression (spot, gene), first of the genes that are predicted, then of the others."""
        return self.expression if self.others is None else np.hstack([self.expression, self.others])

    def __len__(self) -> int:
        return len(self.sites)

    def at(self, index: Index) -> Self:
        """Return the spots at `index`."""
        others = None if self.others is None else self.others[index]
        return type(self)(self.sites.at(index), self.expression[index], self.depth[index], others)


def iter_chunks(sites: SiteSource, size: int) -> Iterator[Sites]:
    """Yield the sites in their order, at most `size` at a time; no sites at all are one empty chunk."""
    for start in range(0, max(len(sites), 1), size):
        yield sites.at(slice(start, start + size))


def row_chunks(n: int, size: int = ROWS) -> Iterator[slice]:
    """Yield slices that cover `n` rows in their order, at most `size` at a time."""
    return (slice(start, min(start + size, n)) for start in range(0, n, size))


def stack(parts: Sequence[Measured]) -> Measured:
    """Return the spots of several sections, one after the other; their coordinates are each section's own."""
    if len(parts) == 1:
        return parts[0]
    sites = [part.sites.at(slice(None)) for part in parts]
    arrays = {name: [getattr(part, name) for part in sites] for name in Sites.__dataclass_fields__}
    stacked = Sites(**{name: np.concatenate(a) for name, a in arrays.items() if not any(part is None for part in a)})
    expression, depth = (np.concatenate([getattr(part, name) for part in parts]) for name in ("expression", "depth"))
    others = [part.others for part in parts if part.others is not None]
    return Measured(stacked, expression, depth, np.concatenate(others) if len(others) == len(parts) else None)


def lay_grid(section: AnnData, lattice: Lattice, subdivide: int) -> pd.DataFrame:
    """Lay the lattice of the spots, divided `subdivide` times, as far around every spot as its cell reaches.

    Inside the section these are k x k sites per spot, the spots themselves among them (s0). At its outline sites stand
    on all sides alike: the map is symmetric about the spots. A site belongs to the nearest spot, the first of several.
    Offsets come from the fitted lattice and are added to the spot's own coordinates.

    Returns
    -------
    DataFrame with a row per site: site_id (`<barcode>_s<number>`, which Loupe accepts; a number stands for one offset
        from the spot), parent_barcode, sub_index (that number), x_px and y_px in full-resolution pixels, array_row and
        array_col on the subdivided lattice (those of the spots times `subdivide`, so that they stay whole)
    """
    offsets, distance = _offsets(lattice.kind, subdivide)
    index = section.obs[[Obs.ARRAY_COL, Obs.ARRAY_ROW]].to_numpy(np.int64)
    fine = (index * subdivide)[:, None, :] + offsets @ INDEX_STEPS[lattice.kind]
    spot, sub = (grid.ravel() for grid in np.indices(fine.shape[:2]))
    nearest_first = np.lexsort([spot, np.tile(distance, len(index))])
    once = np.unique(fine.reshape(-1, 2)[nearest_first], axis=0, return_index=True)[1]
    kept = np.sort(nearest_first[once])
    spot, sub = spot[kept], sub[kept]
    xy = np.asarray(section.obsm[SPATIAL])[spot] + (offsets[sub] / subdivide) @ lattice.basis_px
    parent = section.obs_names.to_numpy(str)[spot].tolist()
    return _table(parent, sub, xy, fine.reshape(-1, 2)[kept])


def _offsets(kind: LatticeKind, k: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return the steps (offset, 2) from a spot to the points of the lattice divided `k` times that it is nearest to.

    Points as near to other spots are among them. The spot itself comes first, and the rest by their distance, which is
    returned too (offset,), in pitches.
    """
    steps = np.array([(i, j) for j in range(-k, k + 1) for i in range(-k, k + 1)])
    unit, cell = UNIT_BASIS[kind], steps[((steps >= 0) & (steps < k)).all(axis=1)]
    corners = np.array([(0, 0), (1, 0), (0, 1), (1, 1)]) @ unit
    reach = np.linalg.norm((cell / k @ unit)[:, None] - corners, axis=2).min(axis=1).max()
    distance = np.linalg.norm(steps / k @ unit, axis=1).round(9)
    within = np.flatnonzero(distance <= reach + 1e-6)
    within = within[np.argsort(distance[within], kind="stable")]
    return steps[within], distance[within]


CELL_REACH: dict[LatticeKind, float] = {"hexagonal": 3**-0.5, "square": 2**-0.5, "scattered": 1.0}
"""Distance from a spot to the corner of its cell, in pitches: 0.58 on a hexagonal lattice, 0.71 on a square one.

Between scattered spots there may be wider gaps."""


def lay_raster(section: AnnData, lattice: Lattice, pitch_um: float) -> pd.DataFrame:
    """Lay sites on a square raster of `pitch_um`, as far around every spot as its cell reaches.

    The raster is centred on the spots' extent and parallel to the image. A site belongs to the nearest spot, and is
    numbered from 1 on among its sites: no site is a spot. The table is as that of `lay_grid`, indices the raster's.
    Raises InputError where so many sites have no room in memory.
    """
    from scipy.spatial import cKDTree

    xy_px = np.asarray(section.obsm[SPATIAL], np.float64)
    pitch_px = pitch_um / float(section.uns[SECTION_METADATA][SectionField.MPP])
    low, high = xy_px.min(axis=0), xy_px.max(axis=0)
    reach = CELL_REACH[lattice.kind] * lattice.pitch_px
    n_x, n_y = np.floor(((high - low) / 2 + reach) / pitch_px).astype(int)
    _require_room(min((2 * n_x + 1) * (2 * n_y + 1), len(xy_px) * np.pi * (reach / pitch_px) ** 2), pitch_um)
    tree, parts = cKDTree(xy_px), []
    for row in range(-n_y, n_y + 1):  # row by row: the whole extent may hold many times the sites that are kept
        column = np.arange(-n_x, n_x + 1)
        sites = (low + high) / 2 + np.column_stack([column, np.full(len(column), row)]) * pitch_px
        distance, nearest = tree.query(sites, distance_upper_bound=reach * (1 + 1e-9))
        near = np.isfinite(distance)
        index = np.column_stack([column + n_x, np.full(len(column), row + n_y)])
        parts.append((sites[near], nearest[near], index[near]))
    xy, spot, index = (np.concatenate(part) for part in zip(*parts, strict=True))
    order = np.argsort(spot, kind="stable")
    spot = spot[order]
    number = np.arange(len(spot)) - np.searchsorted(spot, spot) + 1
    return _table(section.obs_names.to_numpy(str)[spot].tolist(), number, xy[order], index[order])


def _require_room(n_sites: float, pitch_um: float) -> None:
    available = available_bytes()
    if available is not None and n_sites * SITE_BYTES > available:
        raise InputError(
            f"grid.pitch_um={pitch_um:g}: up to {n_sites / 1e6:.0f} million sites, whose table alone takes "
            f"{n_sites * SITE_BYTES / GIB:.0f} GiB of memory; {available / GIB:.1f} GiB are available.",
            "as many sites as memory holds.",
            f"Choose a larger distance: --params grid.pitch_um={max(10 * pitch_um, 1):g}.",
        )


def lay_sites(size_px: tuple[int, int], mpp: float, pitch_um: float) -> pd.DataFrame:
    """Lay sites on a square lattice of `pitch_um` over an image of `size_px` (rows, columns); a table as `lay_grid`'s.

    Each site is a parent of its own (sub index 0), named by row and column.
    """
    pitch_px = pitch_um / mpp
    row, column = np.indices([max(int(extent / pitch_px), 1) for extent in size_px]).reshape(2, -1)
    names = [f"r{i:04d}c{j:04d}" for i, j in zip(row, column, strict=True)]
    index = np.column_stack([column, row])
    table = _table(names, np.zeros(len(names), np.int64), (index + 0.5) * pitch_px, index)
    return table.assign(**{SITE_ID: names})


def _table(
    parent: list[str], sub: NDArray[np.int64], xy_px: NDArray[np.floating], index: NDArray[np.int64]
) -> pd.DataFrame:
    import pandas as pd

    ids = [f"{name}_s{number}" for name, number in zip(parent, sub.tolist(), strict=True)]
    table = pd.DataFrame({SITE_ID: ids, Obs.PARENT.value: parent, SUB_INDEX: sub})
    table[[X_PX, Y_PX]] = xy_px
    table[[Obs.ARRAY_ROW.value, Obs.ARRAY_COL.value]] = index[:, ::-1]
    return table


def resolve_mpp(stated: float | None, by_image: float | None) -> float:
    """Return micrometres per pixel: the user's, else the image's; raise InputError where neither is known."""
    if (mpp := stated or by_image) is None:
        raise InputError(
            "an image whose file does not state how large a pixel is, and no spots to find it from.",
            "micrometres per pixel of the image.",
            "State it: --params transfer.mpp=0.5.",
        )
    return float(mpp)


def as_section(sites: pd.DataFrame, name: str, mpp: float, pitch_um: float) -> AnnData:
    """Return sites (a table as `lay_sites`') as a section without genes; raise InputError when there are too few."""
    from anndata import AnnData

    if len(sites) < _MIN_SITES:
        raise InputError(
            f"{len(sites)} sites on tissue, {pitch_um:g} um apart.",
            f"at least {_MIN_SITES}.",
            "Check the image and its micrometres per pixel, or lower transfer.pitch_um.",
        )
    obs = sites.set_index(SITE_ID)[[Obs.ARRAY_ROW.value, Obs.ARRAY_COL.value]].rename_axis(None)
    section = AnnData(obs=obs.assign(**{Obs.IN_TISSUE.value: 1}))
    section.obsm[SPATIAL] = sites[[X_PX, Y_PX]].to_numpy(np.float64)
    section.uns[SECTION_METADATA] = {
        SectionField.NAME.value: name,
        SectionField.LATTICE.value: "square",
        SectionField.PITCH_UM.value: float(pitch_um),
        SectionField.SPOT_UM.value: float(pitch_um),
        SectionField.MPP.value: float(mpp),
    }
    return section
