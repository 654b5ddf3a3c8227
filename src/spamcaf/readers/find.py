"""Which reader a section's files need: by what lies there, never by a name alone."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from spamcaf.errors import InputError, did_you_mean
from spamcaf.names import LegacyST
from spamcaf.readers import files, h5ad, legacy_st, spatialdata, visium, visium_hd
from spamcaf.readers.files import SectionQuery, SectionReader

if TYPE_CHECKING:
    from anndata import AnnData

logger = logging.getLogger(__name__)


class _ImageOnlyReader(SectionReader):
    """One image."""

    kind = "an image without counts"

    def read(self) -> AnnData:
        """Raise InputError: there is nothing to read."""
        raise InputError(
            f"only the image {self.path}, no counts.",
            "a measured section.",
            "Apply that of a measured one: kedro run --pipelines transfer --params section=<name>,model=<section>.",
        )

    def sources(self) -> list[Path]:
        """Return none."""
        return []

    def image(self) -> Path:
        """Return it."""
        return self.path


def _find_image_only(query: SectionQuery) -> SectionReader | None:
    """Return the image that was named, that is `root`, or that lies there under the section's name.

    Raises InputError when several do, or when all that do are images that are never of full resolution.
    """
    if query.image is not None:
        return _ImageOnlyReader(query.image, query)
    root, names = query.root, (query.section,)
    if root.is_file():
        return _ImageOnlyReader(files.only_image([root], "images"), query) if files.is_image(root) else None
    inside = files.all_images(root / query.section)
    beside = [p for p in files.all_images(root) if files.owner(p, names, ())]
    for images in (files.slides_among(inside), files.slides_among(beside)):
        found = files.called([p for p in images if files.owner(p, names, ())], names) or images
        if found:
            return _ImageOnlyReader(files.only_image(found, f"images of section '{query.section}'"), query)
    if inside or beside:
        why = files.passed_over([*inside, *beside], query.section)
        raise InputError(
            f"no full-resolution image of section '{query.section}' in {root}{why}.",
            "the full-resolution H&E image.",
            f"Put it there as {query.section}.tif, or name it: --params image=<file>.",
        )
    return None


FINDERS: tuple[tuple[Callable[[SectionQuery], SectionReader | None], ...], ...] = (
    (visium_hd.find, visium.find, legacy_st.find),  # from an instrument
    (spatialdata.find, h5ad.find),  # from an analysis
    (_find_image_only,),
)
"""What is looked for, in this order: files that an analysis made often lie beside those it was made from."""
WITH_BINS = (visium_hd.VisiumHDReader, spatialdata.SpatialDataReader)


def find_reader(query: SectionQuery) -> SectionReader:
    """Find the reader of a section by the files that lie there.

    Parameters
    ----------
    query
        The section, and where it lies.

    Returns
    -------
    SectionReader
        Nothing is read yet but what tells the layout.

    Raises
    ------
    InputError
        When there is no section, naming what is there instead; when there are two; or when the files are broken so that
        nothing can be found in them.
    """
    for finders in FINDERS:
        found: list[SectionReader] = []
        errors = []
        for find in finders:
            try:
                found += filter(None, [find(query)])
            except InputError as error:
                errors.append(error)
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
        if errors:
            raise errors[0]
    raise InputError(
        f"no section '{query.section}' in {query.root}, but {files.listing(query.root)}.",
        "Space Ranger's outs (matrix and spatial/), Visium HD's binned_outputs/, ST-cnts/ and ST-spotfiles/, "
        "a SpatialData .zarr, an .h5ad, or an image alone; in a folder of the section's name, or named by raw_root.",
        f"{did_you_mean(query.section, _names_in(query.root))}"
        "Choose a section that exists, or another folder: --params section=<name>,raw_root=<folder>.",
    )


def _names_in(root: Path) -> set[str]:
    """Return what may be names of sections: those of files without endings, in `root` and in the folder of counts."""
    return {path.name.partition(".")[0] for folder in (root, root / LegacyST.COUNTS) for path in folder.glob("*")}
