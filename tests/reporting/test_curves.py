"""Training curves average the folds; beside them stands how much the network is believed."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from spamcaf.reporting.figures import plot_training_curves


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


@pytest.fixture
def programs() -> pd.DataFrame:
    table = {
        "program": [0, 1],
        "signal_fraction": [0.9, 0.4],
        "within_section_network_weight": [0.1, 0.3],
        "new_section_network_weight": [0.5, 0.0],
    }
    return pd.DataFrame(table)


@pytest.fixture
def none(programs) -> pd.DataFrame:
    return programs.iloc[:0]


def test_two_panels_with_units_and_every_loss(log, none) -> None:
    left, right = plot_training_curves(log, none).axes
    assert left.get_xlabel() == right.get_xlabel() == "epoch"
    assert "loss" in left.get_ylabel()
    assert "PCC" in right.get_ylabel()
    labels = [text.get_text() for text in left.get_legend().get_texts()]
    assert labels == ["total", "L1 target", "L2 neighbours", "L3 global", "L4 fusion"]


def test_lines_are_means_and_bands_the_range(log, none) -> None:
    left, right = plot_training_curves(log, none).axes
    np.testing.assert_allclose(left.lines[0].get_ydata(), [6.0, 5.0, 4.0])
    np.testing.assert_allclose(right.lines[0].get_ydata(), [1.0, 1.1, 1.2])
    band = right.collections[0].get_paths()[0].vertices
    assert band[:, 1].min() == pytest.approx(0.0)
    assert band[:, 1].max() == pytest.approx(2.2)


def test_epochs_without_validation_are_left_out(log, none) -> None:
    log.loc[log["epoch"] == 1, "validation_pcc"] = np.nan
    _, right = plot_training_curves(log, none).axes
    assert right.lines[0].get_xdata().tolist() == [0, 2]


def test_missing_columns_are_named(log, programs, none) -> None:
    with pytest.raises(ValueError, match=r"training log lacks the columns \['l3'\]"):
        plot_training_curves(log.drop(columns="l3"), programs)
    with pytest.raises(ValueError, match=r"program log lacks the columns \['signal_fraction'\]"):
        plot_training_curves(log, programs.drop(columns="signal_fraction"))
    with pytest.raises(ValueError, match="0 rows"):
        plot_training_curves(log.iloc[:0], none)


def test_a_log_of_one_loss_has_one_panel(log, none) -> None:
    (axes,) = plot_training_curves(log.loc[log["fold"] == 0, ["fold", "epoch", "loss"]], none).axes
    assert axes.get_ylabel() == "mean squared error on training spots"
    np.testing.assert_allclose(axes.lines[0].get_ydata(), [5.0, 4.0, 3.0])


def test_the_networks_share_of_each_program_is_a_bar(log, programs) -> None:
    *_, axes = plot_training_curves(log, programs).axes
    assert [text.get_text() for text in axes.get_xticklabels()] == ["1", "2"]
    measured, unmeasured = axes.containers
    assert [bar.get_height() for bar in measured] == [0.1, 0.3]
    assert [bar.get_height() for bar in unmeasured] == [0.5, 0.0]
    assert [line[0][1] for line in axes.collections[0].get_segments()] == [0.9, 0.4]


def test_without_a_network_only_the_programs_are_shown(log, programs) -> None:
    (axes,) = plot_training_curves(log.iloc[:0], programs).axes
    assert axes.get_ylabel() == "network's share"
