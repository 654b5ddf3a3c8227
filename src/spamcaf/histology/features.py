"""Backbone features of sites, in blocks, and the key of all that they depend on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Self

import numpy as np
from numpy.typing import NDArray

from spamcaf import __version__
from spamcaf.errors import InputError
from spamcaf.names import NO_IMAGE

if TYPE_CHECKING:
    from spamcaf.histology.backbone import BackboneIdentity


BLOCK = 64
"""Sites in a block: 2.4 MB at 1024 features, and a few seconds of work on a CPU, which is what a killed run loses."""


@dataclass(frozen=True)
class FeatureKey:
    """What features depend on; those of equal keys are interchangeable, up to the rounding of another device."""

    slide: str  # fingerprint of its pixels, and of its stains where they are normalised
    backbone: str  # name, weights and configuration
    view: str  # width of the tiles and precision of the computation, as JSON; comparable between sections
    sites: str  # hash of the site ids and their pixel coordinates
    window_px: int  # width of a window of 3 x 3 tiles, full-resolution pixels
    block: int = BLOCK  # sites in a block: only blocks of one size make a whole
    version: str = __version__  # this package's

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
        return cls(slide, backbone.key, json.dumps(view, sort_keys=True), sites_hash(ids, xy_px), window_px)

    @property
    def is_blind(self) -> bool:
        """Whether there was no image to see, see `blind_blocks`."""
        return self.slide == NO_IMAGE

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
    """

    ids: tuple[str, ...]
    windows: NDArray[
        np.floating
    ]  # (site, 9, feature), the 3 x 3 tiles row by row; of a slide's map (place, 1, feature)
    n_px_padded: NDArray[np.int64]  # (site,), pixels of a window that lie outside the image
    key: FeatureKey  # of the whole, also in a block of it
    n_total: int  # sites of the whole
    start: int = 0  # site of the whole at which this block starts
    whole: NDArray[np.float32] | None = None  # (site, feature), of the window shrunk to one tile, where requested
    maps: NDArray[np.float16] | None = None  # (site, view, ...) of the target tile, before the backbone's last blocks

    def require_sites(self, ids: list[str], xy_px: NDArray[np.float64]) -> None:
        """Raise InputError unless these are the features of `ids` at `xy_px`; a name may be of another place by now."""
        if sites_hash(ids, xy_px) != self.key.sites:
            raise InputError(
                "stored features of other places than the section or grid has now.",
                "features of the same places.",
                "Run the pipeline feature_extraction again for this section.",
            )

    def rows(self, ids: list[str]) -> NDArray[np.intp]:
        """Return the rows of `ids`; raise InputError when one has no features."""
        index = {name: i for i, name in enumerate(self.ids)}
        missing = [name for name in ids if name not in index]
        if missing:
            raise InputError(
                f"{len(missing)} of {len(ids)} sites without features, such as {missing[0]}.",
                "features of every site.",
                "Run the pipeline feature_extraction again for this section.",
            )
        return np.array([index[name] for name in ids], np.intp)


def blind_blocks(ids: list[str], key: FeatureKey, done: set[int], n_tiles: int) -> Iterator[Features]:
    """Yield the blocks of sites without an image that are not `done`: one feature per tile, which is 0 everywhere.

    So all that follows has its usual shapes, and kernels of image features are 0. `key` is that of the sites. Where
    nothing is missing, a block without sites tells a store which key is in use.
    """
    starts = [start for start in range(0, len(ids), key.block) if start not in done]
    for start in starts or [0]:
        names = tuple(ids[start : start + key.block]) if starts else ()
        windows = np.zeros((len(names), n_tiles, 1), np.float32)
        yield Features(names, windows, np.zeros(len(names), np.int64), key, len(ids), start)


def join_blocks(blocks: list[Features]) -> Features:
    """Join the blocks of one key into the whole, in the order of their start."""
    ordered = sorted(blocks, key=lambda block: block.start)
    whole = [block.whole for block in ordered if block.whole is not None]
    maps = [block.maps for block in ordered if block.maps is not None]
    return Features(
        tuple(name for block in ordered for name in block.ids),
        np.concatenate([block.windows for block in ordered]),
        np.concatenate([block.n_px_padded for block in ordered]),
        ordered[0].key,
        ordered[0].n_total,
        whole=np.concatenate(whole) if whole else None,
        maps=np.concatenate(maps) if maps else None,
    )


def sites_hash(ids: list[str], xy_px: NDArray[np.float64]) -> str:
    """Return a hash of the names of sites and their coordinates, (site, 2) full-resolution pixels."""
    content = "\n".join(ids).encode() + np.ascontiguousarray(xy_px, np.float64).tobytes()
    return hashlib.sha256(content).hexdigest()[:16]
