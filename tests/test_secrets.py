"""Tokens and the user's home folder are in nothing that is stored, tokens in nothing that is printed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
import yaml
import zarr

from spamcaf.parameters import SimulationSettings
from spamcaf.provenance import without_home
from spamcaf.readers.matrix import read_matrix
from spamcaf.simulation.section import SimulatedTissue
from spamcaf.simulation.space_ranger import IMAGE, write_space_ranger
from tests.servers import Quiet, serving

TOKENS = {"variable": "hf_canaryOfTheVariable", "file": "hf_canaryOfTheFile", "credentials": "hf_canaryOfCredentials"}


class Hub(Quiet):
    """Refuses everything, and notes what it was shown."""

    seen: list[str]

    def do_HEAD(self) -> None:
        self.seen.append(str(self.headers["Authorization"]))
        self.send_response(401)
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_GET = do_HEAD


@pytest.fixture(scope="module")
def hub() -> Iterator[tuple[str, list[str]]]:
    """Serve a hub on this machine; return its address, and the headers that it gets."""
    seen: list[str] = []
    with serving(type("Bound", (Hub,), {"seen": seen})) as server:
        yield f"http://127.0.0.1:{server.server_port}", seen


@pytest.fixture(scope="module")
def home(project: Path, tiny_weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a user's home: a token, weights, sections, and a project whose environment `mine` reads them."""
    home = tmp_path_factory.mktemp("home") / "canary-user"
    folder = home / "project"
    shutil.copytree(project, folder, ignore=shutil.ignore_patterns("spamcaf", ".viz", "data"))
    shutil.copytree(tiny_weights, home / "weights")
    (home / ".cache/huggingface").mkdir(parents=True)
    (home / ".cache/huggingface/token").write_text(TOKENS["file"])
    tiny = yaml.safe_load((folder / "conf/tiny/globals.yml").read_text())
    tiny["backbones"]["tiny"]["source"] = str(home / "weights")
    (folder / "conf/tiny/globals.yml").write_text(yaml.safe_dump(tiny))
    mine = folder / "conf/mine"
    shutil.copytree(folder / "conf/tiny", mine)
    pages = [{"path": "counts.h5", "urls": "http://127.0.0.1:9/counts.h5"}]
    files = {"source": "files", "section": "simulated", "raw_root": str(home / "raw"), "downloads": pages}
    (mine / "globals.yml").write_text(yaml.safe_dump({**tiny, **files}))
    return home


@pytest.fixture(scope="module")
def run(home: Path, hub: tuple[str, list[str]]) -> Callable[..., str]:
    """Return a function that runs `kedro` in that home and returns its code and all that it prints."""

    def run(*words: str, code: int = 0, **more: str) -> str:
        left_out = ("HF_HOME", "HF_HUB_CACHE", "HF_HUB_OFFLINE", "XDG_CACHE_HOME", "HF_TOKEN")
        environment = {name: value for name, value in os.environ.items() if name not in left_out}
        environment |= {"HOME": str(home), "HF_ENDPOINT": hub[0], "NO_PROXY": "127.0.0.1", **more}
        done = subprocess.run(
            [sys.executable, "-m", "kedro", *words],
            cwd=home / "project",
            env=environment,
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
        output = done.stdout + done.stderr
        assert done.returncode == code, output
        assert not any(token in output for token in TOKENS.values())
        return output

    return run


def texts_in(path: Path) -> Iterator[bytes]:
    """Yield a file's bytes, and what is compressed in it."""
    yield path.read_bytes()
    if path.suffix == ".h5ad":
        found: list[bytes] = []

        def add(name: str, node: h5py.Dataset | h5py.Group) -> None:
            found.append(f"{name} {dict(node.attrs)}".encode())
            if isinstance(node, h5py.Dataset) and node.dtype.kind in "OSU":
                found.append(repr(node[()].tolist() if node.shape else node[()]).encode())

        with h5py.File(path) as file:
            file.visititems(add)
        yield from found


def texts_in_zarr(path: Path) -> Iterator[bytes]:
    for name, node in zarr.open_group(path, mode="r").members(max_depth=None):
        yield f"{name} {dict(node.attrs)}".encode()
        if isinstance(node, zarr.Array) and node.dtype.kind in "OSUT":
            yield repr(np.asarray(node[...]).tolist()).encode()


def require_clean(folder: Path, *secrets: str) -> int:
    """Require that no file below `folder` holds one of `secrets`; return the number of files."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    stores = [path for path in folder.rglob("*.zarr") if (path / "zarr.json").is_file()]
    for path, texts in (
        (path, read(path)) for read, paths in ((texts_in, files), (texts_in_zarr, stores)) for path in paths
    ):
        whole = b"\n".join(texts)
        for secret in secrets:
            assert secret.encode() not in whole, f"{secret} in {path}"
    return len(files)


def test_a_run_stores_neither_tokens_nor_the_home_folder(home: Path, run: Callable[..., str]) -> None:
    project, raw = home / "project", home / "raw"
    settings = SimulationSettings(seed=3, width_um=700.0, height_um=700.0, mpp=2.0, n_genes=300)
    write_space_ranger(SimulatedTissue(settings), raw / "simulated")
    shutil.copy(raw / "simulated" / IMAGE, raw / "unseen.tif")
    genes = read_matrix(raw / "simulated/filtered_feature_bc_matrix.h5").var_names
    (home / "genes.txt").write_text("\n".join(genes[:5]))
    counts = np.random.default_rng(0).poisson(5, (60, len(genes)))
    pd.DataFrame(counts, [f"r{i}" for i in range(60)], genes).to_csv(home / "atlas.csv")
    params = f"reference={home}/atlas.csv,evaluation.gene_sets.mine={home}/genes.txt,image={raw}/simulated/{IMAGE}"
    params += ",fit.use_network=false"
    run("run", "--env", "mine", "--params", params, HF_TOKEN=TOKENS["variable"])
    run("run", "--env", "mine", "--pipelines", "transfer", "--params", "section=unseen,model=simulated,transfer.mpp=2")
    report = (project / "data/08_reporting/simulated/default/report.html").read_text()
    assert "reference=~/atlas.csv" in report
    # what was stored fits a run that is given the same paths in another way
    params = params.replace(str(home), "~")
    run("run", "--env", "mine", "--pipelines", "evaluation", "--nodes", "evaluation.join_scores", "--params", params)
    assert require_clean(project / "data", str(home), *TOKENS.values()) > 60
    assert require_clean(project / ".viz", str(home), *TOKENS.values()) > 0


@pytest.mark.parametrize("where", TOKENS)
def test_a_refused_token_is_told_to_nobody_but_the_hub(
    home: Path, run: Callable[..., str], hub: tuple[str, list[str]], where: str
) -> None:
    more = {"HF_TOKEN": TOKENS["variable"]} if where == "variable" else {}
    local = home / "project/conf/local"
    local.mkdir(exist_ok=True)
    credentials = local / "credentials.yml"
    if where == "credentials":
        credentials.write_text(yaml.safe_dump({"huggingface": {"token": TOKENS["credentials"]}}))
    hub[1].clear()
    try:
        words = ("--env", "tiny", "--params", "backbone=uni")
        if where == "variable":
            output = run("run", *words, code=1, **more)
        else:
            output = run("doctor", *words, "--json", code=1, **more)
            assert json.loads(output)["status"] == "FAIL"
    finally:
        credentials.unlink(missing_ok=True)
    assert f"Bearer {TOKENS[where]}" in hub[1], "the token was not used"
    assert "(401)" in output
    for name in ("data", ".viz"):
        require_clean(home / "project" / name, *TOKENS.values())


def test_what_a_failed_run_stores_names_no_home_folder(home: Path, run: Callable[..., str]) -> None:
    project = home / "project"
    (home / "none.csv").write_text("spot,g1\ns1,3\n")
    words = ("--env", "mine", "--params", f"run=failed,fit.use_network=false,reference={home}/none.csv")
    output = run("run", *words, code=1)
    assert f"{home}/none.csv" in output or "~/none.csv" in output
    events = (project / ".viz/kedro_pipeline_events.json").read_text()
    assert "none.csv" in events
    output = run("run", "--env", "mine", "--pipeline", "download", "--params", f"raw_root={home}/new", code=1)
    assert "counts.h5" in output
    report = json.loads((project / "data/08_reporting/simulated/download_report.json").read_text())
    assert report["folder"] == "~/new"
    for name in ("data", ".viz"):
        require_clean(project / name, str(home))


def test_only_the_home_folder_itself_becomes_a_tilde(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/al")
    found = without_home({"a": ["/home/al/x", "/home/alice/x", "/mnt/home/al", "'/home/al'", 3], "/home/al": None})
    assert found == {"a": ["~/x", "/home/alice/x", "/mnt/home/al", "'~'", 3], "~": None}
    monkeypatch.setenv("HOME", "/")
    assert without_home("/a/b") == "/a/b"
