"""All that needs a GPU, by one command: the tests of tests/gpu, and the CUDA rows of the benchmarks.

python benchmarks/gpu.py [--quick]
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from _job import SPAMCAF, Job, run
from _networks import vit
from _slide import SMALL_PX, write_slide
from _speed import row_of_compiling, row_of_gpu_throughput

ROOT = Path(__file__).parent.parent
TURNS, FEW_TURNS = 32, 4
N_SPOTS, FEW_SPOTS, N_HELD = 2000, 200, 100


def main() -> int:
    """Run the tests, then print the tables; return the exit code of the tests."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer turns and spots")
    is_quick = parser.parse_args().quick
    if not torch.cuda.is_available():
        print("No CUDA device here: nothing was tested or measured.")
        return 1
    tests = subprocess.run([sys.executable, "-m", "pytest", "-q", "tests/gpu"], cwd=ROOT, check=False)
    print(f"\nMachine: {torch.cuda.get_device_name()}, torch {torch.__version__}.\n")
    print("| check | seen | aim |\n|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "small.tif"
        write_slide(path, SMALL_PX)
        turns = FEW_TURNS if is_quick else TURNS
        for row in (
            row_of_gpu_throughput(Path(folder), turns),
            row_of_compiling(path, torch.device("cuda"), vit("vit_large_patch16_224")),
        ):
            print("| " + " | ".join(row) + " |", flush=True)
    n_spots = FEW_SPOTS if is_quick else N_SPOTS
    print("\n| fit and prediction | fit, s | predict, s | score |\n| --- | --- | --- | --- |")
    for device in ("cuda", "cpu"):
        seen = run(Job(SPAMCAF, n_spots, N_HELD, device=device))
        what = f"{device}, {n_spots} spots"
        print(f"| {what} | {seen.fit_s:.1f} | {seen.predict_s:.1f} | {seen.score:.3f} |", flush=True)
    return tests.returncode


if __name__ == "__main__":
    sys.exit(main())
