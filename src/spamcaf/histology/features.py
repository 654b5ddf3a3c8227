"""Backbone features of sites, in blocks, and the key of all that they depend on."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Self

import numpy as np
from numpy.typing import NDArray

from spamcaf import __version__
from spamcaf.errors import InputError
from spamcaf.histology.tiles import CENTRE

if TYPE_CHECKING:
    from spamcaf.histology.backbone import BackboneIdentity


BLOCK = 64
"""Sites in a block: 2.4 MB at 1024 features, and a few seconds of work on a CPU, which is what a killed run loses."""


@dataclass(frozen=True)
class FeatureKey:
    """What features depend on; those of equal keys are interchangeable, up to the rounding of another device.

    Parameters
    ----------
    slide
        Fingerprint of its pixels, and of its stains where they are normalised.
    backbone
        Name, weights and configuration of the backbone.
    view
        Width of the tiles and precision of the computation, as JSON; comparable between sections.
    sites
        Hash of the site ids and their pixel coordinates.
    window_px
        Width of a window of 3 x 3 tiles in full-resolution pixels.
    block
        Sites in a block: only blocks of one size make a whole.
    version
        This package's version.
    """

    slide: str
    backbone: str
    view: str
    sites: str
    window_px: int
    block: int = BLOCK
    version: str = __version__

    @classmethod
    def of(
        cls,
        slide: str,
        backbone: BackboneIdentity,
        view: dict[str, object],
        window_px: int,
        ids: list[str],
        xy_px: NDArray[np.float64],
    ) -> Self:
        """Return the key of the features of `ids` at `xy_px`, (site, 2) full-resolution pixels, seen as in `view`."""
        return cls(slide, backbone.key, json.dumps(view, sort_keys=True), _sites_hash(ids, xy_px), window_px)

    def text(self) -> str:
        """Return the key as one line of JSON."""
        return json.dumps(asdict(self), sort_keys=True)

    def require_same_source(self, other: FeatureKey) -> None:
        """Raise InputError unless `other` is of the same slide, backbone and view: only the sites may differ."""
        for what in ("slide", "backbone", "view", "window_px"):
            if getattr(self, what) != getattr(other, what):
                raise InputError(
                    f"features of spots and grid that differ in {what.removesuffix('_px')} ({getattr(self, what)} and "
                    f"{getattr(other, what)}).",
                    "both of one slide, embedded in one way.",
                    "Run the pipeline feature_extraction again for this section.",
                )

    def short(self) -> str:
        """Return a name for files of this key."""
        return hashlib.sha256(self.text().encode()).hexdigest()[:16]


@dataclass(frozen=True)
class StoredBlock:
    """A verified block of a feature store: its key, and the site it starts at."""

    key: FeatureKey
    start: int


@dataclass(frozen=True)
class Features:
    """Backbone features of sites, in the order they were read: find them by id.

    Loaded from a store, `windows` and `whole` stay on disk: an index such as `windows[rows]` reads those rows alone,
    np.asarray reads them all.

    Parameters
    ----------
    ids
        Names of the sites.
    windows
        (site, 9, feature) float32, the 3 x 3 tiles row by row.
    n_px_padded
        (site,) int64, pixels of a window that lie outside the image.
    key
        Key of the whole, also in a block of it.
    n_total
        Sites of the whole.
    start
        Site of the whole at which this block starts.
    whole
        (site, feature) float32, of the window shrunk to one tile; None unless it was requested.
    """

    ids: tuple[str, ...]
    windows: NDArray[np.float32]
    n_px_padded: NDArray[np.int64]
    key: FeatureKey
    n_total: int
    start: int = 0
    whole: NDArray[np.float32] | None = None

    @staticmethod
    def target_of(windows: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return (site, feature), the tile at the site itself, of (site, 9, feature)."""
        return windows[:, CENTRE]

    def require_sites(self, ids: list[str], xy_px: NDArray[np.float64]) -> None:
        """Raise InputError unless these are the features of `ids` at `xy_px`; a name may be of another place by now."""
        if _sites_hash(ids, xy_px) != self.key.sites:
            raise InputError(
                "stored features of other places than the section or grid has now.",
                "features of the same places.",
                "Run the pipeline feature_extraction again for this section.",
            )

    def rows(self, ids: list[str]) -> NDArray[np.intp]:
        """Return the rows of `ids`; raise InputError when one has no features."""
        index = self._index
        missing = [name for name in ids if name not in index]
        if missing:
            raise InputError(
                f"{len(missing)} of {len(ids)} sites without features, such as {missing[0]}.",
                "features of every site.",
                "Run the pipeline feature_extraction again for this section.",
            )
        return np.array([index[name] for name in ids], np.intp)

    @cached_property
    def _index(self) -> dict[str, int]:
        return {name: i for i, name in enumerate(self.ids)}


def join_blocks(blocks: list[Features]) -> Features:
    """Join the blocks of one key into the whole, in the order of their start."""
    ordered = sorted(blocks, key=lambda block: block.start)
    whole = [block.whole for block in ordered if block.whole is not None]
    return Features(
        tuple(name for block in ordered for name in block.ids),
        np.concatenate([block.windows for block in ordered]),
        np.concatenate([block.n_px_padded for block in ordered]),
        ordered[0].key,
        ordered[0].n_total,
        whole=np.concatenate(whole) if whole else None,
    )


def _sites_hash(ids: list[str], xy_px: NDArray[np.float64]) -> str:
    content = "\n".join(ids).encode() + np.ascontiguousarray(xy_px, np.float64).tobytes()
    return hashlib.sha256(content).hexdigest()[:16]
