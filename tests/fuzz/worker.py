"""A process that reads changed inputs, one after another, each within limits of time and memory.

Started as `python -m tests.fuzz.worker <folder>`; a line `<kind> <seed>` on its input gives a line of JSON.
"""

from __future__ import annotations

import json
import logging
import random
import resource
import shutil
import signal
import sys
import tempfile
import traceback
import warnings
from pathlib import Path

from tests.fuzz.mutate import ONE_AT_A_TIME, keep_one, mutate
from tests.fuzz.seeds import KINDS

SECONDS, MEMORY_BYTES = 20, 2 << 30
READ, REFUSED, DEFECT = "read", "refused", "defect"


class LateError(BaseException):
    """Out of time; not an Exception, which the readers would take for damage of the file."""


def _late(*_: object) -> None:
    raise LateError


def warm_up(bases: Path) -> None:
    """Read every valid input once: what is imported then does not count as time or memory of a changed one."""
    for kind, (_, read) in KINDS.items():
        names = sorted(path.name for path in (bases / kind).iterdir())
        for name in names if kind in ONE_AT_A_TIME else names[:1]:
            with tempfile.TemporaryDirectory() as folder:
                place = Path(shutil.copytree(bases / kind, Path(folder, "in")))
                if kind in ONE_AT_A_TIME:
                    keep_one(place, name)
                read(place)


def run_case(bases: Path, kind: str, seed: int) -> dict[str, object]:
    """Change the input of `kind` by `seed` and read it; return what came of it."""
    from spamcaf.errors import InputError

    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as scratch:
        folder = Path(scratch, "in")
        shutil.copytree(bases / kind, folder)
        done = mutate(kind, random.Random(f"{kind} {seed}"), folder)
        detail = ""
        signal.alarm(SECONDS)
        try:
            KINDS[kind][1](folder)
            outcome = READ
        except InputError as error:
            outcome, detail = REFUSED, str(error)
        except LateError:
            outcome, detail = DEFECT, "took too long: " + " < ".join(traceback.format_exc().split("\n")[-6:-2])
        except BaseException as error:
            place = traceback.extract_tb(error.__traceback__)
            ours = [f"{Path(f.filename).name}:{f.lineno}" for f in place if "/spamcaf/" in f.filename]
            outcome, detail = DEFECT, f"{type(error).__name__}: {str(error)[:300]} at {' > '.join(ours[-4:])}"
        finally:
            signal.alarm(0)
    return {"kind": kind, "seed": seed, "outcome": outcome, "mutation": done, "detail": detail[:600]}


def main(bases: Path) -> None:
    """Answer each line of the input."""
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    answers, sys.stdout = sys.stdout, sys.stderr  # libraries print
    warm_up(bases)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY_BYTES, used + MEMORY_BYTES))
    signal.signal(signal.SIGALRM, _late)
    print("ready", file=answers, flush=True)
    for line in sys.stdin:
        kind, seed = line.split()
        print(json.dumps(run_case(bases, kind, int(seed))), file=answers, flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
