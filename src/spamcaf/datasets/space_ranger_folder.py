"""Finding the Space Ranger folder of a section, by what lies in it."""

from __future__ import annotations

from pathlib import Path

from spamcaf.errors import InputError
from spamcaf.names import SpaceRanger

MAX_LISTED = 20


def find_outs(root: Path, section: str) -> Path:
    """Return the folder that holds matrix and positions of `section`.

    Looked for are `<root>/<section>/outs`, `<root>/<section>`, `<root>/outs` and `<root>`, in this order. Raises
    InputError when none of them is a Space Ranger folder, or when it is one of Visium HD.
    """
    for folder in (root / section / SpaceRanger.OUTS, root / section, root / SpaceRanger.OUTS, root):
        _refuse_hd(folder)
        if _holds_section(folder):
            return folder
    raise InputError(
        f"no Space Ranger output of section '{section}' in {root}, but {listing(root)}.",
        f"{SpaceRanger.MATRIX_H5} (or the folder {SpaceRanger.MATRIX_FOLDER}) and {SpaceRanger.SPATIAL}/, "
        f"in {section}/outs, in {section} or in the folder itself.",
        "Choose a section that exists, or another folder: --params section=<name>,raw_root=<folder>.",
    )


def is_outs(root: Path, section: str) -> bool:
    """Tell whether `find_outs` would find something."""
    try:
        find_outs(root, section)
    except InputError:
        return False
    return True


def spatial_folder(outs: Path) -> Path:
    """Return the folder of positions, scale factors and thumbnails: `spatial`, or `outs` itself where they lie flat."""
    inner = outs / SpaceRanger.SPATIAL
    return inner if inner.is_dir() else outs


def listing(folder: Path) -> str:
    """Name what is in `folder`, for an error message."""
    if not folder.is_dir():
        return "there is no such folder"
    names = sorted(p.name + ("/" if p.is_dir() else "") for p in folder.iterdir())
    more = f" and {len(names) - MAX_LISTED} more" if len(names) > MAX_LISTED else ""
    return (", ".join(names[:MAX_LISTED]) or "nothing") + more


def hd_error(place: Path) -> InputError:
    """Return the error for Visium HD data."""
    return InputError(
        f"{place} is of Visium HD.",
        "the output of Space Ranger for Visium, whose spots are 55 um wide.",
        "Visium HD is not supported yet by this reader: pass a Visium section, or pool the bins to spots first.",
    )


def _refuse_hd(folder: Path) -> None:
    if (folder / SpaceRanger.BINNED).is_dir() or folder.name == SpaceRanger.BINNED:
        raise hd_error(folder)


def _holds_section(folder: Path) -> bool:
    return folder.is_dir() and (
        any(folder.glob(f"*{SpaceRanger.MATRIX_FOLDER}*")) or (folder / SpaceRanger.SPATIAL).is_dir()
    )
