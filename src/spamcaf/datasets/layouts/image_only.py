"""A section of which there is only the image: nothing was measured."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from spamcaf.datasets.layouts.beside import begins_with
from spamcaf.datasets.slides.open import IMAGE_SUFFIXES, open_slide
from spamcaf.errors import InputError

if TYPE_CHECKING:
    from anndata import AnnData

    from spamcaf.datasets.layouts.layout import Wanted
    from spamcaf.histology.slide import Slide


@dataclass(frozen=True)
class ImageOnly:
    """One image."""

    path: Path
    kind: str = "an image without counts"

    def read(self) -> AnnData:
        """Raise InputError: there is nothing to read."""
        raise InputError(
            f"only the image {self.path}, no counts.",
            "a measured section.",
            "Apply the model of a measured one: kedro run --pipeline transfer --params section=<name>,model=<section>.",
        )

    def open_slide(self) -> Slide:
        """Return the image."""
        return open_slide(self.path)


def find(wanted: Wanted) -> ImageOnly | None:
    """Return the image that was named, that is `root`, or that lies there under the section's name.

    Raises InputError when several do.
    """
    if wanted.image is not None:
        return ImageOnly(wanted.image)
    if wanted.root.is_file():
        return ImageOnly(wanted.root) if _is_image(wanted.root) else None
    own = _images(wanted.root / wanted.section)
    found = own or [p for p in _images(wanted.root) if begins_with(p.name, wanted.section)]
    if len(found) > 1:
        raise InputError(
            f"{len(found)} images of section '{wanted.section}': {', '.join(p.name for p in found[:20])}.",
            "one.",
            "Name the full-resolution H&E image: --params image=<file>.",
        )
    return ImageOnly(found[0]) if found else None


def _images(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if _is_image(p)) if folder.is_dir() else []


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in IMAGE_SUFFIXES and path.is_file() and not path.name.startswith(".")
