"""Choosing among the elements of a SpatialData: the table and region of a section, and its images."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from spamcaf.datasets.layouts.beside import TOO_COARSE, begins_with
from spamcaf.datasets.layouts.store.open import ATTRIBUTES
from spamcaf.datasets.layouts.texts import as_texts
from spamcaf.errors import InputError

if TYPE_CHECKING:
    from anndata import AnnData
    from numpy.typing import NDArray
    from spatialdata import SpatialData

    from spamcaf.datasets.layouts.layout import Wanted

FULL = "full_image"
COARSE = ("hires_image", "lowres_image", "cytassist_image")
DEFAULT_TABLE = "table"
BIN = re.compile(r"square_(\d{3})um")
REGION, REGION_KEY, INSTANCE_KEY = "region", "region_key", "instance_key"


def choose_table(data: SpatialData, wanted: Wanted) -> tuple[str, AnnData]:
    """Return the name and the table that annotates the section's shapes; raise InputError listing several."""
    tables = {name: t for name, t in data.tables.items() if any(r in data.shapes for r in regions_of(t))}
    if not tables:
        raise InputError(
            f"tables {', '.join(data.tables) or 'none'} and shapes {', '.join(data.shapes) or 'none'} in {data.path}.",
            "a table of counts that annotates shapes, the spots.",
            "Add the spots as shapes, and set region and instance ids of the table (TableModel.parse).",
        )
    found = _of_section(_of_bins(tables, data, wanted.bin_um), wanted.section)
    if len(found) > 1:
        is_hd = any(bin_um(name, *regions_of(table)) for name, table in found.items())
        raise InputError(
            f"{len(found)} tables in {data.path}: {', '.join(found)}.",
            "one table of the section.",
            "Choose the bins: --params bin_um=16." if is_hd else "Name the section as its table or shapes are named.",
        )
    return next(iter(found.items()))


def _of_bins(tables: dict[str, AnnData], data: SpatialData, wanted_um: int | None) -> dict[str, AnnData]:
    """Return the tables of the bins that were asked for; all where nothing was asked, or this is not Visium HD."""
    sizes = {name: bin_um(name, *regions_of(table)) for name, table in tables.items()}
    if wanted_um is None or not any(sizes.values()):
        return tables
    found = {name: tables[name] for name, size in sizes.items() if size == wanted_um}
    if not found:
        there = ", ".join(f"{size} um" for size in sizes.values() if size)
        raise InputError(f"bins of {there} in {data.path}.", f"bins of {wanted_um} um.", "Choose others with bin_um.")
    return found


def _of_section(tables: dict[str, AnnData], section: str) -> dict[str, AnnData]:
    """Return the table that is named as the section, else the one with the default name, else all."""
    own = {n: t for n, t in tables.items() if any(begins_with(x, section) for x in (n, *regions_of(t)))}
    left = own or tables
    if len(left) > 1 and DEFAULT_TABLE in left:
        return {DEFAULT_TABLE: left[DEFAULT_TABLE]}
    return left


def choose_region(data: SpatialData, table: AnnData, wanted: Wanted) -> tuple[str, NDArray[np.bool_]]:
    """Return the name of the section's shapes, and which rows of the table annotate them."""
    column = as_texts(table.obs[table.uns[ATTRIBUTES][REGION_KEY]])
    present = [name for name in dict.fromkeys(column) if name in data.shapes]
    own = [name for name in present if begins_with(name, wanted.section)]
    found = present if len(present) == 1 else own
    if len(found) != 1:
        raise InputError(
            f"{len(present)} regions in {data.path}: {', '.join(present[:20]) or 'none'}.",
            "one that is named as the section is.",
            "Name the section: --params section=<region>.",
        )
    return found[0], (column == found[0]).to_numpy()


def regions_of(table: AnnData) -> list[str]:
    """Return the names of the elements that a table annotates."""
    attributes = table.uns.get(ATTRIBUTES)
    region = attributes.get(REGION) or [] if isinstance(attributes, Mapping) else []
    return [region] if isinstance(region, str) else [str(name) for name in region]


def bin_um(*names: str) -> int | None:
    """Return the bin size that a name of Visium HD says, in micrometres."""
    matches = (BIN.search(name) for name in names)
    return next((int(match.group(1)) for match in matches if match), None)


def choose_image(data: SpatialData, region: str, section: str) -> str:
    """Return the name of the full-resolution image of the shapes `region`; raise InputError when there is none.

    Images are considered that share a coordinate system with the shapes: one called `*_full_image`, else the largest
    that is not known for a thumbnail.
    """
    from spatialdata.transformations import get_transformation

    systems = set(get_transformation(data.shapes[region], get_all=True))
    images = [n for n, image in data.images.items() if systems & set(get_transformation(image, get_all=True))]
    candidates = [name for name in images if not name.endswith(COARSE)]
    if not candidates:
        raise InputError(
            f"images {', '.join(data.images) or 'none'} in {data.path}, none of full resolution in place of {region}.",
            f"the full-resolution H&E image; {TOO_COARSE}.",
            "Add it to the store as <section>_full_image, or name it: --params image=<file>.",
        )
    full = [name for name in candidates if name.endswith(FULL)]
    if len(full) > 1:
        full = [n for n in full if begins_with(n, section) or begins_with(region, n.removesuffix(f"_{FULL}"))]
        if len(full) != 1:
            raise InputError(
                f"{len(full)} images of {section} in {data.path}.", f"one: {section}_{FULL}.", "Rename the right one."
            )
    return full[0] if full else max(candidates, key=lambda name: _n_pixels(data.images[name]))


def full_level(image: Any) -> Any:  # noqa: ANN401  DataArray; xarray is spatialdata's affair
    """Return the level of full resolution of an image, with or without pyramid, in the order (c, y, x)."""
    from spatialdata import get_pyramid_levels

    level = image if hasattr(image, "dims") and hasattr(image, "data") else get_pyramid_levels(image, n=0)
    return level.transpose("c", "y", "x")


def _n_pixels(image: Any) -> int:  # noqa: ANN401  see full_level
    _, rows, columns = full_level(image).shape
    return int(rows * columns)
