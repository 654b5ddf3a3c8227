"""Labels of spots, such as cortical layers: a table beside the sections."""

from __future__ import annotations

import io
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from spamcaf.errors import InputError, require_columns
from spamcaf.limits import MAX_COLUMNS, require_table
from spamcaf.names import LabelTable, Obs
from spamcaf.readers.files import named, reading, require_once, unpacked

if TYPE_CHECKING:
    from anndata import AnnData

logger = logging.getLogger(__name__)

MISSING = frozenset({"", "na", "nan", "none"})  # cells of spots without a label, in lower case
COLUMNS: dict[int, list[str]] = {2: [LabelTable.BARCODE, LabelTable.LABEL], 3: list(LabelTable)}
"""Of a table without a header, by their number."""


def add_labels(section: AnnData, path: Path, name: str) -> None:
    """Write the labels in a table into `obs["label"]`, categorical; missing where a spot has none.

    Warns where there is no table.

    Parameters
    ----------
    section
        Changed in place; spots are joined by barcode.
    path
        A table separated by tabs or commas, with a header that names barcode, label and perhaps section, or without
        one: barcode, label or barcode, section, label.
    name
        Of a table of several sections, only rows of this one count.

    Raises
    ------
    InputError
        When the table is damaged, or labels no spot.
    """
    if not path.exists():
        logger.warning("No labels of section %s: there is no %s", name, path)
        return
    table = _read(path)
    if LabelTable.SECTION in table:
        sections = table[LabelTable.SECTION]
        if not (sections == name).any():
            raise InputError(
                f"no section '{name}' in {path}; there are {named(sections)}.",
                "labels of this section.",
                "Choose a section that is there, or remove `labels` from the catalog.",
            )
        table = table[sections == name]
    table = table[~table[LabelTable.LABEL].str.lower().isin(MISSING)]
    labels = table.set_index(LabelTable.BARCODE)[LabelTable.LABEL]
    require_once(labels.index, "barcode", path, "Remove the wrong row.")
    of_spots = labels.reindex(section.obs_names)
    n_labelled = of_spots.notna().sum()
    if n_labelled == 0:
        raise InputError(
            f"no label for any spot: {section.obs_names[0]} in section {name}, "
            f"{labels.index[0] if len(labels) else 'none'} in {path}.",
            "the same barcodes.",
            "Check that the table is of this section, and that both have the '-1' at the end of barcodes or none.",
        )
    section.obs[Obs.LABEL] = pd.Categorical(of_spots.to_numpy())
    logger.info("%d of %d spots labelled; %d labels of no spot", n_labelled, section.n_obs, len(labels) - n_labelled)


def _read(path: Path) -> pd.DataFrame:
    """Return the columns of `LabelTable` that the table has, as text."""
    with reading(path, "a table of labels"):
        content = unpacked(path)
        first = next((line for line in io.BytesIO(content) if line.strip()), b"")
        mark = "\t" if b"\t" in first else ","  # not guessed by pandas: a label may hold any other separator
        require_table(io.BytesIO(content), mark, MAX_COLUMNS, path)
        text: dict[str, Any] = {"header": None, "dtype": str, "keep_default_na": False, "encoding": "utf-8-sig"}
        table = pd.read_csv(io.BytesIO(content), sep=mark, **text)
    table = table.apply(lambda column: column.str.strip())
    header = table.iloc[0].str.lower().tolist()
    if LabelTable.BARCODE in header:
        require_columns(header, COLUMNS[2], str(path))
        return table.iloc[1:].set_axis(header, axis=1)
    if table.shape[1] not in COLUMNS:
        found = f"{table.shape[1]} columns without a header in {path}."
        raise InputError(found, "barcode, label or barcode, section, label.", "Add a header line that names them.")
    return table.set_axis(COLUMNS[table.shape[1]], axis=1)
