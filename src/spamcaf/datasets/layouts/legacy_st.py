"""Legacy spatial transcriptomics in the her2st layout: count table, spot file and H&E image of one section."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from spamcaf.datasets.layouts.beside import image_stem, is_image, slides_among, the_one
from spamcaf.datasets.layouts.legacy_tables import read_counts, read_spots
from spamcaf.errors import InputError
from spamcaf.names import FACTS, GENE_IDS, SPATIAL, Fact, LegacyST, Obs
from spamcaf.slides.open import open_slide

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

    from spamcaf.datasets.layouts.layout import Wanted
    from spamcaf.histology.slide import Slide

logger = logging.getLogger(__name__)

PITCH_UM = 200.0
SPOT_UM = 100.0
TABLE_SUFFIXES = (".tsv", ".tsv.gz")


@dataclass(frozen=True)
class LegacySTSection:
    """One section of legacy spatial transcriptomics: a square lattice of 100 um spots, 200 um apart.

    `folder` holds `ST-cnts`, `ST-spotfiles` and `ST-imgs`. Rows are joined to spots by their id, `XxY`.
    """

    folder: Path
    wanted: Wanted
    kind: str = "legacy ST"

    def read(self) -> AnnData:
        """Return the section, see `Layout`; symbols stand for gene ids, of which the layout has none."""
        counts = read_counts(_table(self.folder, self.wanted.section, LegacyST.COUNTS))
        spots = read_spots(_table(self.folder, self.wanted.section, LegacyST.SPOTS))
        return _join(counts, spots, self.wanted.section)

    def open_slide(self) -> Slide:
        """Return the full-resolution image, see `Layout`: `ST-imgs/<patient>/<section>/*`."""
        return open_slide(self.wanted.image or _image(self.folder, self.wanted.section))


def find(wanted: Wanted) -> LegacySTSection | None:
    """Return the section that is wanted, or None where no folder of legacy ST is.

    Raises InputError where there is one without this section.
    """
    for folder in wanted.folders:
        if any((folder / part).is_dir() for part in (LegacyST.COUNTS, LegacyST.SPOTS)):
            _table(folder, wanted.section, LegacyST.COUNTS)
            return LegacySTSection(folder, wanted)
    return None


def _table(root: Path, section: str, part: LegacyST) -> Path:
    """Return the counts or the spot file of `section`; raise InputError naming what is there instead."""
    folder, ending = root / part, "_selection" if part is LegacyST.SPOTS else ""
    if not folder.is_dir():
        raise InputError(
            f"no folder {folder}.",
            f"a folder with {LegacyST.COUNTS}, {LegacyST.SPOTS} and {LegacyST.IMAGES}.",
            "Pass the folder that holds them: --params section=C2,raw_root=<folder>.",
        )
    found = [folder / f"{section}{ending}{suffix}" for suffix in TABLE_SUFFIXES]
    names = {p.name.split(".")[0].removesuffix(ending) for p in folder.glob("[!.]*.tsv*")}
    return _the_one([p for p in found if p.is_file()], folder, section, names)


def _image(root: Path, section: str) -> Path:
    folder = root / LegacyST.IMAGES
    images = slides_among(sorted(p for p in folder.rglob("*") if is_image(p)))
    names = {p.parent.name if p.parent != folder else image_stem(p) for p in images}
    own = [p for p in images if section in (image_stem(p), p.parent.name)]
    found = [p for p in own if image_stem(p) == section] or own
    if not found:
        raise _no_section(section, folder, names)
    return the_one(found, f"files of section '{section}' in {folder}")


def _the_one(candidates: list[Path], folder: Path, section: str, names: set[str]) -> Path:
    if len(candidates) == 1:
        return candidates[0]
    if candidates:
        listed = ", ".join(sorted(p.name for p in candidates))
        raise InputError(
            f"{len(candidates)} files of section '{section}' in {folder}: {listed}.", "one.", "Move the others away."
        )
    raise _no_section(section, folder, names)


def _no_section(section: str, folder: Path, names: set[str]) -> InputError:
    return InputError(
        f"no section '{section}' in {folder}; there are {', '.join(sorted(names)[:40]) or 'none'}.",
        "one file of the section.",
        "Choose one that exists: --params section=<name>.",
    )


def _join(counts: pd.DataFrame, spots: pd.DataFrame, section: str) -> AnnData:
    import numpy as np
    import pandas as pd
    from anndata import AnnData
    from scipy.sparse import csr_matrix

    kept = counts.index[counts.index.isin(spots.index)]
    if not len(kept):
        raise InputError(
            f"no spot of {section} in common: {counts.index[0]} in the counts, "
            f"{spots.index[0] if len(spots) else 'none'} in the spot file.",
            "the same spots, named <x>x<y>.",
            "Check that both files are of one section.",
        )
    logger.info("section %s: %d spots of the spot file have no counts", section, len(spots) - len(kept))
    where = spots.loc[kept]
    obs = {Obs.IN_TISSUE: LegacyST.SELECTED, Obs.ARRAY_ROW: LegacyST.Y, Obs.ARRAY_COL: LegacyST.X}
    section_data = AnnData(
        csr_matrix(counts.loc[kept].to_numpy().astype(np.int32)),
        obs=pd.DataFrame({ours.value: where[theirs].astype(np.int64) for ours, theirs in obs.items()}, index=kept),
    )
    section_data.obs_names.name = None
    section_data.var_names = counts.columns.astype(str)
    section_data.var[GENE_IDS] = counts.columns.astype(str)
    section_data.obsm[SPATIAL] = where[[LegacyST.PIXEL_X, LegacyST.PIXEL_Y]].to_numpy(np.float64)
    section_data.uns[FACTS] = {
        Fact.NAME.value: section,
        Fact.LATTICE.value: "square",
        Fact.PITCH_UM.value: PITCH_UM,
        Fact.SPOT_UM.value: SPOT_UM,
        Fact.UNMATCHED.value: len(counts) - len(kept),
    }
    return section_data
