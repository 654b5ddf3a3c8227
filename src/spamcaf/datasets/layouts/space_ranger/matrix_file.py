"""Finding the one count matrix of a section in a folder, and by its name the sample that the other files are of."""

from __future__ import annotations

import logging
import re
from pathlib import Path

from spamcaf.datasets.layouts.listing import listing
from spamcaf.datasets.layouts.space_ranger.folder import spatial_folder, visible
from spamcaf.datasets.layouts.space_ranger.packed import still_packed
from spamcaf.datasets.layouts.space_ranger.sample import POSITIONS, Sample, bare, matching, sample_of
from spamcaf.errors import InputError
from spamcaf.names import SpaceRanger

logger = logging.getLogger(__name__)

STEM = re.escape(SpaceRanger.MATRIX_FOLDER)
PACKED = STEM + r"\.(?:(?:h5\.)?(?:gz|zip)|tar|tar\.gz|tgz)"
FORMS = (re.escape(SpaceRanger.MATRIX_H5), STEM, r"matrix\.mtx\.gz", r"matrix\.mtx", PACKED)
"""What a matrix may be called after the sample's name, the preferred form first; the second is a folder."""
RAW = re.compile(r"(?:^|.*[_. -])raw(?:_feature_bc_matrix)?")
MAX_NAMED = 20


def matrices_in(folder: Path) -> dict[str, list[Path]]:
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
    matrices = matrices_in(folder)
    samples = matching(matrices, section) or sorted(matrices)
    paths = [path for sample in samples for path in matrices[sample]]
    if not paths and (above := _above(folder, section)) is not None:
        logger.info("section %s: counts of %s", section, above)
        return above, Sample(folder, "", section, is_alone=True)
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
        raise still_packed(path, "a count matrix")
    logger.info("section %s: counts of %s", section, path.name)
    return path, sample


def _above(folder: Path, section: str) -> Path | None:
    """Return the one matrix beside `folder` that is called as the section: its `spatial` was unpacked by itself."""
    if folder.name != section:
        return None
    matrices = matrices_in(folder.parent)
    paths = [path for sample in matching(matrices, section) for path in matrices[sample]]
    return paths[0] if len(paths) == 1 and sample_of(paths[0].name, PACKED) is None else None


def _is_of_another(sample: Sample) -> bool:
    """Tell whether the only matrix there is of another sample than the section, whose positions lie there alone."""
    if sample.name in {"", sample.section} or matching([sample.name], sample.section):
        return False
    places = (sample.folder, spatial_folder(sample.folder))
    placed = {sample_of(p.name, POSITIONS) for place in places for p in visible(place, "*")} - {None}
    return len(placed) > 1 and any(sample.section in {name, bare(name or "")} for name in placed)


def _not_one(folder: Path, section: str, paths: list[Path], samples: list[str]) -> InputError:
    if paths:
        held = f": {', '.join(p.name for p in paths[:MAX_NAMED])}; which is of section '{section}' is not clear."
        names = " or ".join(filter(None, samples[:MAX_NAMED])) or "<prefix>"
        next_step = f"Name the section as its files begin: --params section={names}; or move the others away."
    else:
        held = f", which holds {listing(folder, section)}."
        next_step = "Copy it from the Space Ranger output of this section; unpack it where it is a tar.gz."
    if not paths and visible(folder, f"*{SpaceRanger.RAW_FOLDER}*"):
        next_step = "The raw matrix also holds barcodes without tissue: copy the filtered one from the same run."
    return InputError(
        f"{len(paths)} filtered count matrices in {folder}{held}",
        f"one: {SpaceRanger.MATRIX_H5}, <section>_{SpaceRanger.MATRIX_H5} or the folder {SpaceRanger.MATRIX_FOLDER}.",
        next_step,
    )
