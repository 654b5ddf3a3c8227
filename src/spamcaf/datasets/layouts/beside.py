"""The full-resolution image that lies in the folder of an h5ad file."""

from __future__ import annotations

from pathlib import Path

from spamcaf.datasets.layouts.listing import listing
from spamcaf.datasets.slides.open import IMAGE_SUFFIXES
from spamcaf.errors import InputError
from spamcaf.names import SpaceRanger

THUMBNAILS = tuple(name.lower() for name in (SpaceRanger.HIRES, SpaceRanger.LOWRES))
TOO_COARSE = "hires and lowres pictures are thumbnails, too coarse to see cells in"


def image_beside(path: Path, section: str, is_only_file: bool) -> Path:
    """Return the image in the folder of the file at `path` whose name begins with the section's or the file's.

    Where no name does, the folder's only image is taken if `is_only_file` says that the file has no neighbour that the
    image may belong to. Raises InputError when there is none, or when several fit.
    """
    images = sorted(p for p in path.parent.iterdir() if _is_image(p))
    named = [p for p in images if begins_with(p.name, section) or begins_with(p.name, path.stem)]
    found = named or (images if is_only_file else [])
    if len(found) == 1:
        return found[0]
    if found:
        raise InputError(
            f"{len(found)} images that may belong to {path.name}: {', '.join(p.name for p in found[:20])}.",
            "one.",
            "Name the full-resolution H&E image: --params image=<file>.",
        )
    raise InputError(
        f"no image of {path.name} in {path.parent}, which holds {listing(path.parent)}.",
        f"the full-resolution H&E image; {TOO_COARSE}.",
        f"Put it there as {path.stem}.tif, or name it: --params image=<file>.",
    )


def begins_with(name: str, section: str) -> bool:
    """Tell whether a name is of `section`: C10_image.tif is not of C1."""
    return name == section or name.startswith((f"{section}_", f"{section}-", f"{section}."))


def _is_image(path: Path) -> bool:
    return path.is_file() and path.suffix.lower() in IMAGE_SUFFIXES and not path.name.lower().endswith(THUMBNAILS)
