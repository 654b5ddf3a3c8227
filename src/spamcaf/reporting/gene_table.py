"""The table of genes: each with its scores, those of the best baseline, and whether the two can be told apart."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

if TYPE_CHECKING:
    from anndata import AnnData

COLUMNS = {
    "gene": ("Gene", "symbol"),
    "ours": ("PCC", "Pearson correlation at hidden spots"),
    "baseline": ("Baseline", "the same of the baseline with the best mean PCC"),
    "difference": ("Difference", "PCC minus that of the baseline"),
    "outcome": (
        "Outcome",
        "better or worse where the 95 % interval of the difference, by bootstrap over spots, excludes 0",
    ),
    "spearman": ("Spearman", "rank correlation"),
    "pearson_depth_removed": ("Depth removed", "partial correlation given the sequencing depth"),
    "rmse": ("RMSE", "root mean squared error of log1p CP10k"),
    "reachable_limit": ("Reachable", "PCC that the hidden spots' own other genes reach"),
    "ceiling": ("Ceiling", "PCC that the noise of counts allows"),
    "expression": ("Expression", "mean log1p CP10k of all measured spots"),
}
"""Label and meaning of the columns shown, in their order."""

_OF_THE_MODEL = [
    "gene", "pearson", "spearman", "pearson_depth_removed", "rmse", "ceiling", "reachable_limit", "difference_low",
    "difference_high",
]  # fmt: skip


def tabulate_genes(gene_scores: pd.DataFrame, model: str, baseline: str | None, expression: AnnData) -> pd.DataFrame:
    """Return a row per gene, best predicted first: the `COLUMNS`, and the variance of the measured expression.

    Parameters
    ----------
    gene_scores : DataFrame
        A row per model and gene, as `build_scores` returns it.
    model, baseline : str
        The run's model, and the baseline to compare with; None where there is none.
    expression : AnnData
        The measured spots, X as log1p CP10k.
    """
    rows = gene_scores[gene_scores["model"] == model].reindex(columns=_OF_THE_MODEL)
    theirs = gene_scores[gene_scores["model"] == baseline].set_index("gene")["pearson"]
    measured = np.asarray(expression.X)
    moments = {"expression": measured.mean(axis=0, dtype=np.float64), "variance": measured.var(axis=0)}
    levels = pd.DataFrame(moments, expression.var_names)
    genes = rows.rename(columns={"pearson": "ours"}).assign(baseline=rows["gene"].map(theirs))
    genes = genes.join(levels, on="gene")
    genes["difference"] = genes["ours"] - genes["baseline"]
    # a table of an earlier version has no intervals: then any difference counts
    low, high = (genes[f"difference_{end}"].fillna(genes["difference"]) for end in ("low", "high"))
    genes["outcome"] = np.select([low > 0, high < 0], ["win", "loss"], "level")
    return genes.sort_values("ours", ascending=False, kind="stable", ignore_index=True)


def count_outcomes(genes: pd.DataFrame) -> dict[str, int]:
    """Return the number of genes: higher than the baseline, lower, and those of them beyond their interval."""
    higher, lower = genes["difference"] > 0, genes["difference"] < 0
    win, loss = genes["outcome"] == "win", genes["outcome"] == "loss"
    return {"higher": int(higher.sum()), "lower": int(lower.sum()), "win": int(win.sum()), "loss": int(loss.sum())}
