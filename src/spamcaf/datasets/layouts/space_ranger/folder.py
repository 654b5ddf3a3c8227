"""Finding the Space Ranger folder of a section, by what lies in it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING

from spamcaf.errors import is_fault_of_ours
from spamcaf.names import ScaleFactor, SpaceRanger

if TYPE_CHECKING:
    from spamcaf.datasets.layouts.layout import Wanted

BIN_FOLDER = re.compile(r"square_(\d+)um")
HD_PARTS = (SpaceRanger.BINNED, SpaceRanger.SEGMENTED, SpaceRanger.FEATURE_SLICE)


def find_outs(wanted: Wanted) -> Path | None:
    """Return the folder that holds matrix and positions of the section, or None.

    Looked for are `<root>/<section>/outs`, `<root>/<section>`, `<root>/outs` and `<root>`, in this order. A
    `matrix.mtx` whose files lie flat counts where positions lie beside it. Folders of Visium HD are none.
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
        record = json.loads((spatial_folder(folder) / SpaceRanger.SCALEFACTORS).read_text(encoding="utf-8-sig"))
        return round(float(record[ScaleFactor.BIN]))
    except (OSError, ValueError, TypeError, KeyError, OverflowError) as error:
        if is_fault_of_ours(error):
            raise
        return None


def sections_like(folder: Path, section: str) -> set[str]:
    """Return the names of the folders in `folder` that hold another section whose name begins as `section` does."""
    try:
        like = [p for p in folder.iterdir() if p.name.startswith(section) and p.name != section and p.is_dir()]
        return {p.name for p in like if any(_holds_section(q) or holds_hd(q) for q in (p / SpaceRanger.OUTS, p))}
    except OSError:  # above the data there may be folders that only others can read
        return set()


def _holds_section(folder: Path) -> bool:
    if not folder.is_dir() or bin_size(folder) is not None or (folder / SpaceRanger.BINNED).is_dir():
        return False
    if holds_matrix(folder) or ((folder / SpaceRanger.SPATIAL).is_dir() and not holds_hd(folder)):
        return True
    placed = (f"*{SpaceRanger.POSITIONS_STEM}*", f"*{SpaceRanger.SPATIAL}")
    return any(visible(folder, "*matrix.mtx*")) and any(any(visible(folder, pattern)) for pattern in placed)
