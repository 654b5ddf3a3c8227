"""Figures: gene maps, the section check with y down, and training curves."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from matplotlib.collections import EllipseCollection
from mpl_toolkits.axes_grid1.anchored_artists import AnchoredSizeBar

from spamcaf.reporting import figures
from spamcaf.reporting.figures import (
    choose_genes,
    plot_gene_maps,
    plot_overlay,
    plot_training_curves,
    warn_of_absent,
)


def _discs(axes) -> EllipseCollection:
    return next(found for found in axes.collections if isinstance(found, EllipseCollection))


def test_requested_genes_come_first_then_the_best(gene_scores) -> None:
    assert choose_genes(gene_scores, "spamcaf", [], 2) == {"B": 0.7, "A": 0.5}
    assert list(choose_genes(gene_scores, "spamcaf", ["A", "NOT_THERE", "A"], 3))[:2] == ["A", "B"]
    assert len(choose_genes(gene_scores, "spamcaf", ["A"], 10)) == 3


def test_requested_genes_that_are_not_predicted_are_named(caplog: pytest.LogCaptureFixture) -> None:
    panel = pd.DataFrame({"gene_ids": ["ENSG1", "ENSG2"]}, index=["A", "B"])
    warn_of_absent(["B", "ENSG1"], panel)
    assert not caplog.text
    warn_of_absent(["B", "ERBB2", "ENSG3"], panel)
    assert "report.genes: not in the panel and not shown: ERBB2, ENSG3; panel.include=<gene>" in caplog.text


def test_one_row_per_gene_and_one_column_per_kind(make_section) -> None:
    figure = plot_gene_maps(make_section(), make_section(2), make_section(), {"A": 0.5, "B": 0.25}, 0.5)
    maps = [axes for axes in figure.axes if axes.get_title()]
    assert len(maps) == 6
    assert [axes.get_title().split("\n")[0] for axes in maps[:3]] == [
        "A: measured",
        "A: predicted at hidden spots",
        "A: super-resolved",
    ]
    assert "held-out PCC 0.50" in maps[1].get_title()
    assert "held-out PCC 0.25" in maps[4].get_title()


def test_without_a_super_resolved_map(make_section) -> None:
    figure = plot_gene_maps(make_section(), make_section(2), None, {"A": 0.5}, 0.5)
    assert len([axes for axes in figure.axes if axes.get_title()]) == 2


@pytest.mark.parametrize("sparse", [False, True])
def test_discs_lie_where_the_spots_are_and_carry_their_values(make_section, sparse: bool) -> None:
    section, hidden = make_section(sparse=sparse), make_section(3, sparse=sparse)
    figure = plot_gene_maps(section, hidden, None, {"B": 0.5}, 0.5)
    discs = _discs(figure.axes[1])
    np.testing.assert_array_equal(discs.get_offsets(), hidden.obsm["spatial"])
    np.testing.assert_allclose(discs.get_array(), hidden.obsm["spatial"][:, 1] / 100)
    assert set(discs.get_widths()) == {55.0}


def test_a_super_resolved_map_is_a_closed_surface_that_ends_where_the_sites_do(make_section) -> None:
    section = make_section()
    figure = plot_gene_maps(section, make_section(2), section[:-1].copy(), {"A": 0.5}, 0.5)
    surface = figure.axes[2].images[-1]
    left, right, bottom, top = surface.get_extent()
    values = surface.get_array().filled(np.nan)
    height, width = values.shape

    def at(x: float, y: float) -> float:
        return values[int((y - top) / (bottom - top) * height), int((x - left) / (right - left) * width)]

    assert [at(x, y) for x in (100, 420, 460) for y in (100, 333)] == [1, 1, 4, 4, 5, 5]
    assert np.isnan(at(left + 1, top + 1))
    assert np.isnan(at(800, 600))  # the site that was left out
    assert not figure.axes[2].collections


def test_many_spots_are_drawn_as_a_surface_too(make_section, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(figures, "_MAX_DISCS", 30)
    figure = plot_gene_maps(make_section(), make_section(2), None, {"A": 0.5}, 0.5)
    assert not figure.axes[0].collections
    assert len(_discs(figure.axes[1]).get_offsets()) == 24


def test_axes_are_equal_with_y_down_and_both_predictions_share_their_colours(make_section) -> None:
    faint, fainter = make_section(2), make_section()
    faint.X, fainter.X = faint.X / 2, fainter.X / 4
    figure = plot_gene_maps(make_section(), faint, fainter, {"A": 0.5}, 0.5)
    maps = [axes for axes in figure.axes if axes.get_title()]
    measured, *predicted = [_discs(axes).get_clim() for axes in maps[:2]]
    predicted.append(maps[2].images[-1].get_clim())
    assert predicted[0] == predicted[1]
    assert predicted[0][1] < measured[1]
    for axes in maps:
        assert axes.get_aspect() == 1
        assert axes.get_ylim()[0] > axes.get_ylim()[1]
        assert axes.get_xlim()[0] < axes.get_xlim()[1]


def test_image_spans_the_full_resolution_frame(make_section) -> None:
    figure = plot_gene_maps(make_section(), make_section(2), None, {"A": 0.5}, 0.5)
    assert list(figure.axes[0].images[0].get_extent()) == [0, 900, 700, 0]
    bare = plot_gene_maps(make_section(image=False), make_section(2), None, {"A": 0.5}, 0.5)
    assert not bare.axes[0].images


def test_scale_bar_has_the_length_of_its_label(make_section) -> None:
    figure = plot_gene_maps(make_section(), make_section(2), None, {"A": 0.5}, 0.5)
    bar = next(artist for artist in figure.axes[0].artists if isinstance(artist, AnchoredSizeBar))
    assert bar.txt_label.get_text() == "100 µm"
    assert bar.size_bar.get_children()[0].get_width() == pytest.approx(100 / 0.5)


def test_millimetres_for_large_sections(make_section) -> None:
    figure = plot_gene_maps(make_section(), make_section(2), None, {"A": 0.5}, 10.0)
    bar = next(artist for artist in figure.axes[0].artists if isinstance(artist, AnchoredSizeBar))
    assert bar.txt_label.get_text() == "2 mm"


def test_a_constant_gene_can_be_drawn(make_section) -> None:
    figure = plot_gene_maps(make_section(), make_section(2), None, {"C": 0.0}, 0.5)
    figure.canvas.draw()
    low, high = _discs(figure.axes[0]).get_clim()
    assert high > low


def test_a_gene_outside_the_panel_is_an_error(make_section) -> None:
    with pytest.raises(ValueError, match="Genes Z are not among the 3 genes of the 'measured' section"):
        plot_gene_maps(make_section(), make_section(2), None, {"Z": 0.5}, 0.5)
    with pytest.raises(ValueError, match="No gene to draw"):
        plot_gene_maps(make_section(), make_section(2), None, {}, 0.5)


def test_where_released_was_fitted_alone_its_genes_are_chosen(gene_scores) -> None:
    alone = gene_scores.replace({"model": {"spamcaf": "released"}})
    assert choose_genes(alone, "released", [], 2) == {"B": 0.7, "A": 0.5}


IMAGE = np.full((60, 100, 3), 230, np.uint8)


def test_spots_are_scaled_to_the_thumbnail_with_y_down() -> None:
    axes = plot_overlay(IMAGE, np.array([[100.0, 200.0], [900.0, 500.0]]), 0.1).axes[0]
    np.testing.assert_allclose(axes.collections[0].get_offsets(), [[10, 20], [90, 50]])
    assert axes.get_ylim() == (60, 0)
    assert axes.get_xlim() == (0, 100)
    assert axes.get_title() == "2 spots, 0 outside the image"


def test_spots_outside_are_counted_and_still_shown() -> None:
    axes = plot_overlay(IMAGE, np.array([[-100.0, 200.0], [1100.0, 500.0], [500.0, 300.0]]), 0.1).axes[0]
    assert axes.get_title() == "3 spots, 2 outside the image"
    assert axes.get_xlim() == (-10, 110)


def test_outline_of_a_coarser_mask_lies_on_the_tissue() -> None:
    mask = np.zeros((6, 10), dtype=bool)
    mask[:, 5:] = True  # right half
    axes = plot_overlay(IMAGE, np.array([[500.0, 300.0]]), 0.1, mask).axes[0]
    outline = np.concatenate([path.vertices for path in axes.collections[1].get_paths()])
    np.testing.assert_allclose(outline[:, 0], 50.0)


@pytest.mark.parametrize("value", [True, False])
def test_a_mask_without_an_edge_draws_none(value: bool) -> None:
    axes = plot_overlay(IMAGE, np.array([[500.0, 300.0]]), 0.1, np.full((6, 10), value)).axes[0]
    assert len(axes.collections) == 1


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


def test_the_network_weight_of_each_program_is_a_bar(log, programs) -> None:
    *_, axes = plot_training_curves(log, programs).axes
    assert [text.get_text() for text in axes.get_xticklabels()] == ["depth", "1"]
    measured, unmeasured = axes.containers
    assert [bar.get_height() for bar in measured] == [0.1, 0.3]
    assert [bar.get_height() for bar in unmeasured] == [0.5, 0.0]
    assert [line[0][1] for line in axes.collections[0].get_segments()] == [0.9, 0.4]


def test_without_a_network_only_the_programs_are_shown(log, programs) -> None:
    (axes,) = plot_training_curves(log.iloc[:0], programs).axes
    assert axes.get_ylabel() == "network weight"
