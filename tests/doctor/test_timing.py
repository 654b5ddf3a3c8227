"""The time of a run is estimated from tiles, spots and genes, and from the speed of the backbone on this machine."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from spamcaf.datasets.inputs import BackboneDataset
from spamcaf.doctor import timing
from spamcaf.doctor.machine import Inputs, estimate_resources
from spamcaf.parameters import RunSettings
from tests.conftest import BACKBONE

DEFAULTS = RunSettings.model_validate({"tiles": {"dense": True}})
EXACT = RunSettings.model_validate({"tiles": {"dense": False}})
INPUTS = Inputs(n_spots=334, image_px=(3167, 3167), is_held_whole=False, mpp=0.6, pitch_um=100.0)
RESOURCES = estimate_resources(DEFAULTS, INPUTS, 1280)


def test_the_default_run_is_estimated_as_it_was_measured() -> None:
    """117 processor seconds in all, 48 of them for 1558 tiles; a section of 3909 spots took 860 beside its tiles."""
    assert timing.likely_tiles(DEFAULTS, INPUTS, RESOURCES) == pytest.approx(1558, rel=0.1)
    assert timing.rest_seconds(DEFAULTS, 334, 1336, 1000) == pytest.approx(117 - 48, rel=0.15)
    assert timing.rest_seconds(DEFAULTS, 3909, 15539, 1000) == pytest.approx(860, rel=0.2)
    assert timing.rest_seconds(RunSettings.model_validate({"fit": {"use_network": False}}), 334, 1336, 1000) < 40


def test_every_tile_counts_where_there_is_no_map_of_the_slide() -> None:
    exact = estimate_resources(EXACT, INPUTS, 1280)
    assert timing.likely_tiles(EXACT, INPUTS, exact) == exact.n_tiles
    tiny = replace(INPUTS, image_px=(300, 300))
    resources = estimate_resources(DEFAULTS, tiny, 1280)
    assert timing.likely_tiles(DEFAULTS, tiny, resources) == resources.n_tiles


@pytest.mark.parametrize(("seconds", "words", "warns"), [(0.01, "about 85 s on", False), (60.0, " h on", True)])
def test_hours_are_a_warning(monkeypatch: pytest.MonkeyPatch, seconds: float, words: str, warns: bool) -> None:
    monkeypatch.setattr(timing, "seconds_per_tile", lambda *_: seconds)
    monkeypatch.setattr(timing, "likely_tiles", lambda *_: 1200)
    finding = timing.check_time(None, DEFAULTS, INPUTS, RESOURCES)
    assert words in finding.text
    assert f"1200 tiles at {1 / seconds:.2g} per second" in finding.text
    assert bool(finding.fix) is warns


def test_a_backbone_is_timed_where_its_weights_are(tiny_weights: Path, tmp_path: Path) -> None:
    def backbone(source: Path) -> BackboneDataset:
        return BackboneDataset(name="tiny", backbones={"tiny": {"source": str(source), **BACKBONE}})

    seconds = timing.seconds_per_tile(backbone(tiny_weights), EXACT)
    assert seconds is not None and 0 < seconds < 5
    assert timing.seconds_per_tile(backbone(tmp_path), EXACT) is None
    assert timing.seconds_per_tile(SimpleNamespace(), EXACT) is None
    assert "once its weights are on this machine" in timing.check_time(None, DEFAULTS, INPUTS, RESOURCES).text


def test_what_is_not_known_is_not_estimated() -> None:
    assert "depends on the inputs" in timing.check_time(None, DEFAULTS, None, None).text
    released = RunSettings.model_validate({"fit": {"model": "released"}})
    assert "without the 1000 epochs of fit.model=released" in timing.check_time(None, released, INPUTS, RESOURCES).text
