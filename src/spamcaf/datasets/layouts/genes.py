"""Naming the genes of an AnnData: an id per gene inside, unique symbols for display."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import numpy as np

from spamcaf.datasets.layouts.texts import as_texts
from spamcaf.errors import InputError
from spamcaf.names import GENE_IDS

if TYPE_CHECKING:
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
OF_GENES = frozenset({"geneexpression", "gene", "gex", "rna"})
UNSAID = frozenset({"", "nan", "none", "na", "null"})
"""Both without case, spaces, underscores and other signs. Joining sections leaves genes of one of them without a type.
"""
MAX_NAMED = 10


def is_expression(var: pd.DataFrame) -> NDArray[np.bool_]:
    """Tell which rows of `var` are genes, by the column feature_types.

    A gene is what is called one, however it is spelled, and what has no type. Antibodies and other features are
    counted and named in a warning. Raises InputError where no gene is left.
    """
    if FEATURE_TYPES not in var:
        return np.ones(len(var), bool)
    types = as_texts(var[FEATURE_TYPES])
    plain = types.str.lower().str.replace(r"[^a-z0-9]", "", regex=True)
    is_gene: NDArray[np.bool_] = plain.isin(OF_GENES | UNSAID).to_numpy(bool)
    if is_gene.all():
        return is_gene
    others = types[~is_gene].value_counts()
    named = ", ".join(f"'{kind}' ({n})" for kind, n in others.iloc[:MAX_NAMED].items())
    if not is_gene.any():
        raise InputError(
            f"no gene among {len(var)} features: their {FEATURE_TYPES} are {named}.",
            f"'{GENE_EXPRESSION}' as the type of genes, or none.",
            "Correct the column, or remove it if all features are genes.",
        )
    logger.warning("%d of %d features are no genes and are left out: %s", (~is_gene).sum(), len(var), named)
    return is_gene


def name_genes(var: pd.DataFrame, source: str) -> pd.DataFrame:
    """Return a row per row of `var`: unique symbols as index, and the column gene_ids.

    Ids are the first id column there is, else an index of Ensembl ids, else the symbols. A symbol that stands for
    several genes keeps its name at the first; the others become `<symbol>_<gene id>`. Raises InputError when a gene
    occurs twice, or has no name.
    """
    import pandas as pd

    symbols = _symbols(var)
    column = next((name for name in ID_COLUMNS if name in var), None)
    ids = symbols if column is None and not _is_ensembl(var.index) else _texts(var.index, symbols)
    if column is not None:
        ids = _texts(var[column], symbols)
    symbols = symbols.where(symbols != "", ids)
    if (symbols == "").any():
        raise InputError(
            f"{(symbols == '').sum()} of {len(var)} genes without a name in {source}.",
            "a name or an id for each.",
            "Name them or leave them out, and write the file again.",
        )
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
    return bool(as_texts(index).str.fullmatch(ENSEMBL).mean() >= ENSEMBL_SHARE)


def _texts(values: pd.Index | pd.Series, otherwise: pd.Series | None) -> pd.Series:
    """Return the values as text, those missing or empty replaced by `otherwise`."""
    texts = as_texts(values)
    return texts if otherwise is None else texts.where(texts != "", otherwise)
