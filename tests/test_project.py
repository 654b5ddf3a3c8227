"""The project itself: light imports, typed nodes and complete environments."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import get_type_hints

import pytest
import yaml
from kedro.framework.session import KedroSession
from kedro.framework.startup import bootstrap_project
from pydantic import BaseModel

from spamcaf.pipeline_registry import CHAIN

Run = Callable[..., subprocess.CompletedProcess[str]]
ROOT = Path(__file__).parent.parent
HEAVY = ("torch", "timm", "scanpy", "torchvision", "spatialdata", "anndata")


def test_commands_that_compute_nothing_import_nothing_heavy(project: Path) -> None:
    code = (
        "import sys, json\n"
        "from kedro.framework.cli.cli import main\n"
        "commands = [[name, '--help'] for name in ('run', 'doctor', 'cohort')]\n"
        "for words in (['--help'], ['registry', 'list'], *commands):\n"
        "    sys.argv = ['kedro', *words]\n"
        "    try:\n        main()\n"
        "    except SystemExit:\n        pass\n"
        f"    print(json.dumps([*words, *(name for name in {HEAVY!r} if name in sys.modules)]))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=project, capture_output=True, text=True, check=True)
    found = [json.loads(line) for line in done.stdout.splitlines() if line.startswith('["')]
    assert found == [["--help"], ["registry", "list"], ["run", "--help"], ["doctor", "--help"], ["cohort", "--help"]]


@pytest.mark.parametrize("name", [*CHAIN, "pooling", "simulation", "download", "transfer"])
def test_annotations_of_nodes_resolve(name: str) -> None:
    """Kedro skips the typed parameters of a node whose annotations it cannot resolve."""
    for node in import_module(f"spamcaf.pipelines.{name}").create_pipeline().nodes:
        hints = get_type_hints(node.func)
        typed = [entry for entry in node.inputs if entry.startswith("params:") and "." not in entry]
        settings = [hint for hint in hints.values() if isinstance(hint, type) and issubclass(hint, BaseModel)]
        assert len(settings) == len([entry for entry in typed if entry != "params:seed"])


@pytest.mark.parametrize("env", sorted(path.name for path in (ROOT / "conf").iterdir() if path.is_dir()))
def test_every_environment_makes_a_catalog(project: Path, env: str) -> None:
    bootstrap_project(project)
    with KedroSession.create(project, env=env) as session:
        catalog = session.load_context().catalog
        for name in ("raw_section", "slide", "truth", "backbone", "scores"):
            assert catalog.get(name) is not None
        assert catalog.get("backbone")._describe()["name"] == (
            "efficientnet_lite0" if env in {"base", "local", "mlflow"} else "uni"
        )


def test_the_default_pipeline_is_the_chain(kedro: Run) -> None:
    described = yaml.safe_load(kedro("registry", "describe", "__default__").stdout)
    names = [re.sub(r" \(.*", "", node) for node in described["Nodes"]]
    assert {name.split(".")[0] for name in names} == set(CHAIN)


def test_no_telemetry() -> None:
    assert yaml.safe_load((ROOT / ".telemetry").read_text()) == {"consent": False}
