"""Results as catalog entries, written whole or not at all, and what catalog entries have in common."""

from __future__ import annotations

import base64
import gzip
import io
import json
from abc import abstractmethod
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from kedro.io import AbstractDataset, DatasetError
from pydantic import BaseModel, ValidationError

from spamcaf.atomic import replacing
from spamcaf.errors import InputError, is_fault_of_ours
from spamcaf.limits import read_bytes, read_json, require_regular
from spamcaf.names import GENE_IDS, LabelTable, Obs

if TYPE_CHECKING:
    from anndata import AnnData
    from kedro_datasets._typing import HTMLPreview, ImagePreview, TablePreview
    from spatialdata import SpatialData

    from spamcaf.histology.tissue import Tissue

In = TypeVar("In")
Out = TypeVar("Out")
Model = TypeVar("Model", bound=BaseModel)

RECORDS = ".provenance"  # no run and no section is called so
PREVIEW_ROWS, PREVIEW_MAPS = 10, 6
EXACT_BY_DEFAULT = (3, 1)  # from this version pandas reads numbers to the last digit, and warns where that is requested
SCALE = "px_per_mask_px"  # text in the PNG of a tissue mask: full-resolution pixels per pixel of the mask
WRITERS = 4  # pieces of an image computed at once: what bounds the memory of a save on machines with many cores


def record_path(path: Path) -> Path:
    """Return where the record of what made the result at `path` lies."""
    return path.parent / RECORDS / f"{path.name}.json"


def read_record(path: Path) -> dict[str, Any] | None:
    """Return the record of what made the result at `path`; None where there is none, or a damaged one."""
    try:
        record = read_json(record_path(path))
    except (OSError, ValueError):
        return None
    return record if isinstance(record, dict) else None


def not_stored(path: Path) -> InputError:
    """Return the error for a stored result that is not there."""
    earlier = path.parents[1] / path.name
    if earlier.exists():
        return InputError(
            f"{earlier}, which an earlier version stored, but no {path}.",
            f"results under the name of a run, here '{path.parent.name}'.",
            "Run the whole chain once (kedro run), for the same --env and section.",
        )
    return InputError(
        f"no {path}.",
        "the result of an earlier pipeline.",
        "Run the whole chain once (kedro run), or the pipeline that writes it, for the same --env and section.",
    )


def validated(kind: type[Model], entry: object, what: str) -> Model:
    """Return an entry of globals.yml as `kind`; raise InputError with the first thing that is wrong about it."""
    try:
        return kind.model_validate(entry)
    except ValidationError as error:
        first = error.errors()[0]
        place, message = ".".join(str(part) for part in first["loc"]), first["msg"].removeprefix("Value error, ")
        found = f"a wrong entry {what}: {place} {message}.".replace(":  ", ": ")
        raise InputError(found, "the keys that the shipped entries have.", "Correct it in globals.yml.") from error


class PathDataset(AbstractDataset[In, Out]):
    """A catalog entry of a file or folder. `shown` are the arguments that describe it in messages.

    A result carries a record of the settings and inputs that made it, a JSON file in the folder `.provenance` beside.
    """

    shown: ClassVar[tuple[str, ...]] = ("filepath",)
    is_result: ClassVar[bool] = True

    def __init__(self, *, filepath: str, metadata: dict[str, Any] | None = None) -> None:
        self._filepath = Path(filepath)
        self.metadata = metadata

    @property
    def path(self) -> Path:
        """Where the file or folder lies."""
        return self._filepath

    def _exists(self) -> bool:
        return self._filepath.exists()

    def _describe(self) -> dict[str, Any]:
        return {name: getattr(self, f"_{name}") for name in self.shown}


class ReadOnlyDataset(PathDataset[Any, Any]):
    """A catalog entry that is loaded only, and is always there. `instead` is what to do instead of a save."""

    instead: ClassVar[str]
    is_result = False

    def origin(self) -> dict[str, Any]:
        """Return what identifies the input, by the name of what was chosen, as plain data; nothing is loaded."""
        return {}

    def save(self, data: Any) -> None:  # noqa: ANN401  nothing is accepted, whatever its type
        raise DatasetError(self.instead)

    def _exists(self) -> bool:
        return True


class StoredDataset(PathDataset[In, Out]):
    """A result stored in one file or folder, which a subclass reads and writes in `_read` and `_write`.

    A save that fails or is killed leaves the previous result as it was; a load raises InputError when there is no
    result, or a damaged one.
    """

    kind: str  # what the path should hold, for the error message

    @abstractmethod
    def _read(self, path: Path) -> Out:
        """Return what is stored at `path`; OSError, KeyError, ValueError, TypeError and RecursionError mean damage."""

    @abstractmethod
    def _write(self, data: In, path: Path) -> None:
        """Write `data` to `path`, where nothing is yet."""

    def load(self) -> Out:
        if not self._exists():
            raise not_stored(self._filepath)
        if not self._filepath.is_dir():
            require_regular(self._filepath)
        try:
            return self._read(self._filepath)
        except InputError:
            raise
        except (OSError, KeyError, ValueError, TypeError, RecursionError) as error:  # JSON may be nested without end
            if is_fault_of_ours(error):
                raise
            reason = " ".join(str(error).split())  # some errors have several lines
            found = f"{self._filepath} cannot be read ({reason})."
            raise InputError(found, f"{self.kind}.", "Run the pipeline that writes it again.") from error

    def save(self, data: In) -> None:
        with replacing(self._filepath) as temporary:
            self._write(data, temporary)


CSV, JSON, TEXT, FIGURE = "pandas.CSVDataset", "json.JSONDataset", "text.TextDataset", "matplotlib.MatplotlibDataset"
UTF8 = {
    "open_args_load": {"mode": "r", "encoding": "utf-8"},
    "open_args_save": {"mode": "w", "encoding": "utf-8", "newline": "\n"},
}


def _defaults() -> dict[str, dict[str, Any]]:
    """Return the arguments with which a type of Kedro's keeps ids, numbers and bytes as they are."""
    from spamcaf.sections.panel import GENE
    from spamcaf.sections.sites import SITE_ID

    # a spot may be called 0001, a gene 1e3
    ids = (*LabelTable, Obs.PARENT, Obs.LIBRARY, SITE_ID, GENE, GENE_IDS, "gene_id", "symbol")
    # only an empty cell is a missing value: "NA" and "NAN" are gene symbols
    reading: dict[str, Any] = {"keep_default_na": False, "na_values": [""], "dtype": {str(name): str for name in ids}}
    if tuple(int(part) for part in version("pandas").split(".")[:2]) < EXACT_BY_DEFAULT:
        reading["float_precision"] = "round_trip"
    return {
        CSV: {"load_args": reading, "save_args": {"index": False}, "fs_args": UTF8},
        JSON: {"save_args": {"indent": 2, "allow_nan": False, "ensure_ascii": False}, "fs_args": UTF8},
        TEXT: {"fs_args": UTF8},
        # without the version of matplotlib, the same figure gives the same bytes
        FIGURE: {"save_args": {"format": "png", "metadata": {"Software": None}, "dpi": 130, "facecolor": "white"}},
    }


class AtomicDataset(StoredDataset[Any, Any]):
    """A file that one of Kedro's own dataset types reads and writes.

    A JSON record is stored with null for NaN and infinity, so that every reader accepts it; a figure is loaded as the
    bytes of its PNG, which a page can embed.

    Parameters
    ----------
    dataset
        Type and arguments, but for the file, as a catalog has them: `{type: pandas.CSVDataset, load_args: {...}}`.
    """

    def __init__(self, *, filepath: str, dataset: dict[str, Any], metadata: dict[str, Any] | None = None) -> None:
        super().__init__(filepath=filepath, metadata=metadata)
        self._type = str(dataset["type"])
        self.kind = f"a whole file of the type {self._type}"
        defaults = _defaults().get(self._type, {})
        self._config = {**dataset, **{name: {**args, **dataset.get(name, {})} for name, args in defaults.items()}}

    def _at(self, path: Path) -> AbstractDataset[Any, Any]:
        return AbstractDataset.from_config(path.name, {**self._config, "filepath": str(path)})

    def _read(self, path: Path) -> Any:  # noqa: ANN401  whatever the file holds
        if self._type == FIGURE:  # which Kedro's type cannot load
            image = path.read_bytes()
            if not (image.startswith(b"\x89PNG\r\n\x1a\n") and image.endswith(b"IEND\xaeB`\x82")):
                raise ValueError("its first or last bytes are not those of a PNG")
            return image
        try:
            return self._at(path).load()
        except DatasetError as error:
            raise error.__cause__ or error from None

    def _write(self, data: Any, path: Path) -> None:  # noqa: ANN401  whatever the type takes
        from spamcaf.provenance import plain

        self._at(path).save(plain(data) if self._type == JSON else data)
        if self._type == JSON:  # a text file ends with a newline
            with path.open("a", encoding="utf-8", newline="\n") as file:
                file.write("\n")

    @property
    def preview(self) -> Callable[..., Any]:
        """What Kedro-Viz shows: its return annotation names the kind of preview."""
        own = {CSV: self._preview_table, TEXT: self._preview_page}
        return own.get(self._type) or self._at(self._filepath).preview  # type: ignore[attr-defined, no-any-return]

    def _preview_table(self, nrows: int = PREVIEW_ROWS) -> TablePreview:
        head = self.load().head(nrows).astype(object)
        return head.where(head.notna(), None).to_dict(orient="split")  # type: ignore[no-any-return]

    def _preview_page(self) -> HTMLPreview:
        from spamcaf.reporting.report import preview_of

        return preview_of(self.load())  # type: ignore[return-value]


class GzippedJSONDataset(StoredDataset[Any, Any]):
    """Load and save plain data as gzipped JSON without line breaks; the same data give the same bytes."""

    kind = "a whole gzipped JSON file"

    def _read(self, path: Path) -> Any:  # noqa: ANN401  whatever the file holds
        return json.loads(read_bytes(path))

    def _write(self, data: Any, path: Path) -> None:  # noqa: ANN401  plain data of any kind
        from spamcaf.provenance import plain

        text = json.dumps(plain(data), allow_nan=False, separators=(",", ":"))
        path.write_bytes(gzip.compress(text.encode(), compresslevel=6, mtime=0))


def as_table(facts: Mapping[str, object]) -> TablePreview:
    """Return names and values as the table that Kedro-Viz shows."""
    rows = [[name, str(value)] for name, value in facts.items()]
    return {"columns": ["", "value"], "index": list(range(len(rows))), "data": rows}  # type: ignore[return-value]


class AnnDataDataset(StoredDataset["AnnData", "AnnData"]):
    """Load and save an AnnData as h5ad; `save_args` go to `AnnData.write_h5ad`.

    Kedro-Viz shows its shape and the heads of obs and var; with `map_unit`, what X is in, a map of its first columns.
    """

    kind = "a whole h5ad file"

    def __init__(
        self,
        *,
        filepath: str,
        save_args: dict[str, Any] | None = None,
        map_unit: str | None = None,
        metadata: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(filepath=filepath, metadata=metadata)
        self._save_args, self._map_unit = {"compression": "gzip", **(save_args or {})}, map_unit

    def _read(self, path: Path) -> AnnData:
        import anndata

        from spamcaf.readers.hdf5 import refuse_hostile_hdf5

        refuse_hostile_hdf5(path)
        return anndata.read_h5ad(path)

    def _write(self, data: AnnData, path: Path) -> None:
        data.write_h5ad(path, **self._save_args)

    @property
    def preview(self) -> Callable[..., Any]:
        """What Kedro-Viz shows: its return annotation names the kind of preview."""
        return self._preview_table if self._map_unit is None else self._preview_map

    def _preview_table(self) -> TablePreview:
        data = self.load()
        facts: dict[str, object] = {"shape": f"{data.n_obs} spots or sites x {data.n_vars}", "X": _kind_of(data.X)}
        for name in ("layers", "obsm", "varm"):
            facts[name] = ", ".join(f"{key} {_kind_of(part)}" for key, part in getattr(data, name).items() if key)
        facts["uns"] = ", ".join(data.uns)
        for name, table in (("obs", data.obs), ("var", data.var)):
            for index, row in table.head(PREVIEW_ROWS // 2).iterrows():
                facts[f"{name} {index}"] = ", ".join(f"{key} {value}" for key, value in row.items())
        return as_table({name: value for name, value in facts.items() if value})

    def _preview_map(self) -> ImagePreview:
        from spamcaf.reporting.figures import plot_predicted_maps

        data, picture = self.load(), io.BytesIO()
        if not data.n_vars:
            return ""  # type: ignore[return-value]
        figure = plot_predicted_maps(data, (), PREVIEW_MAPS, unit=str(self._map_unit))
        figure.savefig(picture, format="png", dpi=70, facecolor="white")
        return base64.b64encode(picture.getvalue()).decode()  # type: ignore[return-value]


def _kind_of(part: Any) -> str:  # noqa: ANN401  an array or table of any kind
    kind = type(part).__name__.replace("ndarray", "")
    return f"{kind} {getattr(part, 'dtype', '')} {' x '.join(map(str, part.shape))}".strip()


class TissueDataset(StoredDataset["Tissue", "Tissue"]):
    """Store the tissue mask as RGBA PNG: the colours are the thumbnail's, opaque where there is tissue."""

    kind = "a tissue mask"

    def _read(self, path: Path) -> Tissue:
        import numpy as np
        from PIL import Image

        from spamcaf.histology.tissue import Tissue

        with Image.open(path) as image:
            pixels, scale = np.asarray(image.convert("RGBA")), float(image.info[SCALE])
        return Tissue(pixels[..., 3] > 0, pixels[..., :3].copy(), scale)

    def _write(self, data: Tissue, path: Path) -> None:
        import numpy as np
        from PIL import Image
        from PIL.PngImagePlugin import PngInfo

        record = PngInfo()
        record.add_text(SCALE, repr(float(data.px_per_mask_px)))
        pixels = np.dstack([data.thumbnail, np.where(data.mask, 255, 0).astype(np.uint8)])
        Image.fromarray(pixels).save(path, format="PNG", pnginfo=record)

    def preview(self) -> ImagePreview:
        """Show the image."""
        return base64.b64encode(self._filepath.read_bytes()).decode()  # type: ignore[return-value]


class SpatialDataDataset(StoredDataset["SpatialData", "SpatialData"]):
    """Save a SpatialData as a Zarr folder; load it lazily, with its images left on disk until they are read."""

    kind = "a whole SpatialData folder"

    def _read(self, path: Path) -> SpatialData:
        from spatialdata import SpatialData

        return SpatialData.read(path)

    def _write(self, data: SpatialData, path: Path) -> None:
        import anndata
        import dask

        backing = data.path
        # left open, anndata warns once per array that its default will change
        settings = anndata.settings.override(auto_shard_zarr_v3=False)
        try:
            with dask.config.set(scheduler="threads", num_workers=WRITERS), settings:
                data.write(path)
        finally:
            # writing makes the object refer to `path`, which is about to move
            data.path = backing
