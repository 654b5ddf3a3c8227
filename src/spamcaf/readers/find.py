"""Which reader a section's files need, told by what lies there and never by a name alone."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from spamcaf.errors import InputError
from spamcaf.readers import h5ad, legacy_st, spatialdata, visium_hd
from spamcaf.readers import visium as space_ranger
from spamcaf.readers.files import all_images, called, is_image, listing, owner, passed_over, slides_among, the_one
from spamcaf.slides.open import open_slide

if TYPE_CHECKING:
    from anndata import AnnData

    from spamcaf.histology.slide import Slide
    from spamcaf.readers.files import SectionQuery, SectionReader


@dataclass(frozen=True)
class ImageOnlyReader:
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


def find_image_only(query: SectionQuery) -> ImageOnlyReader | None:
    """Return the image that was named, that is `root`, or that lies there under the section's name.

    Raises InputError when several do, or when all that do are pictures that are never of full resolution.
    """
    if query.image is not None:
        return ImageOnlyReader(query.image)
    if query.root.is_file():
        return ImageOnlyReader(the_one([query.root], "images")) if is_image(query.root) else None
    root, names = query.root, (query.section,)
    inside, beside = all_images(root / query.section), [p for p in all_images(root) if owner(p, names, ())]
    for images in (slides_among(inside), slides_among(beside)):
        found = called([p for p in images if owner(p, names, ())], names) or images
        if found:
            return ImageOnlyReader(the_one(found, f"images of section '{query.section}'"))
    if inside or beside:
        why = passed_over([*inside, *beside], query.section)
        raise InputError(
            f"no full-resolution image of section '{query.section}' in {root}{why}.",
            "the full-resolution H&E image.",
            f"Put it there as {query.section}.tif, or name it: --params image=<file>.",
        )
    return None


logger = logging.getLogger(__name__)

Finder = Callable[["SectionQuery"], "SectionReader | None"]

FROM_INSTRUMENT: tuple[Finder, ...] = (visium_hd.find, space_ranger.find, legacy_st.find)
FROM_ANALYSIS: tuple[Finder, ...] = (spatialdata.find, h5ad.find)
UNMEASURED: tuple[Finder, ...] = (find_image_only,)
FINDERS = FROM_INSTRUMENT, FROM_ANALYSIS, UNMEASURED
"""What is looked for, in this order: files that an analysis made often lie beside those it was made from."""


WITH_BINS = (visium_hd.VisiumHDReader, spatialdata.SpatialDataReader)


def find_reader(query: SectionQuery) -> SectionReader:
    """Return the layout that the section's files have.

    Raises InputError when there are none, naming what is there instead; when there are two; or when the files are
    broken so that nothing can be found in them.
    """
    for finders in FINDERS:
        found = _look(finders, query)
        if len(found) > 1:
            raise InputError(
                f"section '{query.section}' in {query.root} as {' and as '.join(reader.kind for reader in found)}.",
                "one of them.",
                "Name the folder or file that is meant: --params raw_root=<path>; or move the other away.",
            )
        if found:
            logger.info("section %s: %s", query.section, found[0].kind)
            if query.bin_um is not None and not isinstance(found[0], WITH_BINS):
                logger.warning("bin_um=%d does not apply: %s has no bins to choose from", query.bin_um, found[0].kind)
            return found[0]
    raise InputError(
        f"no section '{query.section}' in {query.root}, but {listing(query.root)}.",
        "Space Ranger's outs (matrix and spatial/), Visium HD's binned_outputs/, ST-cnts/ and ST-spotfiles/, "
        "a SpatialData .zarr, an .h5ad, or an image alone; in a folder of the section's name, or named by raw_root.",
        "Choose a section that exists, or another folder: --params section=<name>,raw_root=<folder>.",
    )


def _look(finders: tuple[Finder, ...], query: SectionQuery) -> list[SectionReader]:
    """Return what the finders find; the first error, when they find nothing and one of them says why."""
    found, errors = [], []
    for find in finders:
        try:
            found.append(find(query))
        except InputError as error:
            errors.append(error)
    readers = [reader for reader in found if reader is not None]
    if errors and not readers:
        raise errors[0]
    return readers
