"""The list `downloads`: closed, safe, by section; and those that the environments ship."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from kedro.io import DatasetError

from spamcaf.datasets.remote_files import RemoteFilesDataset
from spamcaf.download.fetch import RemoteFiles, Status
from spamcaf.download.spec import FileSpec
from spamcaf.errors import InputError

CONF = Path(__file__).parents[2] / "conf"
N_SECTIONS = {"dlpfc": 12, "mouse_brain": 1, "bc1": 1, "bc2": 1, "her2st": 36}
URL = "https://example.org/{section}.h5"
Make = Callable[..., RemoteFiles]


def refused(files: Any, section: str = "S1") -> str:
    with pytest.raises(DatasetError) as caught:
        RemoteFilesDataset(filepath="raw", section=section, files=files).load()
    error = InputError.within(caught.value)
    assert error is not None, caught.value
    return str(error)


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "unknown key": ({"url": URL}, "url"),
    "no source": ({"urls": []}, "either urls or by_hand"),
    "two sources": ({"by_hand": "there"}, "either urls or by_hand"),
    "urls of another kind": ({"urls": 5}, "urls"),
    "file": ({"urls": "file:///etc/passwd"}, "https://"),
    "ftp": ({"urls": "ftp://example.org/a"}, "https://"),
    "http": ({"urls": "http://example.org/a"}, "https://"),
    "http of a name that looks local": ({"urls": "http://127.0.0.1.example.org/a"}, "https://"),
    "outside": ({"path": "../a"}, "inside raw_root"),
    "absolute": ({"path": "/a"}, "inside raw_root"),
    "outside by name": ({"path": "{name}", "names": {"S1": "../a"}}, "inside raw_root"),
    "outside by archive": ({"unpack": "tar", "yields": ["../a"]}, "inside raw_root"),
    "pattern": ({"path": "*.h5"}, "pattern"),
    "archive of nothing": ({"unpack": "tar"}, "unpack and yields"),
    "name without names": ({"path": "{name}.h5"}, "{name}"),
    "hash": ({"sha256": "abc"}, "sha256"),
    "size": ({"bytes": 0}, "bytes"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_entry_is_named(case: str) -> None:
    change, expected = WRONG[case]
    good = {"path": "a.h5", "urls": URL}
    message = refused([good, {**good, **change}])
    assert "entry 2 of `downloads`" in message and expected in message and "globals.yml" in message


@pytest.mark.parametrize("files", ["text", 5, {"path": "a"}])
def test_anything_but_a_list_is_refused(files: Any) -> None:
    assert "a list of files" in refused(files)


def test_http_can_be_allowed() -> None:
    assert FileSpec(path="a", urls=("http://example.org/a",), allow_http=True).of("S1") is not None


def test_nothing_to_download_is_an_input_error() -> None:
    assert "nothing to download in this environment" in refused([])


def test_sections_that_the_data_set_does_not_have_are_refused() -> None:
    message = refused([{"path": "a", "urls": URL, "sections": [151507, "151508"]}], section="9")
    assert "no section '9'" in message and "151507, 151508" in message


def test_values_by_section(dataset: Make) -> None:
    entries = (
        {"path": "{section}/{name}", "urls": URL, "names": {"S1": "x.jpg"}, "bytes": {"S1": 5}, "sha256": "AB" * 32},
        {"path": "{section}.h5", "urls": ["https://one.org/{section}", "https://two.org/{section}"]},
    )
    first, second = dataset(*entries).files
    assert (first.path, first.bytes, first.sha256) == ("S1/x.jpg", 5, "ab" * 32)
    assert second.urls == ("https://one.org/S1", "https://two.org/S1")


def test_a_file_by_hand_is_looked_for_by_its_pattern(dataset: Make, tmp_path: Path) -> None:
    handle = dataset({"path": "imgs/*/{section}/*", "by_hand": "the image of {section}, from its publisher"})
    outcome = handle.fetch(handle.files[0])
    assert (outcome.status, outcome.source) == (Status.FAILED, "the image of S1, from its publisher")
    (tmp_path / "raw/imgs/A/S1").mkdir(parents=True)
    (tmp_path / "raw/imgs/A/S1/he.jpg").write_bytes(b"x")
    assert handle.fetch(handle.files[0]).status == Status.PRESENT


def test_raw_data_are_read_only() -> None:
    with pytest.raises(DatasetError, match="read-only"):
        RemoteFilesDataset(filepath="raw", section="S1", files=[]).save("anything")


def settings_of(env: str) -> dict[str, Any]:
    return yaml.safe_load((CONF / env / "globals.yml").read_text())


@pytest.mark.parametrize("env", N_SECTIONS)
def test_the_environments_name_every_file_of_every_section(env: str) -> None:
    settings = settings_of(env)
    specs = [FileSpec.model_validate(entry) for entry in settings["downloads"]]
    sections = set().union(*(spec.known for spec in specs))
    assert len(sections) == N_SECTIONS[env] and settings["section"] in sections
    for section in sections:
        files = [file for file in (spec.of(section) for spec in specs) if file]
        paths = [path for file in files for path in (file.path, *file.yields)]
        assert len(set(paths)) == len(paths)
        assert all(url.startswith("https://") and "{" not in url for file in files for url in file.urls)
        kinds = ("ST-cnts", "ST-spotfiles", "ST-imgs") if env == "her2st" else ("matrix.h5", "image.tif", "positions")
        for kind in kinds:
            assert sum(kind in path for path in paths) == 1


def test_the_base_environment_needs_nothing() -> None:
    assert settings_of("base")["downloads"] == []
