"""Legacy spatial transcriptomics in the her2st layout: count table, spot file and H&E image of one section."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from spamcaf.errors import InputError, require_columns
from spamcaf.names import GENE_IDS, SECTION_METADATA, SPATIAL, LegacyST, Obs, SectionField
from spamcaf.readers.files import image_stem, is_image, reading, slides_among, the_one
from spamcaf.slides.open import open_slide

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

    from spamcaf.histology.slide import Slide
    from spamcaf.readers.files import SectionQuery


def read_counts(path: Path) -> pd.DataFrame:
    """Return the counts (spot, gene), indexed by spot id; raise InputError unless they are raw and whole."""
    import numpy as np
    import pandas as pd

    with reading(path, "a tab-separated table"):
        genes = pd.read_csv(path, sep="\t", header=None, nrows=1, dtype=str, keep_default_na=False).iloc[0, 1:]
        table = pd.read_csv(path, sep="\t", index_col=0)
    wrong = [str(c) for c, kind in table.dtypes.items() if kind.kind not in "iuf"]
    values = None if wrong else table.to_numpy()
    if values is None or not values.any() or not np.isfinite(values).all() or (values < 0).any() or (values % 1).any():
        raise InputError(
            f"{path} holds "
            + (f"text in column {wrong[0]}." if wrong else "no, negative, missing or fractional counts."),
            "raw UMI counts, spots in rows and genes in columns.",
            "Use the count table as published, not a normalised one.",
        )
    if values.max() > np.iinfo(np.int32).max:
        raise InputError(f"values above 2^31 in {path}.", "raw UMI counts.", "Fetch the count table again.")
    # pandas renames the second of two equal columns
    _require_once(pd.Index(genes), "gene", path)
    _require_once(table.index, "spot", path)
    return table


def _require_once(names: pd.Index, what: str, path: Path) -> None:
    if not names.is_unique:
        raise InputError(
            f"{what} {names[names.duplicated()][0]} twice in {path}.", "each once.", "Remove the wrong one."
        )


def read_spots(path: Path) -> pd.DataFrame:
    """Return the spots, indexed by their id `XxY`: x and y (int64), pixel_x and pixel_y (px), and selected, 0 or 1.

    All are selected where the file does not say. Raises InputError.
    """
    import numpy as np
    import pandas as pd

    with reading(path, "a tab-separated table"):
        spots = pd.read_csv(path, sep="\t", encoding="utf-8-sig")
    columns: list[str] = [LegacyST.X, LegacyST.Y, LegacyST.PIXEL_X, LegacyST.PIXEL_Y]
    require_columns(list(spots.columns), columns, str(path))
    if LegacyST.SELECTED not in spots:
        spots[LegacyST.SELECTED] = 1
    numbers = spots[[*columns, LegacyST.SELECTED]].apply(pd.to_numeric, errors="coerce").astype(np.float64)
    if not np.isfinite(numbers).all(axis=None):
        raise InputError(f"{path} has spots without pixel coordinates.", "numbers.", "Fetch the spot file again.")
    whole = numbers[[LegacyST.X, LegacyST.Y]].round().astype(np.int64)
    if (whole != numbers[[LegacyST.X, LegacyST.Y]]).any(axis=None) or not numbers[LegacyST.SELECTED].isin((0, 1)).all():
        raise InputError(
            f"fractional x or y, or `selected` other than 0 and 1, in {path}.", "array indices.", "Fetch it again."
        )
    spots = numbers.assign(**whole)
    spots.index = whole[LegacyST.X].astype(str) + "x" + whole[LegacyST.Y].astype(str)
    _require_once(spots.index, "spot", path)
    return spots


logger = logging.getLogger(__name__)

PITCH_UM = 200.0
SPOT_UM = 100.0
TABLE_SUFFIXES = (".tsv", ".tsv.gz")


@dataclass(frozen=True)
class LegacySTReader:
    """One section of legacy spatial transcriptomics: a square lattice of 100 um spots, 200 um apart.

    `folder` holds `ST-cnts`, `ST-spotfiles` and `ST-imgs`. Rows are joined to spots by their id, `XxY`.
    """

    folder: Path
    query: SectionQuery
    kind: str = "legacy ST"

    def read(self) -> AnnData:
        """Return the section, see `SectionReader`; symbols stand for gene ids, of which the layout has none."""
        counts = read_counts(_table(self.folder, self.query.section, LegacyST.COUNTS))
        spots = read_spots(_table(self.folder, self.query.section, LegacyST.SPOTS))
        return _join(counts, spots, self.query.section)

    def open_slide(self) -> Slide:
        """Return the full-resolution image, see `SectionReader`: `ST-imgs/<patient>/<section>/*`."""
        return open_slide(self.query.image or _image(self.folder, self.query.section))


def find(query: SectionQuery) -> LegacySTReader | None:
    """Return the section that is wanted, or None where no folder of legacy ST is.

    Raises InputError where there is one without this section.
    """
    for folder in query.folders:
        if any((folder / part).is_dir() for part in (LegacyST.COUNTS, LegacyST.SPOTS)):
            _table(folder, query.section, LegacyST.COUNTS)
            return LegacySTReader(folder, query)
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
    section_data.uns[SECTION_METADATA] = {
        SectionField.NAME.value: section,
        SectionField.LATTICE.value: "square",
        SectionField.PITCH_UM.value: PITCH_UM,
        SectionField.SPOT_UM.value: SPOT_UM,
        SectionField.UNMATCHED.value: len(counts) - len(kept),
    }
    return section_data
