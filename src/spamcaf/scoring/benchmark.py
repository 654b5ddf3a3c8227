"""Models compared over sections, protocols and masks: means with intervals, and genes won and lost.

References
----------
.. [1] Owen (2007), The pigeonhole bootstrap, Annals of Applied Statistics 1, 386-411: rows and columns resampled.
.. [2] Wilcoxon (1945), Individual comparisons by ranking methods, Biometrics Bulletin 1, 80-83.
.. [3] Benjamini and Hochberg (1995), Controlling the false discovery rate, J. R. Stat. Soc. B 57, 289-300.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from spamcaf.names import display_name
from spamcaf.scoring.intervals import interval
from spamcaf.scoring.predictors import PREDICTORS

Floats = NDArray[np.float64]

ALL = "all"
"""The row of the mean over sections."""
MAX_FALSE = 0.05
MIN_PAIRS = 6  # fewer cannot reach a p value below 5 %, and would only weaken the test of the others
MAX_EXACT = 50  # pairs up to which the exact distribution of the signed-rank statistic is used
SCORE, MEANS = "pearson", ("spearman", "mse", "mae", "pearson_depth_removed", "ceiling", "reachable_limit")


def compare_models(gene_scores: pd.DataFrame, n_bootstrap: int, seed: int) -> pd.DataFrame:
    """Compare models by the mean over genes and masks of Pearson's correlation.

    Parameters
    ----------
    gene_scores : DataFrame
        A row per section, protocol, mask, model and gene, with the columns of `scoring.metrics.score_genes`. A gene may
        be missing in some masks: the panel is chosen on visible spots.
    n_bootstrap : int
        Resamples of genes and of masks, both with replacement [1]_, the same for all models.
    seed : int

    Returns
    -------
    DataFrame
        A row per protocol, section (and `all`, the mean of several) and model, best first: `pcc_mean`, `low` and
        `high` of the 95 % interval; against the best baseline of these rows, `difference` with its interval,
        `genes_won` and `genes_lost` of the genes; of `genes_tested`, those with 6 pairs of scores or more over masks
        (and sections), `significantly_won` and `significantly_lost`, whose signed-rank test [2]_ has a false discovery
        rate [3]_ below 5 %; means of other scores.
    """
    rows = []
    for protocol, of_protocol in gene_scores.groupby("protocol", sort=False):
        parts = {str(name): part for name, part in of_protocol.groupby("section", sort=False)}
        tables = {name: _by_gene(part) for name, part in parts.items()}
        models = list(dict.fromkeys(of_protocol["model"]))
        rng = np.random.default_rng(seed)
        draws = {name: _resample(table, n_bootstrap, rng) for name, table in tables.items()}
        means = {name: {m: float(np.nanmean(table[m])) for m in models} for name, table in tables.items()}
        for name, part in parts.items():
            names = {"protocol": protocol, "section": name}
            rows += _rows(means[name], draws[name], [tables[name]], part, names)
        if len(parts) > 1:
            mean = {m: float(np.mean([means[name][m] for name in parts])) for m in models}
            draw = {m: np.mean([draws[name][m] for name in parts], axis=0) for m in models}
            rows += _rows(mean, draw, list(tables.values()), of_protocol, {"protocol": protocol, "section": ALL})
    return pd.DataFrame(rows)


def _by_gene(scores: pd.DataFrame) -> pd.DataFrame:
    """Return a row per gene and a column per model and mask; NaN where the panel of a mask lacks a gene."""
    return scores.pivot_table(index="gene", columns=["model", "mask"], values=SCORE)


def _resample(table: pd.DataFrame, n: int, rng: np.random.Generator) -> dict[str, Floats]:
    """Return (resample,) means by model."""
    models = list(dict.fromkeys(table.columns.get_level_values(0)))
    n_genes, n_masks = table[models[0]].shape
    of_gene, of_mask = (rng.multinomial(k, np.full(k, 1 / k), n).astype(np.float64) for k in (n_genes, n_masks))
    draws = {}
    for model in models:
        values = table[model].to_numpy(np.float64)
        known = np.isfinite(values)
        total, count = (
            ((of_gene @ x) * of_mask).sum(axis=1) for x in (np.where(known, values, 0), known.astype(float))
        )
        draws[model] = total / np.maximum(count, 1)
    return draws


def _rows(
    means: dict[str, float],
    draws: dict[str, Floats],
    tables: list[pd.DataFrame],
    scores: pd.DataFrame,
    names: dict[str, Any],
) -> list[dict[str, Any]]:
    """Return the rows of one section, best model first."""
    best = max((m for m in means if m in PREDICTORS), key=means.__getitem__, default=None)
    others = scores.groupby("model")[[name for name in MEANS if name in scores]].mean()
    rows = []
    for model in sorted(means, key=lambda m: -means[m]):
        low, high = interval(draws[model])
        row = {**names, "model": model, "n_masks": scores["mask"].nunique(), "n_genes": scores["gene"].nunique()}
        row |= {"pcc_mean": means[model], "low": low, "high": high}
        if best is not None and model != best:
            row |= {"best_baseline": best, "difference": means[model] - means[best]}
            row["difference_low"], row["difference_high"] = interval(draws[model] - draws[best])
            row |= _wins(pd.concat([table[model] - table[best] for table in tables], axis=1).to_numpy())
        rows.append(row | others.loc[model].to_dict())
    return rows


def _wins(pairs: Floats) -> dict[str, int]:
    """Count genes by the sign of their mean difference, (gene, pair)."""
    mean, is_tested = np.nanmean(pairs, axis=1), np.isfinite(pairs).sum(axis=1) >= MIN_PAIRS
    is_clear = np.zeros(len(pairs), bool)
    is_clear[is_tested] = false_discovery(signed_rank_p(pairs[is_tested])) < MAX_FALSE
    counts = {"genes_won": mean > 0, "genes_lost": mean < 0}
    clear = {"significantly_won": is_clear & (mean > 0), "significantly_lost": is_clear & (mean < 0)}
    return {name: int(is_so.sum()) for name, is_so in (counts | {"genes_tested": is_tested} | clear).items()}


def signed_rank_p(differences: Floats) -> Floats:
    """Return the p value (gene,) of Wilcoxon's signed-rank test of (gene, pair); NaN and 0 are no pairs."""
    from scipy.stats import wilcoxon

    p = np.ones(len(differences))
    known = np.isfinite(differences) & (differences != 0)
    for n in np.unique(known.sum(axis=1)):
        rows = np.flatnonzero(known.sum(axis=1) == n)
        if n:  # genes of as many pairs at once
            pairs = differences[rows][known[rows]].reshape(len(rows), n)
            p[rows] = wilcoxon(pairs, axis=1, method="exact" if n <= MAX_EXACT else "asymptotic").pvalue
    return p


def false_discovery(p: Floats) -> Floats:
    """Return Benjamini and Hochberg's adjusted p values."""
    from scipy.stats import false_discovery_control

    return np.asarray(false_discovery_control(p)) if len(p) else p


def tables_of(table: pd.DataFrame) -> dict[str, list[list[str]]]:
    """Return `compare_models`' table as rows of text by protocol, header first: a column per section, and wins."""
    tables = {}
    for protocol, part in table.groupby("protocol", sort=False):
        sections, last = list(dict.fromkeys(part["section"])), part[part["section"] == part["section"].iloc[-1]]
        rows = [[f"{protocol}, mean PCC [95 %]", *map(str, sections), "genes won : lost (significantly)"]]
        for row in last.itertuples():
            cells = part[part["model"] == row.model].set_index("section").loc[sections]
            shown = [f"{c.pcc_mean:.3f} [{c.low:.3f}, {c.high:.3f}]" for c in cells.itertuples()]
            wins = "best baseline" if pd.isna(row.best_baseline) else _wins_text(row)
            rows.append([display_name(str(row.model)), *shown, wins])
        tables[str(protocol)] = rows
    return tables


def format_markdown(table: pd.DataFrame) -> str:
    """Format the table of `compare_models` as Markdown, one table per protocol."""
    blocks = []
    for head, *rows in tables_of(table).values():
        lines = [f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows)]
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks)


def _wins_text(row: Any) -> str:  # noqa: ANN401  a named tuple of pandas
    clear = f"{row.significantly_won:.0f} : {row.significantly_lost:.0f} of {row.genes_tested:.0f}"
    return f"{row.genes_won:.0f} : {row.genes_lost:.0f} ({clear if row.genes_tested else 'too few pairs'})"
