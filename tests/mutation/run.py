"""How many small changes of the method, the scores and the sections their tests notice, by mutmut.

    pip install mutmut
    python tests/mutation/run.py sections scoring model --n 100 --seed 0

changes a sample of the lines of each room, one at a time, runs the tests of the room that reach them, and prints the
share of changes that a test notices ("killed") and those that none did. All lie in build/mutation/<room>, where
`mutmut show <name>` shows one.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
ROOMS = ("sections", "scoring", "model")
SURVIVED, NO_TESTS = 0, 33  # codes of mutmut; another one is of tests that fail, crash or run out of time
CONFIGURATION = r"""
[tool.mutmut]
source_paths = ["src"]
only_mutate = ["src/spamcaf/{room}/*.py"]
also_copy = ["conf", "README.md"]
do_not_mutate_patterns = ['^\s*f?"[^"]*"[,)]*$', 'InputError\(', 'logger\.']  # the words of messages
pytest_add_cli_args_test_selection = ["tests/{room}"]
"""


def prepare(room: str) -> Path:
    """Return a folder with a copy of the project, set up for the changes of one room."""
    folder = ROOT / "build" / "mutation" / room
    shutil.rmtree(folder, ignore_errors=True)
    for name in ("src", "tests", "conf"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    shutil.copy(ROOT / "README.md", folder)
    configured = (ROOT / "pyproject.toml").read_text() + CONFIGURATION.format(room=room)
    (folder / "pyproject.toml").write_text(configured)
    return folder


def mutmut(folder: Path, *names: str) -> None:
    """Run mutmut on the changes `names`; without any it only makes the changes and finds the tests of each function."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(folder / "mutants/src")}
    command = [sys.executable, "-m", "mutmut", "run", "--max-children", "1", *(names or ("none",))]
    with (folder / "mutmut.log").open("a") as log:
        subprocess.run(command, cwd=folder, env=environment, stdout=log, stderr=log, check=False)


def codes_of(folder: Path, room: str) -> dict[str, int | None]:
    """Return how the tests of each change ended, by its name; None where they were not run."""
    codes: dict[str, int | None] = {}
    for path in sorted((folder / "mutants/src/spamcaf" / room).glob("*.meta")):
        codes |= json.loads(path.read_text())["exit_code_by_key"]
    return codes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rooms", nargs="*", default=ROOMS)
    parser.add_argument("--n", type=int, default=100, help="changes of each room")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    for room in options.rooms:
        folder = prepare(room)
        mutmut(folder)
        names = sorted(codes_of(folder, room))
        if not names:
            sys.exit(f"mutmut made no changes: see {folder / 'mutmut.log'}")
        sample = random.Random(options.seed).sample(names, min(options.n, len(names)))
        mutmut(folder, *sample)
        codes = {name: codes_of(folder, room)[name] for name in sample}
        if None in codes.values():
            sys.exit(f"mutmut did not end: see {folder / 'mutmut.log'}")
        survivors = sorted(name for name, code in codes.items() if code in {SURVIVED, NO_TESTS})
        n_killed = len(sample) - len(survivors)
        sys.stdout.write(f"{room}: {n_killed} of {len(sample)} changes killed ({n_killed / len(sample):.0%}), ")
        sys.stdout.write(f"of {len(names)}, seed {options.seed}\n")
        sys.stdout.writelines(f"  {name}{' (no test)' * (codes[name] == NO_TESTS)}\n" for name in survivors)


if __name__ == "__main__":
    main()
