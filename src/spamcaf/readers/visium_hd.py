"""One bin size of a Visium HD section: `binned_outputs/square_XXXum` of Space Ranger 3 and 4."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from spamcaf.errors import InputError
from spamcaf.names import SECTION_METADATA, SPATIAL, ScaleFactor, SpaceRanger
from spamcaf.readers import visium_files
from spamcaf.readers.anndata_parts import bin_facts
from spamcaf.readers.files import SectionQuery, SectionReader, listing
from spamcaf.readers.visium import read_scalefactors, read_spots, spot_files

if TYPE_CHECKING:
    from anndata import AnnData


@dataclass(frozen=True)
class VisiumHDReader(SectionReader):
    """One Visium HD section in square bins of `bin_um` micrometres that touch; a folder holds them."""

    bin_um: int
    kind = "Visium HD"

    def read(self) -> AnnData:
        """Return the section, see `SectionReader`: a spot is a bin, as wide as the pitch of the square lattice."""
        stated = read_scalefactors(visium_files.Sample(self.path, "", self.query.section)).get(ScaleFactor.BIN)
        if stated != self.bin_um:
            size = "unknown size" if stated is None else f"{stated:g} um"
            raise InputError(
                f"bins of {size} by the scale factors in {self.path}.",
                f"{self.bin_um} um, as the folder is called.",
                "The scale factors are of another bin size: copy the whole folder again.",
            )
        section = read_spots(self.path, self.query.section)
        factors = section.uns[SPATIAL][self.query.section]["scalefactors"]
        section.uns[SECTION_METADATA] |= bin_facts(float(self.bin_um), factors.get(ScaleFactor.MPP))
        return section

    def sources(self) -> list[Path]:
        """Return matrix, positions and scale factors of the bins."""
        return spot_files(self.path, self.query.section)

    def image(self) -> Path:
        """Return the image beside the bins, beside `binned_outputs`, or above `outs`."""
        here = self.path.absolute()
        folders = [here]
        if here.parent.name == SpaceRanger.BINNED:
            folders += [here.parent, *visium_files.image_folders(here.parent.parent)]
        return visium_files.find_image(folders, self.query.section)


def find(query: SectionQuery) -> VisiumHDReader | None:
    """Return the bins of the query, or None where there are none of Visium HD.

    The section's folder may be `outs`, the one above, `binned_outputs`, or a single `square_XXXum`. Raises InputError
    when the bin size is not given and not the only one, or does not exist.
    """
    for folder in query.folders:
        bins = _bins(folder)
        if bins is None:
            continue
        bin_um = next(iter(bins)) if query.bin_um is None and len(bins) == 1 else query.bin_um
        if bin_um is not None and bin_um in bins:
            return VisiumHDReader(bins[bin_um], query, bin_um)
        sizes = ", ".join(map(str, sorted(bins)))
        chosen = "no bin size was chosen" if bin_um is None else f"none of {bin_um} um"
        expected, next_step = "one of these sizes.", f"Choose it: --params section={query.section},bin_um={max(bins)}."
        raise InputError(f"Visium HD in {folder}, with bins of {sizes} um, and {chosen}.", expected, next_step)
    return None


def _bins(folder: Path) -> dict[int, Path] | None:
    """Return the folders of bins by their size in micrometres; None where this is not Visium HD."""
    if not folder.is_dir():
        return None
    size = visium_files.bin_size(folder)
    if size is not None:
        return {size: folder}
    places = (folder / SpaceRanger.OUTS, folder)
    for outs in places:
        if (outs / SpaceRanger.BINNED).is_dir():
            if visium_files.holds_matrix(outs):
                raise InputError(
                    f"{SpaceRanger.BINNED} of Visium HD and a count matrix of Visium in {outs}, which holds "
                    f"{listing(outs)}.",
                    "one section.",
                    "Move one of them into its own folder, or name the folder of the bins: --params raw_root=<folder>.",
                )
            return _sizes_in(outs / SpaceRanger.BINNED)
    if folder.absolute().name == SpaceRanger.BINNED or visium_files.visible(folder, "square_*um"):
        return _sizes_in(folder)
    without = next((outs for outs in places if visium_files.holds_hd(outs)), None)
    if without is not None:
        raise _without_bins(without)
    return None


def _sizes_in(binned: Path) -> dict[int, Path]:
    folders = {p: visium_files.BIN_FOLDER.fullmatch(p.name) for p in visium_files.visible(binned, "*") if p.is_dir()}
    bins = {int(match[1]): path for path, match in folders.items() if match}
    if not bins:
        raise _without_bins(binned)
    return bins


def _without_bins(folder: Path) -> InputError:
    return InputError(
        f"Visium HD in {folder} without bins, but {listing(folder)}.",
        f"{SpaceRanger.BINNED}/square_016um or another bin size; segmented cells are not read.",
        "Copy that folder from the Space Ranger output of this section; unpack it where it is a tar.gz.",
    )
