"""The words a reader sees for models, scores, protocols and figures."""

from __future__ import annotations

from typing import NamedTuple

from spamcaf.names import Metric, Model


class Wording(NamedTuple):
    """A short label and what it means."""

    label: str
    meaning: str


MODELS: dict[str, str] = {
    Model.SPAMCAF: "SpaMCAF",
    Model.PROGRAM_GP: "Program Gaussian process",
    Model.RELEASED: "Released network (replica)",
    Model.GENE_MEAN: "Gene mean",
    Model.IDW: "Inverse distance, 8 neighbours",
    Model.KRIGING: "Kriging",
    Model.RIDGE: "Ridge on image features",
    Model.KRIGING_RIDGE_PROGRAMS: "Kriging + ridge on 5 programs",
    Model.NEAREST_SPOT: "Nearest spot",
}

METRICS: dict[Metric, Wording] = {
    Metric.PCC_MEAN: Wording("PCC, mean", "Pearson correlation of a gene over the places scored, mean over genes"),
    Metric.PCC_MEDIAN: Wording("PCC, median", "the same, median over genes"),
    Metric.PCC_TOP50: Wording("PCC, top 50", "the same, mean of the model's own 50 best genes"),
    Metric.SPEARMAN_MEAN: Wording("Spearman", "rank correlation, mean over genes"),
    Metric.MSE: Wording("MSE", "mean squared error of log1p CP10k, mean over genes; lower is better"),
    Metric.MAE: Wording("MAE", "mean absolute error, lower is better"),
    Metric.RMSE: Wording("RMSE", "root of each gene's mean squared error, mean over genes; lower is better"),
    Metric.SHARE_ABOVE: Wording("PCC > 0.3", "share of genes above 0.3"),
    Metric.UNDEFINED: Wording("Undefined", "genes without a defined correlation, counted as 0"),
    Metric.VARIANCE_RATIO: Wording("Variance ratio", "predicted / measured variance, median over genes; 1 is right"),
    Metric.MORAN_RATIO: Wording(
        "Moran ratio", "predicted / measured spatial autocorrelation; above 1 smoother than the measurement"
    ),
}

PROTOCOLS: dict[str, str] = {
    "random": "single spots, drawn uniformly at random",
    "block": "whole blocks of tissue, so that no hidden spot has a measured neighbour inside its window",
    "section": "the whole section: everything was learned on other sections",
}

FIGURES: dict[str, Wording] = {
    "overlay": Wording("Section check", "The spots drawn on the picture, with the edge of the tissue that was found."),
    "training_curves": Wording(
        "Training",
        "Losses and validation correlation by epoch; lines are means over folds, bands their range. "
        "Beside them, for each gene program, the network's share in the mix with the Gaussian process.",
    ),
    "maps": Wording(
        "Gene maps",
        "Per gene: measured spots, prediction at hidden spots, and the super-resolved map where there is one. "
        "The two predictions share one colour range, the measured spots have their own.",
    ),
}
