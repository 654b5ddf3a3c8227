"""What all readers share: the section query, files found by name, images beside them, text, and damaged files."""

from __future__ import annotations

import hashlib
import io
import logging
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from spamcaf.errors import InputError, first_line, is_fault_of_ours
from spamcaf.histology.slide import Slide
from spamcaf.limits import (
    FETCH,
    GZIP_MAGIC,
    MAX_COLUMNS,
    MAX_TABLE_BYTES,
    MIB,
    read_bytes,
    require_memory,
    require_regular,
)
from spamcaf.names import SECTION_METADATA, SPATIAL, SectionField
from spamcaf.slides.open import IMAGE_SUFFIXES, open_slide, require_image
from spamcaf.slides.rgb import fingerprint_of

if TYPE_CHECKING:
    from anndata import AnnData
    from scipy.sparse import csr_matrix

logger = logging.getLogger(__name__)
Found = TypeVar("Found", Path, str)

MAX_LISTED = 20
MAX_HASHED = 2**29  # bytes, a second's work
MAX_FOOTER_BYTES = 16 * MIB
FREE_ROWS, ROWS_PER_BYTE = 1_000_000, 16  # barcodes differ, so that each takes some bits
ARCHIVES = (".tar", ".tar.gz", ".tgz")
TOO_COARSE = "hires and lowres images are thumbnails, too coarse to see cells in"
DERIVED = ("aligned_fiducials", "aligned_tissue_image", "detected_tissue_image", "cytassist_image")
"""What Space Ranger calls images that it draws, and the one that the CytAssist instrument took."""
THUMBNAIL = re.compile(r"(?:^|.*[_. -])(?:hires|lowres)(?:[_. -].*|$)")
GZ = ".gz"
FULL_WORDS, PLAIN_WORDS = ("tissue_image", "full_image"), ("image", "he")
"""What may follow the section's name in an image's; beside one of the first, a plain `image` is the instrument's."""


@dataclass(frozen=True)
class SectionQuery:
    """Which section to read, and what its files do not state."""

    root: Path  # a folder with one section or with several, or a file
    section: str
    image: Path | None = None  # of full resolution, where it lies elsewhere
    bin_um: int | None = None  # of Visium HD

    @property
    def folders(self) -> tuple[Path, ...]:
        """The folders in which the section may lie, the most specific first."""
        return (self.root / self.section, self.root)


@dataclass(frozen=True)
class SectionReader:
    """One section in a folder or file of a known layout, found but not read yet."""

    path: Path
    query: SectionQuery
    kind: ClassVar[str]  # the name of the layout, for the log and the section report

    def read(self) -> AnnData:
        """Return the raw section; raise InputError when a file is missing, damaged, or holds anything but raw counts.

        X: raw counts (spot, gene), CSR int32. `obs`: in_tissue, and array_row and array_col where the files state
        them. `var["gene_ids"]`: an id per gene. `obsm["spatial"]`: (x, y), full-resolution pixels, float64.
        `uns["section"]`: see `spamcaf.names.SectionField`.
        """
        raise NotImplementedError

    def sources(self) -> list[Path]:
        """Return the files and folders whose content `read` returns."""
        return [self.path]

    def image(self) -> Path:
        """Return the full-resolution image among the files; raise InputError where there is none, or several."""
        raise NotImplementedError

    def image_fingerprint(self) -> str:
        """Return a hash of the image that `open_slide` opens, without opening it; raise InputError without one."""
        image = self.query.image or self.image()
        require_image(image)
        return fingerprint_of(image)

    def open_slide(self) -> Slide:
        """Open the image that was named, else the one among the files, lazily."""
        return open_slide(self.query.image or self.image())


def make_section(
    counts: csr_matrix, obs: pd.DataFrame, var: pd.DataFrame, xy: NDArray[np.float64], facts: Mapping[str, Any]
) -> AnnData:
    """Return the raw section of `SectionReader.read`; `facts` become `uns["section"]`."""
    from anndata import AnnData

    uns = {SECTION_METADATA: {SectionField.UNMATCHED.value: 0, **facts}}
    return AnnData(counts, obs=obs, var=var, obsm={SPATIAL: xy}, uns=uns)


def lattice_facts(lattice: str, pitch_um: float, spot_um: float) -> dict[str, Any]:
    """Return the facts of a lattice: "hexagonal" or "square", pitch and spot diameter in micrometres."""
    keys = (SectionField.LATTICE, SectionField.PITCH_UM, SectionField.SPOT_UM)
    return {key.value: value for key, value in zip(keys, (lattice, pitch_um, spot_um), strict=True)}


def content_hash(paths: Iterable[Path]) -> str:
    """Return the hash (16 hex digits) of names and content of files, and of all files in folders.

    Of a file above `MAX_HASHED` bytes only samples count, see `fingerprint_of`.
    """
    digest = hashlib.sha256()
    for path in paths:
        for file in [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file()):
            stat = file.stat()
            digest.update(
                f"{file.relative_to(path.parent)} {_file_hash(file, stat.st_size, stat.st_mtime_ns)}".encode()
            )
    return digest.hexdigest()[:16]


@lru_cache
def _file_hash(path: Path, size: int, mtime_ns: int) -> str:
    if size > MAX_HASHED:
        return fingerprint_of(path)
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def named(items: Iterable[Path | str]) -> str:
    """Return names, or those of files, separated by commas; of more than 20 only how many more there are."""
    names = list(dict.fromkeys(item.name if isinstance(item, Path) else str(item) for item in items))
    more = f" and {len(names) - MAX_LISTED} more" if len(names) > MAX_LISTED else ""
    return ", ".join(names[:MAX_LISTED]) + more


def listing(folder: Path, first: str = "") -> str:
    """Name what is in `folder`, beginning with the names that start with `first`."""
    if not folder.is_dir():
        return "that is a file" if folder.is_file() else "there is no such folder"
    names = sorted(p.name + ("/" if p.is_dir() else "" if p.is_file() else " (no file)") for p in folder.iterdir())
    names.sort(key=lambda name: not name.startswith(first))
    return named(names) or "nothing"


def only_one(found: Sequence[Found], what: str, expected: str, next_step: str) -> Found:
    """Return the only element of `found`; raise InputError naming them unless there is exactly one."""
    if len(found) != 1:
        raise InputError(f"{len(found)} {what}: {named(found) or 'none'}.", expected, next_step)
    return found[0]


def files_in(folder: Path, suffix: str, is_kind: Callable[[Path], bool]) -> list[Path]:
    """Return what has the suffix, in any case, directly in `folder`, and is of the kind; sorted."""
    if not folder.is_dir():
        return []
    return sorted(p for p in folder.iterdir() if p.suffix.lower() == suffix and is_kind(p))


def find_file(query: SectionQuery, suffix: str, is_kind: Callable[[Path], bool], what: str) -> Path | None:
    """Return `root` itself, `<section><suffix>`, or the only file or store of the kind in a folder; else None."""
    found = [query.root] if is_kind(query.root) else []
    for folder in query.folders:
        found = found or files_in(folder, suffix, is_kind)
    if not found:
        return None
    own, next_step = f"{query.section}{suffix}", "Name the section as its file is named: --params section=<name>."
    of_section = [p for p in found if p.name == own]
    path = only_one(of_section or found, f"{what} in {found[0].parent}", f"one, or one named {own}.", next_step)
    logger.info("section %s is read from %s", query.section, path)
    return path


@contextmanager
def reading(path: Path, expected: str) -> Iterator[None]:
    """Turn whatever libraries raise at a damaged file at `path` into InputError; a fault of ours stays what it is."""
    try:
        yield
    except InputError:
        raise
    except MemoryError as error:  # sizes that a file declares were compared with the memory before, but not all are
        found = f"{path}, for whose content there is not enough memory ({first_line(error).rstrip('.')})."
        raise InputError(
            found, f"{expected}.", f"Use a machine with more memory, or, if it should fit: {FETCH}"
        ) from error
    except Exception as error:  # there is no end to the types that libraries raise at broken content
        if is_fault_of_ours(error):
            raise
        found = f"{path} cannot be read ({first_line(error).rstrip('.')})."
        raise InputError(found, f"{expected}.", FETCH) from error


def require_once(names: pd.Index, what: str, source: object, next_step: str = "Fetch the file again.") -> None:
    """Raise InputError naming the first of `names` that occurs twice."""
    if not names.is_unique:
        raise InputError(f"{what} {names[names.duplicated()][0]} twice in {source}.", "each once.", next_step)


def as_texts(values: pd.Index | pd.Series) -> pd.Series:
    """Return the values as text in the same order, "" where one is missing: 1 and 1.0 become "1", b"A" becomes "A".

    Text stays as it is: "0001" and "NA" are names of their own.
    """
    return pd.Series([_as_text(value) for value in values.to_numpy(object)], dtype=object)


def _as_text(value: Any) -> str:  # noqa: ANN401  whatever a file holds there
    if isinstance(value, str):
        return value
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    if pd.isna(value):
        return ""
    # a column of whole numbers with one missing comes as floats
    return str(int(value)) if isinstance(value, float | np.floating) and value.is_integer() else str(value)


def is_gzipped(path: Path) -> bool:
    """Tell whether the file at `path` is gzipped, by its content; raise InputError where it is no plain file."""
    require_regular(path)
    with path.open("rb") as file:
        return file.read(len(GZIP_MAGIC)) == GZIP_MAGIC


def require_parquet(content: bytes, path: Path) -> None:
    """Raise ValueError for a parquet table that declares more columns or rows than any of spots holds."""
    from pyarrow import parquet

    footer_bytes = int.from_bytes(content[-8:-4], "little")  # which is parsed whole
    if footer_bytes > MAX_FOOTER_BYTES:
        raise ValueError(f"its description alone takes {footer_bytes} bytes")
    metadata = parquet.read_metadata(io.BytesIO(content))
    n_rows, n_columns = metadata.num_rows, metadata.num_columns
    if n_columns > MAX_COLUMNS or n_rows > max(FREE_ROWS, ROWS_PER_BYTE * len(content)):
        raise ValueError(f"it declares {n_rows} rows and {n_columns} columns in {len(content)} bytes")
    declared = sum(metadata.row_group(i).total_byte_size for i in range(metadata.num_row_groups))
    require_memory(max(declared, n_rows * n_columns * 8), path)


def unpacked(path: Path, at_most: int = MAX_TABLE_BYTES) -> bytes:
    """Return the content of a file, gzipped or not, whatever it is called; raise InputError beyond `at_most` bytes."""
    return read_bytes(path, at_most)


def still_packed(path: Path, expected: str) -> InputError:
    """Return the error for a file that cannot be read in place, with the command that unpacks it."""
    name = path.name.lower()
    tool = "unzip" if name.endswith(".zip") else "tar -xf" if name.endswith(ARCHIVES) else "gunzip"
    return InputError(f"{path} is packed.", f"{expected}, unpacked.", f"In its folder, unpack it: {tool} {path.name}.")


def image_beside(path: Path, section: str, is_only_file: bool) -> Path:
    """Return the image in the folder of the file at `path` whose name is, or begins with, the section's or the file's.

    Where no name does, the folder's only image is taken if `is_only_file`: the file has no neighbour that the image may
    belong to. Raises InputError when there is none, or when several fit.
    """
    folder, names = path.parent, (section, path.stem)
    others = [p.stem for p in folder.iterdir() if p.suffix == path.suffix and p.stem not in names]
    every = all_images(folder)
    images = slides_among(every)
    found = called([p for p in images if owner(p, names, others)], names) or (images if is_only_file else [])
    if found:
        return only_image(found, f"images that may belong to {path.name}")
    raise InputError(
        f"no image of {path.name} in {folder}, which holds {listing(folder, path.stem)}{passed_over(every, section)}.",
        f"the full-resolution H&E image; {TOO_COARSE}.",
        f"Put it there as {path.stem}.tif, or name it: --params image=<file>.",
    )


def all_images(folder: Path) -> list[Path]:
    """Return what has the name of an image directly in `folder`, gzipped or not; nothing hidden."""
    try:
        return sorted(p for p in folder.iterdir() if is_image(p))
    except OSError:  # no such folder; and above the data there may be folders that only others can read
        return []


def slides_among(images: Collection[Path]) -> list[Path]:
    """Return the images that may be of full resolution by their names, gzipped ones only where no other is."""
    kept = [p for p in images if not is_derived(p)]
    return [p for p in kept if p.suffix.lower() != GZ or p.with_suffix("") not in kept]


def is_image(path: Path) -> bool:
    """Tell whether `path` is a file with the name of an image, gzipped or not."""
    plain = path.with_suffix("") if path.suffix.lower() == GZ else path
    return plain.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".") and path.is_file()


def is_derived(path: Path) -> bool:
    """Tell whether an image is one that Space Ranger derives or an instrument takes, by its name: never the slide."""
    stem = image_stem(path).lower()
    return any(name in stem for name in DERIVED) or bool(THUMBNAIL.fullmatch(stem))


def image_stem(path: Path) -> str:
    """Return an image's name without its endings: `A` of `A.ome.tif` and of `A.tif.gz`."""
    return re.sub(r"(?:\.ome)?\.[^.]*(?:\.gz)?$", "", path.name, flags=re.IGNORECASE)


def begins_with(name: str, section: str) -> bool:
    """Tell whether a name is of `section`: C10_image.tif is not of C1."""
    return name == section or name.startswith((f"{section}_", f"{section}-", f"{section}."))


def owner(image: Path, names: Collection[str], others: Iterable[str]) -> str | None:
    """Return which of `names` an image is called by; None where none, or where one of `others` that fits is longer."""
    fitting = [name for name in (*names, *others) if name and begins_with(image.name, name)]
    longest = max(fitting, key=len, default=None)
    return longest if longest in names else None


def called(own: Collection[Path], names: Sequence[str], free: Collection[Path] = ()) -> list[Path]:
    """Return the images of the first rule that fits any.

    An image called exactly as the section comes first, then one called as its `tissue_image` or `full_image`, then as
    its `image`; then any that ends in one of the first two, and last, what is left of `own` and a `free` one that ends
    in `image`. `own` are called by one of `names`, the most trusted first; `free` by none.
    """
    stems = {p: image_stem(p) for p in own}
    after = {(p, n): stems[p][len(n) + 1 :].lower() for p in own for n in names if begins_with(stems[p], n)}
    rules = [[p for p in own if after.get((p, name)) in w] for w in (("",), FULL_WORDS, PLAIN_WORDS) for name in names]
    every = sorted((*own, *free))
    rules.append([p for p in every if image_stem(p).lower().endswith(FULL_WORDS)])
    rules.append([p for p in every if p in own or image_stem(p).lower().endswith("image")])
    return next((found for found in rules if found), [])


def only_image(found: Sequence[Path], what: str) -> Path:
    """Return the only image found, and log it; raise InputError where there are several, or where it is gzipped."""
    next_step = "Name the full-resolution H&E image: --params image=<file>; or move the others away."
    image = only_one(found, what, "one.", next_step)
    if image.suffix.lower() == GZ:
        raise InputError(
            f"the image {image} is packed.",
            "an image that can be read in windows.",
            f"Unpack it: gunzip {image.name}; or name another: --params image=<file>.",
        )
    logger.info("the full-resolution image is %s", image)
    return image


def passed_over(images: Collection[Path], section: str) -> str:
    """Return why none of `images` is the full-resolution one of `section`, to end a sentence; "" without images."""
    derived = named(p for p in images if is_derived(p))
    others = named(p for p in images if not is_derived(p))
    made = f"; by name Space Ranger or CytAssist made {derived}, which are never of full resolution"
    return made * bool(derived) + f"; not called after section '{section}': {others}" * bool(others)
