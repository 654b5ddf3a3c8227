"""Legacy spatial transcriptomics in the her2st layout: count table, spot file and H&E image of one section."""

from __future__ import annotations

import io
import logging
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy.sparse import csr_matrix

from spamcaf.errors import InputError, did_you_mean, require_columns
from spamcaf.limits import (
    COUNTS_RATIO,
    GIB,
    MAX_COLUMNS,
    MAX_GENES,
    available_bytes,
    opened,
    require_table,
)
from spamcaf.names import GENE_IDS, LegacyST, Obs, SectionField
from spamcaf.readers import files
from spamcaf.readers.files import SectionQuery, SectionReader, only_one, reading, require_once, unpacked
from spamcaf.readers.matrix import counts_problem

if TYPE_CHECKING:
    from anndata import AnnData

logger = logging.getLogger(__name__)

PITCH_UM, SPOT_UM = 200.0, 100.0
MAX_COUNTS_BYTES, NUMBER_BYTES = 64 * GIB, 4  # a digit and its separator, 2 bytes, become a number of 8
INDICES = [LegacyST.X.value, LegacyST.Y.value]
PIXELS = [LegacyST.PIXEL_X.value, LegacyST.PIXEL_Y.value]
OBS = {Obs.IN_TISSUE.value: LegacyST.SELECTED, Obs.ARRAY_ROW.value: LegacyST.Y, Obs.ARRAY_COL.value: LegacyST.X}


class LegacySTReader(SectionReader):
    """One section of legacy spatial transcriptomics: a square lattice of 100 um spots, 200 um apart.

    Its folder holds `ST-cnts`, `ST-spotfiles` and `ST-imgs`. Rows are joined to spots by their id, `XxY`.
    """

    kind = "legacy ST"

    def read(self) -> AnnData:
        """Return the section, see `SectionReader`; symbols stand for gene ids, of which the layout has none."""
        name = self.query.section
        counts = read_counts(_table(self.path, name, LegacyST.COUNTS))
        spots = read_spots(_table(self.path, name, LegacyST.SPOTS))
        kept = counts.index[counts.index.isin(spots.index)]
        if not len(kept):
            raise InputError(
                f"no spot of {name} in common: {counts.index[0]} in the counts, "
                f"{spots.index[0] if len(spots) else 'none'} in the spot file.",
                "the same spots, named <x>x<y>.",
                "Check that both files are of one section.",
            )
        logger.info("section %s: %d spots of the spot file have no counts", name, len(spots) - len(kept))
        where, genes = spots.loc[kept], counts.columns.astype(str)
        facts = {SectionField.NAME.value: name, SectionField.UNMATCHED.value: len(counts) - len(kept)}
        return files.make_section(
            csr_matrix(counts.loc[kept].to_numpy().astype(np.int32)),
            pd.DataFrame({ours: where[theirs].astype(np.int64) for ours, theirs in OBS.items()}).rename_axis(None),
            pd.DataFrame({GENE_IDS: genes}, index=genes),
            where[PIXELS].to_numpy(np.float64),
            facts | files.lattice_facts("square", PITCH_UM, SPOT_UM),
        )

    def sources(self) -> list[Path]:
        """Return both tables."""
        return [_table(self.path, self.query.section, part) for part in (LegacyST.COUNTS, LegacyST.SPOTS)]

    def image(self) -> Path:
        """Return the image, `ST-imgs/<patient>/<section>/*`."""
        section, folder = self.query.section, self.path / LegacyST.IMAGES
        images = files.slides_among(sorted(p for p in folder.rglob("*") if files.is_image(p)))
        own = [p for p in images if section in (files.image_stem(p), p.parent.name)]
        if not own:
            names = {p.parent.name if p.parent != folder else files.image_stem(p) for p in images}
            raise _no_section(section, folder, names)
        found = [p for p in own if files.image_stem(p) == section] or own
        return files.only_image(found, f"files of section '{section}' in {folder}")


def find(query: SectionQuery) -> LegacySTReader | None:
    """Return the section, or None where no folder of legacy ST is; raise InputError where one lacks this section."""
    for folder in query.folders:
        if any((folder / part).is_dir() for part in (LegacyST.COUNTS, LegacyST.SPOTS)):
            _table(folder, query.section, LegacyST.COUNTS)
            return LegacySTReader(folder, query)
    return None


def read_counts(path: Path, separator: str = "\t") -> pd.DataFrame:
    """Return the counts (spot, gene), indexed by spot id; raise InputError unless they are raw and whole."""
    with reading(path, f"a table separated by {'tabs' if separator == chr(9) else 'commas'}"):
        with opened(path, ratio=COUNTS_RATIO) as file:
            first = require_table(file, separator, MAX_GENES, path)
        if not first.strip():
            raise ValueError("it begins with nothing")
        genes = pd.read_csv(io.BytesIO(first), sep=separator, header=None, dtype=str, keep_default_na=False).iloc[0, 1:]
        available = available_bytes()
        with opened(path, MAX_COUNTS_BYTES if available is None else available // NUMBER_BYTES, COUNTS_RATIO) as file:
            table = pd.read_csv(file, sep=separator, index_col=0)
        texts = [str(column) for column, kind in table.dtypes.items() if kind.kind not in "iuf"]
        problem = f"text in column {texts[0]}" if texts else counts_problem(csr_matrix(table.to_numpy()))
    if problem is not None:
        next_step = "Use the count table as published, not a normalised one."
        raise InputError(f"{path} holds {problem}.", "raw UMI counts, spots in rows and genes in columns.", next_step)
    # pandas renames the second of two equal columns
    require_once(pd.Index(genes), "gene", path, "Remove the wrong one.")
    require_once(table.index, "spot", path, "Remove the wrong one.")
    return table


def read_spots(path: Path) -> pd.DataFrame:
    """Return the spots, indexed by their id `XxY`: x and y (int64), pixel_x and pixel_y (px), and selected, 0 or 1.

    All are selected where the file has no such column. Raises InputError.
    """
    with reading(path, "a tab-separated table"):
        content = unpacked(path)
        require_table(io.BytesIO(content), "\t", MAX_COLUMNS, path)
        spots = pd.read_csv(io.BytesIO(content), sep="\t", encoding="utf-8-sig")
    require_columns(list(spots.columns), [*INDICES, *PIXELS], str(path))
    if LegacyST.SELECTED not in spots:
        spots[LegacyST.SELECTED] = 1
    spots = spots[[*INDICES, *PIXELS, LegacyST.SELECTED]].apply(pd.to_numeric, errors="coerce").astype(np.float64)
    if not np.isfinite(spots).all(axis=None):
        raise InputError(f"{path} has spots without pixel coordinates.", "numbers.", "Fetch the spot file again.")
    if (spots[INDICES] % 1).any(axis=None) or not spots[LegacyST.SELECTED].isin((0, 1)).all():
        wrong = f"fractional x or y, or `selected` other than 0 and 1, in {path}."
        raise InputError(wrong, "array indices.", "Fetch it again.")
    spots = spots.astype(dict.fromkeys(INDICES, np.int64))
    spots.index = spots[LegacyST.X].astype(str) + "x" + spots[LegacyST.Y].astype(str)
    require_once(spots.index, "spot", path, "Remove the wrong one.")
    return spots


def _table(root: Path, section: str, part: LegacyST) -> Path:
    """Return the counts or the spot file of `section`; raise InputError naming what is there instead."""
    folder, ending = root / part, "_selection" if part is LegacyST.SPOTS else ""
    if not folder.is_dir():
        raise InputError(
            f"no folder {folder}.",
            f"a folder with {LegacyST.COUNTS}, {LegacyST.SPOTS} and {LegacyST.IMAGES}.",
            "Pass the folder that holds them: --params section=C2,raw_root=<folder>.",
        )
    paths = [folder / f"{section}{ending}{suffix}" for suffix in (".tsv", ".tsv.gz")]
    found = [path for path in paths if path.is_file()]
    if not found:
        names = {p.name.split(".")[0].removesuffix(ending) for p in folder.glob("[!.]*.tsv*")}
        raise _no_section(section, folder, names)
    return only_one(found, f"files of section '{section}' in {folder}", "one.", "Move the others away.")


def _no_section(section: str, folder: Path, names: set[str]) -> InputError:
    found = f"no section '{section}' in {folder}; there are {files.named(sorted(names)) or 'none'}."
    next_step = f"{did_you_mean(section, names)}Choose one that exists: --params section=<name>."
    return InputError(found, "one file of the section.", next_step)
