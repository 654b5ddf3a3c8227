"""Gene maps show the right places with the right colours, y down."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib.collections import EllipseCollection
from mpl_toolkits.axes_grid1.anchored_artists import AnchoredSizeBar

from spamcaf.reporting.figures import choose_genes, plot_gene_maps


def _discs(axes) -> EllipseCollection:
    return next(found for found in axes.collections if isinstance(found, EllipseCollection))


def test_requested_genes_come_first_then_the_best(gene_scores) -> None:
    assert choose_genes(gene_scores, [], 2) == {"B": 0.7, "A": 0.5}
    assert list(choose_genes(gene_scores, ["A", "NOT_THERE", "A"], 3))[:2] == ["A", "B"]
    assert len(choose_genes(gene_scores, ["A"], 10)) == 3


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


def test_axes_are_equal_with_y_down_and_both_predictions_share_their_colours(make_section) -> None:
    faint, fainter = make_section(2), make_section()
    faint.X, fainter.X = faint.X / 2, fainter.X / 4
    figure = plot_gene_maps(make_section(), faint, fainter, {"A": 0.5}, 0.5)
    maps = [axes for axes in figure.axes if axes.get_title()]
    measured, *predicted = [_discs(axes).get_clim() for axes in maps]
    assert predicted[0] == predicted[1]
    assert predicted[0][1] < measured[1]
    for axes in maps:
        assert axes.get_aspect() == 1
        assert axes.get_ylim()[0] > axes.get_ylim()[1]
        assert axes.get_xlim()[0] < axes.get_xlim()[1]


def test_picture_spans_the_full_resolution_frame(make_section) -> None:
    figure = plot_gene_maps(make_section(), make_section(2), None, {"A": 0.5}, 0.5)
    assert list(figure.axes[0].images[0].get_extent()) == [0, 900, 700, 0]
    bare = plot_gene_maps(make_section(picture=False), make_section(2), None, {"A": 0.5}, 0.5)
    assert not bare.axes[0].images


def test_scale_bar_has_the_length_it_says(make_section) -> None:
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
    assert choose_genes(alone, [], 2) == {"B": 0.7, "A": 0.5}
