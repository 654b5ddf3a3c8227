"""Time and memory of every step on Visium HD sections of growing size: which are linear in the bins?

The sections are made up, and so are the features of their bins: only the backbone is left out. Every step runs in a
process of its own, through the catalog of the project.

python benchmarks/large.py
"""

from __future__ import annotations

import argparse
import json
import math
import os
import resource
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from _hd_section import BIN_UM, HdTissue, iter_features, write_outs

from spamcaf.run_times import peak_bytes

ROOT = Path(__file__).parents[1]
CHAIN = ("ingestion", "feature_extraction", "training", "inference", "evaluation")
SECTION, ENVIRONMENT = "hd", "hd"
LIBRARIES = (
    "spamcaf.peers.models",
    "spamcaf.reporting.report",
    "scanpy",
    "spatialdata",
    "matplotlib.pyplot",
    "sklearn",
)
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"), "1")
GB, STANDARD_ERROR = 1e9, 2
Took = dict[str, dict[str, float]]
"""Processor seconds and peak memory in bytes, by step."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table."""
    asked = _parser().parse_args(arguments)
    if asked.inside is not None:
        run_steps(asked.inside, asked.sizes[0], asked)
        return
    if asked.quick:
        asked.sizes, asked.genes, asked.features = [300, 450], 120, 16
    with tempfile.TemporaryDirectory(dir=asked.folder) as folder:
        took = {n: _in_process(Path(folder) / str(n), n, asked) for n in asked.sizes}
    print(table(took, asked))


def _in_process(project: Path, n_bins: int, asked: argparse.Namespace) -> Took:
    """Run all steps on `n_bins` bins in a fresh process, which starts one more for each step."""
    given = ("epochs", "subdivide", "genes", "features", "stop")
    options = [f"--{name}={getattr(asked, name)}" for name in given]
    command = [sys.executable, __file__, "--inside", str(project), "--sizes", str(n_bins), *options]
    subprocess.run(command, check=True, env={**os.environ, **ONE_THREAD}, stdout=STANDARD_ERROR)
    took: Took = json.loads((project / "took.json").read_text(encoding="utf-8"))
    if not asked.keep:
        shutil.rmtree(project)
    return took


def table(took: dict[int, Took], asked: argparse.Namespace) -> str:
    """Return processor seconds and memory of each step by number of bins, and how they grow."""
    sizes = sorted(took)
    heads = [f"{n} bins: CPU s" for n in sizes] + [f"{n}: GB" for n in sizes]
    heads += [f"exponent {a} to {b}" for a, b in pairwise(sizes)][-1:]
    lines = [
        f"### Steps on a made-up Visium HD section ({BIN_UM:g} um bins, {asked.features} features, "
        f"{asked.genes} genes, subdivide {asked.subdivide}, {asked.epochs} epochs; one thread)",
        "",
        f"| step | {' | '.join(heads)} |",
        f"| {' | '.join(['---'] * (len(heads) + 1))} |",
    ]
    for step in took[sizes[-1]]:
        seconds = [max(took[n][step]["seconds"], 1e-3) for n in sizes]  # a clock may stand still
        cells = [f"{s:.1f}" for s in seconds] + [f"{took[n][step]['peak'] / GB:.2f}" for n in sizes]
        if len(sizes) > 1:
            cells.append(f"{math.log(seconds[-1] / seconds[-2]) / math.log(sizes[-1] / sizes[-2]):.2f}")
        lines.append(f"| {step} | {' | '.join(cells)} |")
    total = [sum(part["seconds"] for part in took[n].values()) for n in sizes]
    most = [max(part["peak"] for part in took[n].values()) / GB for n in sizes]
    cells = [f"{s:.1f}" for s in total] + [f"{peak:.2f}" for peak in most]
    if len(sizes) > 1:
        cells.append(f"{math.log(total[-1] / total[-2]) / math.log(sizes[-1] / sizes[-2]):.2f}")
    lines.append(f"| all steps (memory: the most of one) | {' | '.join(cells)} |")
    return "\n".join([*lines, "", "- An exponent of 1 is linear growth. Memory holds 0.6 GB of program.", ""])


def run_steps(project: Path, n_bins: int, asked: argparse.Namespace) -> None:
    """Write a section and a project around it, run its nodes, and store what each took in `took.json`."""
    from kedro.framework.session import KedroSession
    from kedro.framework.startup import bootstrap_project

    for name in LIBRARIES:  # once, not in each step
        import_module(name)
    tissue = HdTissue(n_bins, asked.genes, asked.features)
    _write_project(project, asked)
    _measured(lambda: write_outs(tissue, project / "raw" / SECTION))
    bootstrap_project(project)
    session: Any = KedroSession.create(project_path=project, env=ENVIRONMENT)
    with session:
        catalog = session.load_context().catalog
    took: Took = {}
    for name, do in _steps(catalog, tissue, asked):
        took[name] = _measured(do)
        print(f"{n_bins} bins, {name}: {took[name]['seconds']:.1f} s, {took[name]['peak'] / GB:.2f} GB", flush=True)
        (project / "took.json").write_text(json.dumps(took), encoding="utf-8")
        if name == asked.stop:
            break


def _write_project(project: Path, asked: argparse.Namespace) -> None:
    import yaml

    project.mkdir(parents=True)
    shutil.copy(ROOT / "pyproject.toml", project)
    (project / ".telemetry").write_text("consent: false\n", encoding="utf-8")
    shutil.copytree(ROOT / "conf", project / "conf")
    (project / "src").mkdir()  # the package itself is installed
    folder = project / "conf" / ENVIRONMENT
    folder.mkdir()
    given = {"section": SECTION, "source": "files", "raw_root": str(project / "raw"), "bin_um": int(BIN_UM)}
    (folder / "globals.yml").write_text(yaml.safe_dump(given), encoding="utf-8")
    fit = {"use_network": False} if not asked.epochs else {"epochs": asked.epochs}
    settings = {"fit": fit, "grid": {"subdivide": asked.subdivide}, "compute": {"threads": 1}}
    (folder / "parameters.yml").write_text(yaml.safe_dump(settings), encoding="utf-8")


def _steps(catalog: Any, tissue: HdTissue, asked: argparse.Namespace) -> Iterator[tuple[str, Callable[[], object]]]:  # noqa: ANN401  Kedro's
    """Yield every node of the chain in its order, and what runs it; features are made up."""
    from kedro.framework.project import pipelines
    from kedro.runner import SequentialRunner

    for name in CHAIN:
        if name == "feature_extraction":
            yield "made-up features", lambda: _save_features(catalog, tissue, asked)
            continue
        for node in pipelines[name].nodes:
            step = pipelines[name].filter(node_names=[node.name])
            yield node.name.rpartition(".")[2], lambda step=step: SequentialRunner().run(step, catalog)  # type: ignore[misc]


def _save_features(catalog: Any, tissue: HdTissue, asked: argparse.Namespace) -> None:  # noqa: ANN401  Kedro's
    section, grid = catalog.load("section"), catalog.load("grid")
    fingerprint = catalog.load("slide").fingerprint
    between = grid[grid["sub_index"] > 0]
    for name, ids, xy_px in (
        ("spot_features", section.obs_names.tolist(), np.asarray(section.obsm["spatial"], np.float64)),
        ("grid_features", between["site_id"].tolist(), between[["x_px", "y_px"]].to_numpy(np.float64)),
    ):
        for block in iter_features(tissue, ids, xy_px, fingerprint, asked.features):
            catalog.save(name, block)


def _measured(do: Callable[[], object]) -> dict[str, float]:
    """Run in a process of its own, a copy of this one; return its processor seconds and its peak memory."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        status = 1
        try:
            before = _seconds()
            do()
            took = {"seconds": _seconds() - before, "peak": float(peak_bytes())}
            os.write(writing, json.dumps(took).encode())
            status = 0
        except BaseException:
            import traceback

            traceback.print_exc()
        finally:
            sys.stdout.flush()
            os._exit(status)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        written = pipe.read()
    _, status = os.waitpid(child, 0)
    if status:
        raise SystemExit(f"a step failed: {status}")
    found: dict[str, float] = json.loads(written)
    return found


def _seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", type=int, default=[10_000, 30_000, 100_000], help="numbers of bins")
    parser.add_argument("--epochs", type=int, default=1, help="epochs of the networks; 0: without networks")
    parser.add_argument("--subdivide", type=int, default=1, help="1: no sites between the bins")
    parser.add_argument("--genes", type=int, default=2000, help="genes of the section, of which 1000 are predicted")
    parser.add_argument("--features", type=int, default=1280, help="features of a tile; 1280: the packaged backbone's")
    parser.add_argument("--stop", default="", help="the last step to run")
    parser.add_argument("--folder", help="where the sections and results are written meanwhile")
    parser.add_argument("--keep", action="store_true", help="keep each section and its results until the end")
    parser.add_argument("--quick", action="store_true", help="tiny sizes: does it run at all?")
    parser.add_argument("--inside", type=Path, help=argparse.SUPPRESS)
    return parser


if __name__ == "__main__":
    main()
