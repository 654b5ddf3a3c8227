"""What the backbone saw at each site."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Self

import numpy as np
from numpy.typing import NDArray

from spamcaf.errors import InputError
from spamcaf.histology.tiles import CENTRE

if TYPE_CHECKING:
    from spamcaf.histology.backbone import BackboneIdentity


@dataclass(frozen=True)
class FeatureKey:
    """Everything that features depend on; features of equal keys are interchangeable.

    `sites` hashes the site ids and their pixel coordinates, `view` says how wide tiles
    are and how precisely they were computed.
    """

    slide: str
    backbone: str
    view: str
    sites: str

    @classmethod
    def of(
        cls, slide: str, backbone: BackboneIdentity, view: dict[str, object], ids: list[str], xy_px: NDArray[np.float64]
    ) -> Self:
        """Return the key of the features of `ids` at `xy_px`, cut from `slide` as `view` says."""
        look = json.dumps(view, sort_keys=True)
        place = hashlib.sha256("\n".join(ids).encode() + np.ascontiguousarray(xy_px, np.float64).tobytes())
        return cls(slide, f"{backbone.name}:{backbone.weights_sha256[:16]}", look, place.hexdigest()[:16])

    def text(self) -> str:
        """Return the key as one line of JSON."""
        return json.dumps(asdict(self), sort_keys=True)

    def short(self) -> str:
        """Return a name for files of this key."""
        return hashlib.sha256(self.text().encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Features:
    """Backbone features of sites.

    `windows` is (site, 9, feature) float32, the 3 x 3 tiles row by row; `n_px_padded` (site,) counts the pixels of a
    window that lie outside the image. A block of a larger whole has the whole's key and starts at site `start`.
    """

    ids: tuple[str, ...]
    windows: NDArray[np.float32]
    n_px_padded: NDArray[np.int64]
    key: FeatureKey
    n_total: int
    start: int = 0

    @staticmethod
    def target_of(windows: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return (site, feature), the tile at the site itself, of (site, 9, feature)."""
        return windows[:, CENTRE]

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


def join_blocks(blocks: list[Features]) -> Features:
    """Join the blocks of one key into the whole, in the order of their start."""
    ordered = sorted(blocks, key=lambda block: block.start)
    return Features(
        tuple(name for block in ordered for name in block.ids),
        np.concatenate([block.windows for block in ordered]),
        np.concatenate([block.n_px_padded for block in ordered]),
        ordered[0].key,
        ordered[0].n_total,
    )
