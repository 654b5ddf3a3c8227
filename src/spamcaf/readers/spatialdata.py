"""A section in a SpatialData store: its table of counts, the shapes of its spots, and its image, chosen and joined."""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from spamcaf.errors import InputError, is_fault_of_ours
from spamcaf.histology.slide import Slide
from spamcaf.limits import read_json, require_memory
from spamcaf.names import SPATIAL, ScaleFactor, SectionField
from spamcaf.readers import anndata_parts as parts
from spamcaf.readers import files
from spamcaf.readers.files import SectionQuery, SectionReader, as_texts, begins_with, only_one, reading
from spamcaf.readers.zarr_store import DESCRIPTIONS, refuse_hostile_zarr
from spamcaf.slides.open import open_slide
from spamcaf.slides.rgb import N_RGB

if TYPE_CHECKING:
    from anndata import AnnData
    from dask.array import Array
    from geopandas import GeoDataFrame
    from spatialdata import SpatialData

logger = logging.getLogger(__name__)

EXPECTED = "a SpatialData with a table that annotates shapes"
FULL = "full_image"
COARSE = ("hires_image", "lowres_image", "cytassist_image")
BIN = re.compile(r"square_(\d{3})um")
ROOT_FILES = ("zarr.json", ".zattrs")
ATTRIBUTES = "spatialdata_attrs"  # of the store, and of a table: what it annotates
ELEMENTS = {"images", "labels", "points", "shapes", "tables", "table"}
IN_MEMORY = ("tables", "table", "shapes")
SPARSE = ("data", "indices", "indptr")
MATRICES = ("X", "layers/counts", "raw/X")
SAMPLE_PX = 256
AXES = ("x", "y")
MAX_DISAGREEMENT_PX = 1.0
THUMBNAILS = {"hires": ScaleFactor.HIRES.value, "lowres": ScaleFactor.LOWRES.value}
RGB = ("r", "g", "b")
MAX_SHEAR, MAX_SHIFT_PX = 1e-3, 1.0


class SpatialDataReader(SectionReader):
    """One section in a SpatialData store, or one region of several in it."""

    kind = "SpatialData"

    def read(self) -> AnnData:
        """Return the raw section, see `SectionReader`.

        The spots' centres are the shapes that the table annotates, joined by id, in pixels of the full-resolution
        image of the store. Where an image of its own was named, they are in the shapes' own coordinates.
        """
        data = _read_store(self.path)
        with reading(self.path, EXPECTED):
            return self._section(data)

    def open_slide(self) -> Slide:
        """Open the image that was named, else the full-resolution image of the store."""
        if self.query.image is not None:
            return open_slide(self.query.image)
        data = _read_store(self.path)
        with reading(self.path, EXPECTED):
            _, _, region, _ = self._choose(data)
            return _slide_of(data, _choose_image(data, region, self.query.section), self.path)

    def sources(self) -> list[Path]:
        """Return the folders of tables and shapes."""
        return [self.path / "tables", self.path / "shapes"]

    def image_fingerprint(self) -> str:
        """Return a hash of the image, whose store is opened."""
        return self.open_slide().fingerprint

    def _choose(self, data: SpatialData) -> tuple[str, AnnData, str, NDArray[np.bool_]]:
        """Return the section's table with its name, the name of its shapes, and the table's rows that annotate them."""
        name, table = _choose_table(data, self.query)
        parts.refuse_prediction(table.uns, self.path.name)
        return name, table, *_choose_region(data, table, self.query)

    def _section(self, data: SpatialData) -> AnnData:
        source, name = self.path.name, self.query.section
        table_name, table, region, rows = self._choose(data)
        shapes, matrix = data.shapes[region], self._matrix(data, region)
        place = _join(table.obs[rows][table.uns[ATTRIBUTES]["instance_key"]], shapes, source)
        kept = np.flatnonzero(rows)[place >= 0]
        xy, width = (values[place[place >= 0]] for values in _spots_of(shapes, matrix))
        width_px = float(np.median(width))
        counts = parts.table_of(table, source).counts()
        spots = parts.spot_columns(table.obs.iloc[kept], source)
        facts = {
            SectionField.NAME.value: name,
            SectionField.UNMATCHED.value: int((place < 0).sum()),
            SectionField.COUNTS.value: counts.origin,
        }
        bin_um = _bin_um(table_name, region)
        if bin_um is not None:
            facts |= parts.bin_facts(float(bin_um), bin_um / width_px)
        elif "radius" in shapes and parts.is_visium_array(spots):
            # tools draw the circles of Visium's spots 55 to 70 um wide: their width is stated in pixels only
            facts |= parts.visium_facts({ScaleFactor.SPOT.value: width_px})
        section = files.make_section(counts.values[kept], spots, counts.var, parts.as_coordinates(xy, source), facts)
        images, scales = _thumbnails_of(data, region, matrix, source)
        factors = {ScaleFactor.SPOT.value: width_px, **scales}
        section.uns[SPATIAL] = {name: {"images": images, "scalefactors": factors}}
        return section

    def _matrix(self, data: SpatialData, region: str) -> NDArray[np.float64]:
        """Return the affine map (3, 3) from the coordinates of the shapes to the pixels of the image."""
        if self.query.image is not None:
            logger.info("the image is %s: coordinates of %s are taken for its pixels", self.query.image, region)
            return np.eye(3)
        image = _choose_image(data, region, self.query.section)
        return _to_pixels(data.shapes[region], data.images[image], self.path.name)


def find(query: SectionQuery) -> SpatialDataReader | None:
    """Return the section in a store, see `find_file`."""
    path = files.find_file(query, ".zarr", _is_store, "SpatialData stores")
    return None if path is None else SpatialDataReader(path, query)


def _join(ids: pd.Series, shapes: pd.DataFrame, source: str) -> NDArray[np.int64]:
    """Return each spot's row in `shapes`, -1 where it has none; raise InputError when none has, or ids repeat."""
    index = pd.Index(as_texts(shapes.index))  # numbers in one may be the same numbers as text in the other
    files.require_once(index, "shape", source, "Write the store again.")
    place = index.get_indexer(as_texts(ids))
    if (place < 0).all():
        raise InputError(
            f"no spot in common in {source}: {ids.iloc[0]} in the table, {index[0]} in the shapes.",
            "the same instance ids.",
            "Set the table's instance ids to the shapes' index, and write the store again.",
        )
    return np.asarray(place, np.int64)


def _choose_table(data: SpatialData, query: SectionQuery) -> tuple[str, AnnData]:
    """Return the name and the table that annotates the section's shapes; raise InputError listing several."""
    tables = {name: t for name, t in data.tables.items() if any(r in data.shapes for r in _regions_of(t))}
    if not tables:
        raise InputError(
            f"tables {', '.join(data.tables) or 'none'} and shapes {', '.join(data.shapes) or 'none'} in {data.path}.",
            "a table of counts that annotates shapes, the spots.",
            "Add the spots as shapes, and set region and instance ids of the table (TableModel.parse).",
        )
    sizes = {name: _bin_um(name, *_regions_of(table)) for name, table in tables.items()}
    found = list(tables)
    if query.bin_um is not None and any(sizes.values()):
        found = [name for name in tables if sizes[name] == query.bin_um]
        if not found:
            there = f"bins of {', '.join(f'{size} um' for size in sizes.values() if size)} in {data.path}."
            raise InputError(there, f"bins of {query.bin_um} um.", "Choose others with bin_um.")
    own = [n for n in found if any(begins_with(x, query.section) for x in (n, *_regions_of(tables[n])))]
    found = own or found
    found = ["table"] if "table" in found else found  # as SpatialData's tools call the main one
    by_name, by_bins = "Name the section as its table or shapes are named.", "Choose the bins: --params bin_um=16."
    next_step = by_bins if any(sizes[name] for name in found) else by_name
    name = only_one(found, f"tables in {data.path}", "one table of the section.", next_step)
    return name, tables[name]


def _choose_region(data: SpatialData, table: AnnData, query: SectionQuery) -> tuple[str, NDArray[np.bool_]]:
    """Return the name of the section's shapes, and which rows of the table annotate them."""
    column = as_texts(table.obs[table.uns[ATTRIBUTES]["region_key"]])
    present = [name for name in dict.fromkeys(column) if name in data.shapes]
    own = [name for name in present if begins_with(name, query.section)]
    expected, next_step = "one that is named as the section is.", "Name the section: --params section=<region>."
    region = only_one(own if len(own) == 1 else present, f"regions in {data.path}", expected, next_step)
    return region, (column == region).to_numpy()


def _regions_of(table: AnnData) -> list[str]:
    """Return the names of the elements that a table annotates."""
    region = parts.as_mapping(table.uns.get(ATTRIBUTES)).get("region") or []
    return [region] if isinstance(region, str) else [str(name) for name in region]


def _bin_um(*names: str) -> int | None:
    """Return the bin size of Visium HD in the first of the names that holds one, micrometres."""
    return next((int(match[1]) for match in map(BIN.search, names) if match), None)


def _choose_image(data: SpatialData, region: str, section: str) -> str:
    """Return the name of the image `*_full_image`, else the largest, in a coordinate system of the shapes `region`.

    Images known for thumbnails do not count. Raises InputError when there is none.
    """
    from spatialdata.transformations import get_transformation

    systems = set(get_transformation(data.shapes[region], get_all=True))
    images = [n for n, image in data.images.items() if systems & set(get_transformation(image, get_all=True))]
    candidates = [name for name in images if not name.endswith(COARSE)]
    if not candidates:
        raise InputError(
            f"images {', '.join(data.images) or 'none'} in {data.path}, none of full resolution in place of {region}.",
            f"the full-resolution H&E image; {files.TOO_COARSE}.",
            "Add it to the store as <section>_full_image, or name it: --params image=<file>.",
        )
    full = [name for name in candidates if name.endswith(FULL)]
    if not full:
        return max(candidates, key=lambda name: int(np.prod(_full_level(data.images[name]).shape[1:])))
    if len(full) > 1:
        full = [n for n in full if begins_with(n, section) or begins_with(region, n.removesuffix(f"_{FULL}"))]
    return only_one(full, f"images of {section} in {data.path}", f"one: {section}_{FULL}.", "Rename the right one.")


def _is_store(folder: Path) -> bool:
    """Tell whether `folder` is a SpatialData store, by its attributes or, of older versions, by its groups."""
    if not folder.is_dir():
        return False
    records = [_record(folder / name) for name in ROOT_FILES]
    if any(ATTRIBUTES in parts.as_mapping(record.get("attributes", record)) for record in records):
        return True
    groups = {p.name for p in folder.iterdir() if p.is_dir()}
    return (folder / ".zgroup").is_file() and "shapes" in groups and groups <= ELEMENTS


def _record(path: Path) -> dict[str, Any]:
    try:
        record = read_json(path)
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}


def _read_store(folder: Path) -> SpatialData:
    """Return the content of the store: tables and shapes in memory, images on disk; raise InputError if damaged."""
    import spatialdata

    with reading(folder, "a whole SpatialData store"):
        refuse_hostile_zarr(folder, IN_MEMORY)
        for path in folder.glob("shapes/*/*.parquet"):
            files.require_parquet(files.unpacked(path), path)
        _require_counts(folder)
        return spatialdata.read_zarr(folder, selection=("images", "shapes", "tables"))  # type: ignore[arg-type]


def _require_counts(folder: Path) -> None:
    """Raise ValueError where a part of a sparse matrix is missing: zarr would read zeros in its place."""
    import zarr

    for table in (*folder.glob("tables/*"), folder / "table" / "table"):
        for place in (table / matrix / part for matrix in MATRICES for part in SPARSE):
            if any((place / name).is_file() for name in DESCRIPTIONS):
                array, name = zarr.open_array(place, mode="r"), place.relative_to(folder)
                if n_missing := array.nchunks - array.nchunks_initialized:
                    raise ValueError(f"{n_missing} of {array.nchunks} chunks of {name} are missing")


@dataclass(frozen=True)
class DaskPixels:
    """Pixels of a lazy array (channel, row, column), three channels of uint8; `name` stands in errors."""

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
            expected, next_step = "an image that can be decoded everywhere.", "Fetch or write the store again."
            raise InputError(f"{self.name} is damaged near pixel ({x0}, {y0}): {error}", expected, next_step) from error
        return np.moveaxis(np.asarray(window), 0, -1)


def _full_level(image: Any) -> Any:  # noqa: ANN401  DataArray; xarray is spatialdata's affair
    """Return the level of full resolution of an image, with or without pyramid, in the order (c, y, x)."""
    from spatialdata import get_pyramid_levels

    level = image if hasattr(image, "dims") and hasattr(image, "data") else get_pyramid_levels(image, n=0)
    return level.transpose("c", "y", "x")


def _slide_of(data: SpatialData, name: str, store: Path) -> Slide:
    """Return the image element `name` as a lazy slide; raise InputError unless it is 8-bit RGB."""
    import zarr

    level = _full_level(data.images[name])
    channels = [str(channel).lower() for channel in level.coords["c"].values]
    is_stained = any(stain in channel for channel in channels for stain in ("dapi", "hoechst"))
    if level.shape[0] != N_RGB or level.dtype != np.uint8 or is_stained:
        raise InputError(
            f"image {name} of {store.name} with channels {files.named(channels)}, {level.dtype}.",
            "an H&E image: three channels of 8 bits, red, green and blue.",
            "Add the H&E image to the store, or name it: --params image=<file>. Fluorescence cannot be used.",
        )
    folder, array = store / "images" / name, level.data
    largest = max(zarr.open_group(folder, mode="r").array_values(), key=lambda stored: stored.size)
    if n_missing := largest.nchunks - largest.nchunks_initialized:
        text = "%d of %d chunks of %s are not stored: black there, or lost in copying"
        logger.warning(text, n_missing, largest.nchunks, folder)
    if set(channels) == set(RGB):
        array = array[[channels.index(channel) for channel in RGB]]
    identity = "".join((folder / file).read_text(encoding="utf-8") for file in ROOT_FILES if (folder / file).is_file())
    return Slide(DaskPixels(array, f"{store.name}/images/{name}", identity), name)


def _spots_of(shapes: GeoDataFrame, matrix: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return centres (spot, 2) and widths of circles or polygons after the affine map `matrix` (3, 3).

    The width is the diameter of a circle, and the side of a square of the same area as a polygon.
    """
    centres = shapes.geometry.centroid
    is_circles = "radius" in shapes
    width = 2 * shapes["radius"].to_numpy(np.float64) if is_circles else np.sqrt(shapes.geometry.area.to_numpy(float))
    xy = np.column_stack([centres.x, centres.y]).astype(np.float64)
    return xy @ matrix[:2, :2].T + matrix[:2, 2], width * _scale_of(matrix)


def _scale_of(matrix: NDArray[np.float64]) -> float:
    """Return by how much an affine map (3, 3) stretches lengths."""
    return float(np.sqrt(abs(np.linalg.det(matrix[:2, :2]))))


def _to_pixels(shapes: GeoDataFrame, image: Any, source: str) -> NDArray[np.float64]:  # noqa: ANN401  an image element
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
    # affine maps differ most at a corner of the spots' bounding box
    xy, _ = _spots_of(shapes, np.eye(3))
    (left, top), (right, bottom) = np.nanmin(xy, axis=0), np.nanmax(xy, axis=0)
    corners = np.array([[x, y, 1] for x in (left, right) for y in (top, bottom)])
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

    transformations: Mapping[str, Any] = get_transformation(element, get_all=True)
    return {name: t.to_affine_matrix(input_axes=AXES, output_axes=AXES) for name, t in transformations.items()}


def _thumbnails_of(
    data: SpatialData, region: str, matrix: NDArray[np.float64], source: str
) -> tuple[dict[str, NDArray[np.uint8]], dict[str, float]]:
    """Return the thumbnails of the shapes `region`, and the scale factor of each.

    `matrix` (3, 3) maps the shapes to full-resolution pixels. A thumbnail that is not the image shrunk is left out.
    """
    images: dict[str, NDArray[np.uint8]] = {}
    factors: dict[str, float] = {}
    for kind, key in THUMBNAILS.items():
        suffix = f"_{kind}_image"
        names = [name for name in data.images if name.endswith(suffix)]
        if len(names) > 1:
            names = [name for name in names if begins_with(region, name.removesuffix(suffix))]
        scale = _scale(data.shapes[region], data.images[names[0]], matrix, source) if len(names) == 1 else None
        if scale is None:
            continue
        level = _full_level(data.images[names[0]])
        require_memory(level.nbytes, Path(source, names[0]))
        pixels = np.moveaxis(level.to_numpy(), 0, -1)
        image = parts.thumbnail(pixels, f"{names[0]} of {source}")
        if image is not None:
            images[kind], factors[key] = image, scale
    return images, factors


def _scale(shapes: Any, image: Any, matrix: NDArray[np.float64], source: str) -> float | None:  # noqa: ANN401  elements
    """Return thumbnail pixels per full-resolution pixel; None where one is not the other shrunk."""
    try:
        shrink = _to_pixels(shapes, image, source) @ np.linalg.inv(matrix)
    except InputError as error:
        logger.warning("maps are drawn without a thumbnail: %s", error)
        return None
    scale = _scale_of(shrink)
    skewed = np.abs(shrink[:2, :2] - scale * np.eye(2)).max() > MAX_SHEAR * scale
    return None if skewed or np.abs(shrink[:2, 2]).max() > MAX_SHIFT_PX else scale
