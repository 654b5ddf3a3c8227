"""A small project of its own: a tiny simulated section and a tiny backbone in a temporary folder, run once."""

from __future__ import annotations

import io
import logging
import os
import shutil
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from unittest import mock

import pytest
import yaml

ROOT = Path(__file__).parent.parent
SIMULATION = {"seed": 3, "width_um": 800.0, "height_um": 800.0, "mpp": 2.0, "n_genes": 300}
PARAMETERS = {
    "panel": {"n_genes": 60},
    "split": {"n_folds": 3},
    "fit": {"epochs": 1},
    "report": {"n_genes": 2},
    "compute": {"precision": "float32"},  # bf16 is five times slower for a network this small
}
BACKBONE = {"architecture": "test_vit", "init": {"img_size": 224, "patch_size": 56}, "width": 64}
OFFLINE = {"HF_HUB_OFFLINE": "1"}

# One thread, here and in every process that is started: for arrays this small, threads wait longer than they work.
# It counts where numpy, torch and numba are imported later: pyproject.toml leaves out plugins that import them.
os.environ["OMP_NUM_THREADS"] = os.environ["NUMBA_NUM_THREADS"] = "1"

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def tiny_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the weights of timm's tiny stand-in for a ViT."""
    import timm
    import torch
    from safetensors.torch import save_file

    folder = tmp_path_factory.mktemp("backbone")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = timm.create_model(BACKBONE["architecture"], pretrained=False, num_classes=0, **BACKBONE["init"])
    save_file(network.state_dict(), folder / "model.safetensors")
    return folder


@pytest.fixture(scope="session")
def project(tmp_path_factory: pytest.TempPathFactory, tiny_weights: Path) -> Path:
    """Return a project whose environment `tiny` runs in seconds."""
    folder = tmp_path_factory.mktemp("project")
    for name in ("pyproject.toml", ".telemetry"):
        shutil.copy(ROOT / name, folder / name)
    shutil.copytree(ROOT / "conf", folder / "conf", ignore=shutil.ignore_patterns("credentials*"))
    shutil.copytree(ROOT / "src", folder / "src", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    backbones = yaml.safe_load((ROOT / "conf/base/globals.yml").read_text())["backbones"]
    backbones["tiny"] = {"source": str(tiny_weights), **BACKBONE}
    tiny = folder / "conf" / "tiny"
    tiny.mkdir()
    (tiny / "globals.yml").write_text(
        yaml.safe_dump({"simulation": SIMULATION, "backbone": "tiny", "backbones": backbones})
    )
    (tiny / "parameters.yml").write_text(yaml.safe_dump(PARAMETERS))
    return folder


@pytest.fixture(scope="session")
def kedro_process(project: Path) -> Run:
    """Return a function that runs `kedro` as a process of its own, offline and, as this one, on one thread."""

    def run(*words: str, env: str = "tiny", folder: Path = project) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "kedro", *words]
        environment = {**os.environ, **OFFLINE, "KEDRO_ENV": env}
        return subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True, timeout=600, check=False
        )

    return run


@pytest.fixture(scope="session")
def kedro(project: Path) -> Run:
    """Return a function that runs `kedro` in this process, which has imported everything already."""

    def run(*words: str, env: str = "tiny", folder: Path = project) -> subprocess.CompletedProcess[str]:
        from kedro.framework.cli.cli import KedroCLI
        from kedro.framework.project import configure_logging

        code: int | str | None = 0
        out, err = io.StringIO(), io.StringIO()
        with _restored(), redirect_stdout(out), redirect_stderr(err):
            os.chdir(folder)
            os.environ.update(OFFLINE, KEDRO_ENV=env)
            try:
                command = KedroCLI(folder)
                configure_logging(yaml.safe_load((folder / "conf/logging.yml").read_text()))  # to the new stdout
                command.main(list(words), prog_name="kedro")
            except SystemExit as ended:
                code = ended.code
            except Exception:
                traceback.print_exc()
                code = 1
        assert code is None or isinstance(code, int)
        return subprocess.CompletedProcess(words, code or 0, out.getvalue(), err.getvalue())

    return run


@contextmanager
def _restored() -> Iterator[None]:
    """Put back what a run changes in its process: folder, environment, import path and loggers."""
    from huggingface_hub import constants

    loggers = [logging.getLogger(name) for name in ("", "kedro", "kedro.runner", "spamcaf")]
    before = [(logger, logger.level, logger.handlers[:]) for logger in loggers]
    folder = Path.cwd()
    try:
        with (
            mock.patch.dict(os.environ),
            mock.patch.object(sys, "path", sys.path[:]),
            mock.patch.object(constants, "HF_HUB_OFFLINE", True),
        ):
            yield
    finally:
        os.chdir(folder)
        for logger, level, handlers in before:
            logger.setLevel(level)
            logger.handlers[:] = handlers


@pytest.fixture(scope="session")
def first_run(kedro_process: Run) -> subprocess.CompletedProcess[str]:
    """Run everything once, as a process; what it wrote lies in the small project, and tests only read it."""
    done = kedro_process("run")
    assert done.returncode == 0, done.stdout + done.stderr
    return done


@pytest.fixture(scope="session")
def copy_finished(first_run: subprocess.CompletedProcess[str], project: Path) -> Callable[[Path], Path]:
    """Return a function that copies the project and all that the first run wrote, to change at will."""

    def copy(folder: Path) -> Path:
        # the sources are installed, Kedro only looks for their folder; a SpatialData has a folder of that name too
        def left_out(path: str, names: list[str]) -> set[str]:
            return {".viz", *(["spamcaf"] if path == str(project / "src") else [])} & set(names)

        return Path(shutil.copytree(project, folder, ignore=left_out))

    return copy


@pytest.fixture
def finished(copy_finished: Callable[[Path], Path], tmp_path: Path) -> Path:
    """Return a copy of the project and all that the first run wrote, for one test."""
    return copy_finished(tmp_path / "finished")
