"""Legacy spatial transcriptomics in the her2st layout: count table, spot file and H&E image of one section."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from kedro.io import AbstractDataset, DatasetError

from spamcaf.errors import InputError, require_columns
from spamcaf.names import FACTS, GENE_IDS, SPATIAL, Fact, LegacyST, Obs

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

PITCH_UM = 200.0
SPOT_UM = 100.0


class LegacySTSectionDataset(AbstractDataset["AnnData", "AnnData"]):
    """Read one legacy ST section; read-only.

    `filepath` is the folder that holds `ST-cnts`, `ST-spotfiles` and `ST-imgs`; `section` names the section (C2).
    Loads an AnnData with raw integer counts (CSR), `obsm["spatial"]` (x, y) full-resolution pixels, and the facts of
    the array (200 um square lattice, 100 um spots). Rows are joined to spots by their id, `XxY`.
    """

    def __init__(self, *, filepath: str, section: str | int, metadata: dict[str, Any] | None = None) -> None:
        self._folder = Path(filepath)
        self._section = str(section)
        self.metadata = metadata

    def load(self) -> AnnData:
        counts = _read_counts(section_file(self._folder, self._section, LegacyST.COUNTS))
        spots = _read_spots(section_file(self._folder, self._section, LegacyST.SPOTS))
        return _join(counts, spots, self._section)

    def save(self, data: AnnData) -> None:
        raise DatasetError("Raw sections are read-only. Save under another catalog entry.")

    def _exists(self) -> bool:
        return (self._folder / LegacyST.COUNTS).is_dir()

    def _describe(self) -> dict[str, Any]:
        return {"filepath": PurePosixPath(self._folder), "section": self._section}


def section_file(root: Path, section: str, kind: LegacyST) -> Path:
    """Return the file of `section` in the folder `kind` of a legacy ST root; raise InputError naming what is there."""
    folder = root / kind
    if not folder.is_dir():
        raise InputError(
            f"no folder {folder}.",
            f"a folder with {LegacyST.COUNTS}, {LegacyST.SPOTS} and {LegacyST.IMAGES}.",
            "Pass the folder that holds them: --params section=C2,raw_root=<folder>.",
        )
    if kind is LegacyST.IMAGES:
        candidates = [p for p in folder.glob(f"*/{section}/*") if p.suffix.lower() in {".jpg", ".jpeg", ".tif", ".png"}]
        names = sorted(p.name for p in folder.glob("*/*") if p.is_dir())
    else:
        pattern = f"{section}.tsv*" if kind is LegacyST.COUNTS else f"{section}_selection.tsv*"
        candidates = list(folder.glob(pattern))
        names = sorted(p.name.split(".")[0].removesuffix("_selection") for p in folder.glob("*.tsv*"))
    if len(candidates) != 1:
        found = (
            f"{len(candidates)} files of section '{section}' in {folder}."
            if candidates
            else (f"no section '{section}' in {folder}; there are {', '.join(names[:40]) or 'none'}.")
        )
        raise InputError(found, "exactly one.", "Choose one that exists: --params section=<name>.")
    return candidates[0]


def _read_counts(path: Path) -> pd.DataFrame:
    import numpy as np
    import pandas as pd

    try:
        table = pd.read_csv(path, sep="\t", index_col=0)
    except (OSError, EOFError, ValueError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read ({error}).", "a tab-separated table.", "Fetch it again.") from error
    wrong = [str(c) for c, kind in table.dtypes.items() if kind.kind not in "iuf"]
    values = None if wrong else table.to_numpy()
    if values is None or values.size == 0 or not np.isfinite(values).all() or (values < 0).any() or (values % 1).any():
        raise InputError(
            f"{path} holds "
            + (f"text in column {wrong[0]}." if wrong else "no, negative, missing or fractional counts."),
            "raw UMI counts, spots in rows and genes in columns.",
            "Use the count table as published, not a normalised one.",
        )
    if not table.index.is_unique:
        raise InputError(
            f"spot {table.index[table.index.duplicated()][0]} twice in {path}.", "each once.", "Remove the wrong row."
        )
    return table


def _read_spots(path: Path) -> pd.DataFrame:
    import pandas as pd

    try:
        spots = pd.read_csv(path, sep="\t")
    except (OSError, EOFError, ValueError) as error:
        raise InputError(f"{path} cannot be read ({error}).", "a tab-separated table.", "Fetch it again.") from error
    require_columns(list(spots.columns), [LegacyST.X, LegacyST.Y, LegacyST.PIXEL_X, LegacyST.PIXEL_Y], str(path))
    for column in (LegacyST.PIXEL_X, LegacyST.PIXEL_Y):
        spots[column] = pd.to_numeric(spots[column], errors="coerce").astype("float64")
    if spots[[LegacyST.PIXEL_X, LegacyST.PIXEL_Y]].isna().any().any():
        raise InputError(f"{path} has spots without pixel coordinates.", "numbers.", "Fetch the spot file again.")
    spots.index = pd.Index(spots[LegacyST.X].astype(str) + "x" + spots[LegacyST.Y].astype(str))
    if not spots.index.is_unique:
        twice = spots.index[spots.index.duplicated()][0]
        raise InputError(f"spot {twice} twice in {path}.", "each once.", "Remove the wrong row.")
    return spots


def _join(counts: pd.DataFrame, spots: pd.DataFrame, section: str) -> AnnData:
    import numpy as np
    import pandas as pd
    from anndata import AnnData
    from scipy.sparse import csr_matrix

    kept = [name for name in counts.index if name in spots.index]
    if not kept:
        raise InputError(
            f"no spot of {section} in common: {counts.index[0]} in the counts, {spots.index[0]} in the spot file.",
            "the same spots, named <x>x<y>.",
            "Check that both files are of one section.",
        )
    where = spots.loc[kept]
    obs = pd.DataFrame(
        {Obs.IN_TISSUE: 1, Obs.ARRAY_ROW: where[LegacyST.Y].to_numpy(), Obs.ARRAY_COL: where[LegacyST.X].to_numpy()},
        index=pd.Index(kept, name=None),
    )
    section_data = AnnData(csr_matrix(counts.loc[kept].to_numpy().astype(np.int32)), obs=obs)
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
