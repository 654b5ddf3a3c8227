"""The benchmarks run on tiny made-up arrays, and print complete tables."""

from __future__ import annotations

import runpy
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def _importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))


@pytest.fixture
def run(_importable: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Return a function that runs a script on tiny arrays in this process, and returns what it prints."""

    def run(script: str, *arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", [script, "--quick", *arguments])
        runpy.run_path(str(BENCHMARKS / script), run_name="__main__")
        return capsys.readouterr().out

    return run


def rows(text: str, title: str) -> dict[str, list[float]]:
    """Return the numbers of each row of the table under the first title that begins so."""
    lines = text.split(f"### {title}", 1)[1].splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("| ---"))
    found = {}
    for line in lines[start + 1 :]:
        if not line.startswith("|"):
            break
        name, *cells = (cell.strip() for cell in line.strip("|").split("|"))
        found[name] = [float(cell) for cell in cells if cell]
    return found


def test_accuracy_prints_every_table(run: Callable[..., str]) -> None:
    text = run("accuracy.py", "--sections", "A", "B", "--masks", "1")
    baselines = {"gene_mean", "idw", "kriging", "ridge", "kriging_ridge_programs", "depth_only"}
    for title in ("random, one", "random, visible", "block, halves", "block, quadrants"):
        assert set(rows(text, title)) == {"spamcaf", "program_gp"} | baselines
    assert {"ridge on RGB statistics", "ridge", "spamcaf"} <= set(rows(text, "leave one section out"))
    assert "nearest_spot" in rows(text, "grids against the truth")
    assert "released" in rows(text, "random, mask 0 only")
    assert set(rows(text, "dense features")) >= {"spamcaf, exact", "spamcaf, dense", "ridge, dense"}
    scores = rows(text, "random, one")
    assert scores["gene_mean"] == [0.0] * 2
    assert all(0 < value < 1 for value in scores["spamcaf"])
    assert "spamcaf / best baseline" in text


def test_training_prints_time_and_growth(run: Callable[..., str]) -> None:
    text = run("training.py", "--score-epochs", "1", "--threads", "1")
    time = rows(text, "Training")
    fit_s, _, whole_s, *_ = time["released, 1 epochs, 1 thread"]
    assert whole_s == pytest.approx(1000 * fit_s, abs=51)  # printed with one decimal
    growth = rows(text.replace("| - ", "| 0 ").replace("nan", "0"), "Growth")
    assert all(values[0] > 0 for name, values in growth.items() if name.isdigit())


@pytest.mark.usefixtures("_importable")
def test_a_loss_is_printed() -> None:
    from _table import Table, versus_best

    table = Table("t")
    for row, score in (("ours", 0.2), ("a", 0.25), ("b", 0.1)):
        table.add(row, "x", score)
    assert "ours / best baseline (a) by the mean: 0.800 x. **It loses.**" in versus_best(table, "ours", ("a", "b"))
    assert "**It loses.**" not in versus_best(table, "ours", ("b",))


@pytest.mark.usefixtures("_importable")
def test_rgb_statistics_are_of_each_tile_in_rgb_order() -> None:
    from _rgb import rgb_statistics

    from spamcaf.histology.slide import ArrayPixels, Slide
    from spamcaf.histology.tiles import WindowGeometry

    image = np.zeros((90, 90, 3), np.uint8)
    image[..., 0], image[:30, :30, 2] = 200, 50
    found = rgb_statistics(Slide(ArrayPixels(image, "x"), "x"), np.array([[45.0, 45.0]]), WindowGeometry(30, "30 px"))
    tiles = found.reshape(9, 6)
    assert tiles[0].tolist() == [200, 0, 50, 0, 0, 0]
    assert tiles[1:].tolist() == [[200, 0, 0, 0, 0, 0]] * 8


@pytest.mark.usefixtures("_importable")
@pytest.mark.parametrize("is_dense", [False, True])
def test_a_prepared_section_holds_each_sites_own_features(tmp_path: Path, is_dense: bool) -> None:
    import torch
    from _prepare import simulate_section
    from torch import Tensor, nn

    from spamcaf.histology.backbone import Backbone, BackboneIdentity
    from spamcaf.parameters import SimulationSettings

    class MeanColour(nn.Module):
        def forward(self, pixels: Tensor) -> Tensor:
            return self.forward_features(pixels).mean(dim=(2, 3))

        def forward_features(self, pixels: Tensor) -> Tensor:
            return nn.functional.avg_pool2d(pixels, 32).float()

    identity = BackboneIdentity("mean", "here", "0" * 64, "c", 3, "none")
    backbone = Backbone(MeanColour(), (0.0,) * 3, (1 / 255,) * 3, identity)
    settings = SimulationSettings(width_um=500, height_um=500, mpp=1.5, n_genes=100)
    section = simulate_section(settings, backbone, tmp_path, is_dense=is_dense)
    again = simulate_section(settings, backbone, tmp_path, is_dense=is_dense)
    assert len(section.grids) == 2 and [grid.factor for grid in section.grids] == [4, 16]
    for seen, kept in zip(
        (section.seen, *(g.seen for g in section.grids)), (again.seen, *(g.seen for g in again.grids)), strict=True
    ):
        rgb = torch.from_numpy(seen.rgb.reshape(-1, 9, 6)[..., :3])
        # bf16 and shrinking round; a raster's tiles do not lie exactly under a site's
        np.testing.assert_allclose(seen.windows, rgb, atol=12 if is_dense else 2)
        assert np.array_equal(kept.windows, seen.windows)


@pytest.mark.usefixtures("_importable")
def test_the_panel_and_the_fit_see_visible_spots_only() -> None:
    from _hiding import Hiding
    from _synthetic import OPTIONS, make_section

    from spamcaf.parameters import SplitSettings

    section = make_section("a", n_side=8, seed=0)
    hiding = Hiding.of(section, SplitSettings(), OPTIONS.panel)
    assert len(hiding.train) + len(hiding.hidden) == len(section)
    assert not set(hiding.train) & set(hiding.hidden)
    changed = make_section("a", n_side=8, seed=0)
    counts = changed.data.X.toarray()
    counts[hiding.hidden] = np.random.default_rng(0).permutation(counts[hiding.hidden], axis=1)
    changed.data.X = type(section.data.X)(counts)
    again = Hiding.of(changed, SplitSettings(), OPTIONS.panel)
    assert again.genes == hiding.genes
    assert np.array_equal(again.visible().measured.expression, hiding.visible().measured.expression)
    assert not np.array_equal(again.held_out().expression, hiding.held_out().expression)


@pytest.mark.usefixtures("_importable")
def test_a_missing_gene_is_a_column_of_zeros() -> None:
    from _synthetic import make_section

    section = make_section("a", n_side=6, seed=0)
    measured = section.measured(["g3", "absent", "g1"])
    assert not measured.expression[:, 1].any()
    assert np.array_equal(measured.expression[:, [0, 2]], section.measured(["g3", "g1"]).expression)
