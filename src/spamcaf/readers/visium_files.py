"""Which files of a folder are a Visium section's: Space Ranger's `outs`, or a GEO deposit, flat and prefixed."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from spamcaf.errors import InputError, is_fault_of_ours
from spamcaf.limits import read_json
from spamcaf.names import ScaleFactor, SpaceRanger
from spamcaf.readers import files
from spamcaf.readers.files import SectionQuery, listing, named

logger = logging.getLogger(__name__)

BIN_FOLDER = re.compile(r"square_(\d+)um")
HD_PARTS = (SpaceRanger.BINNED, SpaceRanger.SEGMENTED, SpaceRanger.FEATURE_SLICE)
SEPARATORS = "_. -"
PARTS = "|".join(map(re.escape, (SpaceRanger.SPATIAL, SpaceRanger.MATRIX_FOLDER)))
PREFIX = rf"(?P<sample>(?:.*?[{SEPARATORS}])??)(?:(?:{PARTS})[{SEPARATORS}])?"
"""The sample's name, and the folder's where a file was taken out of one."""
POSITIONS = re.escape(SpaceRanger.POSITIONS_STEM) + r".*\.(?:csv|tsv|txt|parquet)(?:\.gz)?"
STEM = re.escape(SpaceRanger.MATRIX_FOLDER)
PACKED = STEM + r"\.(?:(?:h5\.)?(?:gz|zip)|tar|tar\.gz|tgz)"
FORMS = (re.escape(SpaceRanger.MATRIX_H5), STEM, r"matrix\.mtx\.gz", r"matrix\.mtx", PACKED)
"""What a matrix may be called after the sample's name, the preferred form first; the second is a folder."""
RAW = re.compile(r"(?:^|.*[_. -])raw(?:_feature_bc_matrix)?")


def find_outs(query: SectionQuery) -> Path | None:
    """Return the folder that holds matrix and positions of the section, or None.

    Looked for are `<root>/<section>/outs`, `<root>/<section>`, `<root>/outs` and `<root>`, in this order. A
    `matrix.mtx` whose files lie flat counts where positions lie beside it. Folders of Visium HD are none.
    """
    places = (place for folder in query.folders for place in (folder / SpaceRanger.OUTS, folder))
    return next((place for place in places if _holds_section(place)), None)


def _holds_section(folder: Path) -> bool:
    if not folder.is_dir() or bin_size(folder) is not None or (folder / SpaceRanger.BINNED).is_dir():
        return False
    if holds_matrix(folder) or ((folder / SpaceRanger.SPATIAL).is_dir() and not holds_hd(folder)):
        return True
    is_placed = _holds(folder, SpaceRanger.POSITIONS_STEM) or bool(visible(folder, f"*{SpaceRanger.SPATIAL}"))
    return is_placed and _holds(folder, "matrix.mtx")


def holds_matrix(folder: Path) -> bool:
    """Tell whether a count matrix lies directly in `folder`."""
    return _holds(folder, SpaceRanger.MATRIX_FOLDER, SpaceRanger.RAW_FOLDER)


def holds_hd(folder: Path) -> bool:
    """Tell whether parts of Visium HD's output lie directly in `folder`, packed or not."""
    return _holds(folder, *HD_PARTS)


def _holds(folder: Path, *parts: str) -> bool:
    return any(visible(folder, f"*{part}*") for part in parts)


def visible(folder: Path, pattern: str) -> list[Path]:
    """Return what matches `pattern` in `folder`, sorted; not the `._` twins that macOS leaves beside files."""
    return sorted(p for p in folder.glob(pattern) if not p.name.startswith("."))


def spatial_folder(outs: Path) -> Path:
    """Return the folder of positions, scale factors and thumbnails: `spatial`, or `outs` itself where they lie flat."""
    inner = outs / SpaceRanger.SPATIAL
    return inner if inner.is_dir() else outs


def image_folders(outs: Path) -> list[Path]:
    """Return the folders that can hold images of one section only: `outs`, and above it where it is called so."""
    here = outs.absolute()
    return [here, here.parent] if here.name == SpaceRanger.OUTS else [here]


def bin_size(folder: Path) -> int | None:
    """Return the bin size of Visium HD in micrometres by the name of `folder` or by its scale factors, else None."""
    if match := BIN_FOLDER.fullmatch(folder.absolute().name):
        return int(match[1])
    try:
        record = read_json(spatial_folder(folder) / SpaceRanger.SCALEFACTORS)
        return round(float(record[ScaleFactor.BIN]))
    except (OSError, ValueError, TypeError, KeyError, OverflowError) as error:
        if is_fault_of_ours(error):
            raise
        return None


@dataclass(frozen=True)
class Sample:
    """The files of one section in `folder`, or in `spatial` in it."""

    folder: Path
    name: str  # what they begin with, empty where they have the names that Space Ranger gave them
    section: str  # what the user calls the section
    is_alone: bool = True  # no other sample lies in the folder

    @property
    def places(self) -> list[Path]:
        """The folders in which spatial files may lie, the most specific first."""
        own = [p for p in visible(self.folder, f"*{SpaceRanger.SPATIAL}") if p.is_dir()]
        own = [p for p in own if self.name and sample_of(p.name, SpaceRanger.SPATIAL) == self.name]
        return list(dict.fromkeys((*own, spatial_folder(self.folder), self.folder)))

    def files(self, pattern: str) -> list[Path]:
        """Return the spatial files of the sample whose names match `pattern` after the prefix, those of one folder.

        Files of the sample's name come before those of the section's, and these before those without a prefix. Where
        there is one sample alone, its spatial files may also be called otherwise.
        """
        found: dict[str, dict[Path, list[Path]]] = {}
        for place in self.places:
            for path in visible(place, "*"):
                name = sample_of(path.name, pattern)
                if name is not None and path.is_file():
                    found.setdefault(name, {}).setdefault(place, []).append(path)
        otherwise = list(found) if self.is_alone and len(found) == 1 else []
        name = next((name for name in (self.name, self.section, "", *otherwise) if name in found), None)
        return [] if name is None else next(iter(found[name].values()))

    def missing(self, what: str, expected: str) -> InputError:
        """Return the error for a spatial file that is not there, which names what is."""
        of_sample, prefix = (f" of {self.name}", f"{self.name}_") if self.name else ("", "")
        place = self.places[0]
        held = listing(place, self.name or self.section)
        next_step = (
            f"Copy it from the Space Ranger output of this section, as {prefix}<name> or under its own name; unpack it "
            "where it is a tar.gz."
        )
        return InputError(f"no {what}{of_sample} in {place}, but {held}.", expected, next_step)


def sample_of(name: str, pattern: str) -> str | None:
    """Return what a file's name begins with before what matches `pattern`; None where nothing there does."""
    match = re.fullmatch(PREFIX + f"(?:{pattern})", name)
    return match["sample"].rstrip(SEPARATORS) if match else None


def _matching(samples: Iterable[str], section: str) -> list[str]:
    """Return the samples that are `section` by the first rule that fits any."""
    names = sorted(set(samples))
    between = re.compile(rf"(?:^|.*[{SEPARATORS}]){re.escape(section)}(?:[{SEPARATORS}].*|$)")
    return (
        [name for name in names if name == section]
        or [name for name in names if not name or _without_accession(name) == section]
        or [name for name in names if between.fullmatch(name)]
    )


def _without_accession(name: str) -> str:
    """Return the depositor's own name of a sample, without what GEO puts before it."""
    return re.sub(rf"^GSM\d+[{SEPARATORS}]", "", name)


def _matrices_in(folder: Path) -> dict[str, list[Path]]:
    """Return the filtered count matrices in `folder` by sample, for each those of the preferred form."""
    found: dict[str, list[Path]] = {}
    entries = visible(folder, "*")
    for form in FORMS:
        of_form: dict[str, list[Path]] = {}
        for path in entries:
            sample = sample_of(path.name, form)
            if sample is not None and not RAW.fullmatch(sample) and path.is_dir() == (form == STEM):
                of_form.setdefault(sample, []).append(path)
        found = of_form | found
    return found


def find_matrix(folder: Path, section: str) -> tuple[Path, Sample]:
    """Return the count matrix of `section` in `folder`, and the sample that it is of.

    An h5 file, a folder of the Matrix Market format, or the `matrix.mtx` of one whose files lie flat. Where one sample
    alone is there, it is taken whatever it is called. Raises InputError unless there is exactly one.
    """
    matrices = _matrices_in(folder)
    samples = _matching(matrices, section) or sorted(matrices)
    paths = [path for sample in samples for path in matrices[sample]]
    if not paths and (above := _matrix_above(folder, section)) is not None:
        logger.info("section %s: counts of %s", section, above)
        return above, Sample(folder, "", section)
    if len(paths) != 1:
        raise _not_one(folder, section, paths, samples)
    path, sample = paths[0], Sample(folder, samples[0], section, is_alone=len(matrices) == 1)
    if _is_of_another(sample):
        raise InputError(
            f"positions but no count matrix of section '{section}' in {folder}, which holds {path.name}.",
            f"{section}_{SpaceRanger.MATRIX_H5}.",
            f"Copy it there, or choose the other section: --params section={sample.name}.",
        )
    if sample_of(path.name, PACKED) is not None:
        raise files.still_packed(path, "a count matrix")
    logger.info("section %s: counts of %s", section, path.name)
    return path, sample


def _matrix_above(folder: Path, section: str) -> Path | None:
    """Return the one matrix beside `folder` that is called as the section: its `spatial` was unpacked by itself."""
    if folder.name != section:
        return None
    matrices = _matrices_in(folder.parent)
    paths = [path for sample in _matching(matrices, section) for path in matrices[sample]]
    return paths[0] if len(paths) == 1 and sample_of(paths[0].name, PACKED) is None else None


def _is_of_another(sample: Sample) -> bool:
    """Tell whether the only matrix there is of another sample than the section, whose positions lie there alone."""
    if sample.name in {"", sample.section} or _matching([sample.name], sample.section):
        return False
    places = (sample.folder, spatial_folder(sample.folder))
    placed = {sample_of(p.name, POSITIONS) for place in places for p in visible(place, "*")} - {None}
    return len(placed) > 1 and any(sample.section in {name, _without_accession(name or "")} for name in placed)


def _not_one(folder: Path, section: str, paths: list[Path], samples: list[str]) -> InputError:
    """Return the error for no matrix of the section, or several."""
    held = f", which holds {listing(folder, section)}."
    next_step = "Copy it from the Space Ranger output of this section; unpack it where it is a tar.gz."
    if paths:
        held = f": {named(paths)}; which is of section '{section}' is not clear."
        names = " or ".join(filter(None, samples[: files.MAX_LISTED])) or "<prefix>"
        next_step = f"Name the section as its files begin: --params section={names}; or move the others away."
    elif _holds(folder, SpaceRanger.RAW_FOLDER):
        next_step = "The raw matrix also holds barcodes without tissue: copy the filtered one from the same run."
    return InputError(
        f"{len(paths)} filtered count matrices in {folder}{held}",
        f"one: {SpaceRanger.MATRIX_H5}, <section>_{SpaceRanger.MATRIX_H5} or the folder {SpaceRanger.MATRIX_FOLDER}.",
        next_step,
    )


def find_image(folders: Sequence[Path], section: str) -> Path:
    """Return the full-resolution image of `section`; raise InputError unless there is exactly one.

    `folders` belong to the section, the innermost first, each in the next. An image called as the section, or as its
    sample on GEO, comes first, then `*tissue_image.*` and `*full_image.*`, then `*image.*`; see `files.called`. Where
    other samples lie in the innermost folder, and above the last one, only names count that begin with the section's.
    """
    inner, above = folders[0], folders[-1].parent
    samples = _matrices_in(inner)
    own = _matching(samples, section) or list(samples)
    own = own if len(own) == 1 else []
    names = list(dict.fromkeys(filter(None, (section, *own, *map(_without_accession, own)))))
    others = {name for name in samples if name not in own}
    rings = [(folder, others, len(samples) > 1) for folder in folders]
    for folder, of_others, is_shared in (*rings, (above, others | _sections_like(above, section), True)):
        images = files.slides_among(files.all_images(folder))
        free = [p for p in images if not is_shared and files.owner(p, (*names, *of_others), ()) is None]
        found = files.called([p for p in images if files.owner(p, names, of_others)], names, free)
        if found:
            return files.only_image(found, f"images that may be the full-resolution one of section '{section}'")
    every = [p for folder in folders for p in files.all_images(folder)]
    every += [p for p in files.all_images(above) if files.owner(p, names, ())]
    raise InputError(
        f"no full-resolution image of section '{section}' in {inner} or above it; it holds "
        f"{listing(inner, section)}{files.passed_over(every, section)}.",
        f"the image that Space Ranger was run on, such as {section}_full_image.tif; hires and lowres are thumbnails.",
        f"Put it into {inner}, or name it: --params image=<path>.",
    )


def _sections_like(folder: Path, section: str) -> set[str]:
    """Return the names of the folders in `folder` that hold another section whose name begins as `section` does."""
    try:
        like = [p for p in folder.iterdir() if p.name.startswith(section) and p.name != section and p.is_dir()]
        return {p.name for p in like if any(_holds_section(q) or holds_hd(q) for q in (p / SpaceRanger.OUTS, p))}
    except OSError:  # above the data there may be folders that only others can read
        return set()
