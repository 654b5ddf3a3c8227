"""How well `spamcaf` predicts, beside everything it should beat: tables in Markdown.

python benchmarks/accuracy.py --data <folder with her2st> --cache <folder>
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import _prepare
import _synthetic
from _ablation import ablation_table
from _dense import dense_table
from _models import Options
from _recovery import block_table, lattice_table, pooled_table, random_table, released_table
from _reference import draws_table, reference_table, views_table
from _section import Section
from _simulated import simulated_table
from _transfer import transfer_table

from spamcaf.parameters import ReleasedSettings, SimulationSettings

REAL: dict[str, Callable[[Sequence[Section], int, Options], str]] = {
    "random": random_table,
    "pooled": pooled_table,
    "transfer": transfer_table,
    "block": block_table,
    "lattice": lattice_table,
    "reference": reference_table,
    "draws": draws_table,
    "ablation": ablation_table,
    "released": released_table,
}
NEED_SEVERAL = ("pooled", "transfer", "reference")
SIMULATED, DENSE, VIEWS = "simulated", "dense", "views"
TABLES = (*REAL, VIEWS, SIMULATED, DENSE)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the tables asked for, each as soon as it is done."""
    asked = _parser().parse_args(arguments)
    names = asked.only.split(",")
    unknown = [name for name in names if name not in TABLES]
    if unknown:
        raise SystemExit(f"Unknown table: {', '.join(unknown)}. Choose from: {', '.join(TABLES)}.")
    options = (
        _synthetic.OPTIONS
        if asked.quick
        else Options(released=ReleasedSettings(epochs=asked.released_epochs), references=tuple(asked.references))
    )
    real = [name for name in names if name in REAL]
    sections = _real_sections(asked) if real else []
    for name in real:
        few = asked.quick and name not in NEED_SEVERAL
        print(REAL[name](sections[:1] if few else sections, asked.masks, options), flush=True)
    if VIEWS in names:
        print(views_table(_real_sections(asked), _real_sections(asked, views=12), asked.masks, options), flush=True)
    if SIMULATED in names:
        print(simulated_table(_simulated_section(asked), asked.simulated_masks, options), flush=True)
    if DENSE in names:
        print(dense_table(_simulated_section(asked), _simulated_section(asked, is_dense=True), options), flush=True)


def _real_sections(asked: argparse.Namespace, views: Literal[1, 12] = 1) -> list[Section]:
    if asked.quick:
        return [_synthetic.make_section(name, n_side=8, seed=seed) for seed, name in enumerate(asked.sections)]
    folder = asked.data / "her2st" if (asked.data / "her2st").is_dir() else asked.data
    backbone = _prepare.load_backbone()
    return [_prepare.read_section(folder, name, backbone, asked.cache, views) for name in asked.sections]


def _simulated_section(asked: argparse.Namespace, *, is_dense: bool = False) -> Section:
    if asked.quick:
        return _synthetic.make_section("simulated", n_side=8, seed=9, factors=(4, 16))
    settings = SimulationSettings(width_um=asked.simulated_um, height_um=asked.simulated_um)
    return _prepare.simulate_section(settings, _prepare.load_backbone(), asked.cache, is_dense=is_dense)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("data/01_raw"), help="folder that holds her2st")
    parser.add_argument("--cache", type=Path, default=Path("data/benchmarks"), help="where sections and features stay")
    parser.add_argument("--sections", nargs="+", default=["C2", "C3", "C4"])
    parser.add_argument("--references", nargs="*", type=Path, default=[], help="count files of the table reference")
    parser.add_argument("--masks", type=int, default=5, help="random masks of the tables random and pooled")
    parser.add_argument("--only", default=",".join(TABLES), help=f"tables, separated by commas: {','.join(TABLES)}")
    parser.add_argument("--released-epochs", type=int, default=ReleasedSettings().epochs)
    parser.add_argument("--simulated-um", type=float, default=5700.0, help="width of the simulated section")
    parser.add_argument("--simulated-masks", type=int, default=1, help="random masks on the simulated section")
    parser.add_argument("--quick", action="store_true", help="tiny made-up arrays: does it run at all?")
    return parser


if __name__ == "__main__":
    main()
