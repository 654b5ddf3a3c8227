"""Every path of the catalog starts at the project's root, wherever a session runs; `~` is the home folder."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from kedro.framework.session import KedroSession
from kedro.framework.startup import bootstrap_project

from spamcaf.config_loader import ProjectConfigLoader
from spamcaf.errors import InputError


@pytest.fixture(autouse=True)
def elsewhere(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Run in a folder that is not the project's."""
    folder = tmp_path_factory.mktemp("elsewhere")
    monkeypatch.chdir(folder)
    monkeypatch.setenv("HOME", str(folder / "home"))
    return folder


def entries(project: Path, **params: str) -> dict[str, Any]:
    bootstrap_project(project)
    with KedroSession.create(project, env="dlpfc", runtime_params=params) as session:
        return session.load_context().config_loader["catalog"]


def test_relative_paths_start_at_the_root(project: Path) -> None:
    found = entries(project, raw_root="raw", image="../x.tif", backbone_source="weights", section="A")
    assert found["raw_section"]["filepath"] == str(project / "raw")
    assert found["raw_section"]["labels"] == str(project / "raw/barcode_level_layer_map.tsv")
    assert found["slide"]["image"] == str(project / "../x.tif")
    assert found["other_sections"]["features"] == str(project / "data/04_feature")
    assert found["backbone"]["source"] == str(project / "weights")


def test_the_home_folder_is_found_everywhere(project: Path, elsewhere: Path) -> None:
    home = str(elsewhere / "home")
    found = entries(project, raw_root="~/raw", image="~/x.tif", backbone_source="~/weights", backbone="~/model")
    assert found["raw_section"]["filepath"] == f"{home}/raw"
    assert found["raw_section"]["labels"] == f"{home}/raw/barcode_level_layer_map.tsv"
    assert found["slide"]["image"] == f"{home}/x.tif"
    assert found["backbone"]["source"] == f"{home}/weights"
    assert found["backbone"]["name"] == f"{home}/model"
    assert entries(project, raw_root="~nobody-here/raw")["slide"]["filepath"] == str(project / "~nobody-here/raw")


def test_absolute_paths_and_other_sources_stay(project: Path, tmp_path: Path) -> None:
    found = entries(project, raw_root=str(tmp_path), backbone_source="hf-hub:a/b", backbone="timm/vit_tiny")
    assert found["slide"]["filepath"] == str(tmp_path)
    assert found["backbone"]["source"] == "hf-hub:a/b"
    assert found["backbone"]["name"] == "timm/vit_tiny"
    assert found["backbone"]["backbones"]["uni"]["source"] == "hf-hub:MahmoodLab/uni"


def test_a_backbone_may_be_a_folder_of_the_project(project: Path) -> None:
    folder = project / "data/models/mine"
    folder.mkdir(parents=True, exist_ok=True)
    assert entries(project, backbone="data/models/mine")["backbone"]["name"] == str(folder)
    assert entries(project, backbone="data")["backbone"]["name"] == "data"
    assert entries(project, backbone="uni")["backbone"]["name"] == "uni"


def test_the_project_is_the_root_also_where_conf_lies_elsewhere(project: Path, elsewhere: Path) -> None:
    shutil.copytree(project / "conf", elsewhere / "settings/conf")
    bootstrap_project(project)
    params = {"image": "x.tif"}
    with KedroSession.create(
        project, env="own", conf_source=str(elsewhere / "settings/conf"), runtime_params=params
    ) as session:
        assert session.load_context().config_loader["catalog"]["slide"]["image"] == str(project / "x.tif")


def test_a_missing_image_is_named_by_its_whole_path(project: Path) -> None:
    bootstrap_project(project)
    params = {"section": "A", "raw_root": "raw", "image": "nowhere.tif"}
    with KedroSession.create(project, env="own", runtime_params=params) as session:
        with pytest.raises(Exception, match="nowhere") as caught:
            session.load_context().catalog.load("slide")
    assert str(project / "nowhere.tif") in str(InputError.within(caught.value))


def test_a_name_that_no_file_system_holds_is_refused(tmp_path: Path) -> None:
    (tmp_path / "conf/base").mkdir(parents=True)
    (tmp_path / "conf/base/catalog.yml").write_text("slide: {image: '${runtime_params:image}'}")
    loader = ProjectConfigLoader(tmp_path / "conf", "base", {"image": f"a/{'x' * 300}.tif"}, base_env="base")
    with pytest.raises(InputError, match="more than 255 bytes"):
        loader["catalog"]
