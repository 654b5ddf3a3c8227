"""What a run needs and cannot have stops it before it works; what it does not need is not looked for."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
from anndata import AnnData
from kedro.io import DataCatalog, MemoryDataset
from kedro.pipeline import Node, Pipeline

from spamcaf.backbones.weights import Weights
from spamcaf.datasets.inputs import BackboneDataset, OtherSectionsDataset
from spamcaf.datasets.model import AppliedModelDataset
from spamcaf.datasets.section import SectionDataset, SectionSlideDataset, SimulatedOutsDataset
from spamcaf.datasets.stored import AtomicDataset
from spamcaf.errors import InputError, options_of
from spamcaf.preflight import InputGuard


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
    InputGuard().before_pipeline_run(run_params=run_params, pipeline=pipeline, catalog=datasets)


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
    with pytest.raises(InputError, match="no section 'nobody'"):
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


class Loader(dict[str, Any]):
    runtime_params: dict[str, Any]


def guard(
    downloads: bool = False, genes: list[str] | None = None, is_tracked: bool = False, **params: object
) -> InputGuard:
    loader = Loader(globals={"downloads": ["x"] if downloads else []}, parameters={"panel": {"genes": genes or []}})
    loader.runtime_params = params
    if is_tracked:
        loader["globals"]["mlflow"] = {"experiment": "mine"}
    made = InputGuard()
    made.after_context_created(SimpleNamespace(env="her2st", config_loader=loader))  # type: ignore[arg-type]
    return made


def refusal(made: InputGuard, pipeline: Pipeline, datasets: DataCatalog) -> str:
    with pytest.raises(InputError) as caught:
        made.before_pipeline_run(run_params={}, pipeline=pipeline, catalog=datasets)
    return str(caught.value)


def test_missing_raw_files_of_a_data_set_name_the_download_with_the_same_options(tmp_path: Path) -> None:
    (tmp_path / "ST-cnts").mkdir()
    (tmp_path / "ST-cnts" / "C12.tsv.gz").write_bytes(b"")
    datasets = DataCatalog({"raw_section": SectionDataset(filepath=str(tmp_path), section="C13")})
    chosen = {"section": "C13", "raw_root": "/my data", "split": {"mask": 1}}
    message = refusal(guard(downloads=True, **chosen), OTHER, datasets)
    assert "`kedro run --pipelines download --env her2st --params 'section=C13,raw_root=/my data'`" in message
    assert "Did you mean 'C12'?" in message
    assert "download" not in refusal(guard(**chosen), OTHER, datasets)


def test_a_missing_image_is_found_before_the_counts_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "S1.h5ad").write_bytes(b"")
    both = {"raw_section": SectionDataset, "slide": SectionSlideDataset}
    reader = SimpleNamespace(
        image_fingerprint=lambda: (_ for _ in ()).throw(InputError("no image.", "one.", "Put it."))
    )
    monkeypatch.setattr("spamcaf.datasets.section.find_reader", lambda query: reader)
    datasets = DataCatalog({name: kind(filepath=str(tmp_path), section="S1") for name, kind in both.items()})
    pipeline = Pipeline([Node(lambda raw, slide: raw, list(both), "section", name="check")])
    assert "no image" in refusal(guard(), pipeline, datasets)
    guard().before_pipeline_run({"only_missing_outputs": True}, pipeline, datasets)


def test_missing_results_name_all_of_them_and_the_pipelines_that_make_them(tmp_path: Path) -> None:
    names = ("expression", "spot_features", "spot_split")
    stored = {
        name: AtomicDataset(filepath=str(tmp_path / "S1" / "r" / name), dataset={"type": "json.JSONDataset"})
        for name in names
    }
    pipeline = Pipeline([Node(lambda a, b, c: a, list(names), "model", name="fit")])
    message = refusal(guard(section="S1", run="r", split={"mask": 1}), pipeline, DataCatalog(stored))
    assert f"no stored {', '.join(names)}" in message
    assert (
        "kedro run --pipelines ingestion,feature_extraction --env her2st --params section=S1,run=r,split.mask=1."
        in message
    )
    for dataset in stored.values():
        dataset.save({})
    guard().before_pipeline_run({}, pipeline, DataCatalog(stored))


def test_other_sections_are_looked_for_with_features_only_where_they_are_used(tmp_path: Path) -> None:
    section = tmp_path / "section" / "C3"
    section.mkdir(parents=True)
    (section / "section.h5ad").write_bytes(b"")

    def others(names: str) -> DataCatalog:
        layers = {"filepath": str(tmp_path / "section"), "features": str(tmp_path / "feature")}
        return DataCatalog({
            "other_sections": OtherSectionsDataset(names=names, section="C2", **layers),
            "spot_features": MemoryDataset(1),
        })  # fmt: skip

    panel = Pipeline([Node(lambda others: others, "other_sections", "panel", name="panel")])
    fit = Pipeline([Node(lambda others, features: others, ["other_sections", "spot_features"], "model", name="fit")])
    guard().before_pipeline_run({}, panel, others("C3"))
    assert "no spot_features of the other section 'C3'" in refusal(guard(), fit, others("C3"))
    message = refusal(guard(), panel, others("C33"))
    assert "Did you mean 'C3'? kedro run --pipelines pooling --params section=C33" in message


def test_unknown_genes_of_the_panel_are_found_before_the_slide_is_embedded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    section = AnnData(var=pd.DataFrame({"gene_ids": ["ENSG1", "ENSG2"]}, index=["ERBB2", "CD74"]))
    monkeypatch.setattr(SectionDataset, "load", lambda self: section)
    datasets = DataCatalog({"raw_section": SectionDataset(filepath=str(tmp_path), source="simulated")})
    choosing = Pipeline([Node(lambda raw: raw, "raw_section", "gene_panel", name="choose")])
    assert "ERBB3 (like ERBB2)" in refusal(guard(genes=["ERBB3", "CD74"]), choosing, datasets)
    guard(genes=["ENSG1", "CD74"]).before_pipeline_run({}, choosing, datasets)
    monkeypatch.setattr(SectionDataset, "load", None)  # nothing is read for them alone
    guard(genes=["ERBB3"]).before_pipeline_run({}, OTHER, datasets)
    guard().before_pipeline_run({}, choosing, datasets)


def test_a_missing_mlflow_is_found_before_any_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("spamcaf.preflight.find_spec", lambda name: None)
    assert "pip install 'spamcaf[mlflow]'" in refusal(guard(is_tracked=True), OTHER, DataCatalog())
    guard().before_pipeline_run({}, OTHER, DataCatalog())


def test_a_folder_that_is_never_replaced_is_found_before_it_is_simulated(tmp_path: Path) -> None:
    pipeline = Pipeline([Node(lambda: 1, None, "simulated_outs", name="write")])
    free = DataCatalog({"simulated_outs": SimulatedOutsDataset(filepath=str(tmp_path / "new"))})
    guard().before_pipeline_run({}, pipeline, free)
    there = DataCatalog({"simulated_outs": SimulatedOutsDataset(filepath=str(tmp_path))})
    assert f"something at {tmp_path}" in refusal(guard(), pipeline, there)


def test_a_missing_model_comes_before_a_look_into_raw_folders(tmp_path: Path) -> None:
    names = ["a_slide", "transfer_model"]
    datasets = DataCatalog({
        "a_slide": SectionSlideDataset(filepath=str(tmp_path), section="nobody"),
        "transfer_model": AppliedModelDataset(filepath=str(tmp_path / "C9/mine/full_model.safetensors")),
    })  # fmt: skip
    pipeline = Pipeline([Node(lambda slide, model: 1, names, "transferred", name="predict")])
    assert "no model of section 'C9'" in refusal(guard(), pipeline, datasets)


def test_options_are_written_as_they_are_typed() -> None:
    assert options_of("local", {}) == ""
    params = {
        "section": "1_1",
        "split": {"mask": 1},
        "tiles": {"dense": True},
        "image": None,
        "other_sections": ["A", "B"],
    }
    expected = " --env own --params section=1_1,split.mask=1,tiles.dense=true,image=null,other_sections=A+B"
    assert options_of("own", params) == expected
    assert options_of(None, params, ("section",)) == " --params section=1_1"
