"""One bin size of a Visium HD section: `binned_outputs/square_XXXum` of Space Ranger 3 and 4."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from spamcaf.errors import InputError
from spamcaf.names import SECTION_METADATA, SPATIAL, ScaleFactor, SpaceRanger
from spamcaf.readers.anndata_library import bin_facts
from spamcaf.readers.files import listing
from spamcaf.readers.visium import read_scalefactors, read_spots
from spamcaf.readers.visium_files import (
    BIN_FOLDER,
    Sample,
    bin_size,
    find_image,
    holds_hd,
    holds_matrix,
    image_folders,
    visible,
)
from spamcaf.slides.open import open_slide

if TYPE_CHECKING:
    from anndata import AnnData

    from spamcaf.histology.slide import Slide
    from spamcaf.readers.files import SectionQuery


@dataclass(frozen=True)
class VisiumHDReader:
    """One Visium HD section in square bins of `bin_um` micrometres that touch; `folder` holds them."""

    folder: Path
    bin_um: int
    query: SectionQuery
    kind: str = "Visium HD"

    def read(self) -> AnnData:
        """Return the section, see `SectionReader`: a spot is a bin, as wide as the pitch of the square lattice."""
        self._require_bin_size()
        section = read_spots(self.folder, self.query.section)
        factors = section.uns[SPATIAL][self.query.section]["scalefactors"]
        section.uns[SECTION_METADATA] |= bin_facts(float(self.bin_um), factors.get(ScaleFactor.MPP))
        return section

    def open_slide(self) -> Slide:
        """Return the full-resolution image: beside the bins, beside `binned_outputs`, or above `outs`."""
        return open_slide(self.query.image or find_image(self._image_folders(), self.query.section))

    def _require_bin_size(self) -> None:
        stated = read_scalefactors(Sample(self.folder, "", self.query.section)).get(ScaleFactor.BIN)
        if stated != self.bin_um:
            raise InputError(
                f"bins of {'unknown size' if stated is None else f'{stated:g} um'} by the scale factors in "
                f"{self.folder}.",
                f"{self.bin_um} um, as the folder is called.",
                "The scale factors are of another bin size: copy the whole folder again.",
            )

    def _image_folders(self) -> list[Path]:
        here = self.folder.absolute()
        if here.parent.name != SpaceRanger.BINNED:
            return [here]
        return [here, here.parent, *image_folders(here.parent.parent)]


def find(query: SectionQuery) -> VisiumHDReader | None:
    """Return the bins that are wanted, or None where there are none of Visium HD.

    The section's folder may be `outs`, the one above, `binned_outputs`, or a single `square_XXXum`. Raises InputError
    when the bin size is not given and not the only one, or does not exist.
    """
    for folder in query.folders:
        bins = _bins(folder)
        if bins is not None:
            bin_um = _choose(bins, query, folder)
            return VisiumHDReader(bins[bin_um], bin_um, query)
    return None


def _bins(folder: Path) -> dict[int, Path] | None:
    """Return the folders of bins by their size in micrometres; None where this is not Visium HD."""
    if not folder.is_dir():
        return None
    size = bin_size(folder)
    if size is not None:
        return {size: folder}
    places = (folder / SpaceRanger.OUTS, folder)
    for outs in places:
        if (outs / SpaceRanger.BINNED).is_dir():
            _refuse_visium_beside(outs)
            return _sizes_in(outs / SpaceRanger.BINNED)
    if folder.absolute().name == SpaceRanger.BINNED or any(visible(folder, "square_*um")):
        return _sizes_in(folder)
    without = next((outs for outs in places if holds_hd(outs)), None)
    if without is not None:
        raise _without_bins(without)
    return None


def _sizes_in(binned: Path) -> dict[int, Path]:
    named = {p: BIN_FOLDER.fullmatch(p.name) for p in visible(binned, "*") if p.is_dir()}
    bins = {int(match[1]): path for path, match in named.items() if match}
    if not bins:
        raise _without_bins(binned)
    return bins


def _choose(bins: dict[int, Path], query: SectionQuery, folder: Path) -> int:
    if query.bin_um is None and len(bins) == 1:
        return next(iter(bins))
    if query.bin_um in bins:
        return query.bin_um
    sizes = ", ".join(map(str, sorted(bins)))
    asked = "no bin size was chosen" if query.bin_um is None else f"none of {query.bin_um} um"
    raise InputError(
        f"Visium HD in {folder}, with bins of {sizes} um, and {asked}.",
        "one of these sizes.",
        f"Choose it: --params section={query.section},bin_um={max(bins)}.",
    )


def _refuse_visium_beside(outs: Path) -> None:
    if holds_matrix(outs):
        raise InputError(
            f"{SpaceRanger.BINNED} of Visium HD and a count matrix of Visium in {outs}, which holds {listing(outs)}.",
            "one section.",
            "Move one of them into a folder of its own, or name the folder of the bins: --params raw_root=<folder>.",
        )


def _without_bins(folder: Path) -> InputError:
    return InputError(
        f"Visium HD in {folder} without bins, but {listing(folder)}.",
        f"{SpaceRanger.BINNED}/square_016um or another bin size; segmented cells are not read.",
        "Copy that folder from the Space Ranger output of this section; unpack it where it is a tar.gz.",
    )
