"""A backbone that cannot be had stops a run before it works; runs that need none do not look for it."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from kedro.io import DataCatalog, MemoryDataset
from kedro.pipeline import Node, Pipeline

from spamcaf.backbones.weights import Weights
from spamcaf.datasets.inputs import BackboneDataset
from spamcaf.datasets.model import AppliedModelDataset
from spamcaf.datasets.section import SectionDataset
from spamcaf.datasets.stored import AtomicDataset
from spamcaf.errors import InputError
from spamcaf.hooks import SettingsGuard, check_settings


def embed(raw_section: object, backbone: object) -> None:
    """Stand for a pipeline that looks through the backbone."""


EMBEDDING = Pipeline([Node(embed, ["raw_section", "backbone"], "features")])
OTHER = Pipeline([Node(lambda raw: raw, "raw_section", "features", name="other")])
MISSING: dict[str, Any] = {"source": "/nowhere", "architecture": "test_vit", "width": 64}


def catalog(tmp_path: Path, backbone: object = None) -> DataCatalog:
    missing = BackboneDataset(name="it", backbones={"it": MISSING})
    stored = AtomicDataset(filepath=str(tmp_path / "features.json"), dataset={"type": "json.JSONDataset"})
    return DataCatalog({"raw_section": MemoryDataset(1), "backbone": backbone or missing, "features": stored})


def start(pipeline: Pipeline, datasets: DataCatalog, **run_params: object) -> None:
    SettingsGuard().before_pipeline_run(run_params=run_params, pipeline=pipeline, catalog=datasets)


def test_missing_weights_are_found_before_the_run(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no weights in /nowhere"):
        start(EMBEDDING, catalog(tmp_path))


def test_an_unknown_backbone_with_a_source_is_found_too(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"0")
    unknown = BackboneDataset(name="unni", backbones={"it": MISSING}, source=str(tmp_path))
    with pytest.raises(InputError, match="backbone 'unni'"):
        start(EMBEDDING, catalog(tmp_path, unknown))


def test_a_missing_model_is_found_before_the_image_is_embedded(tmp_path: Path) -> None:
    file = tmp_path / "C9" / "mine" / "full_model.safetensors"
    transfer = Pipeline([Node(lambda model: model, "transfer_model", "transferred")])
    datasets = DataCatalog({"transfer_model": AppliedModelDataset(filepath=str(file))})
    with pytest.raises(InputError, match=r"no model of section 'C9' in run 'mine' .*model=<section>, and run="):
        start(transfer, datasets)
    file.parent.mkdir(parents=True)
    file.write_bytes(b"0")
    start(transfer, datasets)


def test_a_run_without_backbone_does_not_look(tmp_path: Path) -> None:
    start(OTHER, catalog(tmp_path))


def test_a_dataset_of_another_type_is_left_alone(tmp_path: Path) -> None:
    start(EMBEDDING, catalog(tmp_path, MemoryDataset(1)))


def test_missing_raw_data_come_before_a_missing_backbone(tmp_path: Path) -> None:
    datasets = catalog(tmp_path)
    datasets["raw_section"] = SectionDataset(filepath=str(tmp_path), section="nobody")
    start(EMBEDDING, datasets)


def test_what_is_stored_already_needs_no_backbone_where_only_missing_outputs_are_made(tmp_path: Path) -> None:
    datasets = catalog(tmp_path)
    with pytest.raises(InputError):
        start(EMBEDDING, datasets, only_missing_outputs=True)
    datasets["features"].save({})
    start(EMBEDDING, datasets, only_missing_outputs=True)
    with pytest.raises(InputError):
        start(EMBEDDING, datasets, only_missing_outputs=False)


def test_a_backbone_that_can_be_had_is_not_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(BackboneDataset, "probe", lambda *_: Weights("owner/tiny", False, 1))
    monkeypatch.setattr(BackboneDataset, "load", None)
    start(EMBEDDING, catalog(tmp_path))


def context(chosen: dict[str, Any], **parameters: object) -> Any:
    class Loader(dict[str, Any]):
        pass

    return SimpleNamespace(
        config_loader=Loader(globals={"section": "S1", **chosen}, parameters=parameters), project_path=Path("/project")
    )


@pytest.mark.parametrize("name", ["section", "model"])
@pytest.mark.parametrize("value", ["../up", "...", "*", "%41", "", "A+B", "x" * 300, "a/b", "1:30"])
def test_a_name_that_cannot_name_results_is_refused_wherever_it_stands(name: str, value: str) -> None:
    for found in (context({name: value}), context({}, **{name: value})):
        with pytest.raises(InputError, match=f"the {name} name") as caught:
            SettingsGuard().after_context_created(found)
        assert len(str(caught.value)) < 500


@pytest.mark.parametrize("value", ["S1", "1_1", "007", "1.10", "x" * 200])
def test_names_that_look_like_numbers_are_names(value: str) -> None:
    SettingsGuard().after_context_created(context({"section": value}, model=value))


def test_an_unknown_setting_comes_before_a_wrong_name() -> None:
    with pytest.raises(InputError, match="Did you mean 'split'"):
        SettingsGuard().after_context_created(context({}, section="..", splt={"mask": 1}))


def test_views_with_dense_features_are_refused_with_both_names() -> None:
    with pytest.raises(InputError, match=r"tiles\.views=1, or tiles\.dense=false"):
        SettingsGuard().after_context_created(context({}, tiles={"dense": True, "views": 4}))
    assert check_settings({"tiles": {"dense": True, "views": 1}}).tiles.dense


@pytest.mark.parametrize("views", [0, 3, 16, "8 or so"])
def test_a_number_of_views_that_is_none_of_five_is_refused(views: object) -> None:
    with pytest.raises(InputError, match=r"tiles\.views = .*1, 2, 4, 8 or 12"):
        check_settings({"tiles": {"views": views}})


def test_a_run_that_wrote_a_report_ends_with_its_place(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    written = Pipeline([Node(lambda scores: scores, "scores", "report", name="write")])
    page = AtomicDataset(filepath=str(tmp_path / "report.html"), dataset={"type": "text.TextDataset"})
    with caplog.at_level("INFO", logger="spamcaf"):
        SettingsGuard().after_pipeline_run(pipeline=OTHER, catalog=DataCatalog({"report": page}))
        assert not caplog.messages
        SettingsGuard().after_pipeline_run(pipeline=written, catalog=DataCatalog({"report": MemoryDataset("")}))
        assert not caplog.messages
        SettingsGuard().after_pipeline_run(pipeline=written, catalog=DataCatalog({"report": page}))
    assert caplog.messages == [f"report: {tmp_path / 'report.html'}"]


def test_settings_that_exclude_each_other_stop_a_run_before_any_work() -> None:
    with pytest.raises(InputError, match=r"settings of several groups\. .* fit\.finetune should be 0"):
        check_settings({"fit": {"finetune": 1}, "tiles": {"dense": True}})
