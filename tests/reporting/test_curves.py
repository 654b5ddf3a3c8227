"""Training curves average the folds."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from spamcaf.reporting.curves import plot_training_curves


@pytest.fixture
def log() -> pd.DataFrame:
    """Return two folds of three epochs; fold 1 lies 2 above fold 0 in everything."""
    rows = [
        {"fold": fold, "epoch": epoch, "validation_pcc": 0.1 * epoch + 2 * fold}
        | dict.fromkeys(("loss", "l1", "l2", "l3", "l4"), 5.0 - epoch + 2 * fold)
        for fold in (0, 1)
        for epoch in (0, 1, 2)
    ]
    return pd.DataFrame(rows)


def test_two_panels_with_units_and_every_loss(log) -> None:
    left, right = plot_training_curves(log).axes
    assert left.get_xlabel() == right.get_xlabel() == "epoch"
    assert "loss" in left.get_ylabel()
    assert "PCC" in right.get_ylabel()
    labels = [text.get_text() for text in left.get_legend().get_texts()]
    assert labels == ["total", "L1 target", "L2 neighbours", "L3 global", "L4 fusion"]


def test_lines_are_means_and_bands_the_range(log) -> None:
    left, right = plot_training_curves(log).axes
    np.testing.assert_allclose(left.lines[0].get_ydata(), [6.0, 5.0, 4.0])
    np.testing.assert_allclose(right.lines[0].get_ydata(), [1.0, 1.1, 1.2])
    band = right.collections[0].get_paths()[0].vertices
    assert band[:, 1].min() == pytest.approx(0.0)
    assert band[:, 1].max() == pytest.approx(2.2)


def test_epochs_without_validation_are_left_out(log) -> None:
    log.loc[log["epoch"] == 1, "validation_pcc"] = np.nan
    _, right = plot_training_curves(log).axes
    assert right.lines[0].get_xdata().tolist() == [0, 2]


def test_missing_columns_are_named(log) -> None:
    with pytest.raises(ValueError, match=r"lacks the columns \['l3'\]"):
        plot_training_curves(log.drop(columns="l3"))
    with pytest.raises(ValueError, match="has 0 rows"):
        plot_training_curves(log.iloc[:0])


def test_a_log_of_one_loss_has_one_panel(log) -> None:
    (axes,) = plot_training_curves(log.loc[log["fold"] == 0, ["fold", "epoch", "loss"]]).axes
    assert axes.get_ylabel() == "mean squared error on training spots"
    np.testing.assert_allclose(axes.lines[0].get_ydata(), [5.0, 4.0, 3.0])
