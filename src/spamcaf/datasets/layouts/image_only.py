"""A section of which there is only the image: nothing was measured."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from spamcaf.datasets.layouts.beside import all_images, called, is_image, owner, passed_over, slides_among, the_one
from spamcaf.errors import InputError
from spamcaf.slides.open import open_slide

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

    Raises InputError when several do, or when all that do are pictures that are never of full resolution.
    """
    if wanted.image is not None:
        return ImageOnly(wanted.image)
    if wanted.root.is_file():
        return ImageOnly(the_one([wanted.root], "images")) if is_image(wanted.root) else None
    root, names = wanted.root, (wanted.section,)
    inside, beside = all_images(root / wanted.section), [p for p in all_images(root) if owner(p, names, ())]
    for images in (slides_among(inside), slides_among(beside)):
        found = called([p for p in images if owner(p, names, ())], names) or images
        if found:
            return ImageOnly(the_one(found, f"images of section '{wanted.section}'"))
    if inside or beside:
        why = passed_over([*inside, *beside], wanted.section)
        raise InputError(
            f"no full-resolution image of section '{wanted.section}' in {root}{why}.",
            "the full-resolution H&E image.",
            f"Put it there as {wanted.section}.tif, or name it: --params image=<file>.",
        )
    return None
