"""A small project of its own: the sources, a tiny simulated section and a tiny backbone, in a temporary folder."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parent.parent
SIMULATION = {"seed": 3, "width_um": 1000.0, "height_um": 1000.0, "mpp": 0.8, "n_genes": 300}
PARAMETERS = {"panel": {"n_genes": 60}, "fit": {"epochs": 3}, "report": {"n_genes": 2}}

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
        network = timm.create_model("test_vit", pretrained=False, num_classes=0, img_size=224)
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
    backbone = {
        "source": str(tiny_weights),
        "architecture": "test_vit",
        "init": {"img_size": 224},
        "width": 64,
    }
    backbones = yaml.safe_load((ROOT / "conf/base/globals.yml").read_text())["backbones"]
    settings = {"simulation": SIMULATION, "backbone": "tiny", "backbones": {**backbones, "tiny": backbone}}
    tiny = folder / "conf" / "tiny"
    tiny.mkdir()
    (tiny / "globals.yml").write_text(yaml.safe_dump(settings))
    (tiny / "parameters.yml").write_text(yaml.safe_dump(PARAMETERS))
    return folder


@pytest.fixture(scope="session")
def kedro(project: Path) -> Run:
    """Return a function that runs `kedro` in the small project's environment, offline and on one thread."""

    def run(*words: str, env: str = "tiny", **variables: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "kedro", *words]
        environment = {**os.environ, "KEDRO_ENV": env, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", **variables}
        return subprocess.run(
            command, cwd=project, env=environment, capture_output=True, text=True, timeout=600, check=False
        )

    return run


@pytest.fixture(scope="session")
def first_run(kedro: Run) -> subprocess.CompletedProcess[str]:
    """Run everything once; what it wrote lies in the small project."""
    done = kedro("run")
    assert done.returncode == 0, done.stdout + done.stderr
    return done
