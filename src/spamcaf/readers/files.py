"""What all readers share: the section asked for, images beside files, listings, text, and damage noticed."""

from __future__ import annotations

import gzip
import logging
import re
import zlib
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from spamcaf.errors import InputError, first_line, is_fault_of_ours
from spamcaf.slides.open import IMAGE_SUFFIXES

if TYPE_CHECKING:
    import h5py
    import pandas as pd
    from anndata import AnnData

    from spamcaf.histology.slide import Slide


@dataclass(frozen=True)
class SectionQuery:
    """Which section is wanted, and what only a person can know of it.

    `root` is a folder with one section or with several, or a file; `section` names the section. `image` is the
    full-resolution image where it lies elsewhere. `bin_um` chooses the bins of Visium HD, in micrometres.
    """

    root: Path
    section: str
    image: Path | None = None
    bin_um: int | None = None

    @property
    def folders(self) -> tuple[Path, ...]:
        """The folders in which the section may lie, the most specific first."""
        return (self.root / self.section, self.root)


class SectionReader(Protocol):
    """One section in files of a known layout, found but not read yet."""

    @property
    def kind(self) -> str:
        """The name of the layout, for the log and the section report."""

    def read(self) -> AnnData:
        """Return the raw section.

        X holds raw counts (spot, gene), CSR int32; `obs` has in_tissue, array_row and array_col (the last two only
        where the files say them); `var["gene_ids"]` an id per gene; `obsm["spatial"]` (x, y) full-resolution pixels,
        float64; `uns["section"]` the facts, see `spamcaf.names.SectionField`. Raises InputError.
        """

    def open_slide(self) -> Slide:
        """Return the full-resolution image, lazily; raise InputError where there is none, or several."""


MAX_LISTED = 20


def listing(folder: Path, first: str = "") -> str:
    """Name what is in `folder`, beginning with what is called as `first`."""
    if not folder.is_dir():
        return "that is a file" if folder.is_file() else "there is no such folder"
    names = sorted(p.name + ("/" if p.is_dir() else "") for p in folder.iterdir())
    names.sort(key=lambda name: not name.startswith(first))
    more = f" and {len(names) - MAX_LISTED} more" if len(names) > MAX_LISTED else ""
    return (", ".join(names[:MAX_LISTED]) or "nothing") + more


UNREADABLE = (OSError, EOFError, ValueError, KeyError, TypeError, RuntimeError, OverflowError, zlib.error)
"""h5py raises RuntimeError for some damaged blocks, gzip zlib.error, scipy OverflowError; parsers raise the others."""


@contextmanager
def reading(path: Path, expected: str) -> Iterator[None]:
    """Turn what libraries raise at the damaged file at `path` into InputError; a fault of ours stays what it is."""
    try:
        yield
    except UNREADABLE as error:
        if isinstance(error, InputError) or is_fault_of_ours(error):
            raise
        text = first_line(error).rstrip(".")
        raise InputError(f"{path} cannot be read ({text}).", f"{expected}.", "Fetch it again.") from error


def as_texts(values: pd.Index | pd.Series) -> pd.Series:
    """Return the values as text in the same order, "" where one is missing.

    Numbers, categories and bytes are names, too: 1 and 1.0 become "1", b"A" becomes "A"; text stays as it is, so that
    "0001" and "NA" are names of their own.
    """
    import pandas as pd

    return pd.Series([_as_text(value) for value in values.to_numpy(object)], dtype=object)


def _as_text(value: Any) -> str:  # noqa: ANN401  whatever a file holds there
    import pandas as pd

    if isinstance(value, str):
        return value
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    if pd.isna(value):
        return ""
    # a column of whole numbers with one missing comes as floats
    return str(int(value)) if isinstance(value, float | np.floating) and value.is_integer() else str(value)


def refuse_foreign_content(path: Path) -> None:
    """Raise ValueError when the file at `path` takes content from other files: external links, storage or sources."""
    import h5py

    with h5py.File(path) as file:
        _check_group(file)


def _check_group(group: h5py.Group) -> None:
    import h5py

    for name in group:
        link = group.get(name, getlink=True)
        if not isinstance(link, h5py.HardLink):
            raise ValueError(f"'{group.name}/{name}' is a link, which may lead to another file")
        item = group[name]
        if isinstance(item, h5py.Group):
            _check_group(item)
        elif isinstance(item, h5py.Dataset) and (item.external or item.is_virtual):
            raise ValueError(f"'{item.name}' takes its content from another file")


GZIP_MAGIC = b"\x1f\x8b"
ARCHIVES = (".tar", ".tar.gz", ".tgz")


def unpacked(path: Path) -> bytes:
    """Return the content of a file, gzipped or not, whatever it is called."""
    content = path.read_bytes()
    return gzip.decompress(content) if content.startswith(GZIP_MAGIC) else content


def is_gzipped(path: Path) -> bool:
    """Tell whether the file at `path` is gzipped, by its content."""
    with path.open("rb") as file:
        return file.read(len(GZIP_MAGIC)) == GZIP_MAGIC


def still_packed(path: Path, expected: str) -> InputError:
    """Return the error for a file that cannot be read in place, which says how to unpack it."""
    name = path.name.lower()
    tool = "unzip" if name.endswith(".zip") else "tar -xf" if name.endswith(ARCHIVES) else "gunzip"
    return InputError(f"{path} is packed.", f"{expected}, unpacked.", f"In its folder, unpack it: {tool} {path.name}.")


logger = logging.getLogger(__name__)

TOO_COARSE = "hires and lowres pictures are thumbnails, too coarse to see cells in"
DERIVED = ("aligned_fiducials", "aligned_tissue_image", "detected_tissue_image", "cytassist_image")
"""What Space Ranger calls pictures that it draws, and the one that the CytAssist instrument took."""
THUMBNAIL = re.compile(r"(?:^|.*[_. -])(?:hires|lowres)(?:[_. -].*|$)")
GZ = ".gz"
FULL_WORDS, PLAIN_WORDS = ("tissue_image", "full_image"), ("image", "he")
"""What may follow the section's name in an image's; beside one of the first, a plain `image` is the instrument's."""
MAX_NAMED = 20


def image_beside(path: Path, section: str, is_only_file: bool) -> Path:
    """Return the image in the folder of the file at `path` that is called as the section or the file, or begins so.

    Where no name does, the folder's only image is taken if `is_only_file` says that the file has no neighbour that the
    image may belong to. Raises InputError when there is none, or when several fit.
    """
    folder = path.parent
    others = [p.stem for p in folder.iterdir() if p.suffix == path.suffix and p.stem not in {section, path.stem}]
    names, images = (section, path.stem), images_in(folder)
    found = called([p for p in images if owner(p, names, others)], names) or (images if is_only_file else [])
    if found:
        return the_one(found, f"images that may belong to {path.name}")
    held = listing(folder, path.stem) + passed_over(all_images(folder), section)
    raise InputError(
        f"no image of {path.name} in {folder}, which holds {held}.",
        f"the full-resolution H&E image; {TOO_COARSE}.",
        f"Put it there as {path.stem}.tif, or name it: --params image=<file>.",
    )


def images_in(folder: Path) -> list[Path]:
    """Return the images directly in `folder` that may be of full resolution."""
    return slides_among(all_images(folder))


def slides_among(images: Collection[Path]) -> list[Path]:
    """Return the images that may be of full resolution by their names, gzipped ones only where no other is."""
    kept = [p for p in images if not is_derived(p)]
    return [p for p in kept if p.suffix.lower() != GZ or p.with_suffix("") not in kept]


def all_images(folder: Path) -> list[Path]:
    """Return what has the name of an image directly in `folder`, gzipped or not; nothing hidden."""
    try:
        return sorted(p for p in folder.iterdir() if is_image(p))
    except OSError:  # no such folder; and above the data there may be folders that only others can read
        return []


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
    name = path.name[: -len(GZ)] if path.suffix.lower() == GZ else path.name
    stem = name.rpartition(".")[0]
    return stem[: -len(".ome")] if stem.lower().endswith(".ome") else stem


def begins_with(name: str, section: str) -> bool:
    """Tell whether a name is of `section`: C10_image.tif is not of C1."""
    return name == section or name.startswith((f"{section}_", f"{section}-", f"{section}."))


def owner(image: Path, names: Collection[str], others: Iterable[str]) -> str | None:
    """Return which of `names` an image is called by; None where none, or where the name of another section fits better.

    `A_1_image.tif` is not of section A where a section A_1 is.
    """
    fitting = [name for name in (*names, *others) if name and begins_with(image.name, name)]
    longest = max(fitting, key=len, default=None)
    return longest if longest in names else None


def called(own: Collection[Path], names: Sequence[str], free: Collection[Path] = ()) -> list[Path]:
    """Return the images of the first rule that fits any.

    An image called exactly as the section comes first, then one called as its `tissue_image` or `full_image`, then as
    its `image`; then any that ends in one of the first two, and last, what is left of `own` and a `free` one that ends
    in `image`. `own` are called by one of `names`, the most trusted first; `free` by none.
    """
    after = {(p, name): _after(image_stem(p), name) for p in own for name in names}
    rules: list[list[Path]] = [[p for p in own if after[p, name] == ""] for name in names]
    for words in (FULL_WORDS, PLAIN_WORDS):
        rules += [[p for p in own if after[p, name] in words] for name in names]
    every = sorted((*own, *free))
    rules.append([p for p in every if image_stem(p).lower().endswith(FULL_WORDS)])
    rules.append([p for p in every if p in own or image_stem(p).lower().endswith("image")])
    return next((found for found in rules if found), [])


def the_one(found: Sequence[Path], what: str) -> Path:
    """Return the only image found, and log it; raise InputError where there are several, or where it is gzipped."""
    if len(found) > 1:
        raise InputError(
            f"{len(found)} {what}: {', '.join(p.name for p in found[:MAX_NAMED])}.",
            "one.",
            "Name the full-resolution H&E image: --params image=<file>; or move the others away.",
        )
    image = found[0]
    if image.suffix.lower() == GZ:
        raise InputError(
            f"the image {image} is packed.",
            "an image that can be read in windows.",
            f"Unpack it: gunzip {image.name}; or name another: --params image=<file>.",
        )
    logger.info("the full-resolution image is %s", image)
    return image


def passed_over(images: Collection[Path], section: str) -> str:
    """Say why none of `images` is the full-resolution one of `section`, in words to append; empty where there are none.

    They are those that `called` was given, and those of which a name alone says that they are none.
    """
    derived = _names(p for p in images if is_derived(p))
    others = _names(p for p in images if not is_derived(p))
    why = "by name Space Ranger or CytAssist made {}, which are never of full resolution"
    texts = [why.format(derived)] if derived else []
    texts += [f"not called after section '{section}': {others}"] if others else []
    return "".join(f"; {text}" for text in texts)


def _names(images: Iterable[Path]) -> str:
    names = list(dict.fromkeys(p.name for p in images))
    more = f" and {len(names) - MAX_NAMED} more" if len(names) > MAX_NAMED else ""
    return ", ".join(names[:MAX_NAMED]) + more


def _after(stem: str, name: str) -> str | None:
    """Return what follows a section's name in an image's, in lower case; None where it does not begin so."""
    return stem[len(name) + 1 :].lower() if begins_with(stem, name) else None
