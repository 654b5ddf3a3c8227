"""What is said at the begin and the end of a run, and the file that keeps it."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from kedro.io import DataCatalog, MemoryDataset
from kedro.pipeline import Node, Pipeline

from spamcaf.datasets.stored import AtomicDataset
from spamcaf.errors import InputError
from spamcaf.run_log import RunLog, last_lines

SCORES: dict[str, Any] = {
    "model": "spamcaf",
    "n_hidden": 7,
    "n_genes": 60,
    "models": {"spamcaf": {"pcc_mean": 0.25}, "kriging": {"pcc_mean": 0.125}, "idw": {"pcc_mean": 0.0625}},
}
logger = logging.getLogger("spamcaf.somewhere")


def writing(*names: str) -> Pipeline:
    return Pipeline([Node(lambda: 1, None, name, name=f"write_{name}") for name in names])


@pytest.fixture
def catalog(tmp_path: Path) -> DataCatalog:
    def stored(name: str) -> AtomicDataset:
        return AtomicDataset(filepath=str(tmp_path / name), dataset={"type": "json.JSONDataset"})

    names = ("report", "super_resolved", "transferred", "maps", "run_times")
    return DataCatalog({name: stored(name) for name in names} | {"scores": MemoryDataset(SCORES)})


@pytest.fixture(autouse=True)
def _logging() -> Iterator[None]:
    root, ours = logging.getLogger(), logging.getLogger("spamcaf")
    before = root.handlers[:], ours.level
    ours.setLevel(logging.INFO)
    yield
    root.handlers[:], level = before
    ours.setLevel(level)


def test_a_run_with_a_report_ends_with_score_map_and_report(catalog: DataCatalog, tmp_path: Path) -> None:
    lines = last_lines(writing("scores", "super_resolved", "maps", "report"), catalog, tmp_path / "run.log")
    assert lines == [
        "score: PCC 0.250 at 7 hidden spots, mean over 60 genes; best baseline, Kriging: 0.125",
        f"map: {tmp_path / 'super_resolved'}",
        f"log: {tmp_path / 'run.log'}",
        f"report: {tmp_path / 'report'}",
    ]


def test_a_run_without_a_report_ends_with_each_result_that_no_other_node_takes(
    catalog: DataCatalog, tmp_path: Path
) -> None:
    plot = Pipeline([Node(lambda x: x, "transferred", "maps", name="plot")])
    assert last_lines(writing("transferred") + plot, catalog) == [f"written: {tmp_path / 'maps'}"]
    both = last_lines(writing("transferred", "maps", "not_stored"), catalog)
    assert both == [f"written: {tmp_path / name}" for name in ("maps", "transferred")]


def context() -> Any:
    loader = {"globals": {"section": "S1", "run": "r", "backbone": "uni"}, "parameters": {"backbone": "tiny"}}
    return SimpleNamespace(config_loader=loader, env="own")


def started(catalog: DataCatalog, **params: Any) -> tuple[RunLog, Pipeline]:
    hooks, pipeline = RunLog(), writing("scores", "report")
    hooks.after_context_created(context())
    logger.info("said before the file was known")
    hooks.before_pipeline_run(params, pipeline, catalog)
    return hooks, pipeline


def test_the_file_begins_with_versions_choices_and_settings_and_is_of_this_run(
    catalog: DataCatalog, tmp_path: Path
) -> None:
    catalog["parameters"] = {"split": {"mask": 3}, "compute": {"threads": 2}}
    (tmp_path / "run.log").write_text("of another run")
    hooks, pipeline = started(catalog)
    for node in pipeline.nodes:
        hooks.before_dataset_loaded(node)
        hooks.before_node_run(node)
    logger.info("in between")
    hooks.after_pipeline_run(pipeline, catalog)
    logger.info("said afterwards")
    text = (tmp_path / "run.log").read_text()
    for part in (
        "said before the file was known",
        "INFO    spamcaf.run_log: spamcaf ",
        "section S1, run r, environment own; backbone tiny",
        "settings: the defaults, but split.mask=3, compute.threads=2",
        "\n  split.mask: 3\n",
        "step 1 of 2: write report",
        "step 2 of 2: write scores",
        "in between",
        "report: ",
    ):
        assert text.count(part) == 1, part
    assert "another run" not in text and "said afterwards" not in text


def test_the_file_of_a_run_that_fails_or_is_killed_stays(catalog: DataCatalog, tmp_path: Path) -> None:
    hooks, _ = started(catalog)
    logger.info("the last words")
    assert "the last words" in (tmp_path / "run.log").read_text()
    hooks.on_pipeline_error(InputError("nothing.", "something.", "Look."))
    hooks.before_pipeline_run({"pipeline_names": ["training", "inference"]}, writing("maps"), catalog)
    try:
        raise RuntimeError("a fault of the program")
    except RuntimeError as error:
        hooks.on_pipeline_error(error)
    assert "ERROR   spamcaf.run_log: Found: nothing. Expected: something." in (tmp_path / "run.log").read_text()
    other = (tmp_path / "inference-training.log").read_text()
    assert "Traceback" in other and "a fault of the program" in other


def test_a_run_inside_another_says_nothing_of_itself(
    catalog: DataCatalog, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    hooks, pipeline = started(catalog)
    caplog.clear()
    hooks.after_context_created(context())
    hooks.before_pipeline_run({}, pipeline, DataCatalog())
    hooks.before_node_run(pipeline.nodes[0])
    hooks.after_pipeline_run(pipeline, DataCatalog())
    assert not caplog.messages
    hooks.after_pipeline_run(pipeline, catalog)
    assert caplog.messages[-1] == f"report: {tmp_path / 'report'}"
