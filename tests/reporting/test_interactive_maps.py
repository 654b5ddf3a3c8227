"""The data of the interactive maps: which genes, places and values to what precision, and a bounded size."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from spamcaf.reporting import interactive_maps
from spamcaf.reporting.figures import nearest_px
from spamcaf.reporting.interactive_maps import choose_map_genes, map_data


def _decoded(text: str, kind: str) -> np.ndarray:
    return np.frombuffer(base64.b64decode(text), kind)


def _values(gene: dict, number: int) -> np.ndarray:
    found = gene["maps"][number]
    low, high = found["range"]
    return low + _decoded(found["values"], "u1") / 255 * (high - low)


@pytest.fixture
def sections(make_section: Callable) -> tuple:
    measured, recovered, finer = make_section(), make_section(3), make_section(2)
    finer.X = finer.X / 3
    finer.layers["sd"] = np.full(finer.shape, 0.5, np.float32)
    return measured, recovered, finer


def test_values_and_places_are_kept_to_a_step(sections: tuple) -> None:
    data = map_data(*sections, {"B": "Predicted best"}, 0.5)
    assert [panel["name"] for panel in data["panels"]] == [
        "Measured",
        "Predicted at hidden spots",
        "Super-resolved",
        "Standard deviation",
    ]
    longest = max(data["frame"])
    for number, section in enumerate(sections):
        expected = section[:, "B"].to_df()["B"].to_numpy()
        np.testing.assert_allclose(_values(data["genes"][0], number), expected, atol=np.ptp(expected) / 255)
        place = data["sites"][number]
        xy = np.column_stack([_decoded(place["x"], "<u2"), _decoded(place["y"], "<u2")]) / 65535 * longest
        steps = np.diff(xy, axis=0)
        np.testing.assert_allclose(steps, np.diff(section.obsm["spatial"], axis=0), atol=longest / 65535 * 2)
        # of a closed surface, half the diagonal of a cell between neighbours
        radius = nearest_px(section.obsm["spatial"]) * 0.8 if number == 2 else 55 / 2
        assert place["radius"] * longest == pytest.approx(radius, rel=1e-3)
    np.testing.assert_allclose(_values(data["genes"][0], 3), 0.5)


def test_both_predictions_share_their_colours(sections: tuple) -> None:
    limits = [found["limits"] for found in map_data(*sections, {"A": ""}, 0.5)["genes"][0]["maps"]]
    assert limits[1] == limits[2] != limits[0]


def test_the_image_is_the_part_under_the_sites(sections: tuple) -> None:
    finer = sections[2]
    image = np.zeros((70, 90, 3), np.uint8)
    image[:, 45:] = 255  # dark up to 450 px of the full image, bright beyond
    finer.uns["spatial"]["lib"]["images"]["hires"] = image
    data = map_data(*sections, {"A": ""}, 0.5)
    shown = np.asarray(Image.open(io.BytesIO(base64.b64decode(data["image"].split(",")[1]))).convert("L"))
    width, height = data["frame"]
    assert shown.shape[1] / shown.shape[0] == pytest.approx(width / height, rel=0.03)
    row = shown[shown.shape[0] // 2]
    outside, edge = np.flatnonzero(row < 128)[[0, -1]] / shown.shape[1] * width
    # the frame begins 1.5 pitches before the first spot, at 100 px; white is what lies outside the image
    assert (outside, edge) == pytest.approx((50, 500), abs=15)


def test_without_an_image_or_a_deviation(make_section: Callable) -> None:
    data = map_data(make_section(), make_section(3), make_section(2, image=False), {"A": ""}, 0.5)
    assert data["image"] == "" and len(data["panels"]) == len(data["genes"][0]["maps"]) == 3


def test_the_size_is_bounded(sections: tuple, monkeypatch: pytest.MonkeyPatch) -> None:
    genes = {"A": "", "B": "", "C": ""}
    n_bytes = sum(len(section) for section in sections) + len(sections[2])
    monkeypatch.setattr(interactive_maps, "_MAX_BYTES", 2 * n_bytes)
    assert [gene["name"] for gene in map_data(*sections, genes, 0.5)["genes"]] == ["A", "B"]
    monkeypatch.setattr(interactive_maps, "_MAX_SITES", 20)
    data = map_data(*sections, genes, 0.5)
    assert data["n_left_out"] == [32, 0, 12]  # of 48, 16 and 24 sites every third, all, every second
    assert len(data["genes"]) == 3


def test_named_best_median_worst_and_variable_genes() -> None:
    genes = pd.DataFrame({"gene": [f"g{i}" for i in range(100)], "variance": np.arange(100) % 50})
    chosen = choose_map_genes(genes, ["g60", "unknown"], 30)
    assert len(chosen) == 30
    assert next(iter(chosen)) == "g60" and "unknown" not in chosen
    groups = pd.Series(chosen).groupby(pd.Series(chosen)).groups
    assert list(groups["Predicted best"]) == [f"g{i}" for i in range(8)]
    assert list(groups["Predicted worst"]) == ["g99", "g98", "g97", "g96"]
    assert list(groups["Around the median"]) == ["g48", "g49", "g50", "g51"]
    assert list(groups["Most variable"])[:2] == ["g47", "g46"]  # g49 and g48 are there already
    assert list(choose_map_genes(genes.head(2), [], 30)) == ["g0", "g1"]
