"""Records of what made a result: kept beside it, and compared with what a run asks for."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from kedro.framework.hooks.manager import _create_hook_manager, _register_hooks
from kedro.io import DataCatalog, MemoryDataset
from kedro.pipeline import Node, Pipeline
from kedro.runner import SequentialRunner
from PIL import Image

from spamcaf.datasets.inputs import OtherSectionsDataset, ReferencesDataset
from spamcaf.datasets.section import SectionDataset, SectionSlideDataset
from spamcaf.datasets.stored import AtomicDataset, read_record
from spamcaf.errors import InputError
from spamcaf.hooks import OriginGuard
from spamcaf.origins import Misfit, Origins, _error
from spamcaf.parameters import FitSettings, SplitSettings
from spamcaf.sessions import nodes_to_run

JSON = {"type": "json.JSONDataset"}


def ingest(raw: Any, slide: Any) -> dict[str, Any]:
    return {"umi": float(raw.X.sum()), "shape": slide.shape}


def split(section: Any, settings: Any) -> list[Any]:
    return [section, settings.mask]


def fit(section: Any, split: Any, others: Any, references: Any, settings: Any) -> list[Any]:
    return [section, split, others.names, len(references.found), settings.epochs]


INGESTION = Pipeline(
    [
        Node(ingest, ["raw_section", "slide"], "section", name="ingest"),
        Node(split, ["section", "params:split"], "spot_split", name="split"),
    ],
    namespace="ingestion",
    prefix_datasets_with_namespace=False,
)
TRAINING = Pipeline(
    [Node(fit, ["section", "spot_split", "other_sections", "references", "params:fit"], "model", name="fit")],
    namespace="training",
    prefix_datasets_with_namespace=False,
)
EVALUATION = Pipeline([Node(lambda *read: list(read), ["section", "spot_split", "model"], "scores", name="score")])


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """Write a section of legacy ST, and a table of other counts; return the folder."""
    folder = tmp_path / "raw"
    for name in ("ST-cnts", "ST-spotfiles", "ST-imgs/S/S1"):
        (folder / name).mkdir(parents=True)
    names = [f"{x}x{y}" for x in range(3) for y in range(3)]
    counts = pd.DataFrame(np.arange(18).reshape(9, 2), index=names, columns=["A", "B"])
    for name in ("S1", "R1"):
        counts.to_csv(folder / f"ST-cnts/{name}.tsv", sep="\t")
    spots = pd.DataFrame([(x, y, x, y, 10 * x, 10 * y, 1) for x in range(3) for y in range(3)])
    spots.columns = ["x", "y", "new_x", "new_y", "pixel_x", "pixel_y", "selected"]
    spots.to_csv(folder / "ST-spotfiles/S1_selection.tsv", sep="\t", index=False)
    Image.fromarray(np.zeros((40, 40, 3), np.uint8)).save(folder / "ST-imgs/S/S1/he.png")
    return folder


@pytest.fixture
def catalog(raw: Path) -> Callable[..., DataCatalog]:
    """Return a function that makes the catalog of a run, with settings and choices as they are asked for."""

    def make(mask: int = 0, epochs: int = 40, reference: str = "", others: str = "") -> DataCatalog:
        settings = {"split": SplitSettings(mask=mask), "fit": FitSettings(epochs=epochs)}
        stored = {
            name: AtomicDataset(filepath=str(raw.parent / f"stored/{name}.json"), dataset=JSON)
            for name in ("section", "spot_split", "model", "scores")
        }
        layer = str(raw.parent / "data/02_intermediate")
        other = OtherSectionsDataset(filepath=layer, features=f"{layer}/f", names=others, section="S1")
        named = ReferencesDataset(filepath=layer, names=reference, section="S1", raw_root=str(raw))
        inputs = {
            "raw_section": SectionDataset(filepath=str(raw), section="S1"),
            "slide": SectionSlideDataset(filepath=str(raw), section="S1"),
        }
        parameters = {f"params:{name}": MemoryDataset(value) for name, value in settings.items()}
        more = {"other_sections": other, "references": named, "parameters": MemoryDataset(settings)}
        return DataCatalog({**stored, **inputs, **more, **parameters})

    return make


def run(pipeline: Pipeline, datasets: DataCatalog) -> None:
    hooks, guard = _create_hook_manager(), OriginGuard()
    _register_hooks(hooks, (guard,))
    guard.before_pipeline_run(run_params={"pipeline_names": ["of this test"]}, pipeline=pipeline, catalog=datasets)
    SequentialRunner().run(pipeline, datasets, hooks)


@pytest.fixture
def finished(catalog: Callable[..., DataCatalog]) -> None:
    run(INGESTION + TRAINING, catalog(reference="R1"))


def test_a_record_holds_the_settings_and_inputs_of_all_nodes_before(
    catalog: Callable[..., DataCatalog], finished: None
) -> None:
    record = read_record(catalog()["model"].path)
    assert record is not None and record["pipeline"] == "training"
    made_with = record["made_with"]
    assert (made_with["split.mask"], made_with["fit.epochs"], made_with["other_sections"]) == (0, 40, {})
    assert {"counts", "image"} <= set(made_with) and list(made_with["reference"]) == ["R1"]
    section = read_record(catalog()["section"].path)
    assert section is not None and set(section["made_with"]) == {"counts", "image"}


def change_a_count(raw: Path) -> None:
    path = raw / "ST-cnts/S1.tsv"
    path.write_text(path.read_text().replace("\t17", "\t18"))


def change_a_position(raw: Path) -> None:
    path = raw / "ST-spotfiles/S1_selection.tsv"
    path.write_text(path.read_text().replace("20\t20\t1", "20\t21\t1"))


def change_the_image(raw: Path) -> None:
    Image.fromarray(np.full((40, 40, 3), 9, np.uint8)).save(raw / "ST-imgs/S/S1/he.png")


def change_the_reference(raw: Path) -> None:
    (raw / "ST-cnts/R1.tsv").write_text((raw / "ST-cnts/R1.tsv").read_text().replace("\t17", "\t18"))


@pytest.mark.parametrize(
    ("change", "found", "again"),
    [
        (change_a_count, r"model, section, spot_split \(counts=\w+, \w+ in this run\)", "ingestion,training"),
        (change_a_position, r"model, section, spot_split \(counts=", "ingestion,training"),
        (change_the_image, r"model, section, spot_split \(image=\w+, \w+ in this run\)", "ingestion,training"),
        (change_the_reference, r"model \(reference=", "training"),
    ],
)
def test_files_that_changed_are_noticed_before_a_run_works(
    catalog: Callable[..., DataCatalog],
    finished: None,
    raw: Path,
    change: Callable[[Path], None],
    found: str,
    again: str,
) -> None:
    run(EVALUATION, catalog(reference="R1"))
    change(raw)
    with pytest.raises(InputError, match=f"{found}.*--pipelines {again}"):
        run(EVALUATION, catalog(reference="R1"))
    run(INGESTION + TRAINING + EVALUATION, catalog(reference="R1"))


def test_files_that_were_removed_are_not_asked_for(
    catalog: Callable[..., DataCatalog], finished: None, raw: Path
) -> None:
    run(EVALUATION, catalog(reference="R1"))
    shutil.rmtree(raw)
    run(EVALUATION, catalog(reference="R1"))
    assert Origins(catalog()).names_of(["raw_section", "slide"]) == set()


def test_results_of_two_states_of_removed_files_are_not_mixed(
    catalog: Callable[..., DataCatalog], finished: None, raw: Path
) -> None:
    change_a_count(raw)
    run(INGESTION, catalog())
    shutil.rmtree(raw / "ST-cnts")
    with pytest.raises(InputError, match=r"counts=\w+, \w+ in this run.*--pipelines (ingestion|training)"):
        run(EVALUATION, catalog(reference="R1"))


def test_another_section_that_was_made_again_is_noticed(
    catalog: Callable[..., DataCatalog], raw: Path, finished: None
) -> None:
    run(TRAINING, catalog(others="S2"))
    record = raw.parent / "data/02_intermediate/S2/.provenance/section.h5ad.json"
    record.parent.mkdir(parents=True)
    record.write_text('{"made_with": {"counts": "new"}}')
    with pytest.raises(InputError, match=r"model \(other_sections=.*--pipelines training"):
        run(EVALUATION, catalog(others="S2"))


@pytest.mark.parametrize("at", ["before_save", "after_save"])
def test_a_kill_around_a_save_leaves_no_record_of_something_else(
    catalog: Callable[..., DataCatalog], finished: None, monkeypatch: pytest.MonkeyPatch, at: str
) -> None:
    class Killed(BaseException):
        pass

    def killed(*_: object, **__: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        place = "spamcaf.datasets.stored.AtomicDataset._write" if at == "before_save" else "spamcaf.hooks.write_record"
        patch.setattr(place, killed)
        with pytest.raises(Killed):
            run(TRAINING, catalog(epochs=2))
    with pytest.raises(InputError, match=r"model \(without a record of what made it.*kedro run"):
        run(EVALUATION, catalog(epochs=2))


def test_only_what_is_missing_or_unfit_is_run(catalog: Callable[..., DataCatalog], finished: None) -> None:
    chain = INGESTION + TRAINING + EVALUATION

    def needed(**asked: Any) -> list[str]:
        return sorted(nodes_to_run(chain, ["scores"], Origins(catalog(**asked))))

    assert needed(reference="R1") == ["score"]
    assert needed() == ["score", "training.fit"]
    assert needed(reference="R1", epochs=2) == ["score", "training.fit"]
    assert needed(reference="R1", mask=1) == ["ingestion.split", "score", "training.fit"]
    run(EVALUATION, catalog(reference="R1"))
    assert needed(reference="R1") == []


def test_a_node_whose_other_result_is_of_another_run_is_run_again(catalog: Callable[..., DataCatalog]) -> None:
    """As a kill between its two saves leaves it."""
    inputs = ["section", "params:fit"]
    both = Pipeline([Node(lambda section, settings: (1, settings.epochs), inputs, ["model", "scores"], name="fit")])
    run(INGESTION + both, catalog())
    kept = catalog()["scores"].path
    before = {path: path.read_bytes() for path in (kept, kept.parent / f".provenance/{kept.name}.json")}
    run(both, catalog(epochs=2))

    def needed(*names: str) -> list[str]:
        return nodes_to_run(both, names, Origins(catalog(epochs=2)))

    assert needed("model") == []
    for path, content in before.items():
        path.write_bytes(content)
    assert needed("model") == needed("scores") == ["fit"]
    kept.unlink()
    assert needed("model") == ["fit"]


def test_a_damaged_record_is_none(catalog: Callable[..., DataCatalog], finished: None) -> None:
    path = catalog()["section"].path
    (path.parent / ".provenance" / f"{path.name}.json").write_text("{")
    assert read_record(path) is None
    assert not Origins(catalog()).is_made("section")


@pytest.mark.parametrize(
    ("stored", "is_offered"), [(3, True), ("moran", True), (None, True), (["A", "B"], False), ("x" * 80, False)]
)
def test_a_value_to_keep_is_offered_only_where_it_can_be_typed(stored: object, is_offered: bool) -> None:
    message = str(_error([Misfit("model", "training", "panel.method", stored, 1)]))
    assert ("or keep them: --params panel.method=" in message) is is_offered
