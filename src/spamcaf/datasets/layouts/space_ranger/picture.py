"""The full-resolution image that lies beside a Space Ranger folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from spamcaf.datasets.layouts.beside import begins_with
from spamcaf.datasets.layouts.listing import listing
from spamcaf.datasets.layouts.space_ranger.folder import visible
from spamcaf.datasets.slides.open import IMAGE_SUFFIXES
from spamcaf.errors import InputError
from spamcaf.names import SpaceRanger

FULL_STEMS = ("tissue_image", "full_image")
"""Names that say full resolution; beside one of them a plain `*image` is the CytAssist instrument's."""


def find_image(folders: Sequence[Path], section: str) -> Path:
    """Return the full-resolution image of `section`; raise InputError unless there is exactly one.

    `folders` belong to the section alone, the innermost first, each in the next. Recognised are `*tissue_image.*` and
    `*full_image.*`, then `*image.*` and `<section>*`. Above the last folder other sections may lie, so there only names
    count that begin with the section's.
    """
    shared = folders[-1].parent
    above = [p for p in images_in(shared) if begins_with(p.name, section)]
    for images in (*map(images_in, folders), above):
        found = _best(images, section)
        if len(found) == 1:
            return found[0]
        if found:
            raise InputError(
                f"{len(found)} images that may be the full-resolution one: {', '.join(p.name for p in found)}.",
                "one.",
                "Name the right one: --params image=<path>; or move the others away.",
            )
    inner = folders[0]
    raise InputError(
        f"no full-resolution image in {inner} or above it; it holds {listing(inner)}.",
        f"the image that Space Ranger was run on, such as {section}_full_image.tif; hires and lowres are thumbnails.",
        f"Put it into {inner}, or name it: --params image=<path>.",
    )


def images_in(folder: Path) -> list[Path]:
    """Return the images that lie directly in `folder`, without Space Ranger's thumbnails."""
    thumbnails = (SpaceRanger.HIRES, SpaceRanger.LOWRES)
    try:
        files = [p for p in visible(folder, "*") if p.suffix.lower() in IMAGE_SUFFIXES and p.is_file()]
    except PermissionError:  # above the data there may be folders that only others can read
        return []
    return [p for p in files if not p.name.endswith(thumbnails)]


def _best(images: list[Path], section: str) -> list[Path]:
    """Return the images of the first rule that fits any: a name that says so, `*image`, the section's name."""
    stems = {p: p.stem.lower().removesuffix(".ome") for p in images}
    rules = (
        [p for p in images if stems[p].endswith(FULL_STEMS)],
        [p for p in images if stems[p].endswith("image") or begins_with(p.name, section)],
    )
    return next((found for found in rules if found), [])
