"""Which layout a section's files have, told by what lies there and never by a name alone."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

from spamcaf.datasets.layouts import h5ad, image_only, legacy_st, spatialdata, visium_hd
from spamcaf.datasets.layouts.listing import listing
from spamcaf.datasets.layouts.space_ranger import section as space_ranger
from spamcaf.errors import InputError

if TYPE_CHECKING:
    from spamcaf.datasets.layouts.layout import Layout, Wanted

logger = logging.getLogger(__name__)

Finder = Callable[["Wanted"], "Layout | None"]

FROM_INSTRUMENT: tuple[Finder, ...] = (visium_hd.find, space_ranger.find, legacy_st.find)
FROM_ANALYSIS: tuple[Finder, ...] = (spatialdata.find, h5ad.find)
UNMEASURED: tuple[Finder, ...] = (image_only.find,)
FINDERS = FROM_INSTRUMENT, FROM_ANALYSIS, UNMEASURED
"""What is looked for, in this order: files that an analysis made often lie beside those it was made from."""


WITH_BINS = (visium_hd.VisiumHDSection, spatialdata.SpatialDataLayout)


def find_layout(wanted: Wanted) -> Layout:
    """Return the layout that the section's files have.

    Raises InputError when there are none, naming what is there instead; when there are two; or when the files are
    broken so that nothing can be found in them.
    """
    for finders in FINDERS:
        found = _look(finders, wanted)
        if len(found) > 1:
            raise InputError(
                f"section '{wanted.section}' in {wanted.root} as {' and as '.join(layout.kind for layout in found)}.",
                "one of them.",
                "Name the folder or file that is meant: --params raw_root=<path>; or move the other away.",
            )
        if found:
            logger.info("section %s: %s", wanted.section, found[0].kind)
            if wanted.bin_um is not None and not isinstance(found[0], WITH_BINS):
                logger.warning("bin_um=%d does not apply: %s has no bins to choose from", wanted.bin_um, found[0].kind)
            return found[0]
    raise InputError(
        f"no section '{wanted.section}' in {wanted.root}, but {listing(wanted.root)}.",
        "Space Ranger's outs (matrix and spatial/), Visium HD's binned_outputs/, ST-cnts/ and ST-spotfiles/, "
        "a SpatialData .zarr, an .h5ad, or an image alone; in a folder of the section's name, or named by raw_root.",
        "Choose a section that exists, or another folder: --params section=<name>,raw_root=<folder>.",
    )


def _look(finders: tuple[Finder, ...], wanted: Wanted) -> list[Layout]:
    """Return what the finders find; the first error, when they find nothing and one of them says why."""
    found, errors = [], []
    for find in finders:
        try:
            found.append(find(wanted))
        except InputError as error:
            errors.append(error)
    layouts = [layout for layout in found if layout is not None]
    if errors and not layouts:
        raise errors[0]
    return layouts
