"""Feature extraction: throughput against the bare network, agreement, compiling, and peak memory.

python benchmarks/features.py [--quick] [--only speed|agreement|compiling|memory]

Prints a Markdown table. Throughput: blocks through reading, network and store, and the same batches, ready in memory,
through the network alone, in turns. Memory: a process of its own for each row, minus the weights of the network.
"""

from __future__ import annotations

import argparse
import os
import platform
import tempfile
from pathlib import Path

import torch
from _agreement import row_of_dense_passes, row_of_shared_tiles, rows_of_differences
from _peak import rows_of_memory
from _slide import N_SPOTS, SMALL_PX, write_slide
from _speed import rows_of_compiling, rows_of_throughput

TURNS, FEW_TURNS = 32, 4
PARTS = ("speed", "agreement", "compiling", "memory")


def machine() -> str:
    """Name the machine in general terms."""
    text = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    models = [line.split(":")[1].strip() for line in text.splitlines() if line.startswith("model name")]
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    load = f"{os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else "unknown"
    cpu = models[0] if models else platform.machine()
    return f"{os.cpu_count()} logical cores ({cpu}), {gpu}, torch {torch.__version__}, load at the start {load}"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer turns and a tenth of the spots")
    parser.add_argument("--only", choices=PARTS, help="one part alone")
    chosen = parser.parse_args()
    print(f"Machine: {machine()}.\n\n| check | seen | aim |\n|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "small.tif"
        write_slide(path, SMALL_PX)
        parts = (
            lambda: rows_of_throughput(Path(folder), FEW_TURNS if chosen.quick else TURNS),
            lambda: [*rows_of_differences(path), row_of_shared_tiles(path), row_of_dense_passes()],
            lambda: rows_of_compiling(path),
            lambda: rows_of_memory(Path(folder), N_SPOTS // 10 if chosen.quick else N_SPOTS),
        )
        for name, rows in zip(PARTS, parts, strict=True):
            if chosen.only in {None, name}:
                for row in rows():
                    print("| " + " | ".join(row) + " |", flush=True)


if __name__ == "__main__":
    main()
