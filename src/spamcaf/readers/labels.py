"""Labels of spots, such as cortical layers: a table beside the sections."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from spamcaf.errors import InputError, is_fault_of_ours, require_columns
from spamcaf.names import LabelTable, Obs
from spamcaf.readers.files import UNREADABLE

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

logger = logging.getLogger(__name__)

MISSING = frozenset({"", "na", "nan", "none"})
"""Cells that say that a spot has no label, in lower case."""


def add_labels(section: AnnData, path: Path, name: str) -> None:
    """Write the labels in the table at `path` into `obs["label"]`, categorical; missing where a spot has none.

    The table is separated by tabs or commas, with a header that names barcode, label and perhaps section, or without
    one: barcode, label or barcode, section, label. Only rows of the section `name` count. Warns where there is no
    table; raises InputError when it is damaged or labels no spot.
    """
    import pandas as pd

    if not path.is_file():
        logger.warning("No labels of section %s: there is no %s", name, path)
        return
    table = _of_section(_read(path), name, path)
    labels = table.set_index(LabelTable.BARCODE)[LabelTable.LABEL]
    if not labels.index.is_unique:
        twice = labels.index[labels.index.duplicated()][0]
        raise InputError(f"barcode {twice} twice in {path}.", "one label per spot.", "Remove the wrong row.")
    of_spots = labels.reindex(section.obs_names)
    n_labelled = int(of_spots.notna().sum())
    if n_labelled == 0:
        raise InputError(
            f"no label for any spot: {section.obs_names[0]} in section {name}, "
            f"{labels.index[0] if len(labels) else 'none'} in {path}.",
            "the same barcodes.",
            "Check that the table is of this section, and that both have the '-1' at the end of barcodes or none.",
        )
    section.obs[Obs.LABEL] = pd.Categorical(of_spots.to_numpy())
    n_elsewhere = len(labels) - n_labelled
    logger.info("%d of %d spots labelled; %d labels of no spot", n_labelled, section.n_obs, n_elsewhere)


def _read(path: Path) -> pd.DataFrame:
    """Return the columns of `LabelTable` that the table has, as text."""
    import pandas as pd

    try:
        # not guessed by pandas: a label may hold any other separator
        first = pd.read_csv(path, sep="\x01", header=None, nrows=1, dtype=str, encoding="utf-8-sig").iloc[0, 0]
        separator = "\t" if "\t" in first else ","
        table = pd.read_csv(path, sep=separator, header=None, dtype=str, keep_default_na=False, encoding="utf-8-sig")
    except UNREADABLE as error:
        if is_fault_of_ours(error):
            raise
        raise InputError(f"{path} cannot be read ({error}).", "a table of labels.", "Fetch it again.") from error
    table = table.apply(lambda column: column.str.strip())
    header = table.iloc[0].str.lower().tolist()
    if LabelTable.BARCODE in header:
        require_columns(header, [LabelTable.BARCODE, LabelTable.LABEL], str(path))
        return table.iloc[1:].set_axis(header, axis=1)
    names = {2: [LabelTable.BARCODE, LabelTable.LABEL], 3: list(LabelTable)}.get(table.shape[1])
    if names is None:
        raise InputError(
            f"{table.shape[1]} columns without a header in {path}.",
            "barcode, label or barcode, section, label.",
            "Add a header line that names them.",
        )
    return table.set_axis(names, axis=1)


def _of_section(table: pd.DataFrame, name: str, path: Path) -> pd.DataFrame:
    if LabelTable.SECTION in table:
        sections = table[LabelTable.SECTION]
        if not (sections == name).any():
            raise InputError(
                f"no section '{name}' in {path}; there are {', '.join(sections.unique()[:20])}.",
                "labels of this section.",
                "Choose a section that is there, or remove `labels` from the catalog.",
            )
        table = table[sections == name]
    return table[~table[LabelTable.LABEL].str.lower().isin(MISSING)]
