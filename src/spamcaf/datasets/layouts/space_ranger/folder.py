"""Finding the Space Ranger folder of a section, by what lies in it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING

from spamcaf.names import ScaleFactor, SpaceRanger

if TYPE_CHECKING:
    from spamcaf.datasets.layouts.layout import Wanted

BIN_FOLDER = re.compile(r"square_(\d+)um")
HD_PARTS = (SpaceRanger.BINNED, SpaceRanger.SEGMENTED, SpaceRanger.FEATURE_SLICE)


def find_outs(wanted: Wanted) -> Path | None:
    """Return the folder that holds matrix and positions of the section, or None.

    Looked for are `<root>/<section>/outs`, `<root>/<section>`, `<root>/outs` and `<root>`, in this order. Folders of
    Visium HD are none.
    """
    places = [place for folder in wanted.folders for place in (folder / SpaceRanger.OUTS, folder)]
    return next((place for place in places if _holds_section(place)), None)


def spatial_folder(outs: Path) -> Path:
    """Return the folder of positions, scale factors and thumbnails: `spatial`, or `outs` itself where they lie flat."""
    inner = outs / SpaceRanger.SPATIAL
    return inner if inner.is_dir() else outs


def image_folders(outs: Path) -> list[Path]:
    """Return the folders that can hold images of one section only: `outs`, and above it where it is called so."""
    here = outs.absolute()
    return [here, here.parent] if here.name == SpaceRanger.OUTS else [here]


def holds_matrix(folder: Path) -> bool:
    """Tell whether a count matrix lies directly in `folder`."""
    return any(visible(folder, f"*{SpaceRanger.MATRIX_FOLDER}*")) or any(visible(folder, f"*{SpaceRanger.RAW_FOLDER}*"))


def holds_hd(folder: Path) -> bool:
    """Tell whether parts of Visium HD's output lie directly in `folder`, packed or not."""
    return any(any(visible(folder, f"*{part}*")) for part in HD_PARTS)


def visible(folder: Path, pattern: str) -> list[Path]:
    """Return what matches `pattern` in `folder`, sorted; not the `._` twins that macOS leaves beside files."""
    return sorted(p for p in folder.glob(pattern) if not p.name.startswith("."))


def bin_size(folder: Path) -> int | None:
    """Return the bin size in micrometres where `folder` holds one bin size of Visium HD, else None.

    A folder called `square_016um` does; so does one whose scale factors name a bin size.
    """
    named = BIN_FOLDER.fullmatch(folder.absolute().name)
    if named:
        return int(named[1])
    try:
        record = json.loads((spatial_folder(folder) / SpaceRanger.SCALEFACTORS).read_text(encoding="utf-8"))
        return round(float(record[ScaleFactor.BIN]))
    except (OSError, ValueError, TypeError, KeyError, OverflowError):
        return None


def _holds_section(folder: Path) -> bool:
    if not folder.is_dir() or bin_size(folder) is not None or (folder / SpaceRanger.BINNED).is_dir():
        return False
    return holds_matrix(folder) or ((folder / SpaceRanger.SPATIAL).is_dir() and not holds_hd(folder))
