"""Naming the genes of an AnnData: an id per gene inside, unique symbols for display."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from spamcaf.errors import InputError
from spamcaf.names import GENE_IDS

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray

logger = logging.getLogger(__name__)

ID_COLUMNS = (GENE_IDS, "gene_id", "ensembl_id", "feature_id")
SYMBOL_COLUMNS = ("gene_symbols", "gene_symbol", "gene_name", "gene_names", "feature_name", "symbol")
"""Looked at where the index holds Ensembl ids."""
ENSEMBL = r"ENS[A-Z]*G\d{6,}(\.\d+)?"
ENSEMBL_SHARE = 0.9
"""Spike-ins and transgenes have other ids."""
FEATURE_TYPES, GENE_EXPRESSION = "feature_types", "Gene Expression"


def is_expression(var: pd.DataFrame) -> NDArray[np.bool_]:
    """Tell which rows of `var` are genes: antibodies and the like are not; all are where the file does not say."""
    if FEATURE_TYPES not in var:
        return var.index.notna()
    return (var[FEATURE_TYPES].astype(str) == GENE_EXPRESSION).to_numpy()


def name_genes(var: pd.DataFrame, source: str) -> pd.DataFrame:
    """Return a row per row of `var`: unique symbols as index, and the column gene_ids.

    Ids are the first id column there is, else an index of Ensembl ids, else the symbols. A symbol that stands for
    several genes keeps its name at the first; the others become `<symbol>_<gene id>`. Raises InputError when a gene
    occurs twice.
    """
    import pandas as pd

    symbols = _symbols(var)
    column = next((name for name in ID_COLUMNS if name in var), None)
    ids = symbols if column is None and not _is_ensembl(var.index) else _texts(var.index, symbols)
    if column is not None:
        ids = _texts(var[column], symbols)
    again = symbols.duplicated()
    names = symbols.where(~again, symbols + "_" + ids)
    twice = names.duplicated() | (again & (symbols == ids))
    if twice.any():
        raise InputError(
            f"gene {symbols[twice].iloc[0]} twice in {source}.",
            "each gene once, or different ids in var['gene_ids'].",
            "Remove or add up the repeated genes, and write the file again.",
        )
    if again.any():
        logger.info("%d genes share a symbol with another: named <symbol>_<gene id>", again.sum())
    return pd.DataFrame({GENE_IDS: ids.to_numpy(str)}, index=pd.Index(names.to_numpy(str)))


def _symbols(var: pd.DataFrame) -> pd.Series:
    index = _texts(var.index, None)
    column = next((name for name in SYMBOL_COLUMNS if name in var), None)
    return index if column is None or not _is_ensembl(var.index) else _texts(var[column], index)


def _is_ensembl(index: pd.Index) -> bool:
    return bool(index.astype(str).str.fullmatch(ENSEMBL).mean() >= ENSEMBL_SHARE)


def _texts(values: pd.Index | pd.Series, otherwise: pd.Series | None) -> pd.Series:
    """Return the values as text, those missing or empty replaced by `otherwise`."""
    import pandas as pd

    series = pd.Series(values.to_numpy(object))
    texts = series.astype(str)
    return texts if otherwise is None else texts.where(series.notna() & (texts != ""), otherwise)
