"""`kedro run --pipeline download`, with a server on this machine and without."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from spamcaf.datasets.remote_files import RemoteFilesDataset
from spamcaf.download import fetch
from spamcaf.errors import InputError
from spamcaf.pipelines.download.nodes import fetch_raw_files, require_all_files
from tests.servers import Files, serving

Run = Callable[..., subprocess.CompletedProcess[str]]
FILES = {"one.h5": b"counts" * 1000, "labels.tsv": b"a\tb\n"}


@pytest.fixture
def published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ThreadingHTTPServer]:
    folder = tmp_path / "published"
    folder.mkdir()
    for name, content in FILES.items():
        (folder / name).write_bytes(content)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(fetch, "BACKOFF_S", 0.0)
    with serving(partial(Files, directory=str(folder))) as server:
        yield server


def downloads(port: int) -> list[dict[str, Any]]:
    address = f"http://127.0.0.1:{port}"
    return [
        {"path": "{section}/one.h5", "urls": [f"{address}/nowhere", f"{address}/one.h5"]},
        {"path": "labels.tsv", "urls": f"{address}/labels.tsv"},
    ]


def test_a_run_fetches_what_is_missing_and_tells_its_size(
    kedro: Run, project: Path, tmp_path: Path, published: ThreadingHTTPServer
) -> None:
    conf = project / "conf" / "published"
    conf.mkdir(exist_ok=True)
    settings = {"section": "S1", "raw_root": str(tmp_path / "raw"), "downloads": downloads(published.server_port)}
    (conf / "globals.yml").write_text(yaml.safe_dump(settings))
    done = kedro("run", "--pipeline", "download", env="published")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "section S1: 2 of 2 files to fetch, 4 B and 1 of unknown size" in done.stdout
    assert "(404)" in done.stdout
    assert (tmp_path / "raw/S1/one.h5").read_bytes() == FILES["one.h5"]
    assert (tmp_path / "raw/labels.tsv").read_bytes() == FILES["labels.tsv"]
    report = json.loads((project / "data/08_reporting/S1/download_report.json").read_text())
    assert [file["status"] for file in report["files"]] == ["fetched", "fetched"]
    assert report["files"][0]["bytes"] == 6000

    (tmp_path / "raw/labels.tsv").unlink()
    published.shutdown()
    published.server_close()
    done = kedro("run", "--pipeline", "download", env="published")
    assert done.returncode == 1
    assert "Traceback" not in done.stdout + done.stderr
    assert "Error: Found: 1 of the 2 files of section S1" in done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert "labels.tsv  <-  http://127.0.0.1" in last and "cannot be reached" in last
    report = json.loads((project / "data/08_reporting/S1/download_report.json").read_text())
    assert [file["status"] for file in report["files"]] == ["present", "failed"]


def test_an_environment_without_downloads_is_an_input_error(kedro: Run) -> None:
    done = kedro("run", "--pipeline", "download", env="base")
    assert done.returncode == 1
    assert done.stderr.strip().splitlines()[-1].startswith("Error: Found: nothing to download in this environment.")


def test_the_pipeline_is_listed(kedro: Run) -> None:
    assert "download" in yaml.safe_load(kedro("registry", "list").stdout)


def test_every_missing_file_is_listed_with_its_place(tmp_path: Path, published: ThreadingHTTPServer) -> None:
    (tmp_path / "published/one.h5").unlink()
    (tmp_path / "published/labels.tsv").unlink()
    entries = [*downloads(published.server_port), {"path": "imgs/*", "by_hand": "the image, from its publisher"}]
    handle = RemoteFilesDataset(filepath=str(tmp_path / "raw"), section="S1", files=entries).load()
    with pytest.raises(InputError) as caught:
        require_all_files(fetch_raw_files(handle))
    message = str(caught.value)
    assert message.startswith("Found: 3 of the 3 files")
    assert " Expected: " in message and " Next step: " in message
    lines = message.splitlines()[1:]
    assert [line.split()[0] for line in lines] == ["S1/one.h5", "labels.tsv", "imgs/*"]
    assert "127.0.0.1" in lines[0] and "its publisher" in lines[2]


def test_importing_costs_nothing() -> None:
    code = (
        "import sys, spamcaf.pipelines.download.nodes, spamcaf.datasets.remote_files\n"
        "print([name for name in ('pooch', 'requests', 'tqdm', 'numpy', 'pandas') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
