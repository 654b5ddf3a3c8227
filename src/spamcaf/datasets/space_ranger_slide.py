"""The full-resolution image that lies beside a Space Ranger folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from spamcaf.datasets.slide import PLAIN_SUFFIXES, TIFF_SUFFIXES, SlideDataset, open_slide
from spamcaf.datasets.space_ranger_folder import find_outs, is_outs, listing
from spamcaf.errors import InputError
from spamcaf.names import SpaceRanger

if TYPE_CHECKING:
    from spamcaf.histology.slide import Slide

FULL_STEMS = ("tissue_image", "full_image")
"""Names that say full resolution; beside one of them a plain `*image` is the CytAssist instrument's."""


class SpaceRangerSlideDataset(SlideDataset):
    """Open the one full-resolution image in a section's Space Ranger folder or the folder above; read-only and lazy.

    `filepath` and `section` are those of `SpaceRangerSectionDataset`. Recognised are `*tissue_image.*` and
    `*full_image.*`, then `*image.*` and `<section>*`; in a folder above that may hold several sections, only names that
    begin with the section's.
    """

    def __init__(self, *, filepath: str, section: str | int, metadata: dict[str, Any] | None = None) -> None:
        super().__init__(filepath=filepath, metadata=metadata)
        self._section = str(section)

    def load(self) -> Slide:
        return open_slide(find_image(self._filepath, self._section))

    def _exists(self) -> bool:
        return is_outs(self._filepath, self._section)

    def _describe(self) -> dict[str, Any]:
        return {**super()._describe(), "section": self._section}


def find_image(root: Path, section: str) -> Path:
    """Return the full-resolution image of `section` under `root`; raise InputError unless there is exactly one."""
    outs = find_outs(root, section)
    above = [p for p in _images(outs.parent) if outs.name == SpaceRanger.OUTS or _begins_with(p, section)]
    for images in (_images(outs), above):
        found = _best(images, section)
        if len(found) == 1:
            return found[0]
        if found:
            raise InputError(
                f"{len(found)} images that may be the full-resolution one: {', '.join(p.name for p in found)}.",
                "one.",
                "Move the others away, or rename the right one <section>_full_image.tif.",
            )
    raise InputError(
        f"no full-resolution image in {outs} or {outs.parent}; the first holds {listing(outs)}.",
        f"the image that Space Ranger was run on, such as {section}_full_image.tif; hires and lowres are thumbnails.",
        f"Put it into {outs}.",
    )


def _images(folder: Path) -> list[Path]:
    thumbnails = (SpaceRanger.HIRES, SpaceRanger.LOWRES)
    files = (p for p in sorted(folder.iterdir()) if p.is_file() and p.suffix.lower() in TIFF_SUFFIXES | PLAIN_SUFFIXES)
    return [p for p in files if not p.name.endswith(thumbnails)]


def _best(images: list[Path], section: str) -> list[Path]:
    """Return the images of the first rule that fits any: a name that says so, `*image`, the section's name."""
    rules = (
        [p for p in images if p.stem.lower().endswith(FULL_STEMS)],
        [p for p in images if p.stem.lower().endswith("image") or _begins_with(p, section)],
    )
    return next((found for found in rules if found), [])


def _begins_with(path: Path, section: str) -> bool:
    # C1 is no beginning of C10
    return path.stem == section or path.name.startswith((f"{section}_", f"{section}-", f"{section}."))
