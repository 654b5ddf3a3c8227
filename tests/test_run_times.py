"""The table of where a run's time went."""

from __future__ import annotations

import json
import subprocess
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from kedro.io import DataCatalog, MemoryDataset

from spamcaf import run_times
from spamcaf.run_times import RUN_TIMES, RunTimes


def node(name: str) -> SimpleNamespace:
    return SimpleNamespace(name=f"room.{name}", short_name=name)


def test_loading_computing_and_saving_count_and_nothing_between(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [0.0]
    monkeypatch.setattr(run_times, "_cpu_seconds", lambda: clock[0])

    def spend(seconds: float) -> None:
        clock[0] += seconds
        time.sleep(seconds / 100)

    hooks, catalog = RunTimes(), DataCatalog({RUN_TIMES: MemoryDataset()})
    hooks.before_pipeline_run()
    for name, seconds in (("first", 2), ("second", 8)):
        hooks.before_dataset_loaded(node(name))
        spend(seconds / 2)
        hooks.before_node_run(node(name))
        hooks.after_node_run(node(name))
        held = np.ones(20_000_000 if name == "second" else 1)
        spend(seconds / 2)
        hooks.after_dataset_saved(node(name))
        spend(1)
    with caplog.at_level("INFO"):
        hooks.after_pipeline_run(catalog)
    rows = {row["node"]: row for row in catalog.load(RUN_TIMES)["nodes"]}
    assert [rows[name]["cpu_seconds"] for name in ("first", "second")] == [2, 8]
    assert rows["second"]["seconds"] >= 0.08
    assert rows["second"]["peak_mib"] > rows["first"]["peak_mib"] + 100 > 100
    assert caplog.messages[-1].index("second") < caplog.messages[-1].index("first")
    assert len(held)


def test_a_run_inside_another_has_its_own_table(caplog: pytest.LogCaptureFixture) -> None:
    hooks, catalogs = RunTimes(), [DataCatalog({RUN_TIMES: MemoryDataset()}) for _ in range(2)]
    hooks.before_pipeline_run()
    hooks.before_node_run(node("outer"))
    hooks.before_pipeline_run()
    hooks.before_node_run(node("inner"))
    hooks.after_node_run(node("inner"))
    with caplog.at_level("INFO"):
        hooks.after_pipeline_run(catalogs[0])
        assert "where the time went" not in caplog.text
        hooks.after_node_run(node("outer"))
        hooks.after_pipeline_run(catalogs[1])
    assert [[row["node"] for row in each.load(RUN_TIMES)["nodes"]] for each in catalogs] == [["inner"], ["outer"]]
    assert "all nodes" in caplog.text


def test_a_run_that_failed_leaves_the_next_one_its_own_table() -> None:
    hooks, catalog = RunTimes(), DataCatalog({RUN_TIMES: MemoryDataset()})
    hooks.before_pipeline_run()
    hooks.before_node_run(node("failed"))
    hooks.on_pipeline_error()
    hooks.before_pipeline_run()
    hooks.before_node_run(node("done"))
    hooks.after_node_run(node("done"))
    hooks.after_pipeline_run(catalog)
    assert [row["node"] for row in catalog.load(RUN_TIMES)["nodes"]] == ["done"]


def test_a_whole_run_prints_and_stores_every_node(first_run: subprocess.CompletedProcess[str], project: Path) -> None:
    rows = json.loads((project / "data/08_reporting/simulated/default/run_times.json").read_text())["nodes"]
    names = {row["node"] for row in rows}
    assert {"check_section", "embed_slide", "fit_spamcaf", "write_report"} <= names
    assert all(row["seconds"] >= 0 and row["peak_mib"] > 0 for row in rows)
    assert "where the time went" in first_run.stdout
    assert "all nodes" in first_run.stdout.split("where the time went")[1]


@pytest.mark.skipif(not run_times.CLEAR.exists(), reason="the system keeps one peak per process")
def test_the_peak_of_a_run_outlasts_those_of_its_nodes() -> None:
    run_times.reset_peak(is_new_run=True)
    before = run_times.highest_bytes()
    held = np.ones(20_000_000)
    run_times.reset_peak()
    del held
    run_times.reset_peak()
    assert run_times.highest_bytes() > before + 100_000_000
    run_times.reset_peak(is_new_run=True)
    assert run_times.highest_bytes() < before + 100_000_000
