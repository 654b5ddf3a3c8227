"""A SpatialData store: opened safely, its table, region and images chosen, and spots placed in pixels."""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from spamcaf.errors import InputError, is_fault_of_ours
from spamcaf.histology.slide import Slide
from spamcaf.names import ScaleFactor
from spamcaf.readers.anndata_library import N_RGB, bin_facts, is_visium_array, thumbnail, visium_facts
from spamcaf.readers.anndata_table import readable
from spamcaf.readers.files import TOO_COARSE, as_texts, begins_with

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData
    from dask.array import Array
    from geopandas import GeoDataFrame
    from numpy.typing import NDArray
    from spatialdata import SpatialData

    from spamcaf.readers.files import SectionQuery

ROOT_FILES = ("zarr.json", ".zattrs")
DESCRIPTIONS = {"zarr.json", ".zarray", ".zmetadata"}
ATTRIBUTES = "spatialdata_attrs"
"""Of the store, and of a table: what it annotates."""
ELEMENTS = {"images", "labels", "points", "shapes", "tables", "table"}
CODE = '"pickle"'
SPARSE = ("data", "indices", "indptr")
MATRICES = ("X", "layers/counts", "raw/X")


def is_store(folder: Path) -> bool:
    """Tell whether `folder` is a SpatialData store, by its attributes or, of older versions, by its groups."""
    if not folder.is_dir():
        return False
    if any(ATTRIBUTES in _attributes(folder / name) for name in ROOT_FILES):
        return True
    groups = {p.name for p in folder.iterdir() if p.is_dir()}
    return (folder / ".zgroup").is_file() and "shapes" in groups and groups <= ELEMENTS


def read_store(folder: Path) -> SpatialData:
    """Return the content of the store: tables and shapes in memory, images on disk; raise InputError if damaged."""
    import spatialdata

    with readable(folder, "a whole SpatialData store"):
        _refuse_code(folder)
        _require_counts(folder)
        return spatialdata.read_zarr(folder, selection=("images", "shapes", "tables"))  # type: ignore[arg-type]


def _attributes(path: Path) -> dict[str, Any]:
    record = _attributes_of(path)
    attributes = record.get("attributes", record)
    return attributes if isinstance(attributes, dict) else {}


def _attributes_of(path: Path) -> dict[str, Any]:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}


def _refuse_code(folder: Path) -> None:
    """Raise ValueError for arrays of pickled objects, which run code when they are read; chunks are not looked at."""
    for place, folders, files in os.walk(folder):
        for name in DESCRIPTIONS & set(files):
            path = Path(place, name)
            if CODE in path.read_text(encoding="utf-8"):
                raise ValueError(f"{place} holds pickled objects, which may run code")
            if name == ".zarray" or _attributes_of(path).get("node_type") == "array":
                folders.clear()


def missing_chunks(array: Any) -> tuple[int, int]:  # noqa: ANN401  a zarr array
    """Return how many chunks of an array are not there, and how many there should be: they are read as zeros."""
    return int(array.nchunks - array.nchunks_initialized), int(array.nchunks)


def _require_counts(folder: Path) -> None:
    """Raise ValueError where a part of a sparse matrix is missing: it would be read as zeros without a word."""
    import zarr

    for table in (*folder.glob("tables/*"), folder / "table" / "table"):
        for place in (table / matrix / part for matrix in MATRICES for part in SPARSE):
            if not any((place / name).is_file() for name in DESCRIPTIONS):
                continue
            n_missing, n = missing_chunks(zarr.open_array(place, mode="r"))
            if n_missing:
                raise ValueError(f"{n_missing} of {n} chunks of {place.relative_to(folder)} are missing")


FULL = "full_image"
COARSE = ("hires_image", "lowres_image", "cytassist_image")
DEFAULT_TABLE = "table"
BIN = re.compile(r"square_(\d{3})um")
REGION, REGION_KEY, INSTANCE_KEY = "region", "region_key", "instance_key"


def choose_table(data: SpatialData, query: SectionQuery) -> tuple[str, AnnData]:
    """Return the name and the table that annotates the section's shapes; raise InputError listing several."""
    tables = {name: t for name, t in data.tables.items() if any(r in data.shapes for r in regions_of(t))}
    if not tables:
        raise InputError(
            f"tables {', '.join(data.tables) or 'none'} and shapes {', '.join(data.shapes) or 'none'} in {data.path}.",
            "a table of counts that annotates shapes, the spots.",
            "Add the spots as shapes, and set region and instance ids of the table (TableModel.parse).",
        )
    found = _of_section(_of_bins(tables, data, query.bin_um), query.section)
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


def choose_region(data: SpatialData, table: AnnData, query: SectionQuery) -> tuple[str, NDArray[np.bool_]]:
    """Return the name of the section's shapes, and which rows of the table annotate them."""
    column = as_texts(table.obs[table.uns[ATTRIBUTES][REGION_KEY]])
    present = [name for name in dict.fromkeys(column) if name in data.shapes]
    own = [name for name in present if begins_with(name, query.section)]
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


SAMPLE_PX = 256


@dataclass(frozen=True)
class DaskPixels:
    """Pixels of a lazy array (channel, row, column), three channels of uint8; `name` is said in errors."""

    array: Array
    name: str
    identity: str

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, columns)."""
        return int(self.array.shape[1]), int(self.array.shape[2])

    @cached_property
    def fingerprint(self) -> str:
        """A hash of size, stored description and five windows: an image of gigabytes is not read whole."""
        import hashlib

        rows, columns = self.shape
        digest = hashlib.sha256(f"{self.array.shape}{self.identity}".encode())
        for down, right in ((0, 0), (0, 1), (1, 0), (1, 1), (0.5, 0.5)):
            x0, y0 = int(right * max(columns - SAMPLE_PX, 0)), int(down * max(rows - SAMPLE_PX, 0))
            digest.update(np.ascontiguousarray(self.crop(x0, y0, SAMPLE_PX, SAMPLE_PX)).tobytes())
        return digest.hexdigest()[:16]

    def crop(self, x0: int, y0: int, width: int, height: int) -> NDArray[np.uint8]:
        """Read the window; raise InputError naming the place when the store is damaged there."""
        try:
            window = self.array[:, y0 : y0 + height, x0 : x0 + width].compute(scheduler="synchronous")
        except Exception as error:  # codecs raise errors of many types
            if is_fault_of_ours(error):
                raise
            raise InputError(
                f"{self.name} is damaged near pixel ({x0}, {y0}): {error}",
                "an image that can be decoded everywhere.",
                "Fetch or write the store again.",
            ) from error
        return np.moveaxis(np.asarray(window), 0, -1)


AXES = ("x", "y")
MAX_DISAGREEMENT_PX = 1.0


@dataclass(frozen=True)
class Outlines:
    """Centre (x, y) and width of every spot: the diameter of a circle, the side of a square."""

    xy: NDArray[np.float64]
    width: NDArray[np.float64]
    are_circles: bool

    def mapped(self, matrix: NDArray[np.float64]) -> Outlines:
        """Return the spots after the affine map `matrix` (3, 3)."""
        xy = self.xy @ matrix[:2, :2].T + matrix[:2, 2]
        return Outlines(xy, self.width * scale_of(matrix), self.are_circles)

    def at(self, rows: NDArray[np.int64]) -> Outlines:
        """Return the spots in these rows."""
        return Outlines(self.xy[rows], self.width[rows], self.are_circles)

    def facts(self, spots: pd.DataFrame, bin_um: int | None) -> dict[str, Any]:
        """Return lattice, pitch, spot diameter, and micrometres per pixel of square bins, where they are certain.

        `spots` has the columns of `spot_columns`; `bin_um` is the size that the names of a Visium HD store say. How
        wide the circles of a Visium section are is told in pixels: tools draw them 55 to 70 um wide.
        """
        width_px = float(np.median(self.width))
        if bin_um is not None:
            return bin_facts(float(bin_um), bin_um / width_px)
        if not self.are_circles or not is_visium_array(spots):
            return {}
        return visium_facts({ScaleFactor.SPOT.value: width_px})


def outlines_of(shapes: GeoDataFrame) -> Outlines:
    """Return centres and widths of circles or polygons, in the shapes' own coordinates."""
    centres = shapes.geometry.centroid
    xy = np.column_stack([centres.x, centres.y]).astype(np.float64)
    if "radius" in shapes:
        return Outlines(xy, 2 * shapes["radius"].to_numpy(np.float64), True)
    return Outlines(xy, np.sqrt(shapes.geometry.area.to_numpy(np.float64)), False)


def scale_of(matrix: NDArray[np.float64]) -> float:
    """Return by how much an affine map (3, 3) stretches lengths."""
    return float(np.sqrt(abs(np.linalg.det(matrix[:2, :2]))))


def to_pixels(shapes: GeoDataFrame, image: Any, source: str) -> NDArray[np.float64]:  # noqa: ANN401  an image element
    """Return the affine map (3, 3) from the shapes' coordinates to (x, y) pixels of the image's full resolution.

    Raises InputError when they share no coordinate system, or when two that they share disagree.
    """
    of_shapes, of_image = _affines(shapes), _affines(image)
    shared = [name for name in of_shapes if name in of_image]
    if not shared:
        raise InputError(
            f"spots in coordinate systems {', '.join(of_shapes)} and an image in {', '.join(of_image)} in {source}.",
            "one that both have.",
            "Set the transformation of the image to the spots' coordinate system, and write the store again.",
        )
    try:
        maps = [np.linalg.inv(of_image[name]) @ of_shapes[name] for name in shared]
    except np.linalg.LinAlgError as error:
        raise InputError(f"a transformation without inverse in {source}.", "one with.", "Correct it.") from error
    low, high = (extreme(outlines_of(shapes).xy, axis=0) for extreme in (np.nanmin, np.nanmax))
    corners = np.array([[low[0], low[1], 1], [low[0], high[1], 1], [high[0], low[1], 1], [high[0], high[1], 1]])
    apart = max(float(np.abs(corners @ (m - maps[0]).T).max()) for m in maps)
    if not apart <= MAX_DISAGREEMENT_PX:
        raise InputError(
            f"coordinate systems {', '.join(shared)} of {source} that place spots {apart:.0f} px apart.",
            "the same place by each.",
            "Correct or remove the wrong transformation, and write the store again.",
        )
    return maps[0]


def _affines(element: Any) -> dict[str, NDArray[np.float64]]:  # noqa: ANN401  shapes or an image
    from spatialdata.transformations import get_transformation

    transformations = get_transformation(element, get_all=True)
    return {name: t.to_affine_matrix(input_axes=AXES, output_axes=AXES) for name, t in transformations.items()}


logger = logging.getLogger(__name__)

KINDS = {"hires": ScaleFactor.HIRES.value, "lowres": ScaleFactor.LOWRES.value}
RGB = ("r", "g", "b")
STAINS = ("dapi", "hoechst")
RECORDS = ("zarr.json", ".zattrs")
MAX_SHEAR = 1e-3
MAX_SHIFT_PX = 1.0


def slide_of(data: SpatialData, name: str, store: Path) -> Slide:
    """Return the image element `name` as a lazy slide; raise InputError unless it is 8-bit RGB."""
    level = full_level(data.images[name])
    channels = [str(channel).lower() for channel in level.coords["c"].values]
    is_stained = any(stain in channel for channel in channels for stain in STAINS)
    if level.shape[0] != N_RGB or level.dtype != np.uint8 or is_stained:
        raise InputError(
            f"image {name} of {store.name} with channels {', '.join(channels[:8])}, {level.dtype}.",
            "an H&E image: three channels of 8 bits, red, green and blue.",
            "Add the H&E image to the store, or name it: --params image=<file>. Fluorescence cannot be used.",
        )
    _warn_of_gaps(store / "images" / name)
    array = level.data
    if set(channels) == set(RGB):
        array = array[[channels.index(channel) for channel in RGB]]
    return Slide(DaskPixels(array, f"{store.name}/images/{name}", _image_record(store / "images" / name)), name)


def thumbnails_of(
    data: SpatialData, region: str, matrix: NDArray[np.float64], source: str
) -> tuple[dict[str, NDArray[np.uint8]], dict[str, float]]:
    """Return the thumbnails of the shapes `region`, and the scale factor of each.

    `matrix` (3, 3) maps the shapes to full-resolution pixels. A thumbnail that is not the image shrunk is left out.
    """
    images: dict[str, NDArray[np.uint8]] = {}
    factors: dict[str, float] = {}
    for kind, key in KINDS.items():
        name = _thumbnail_name(data, f"_{kind}_image", region)
        scale = None if name is None else _scale(data.shapes[region], data.images[name], matrix, source)
        if name is None or scale is None:
            continue
        picture = thumbnail(np.moveaxis(full_level(data.images[name]).to_numpy(), 0, -1), f"{name} of {source}")
        if picture is not None:
            images[kind], factors[key] = picture, scale
    return images, factors


def _thumbnail_name(data: SpatialData, suffix: str, region: str) -> str | None:
    names = [name for name in data.images if name.endswith(suffix)]
    own = [name for name in names if begins_with(region, name.removesuffix(suffix))]
    found = own if len(names) > 1 else names
    return found[0] if len(found) == 1 else None


def _scale(shapes: Any, image: Any, matrix: NDArray[np.float64], source: str) -> float | None:  # noqa: ANN401  elements
    """Return thumbnail pixels per full-resolution pixel; None where one is not the other shrunk."""
    try:
        shrink = to_pixels(shapes, image, source) @ np.linalg.inv(matrix)
    except InputError as error:
        logger.warning("maps are drawn without a thumbnail: %s", error)
        return None
    scale = scale_of(shrink)
    skewed = np.abs(shrink[:2, :2] - scale * np.eye(2)).max() > MAX_SHEAR * scale
    return None if skewed or np.abs(shrink[:2, 2]).max() > MAX_SHIFT_PX else scale


def _warn_of_gaps(image: Path) -> None:
    import zarr

    largest = max((array for _, array in zarr.open_group(image, mode="r").arrays()), key=lambda array: array.size)
    n_missing, n = missing_chunks(largest)
    if n_missing:
        logger.warning("%d of %d chunks of %s are not stored: black there, or lost in copying", n_missing, n, image)


def _image_record(image: Path) -> str:
    """Return how the store describes the image."""
    return "".join((image / name).read_text(encoding="utf-8") for name in RECORDS if (image / name).is_file())
