"""How the time and memory of examples/evaluate_large.py grow with items and users.

    python -m benchmarks.growth                    # both engines, four processes, one thread each
    python -m benchmarks.growth --engines ray --items 100000 1000000 --users 1000

Runs the example once per size, in the order of the sizes, and prints a table in Markdown: seconds,
and the most memory of a process, its own and that of mapped files (which the processes of a machine
share). The last line fits ``seconds = start + slope * items * users``, by relative errors, and
applies it to 10 million items and 100,000 users.
"""

import argparse
import itertools
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

EXAMPLE = Path(__file__).parents[1] / "examples" / "evaluate_large.py"
TORCHRUN = ("-m", "torch.distributed.run", "--standalone")
LARGE = 10_000_000 * 100_000


class Run(NamedTuple):
    """One run of the example."""

    engine: str
    items: int
    users: int
    seconds: float
    own_mib: float
    mapped_mib: float


def memory_of_workers(folder: Path) -> list[tuple[float, float]]:
    """The own and the mapped memory, in MiB, of workers on Ray, or of those with this TMPDIR."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_text().split("\0")
            if not command[0].startswith("ray::rank"):  # which has overwritten its environment
                variables = (process / "environ").read_text().split("\0")
                of_this_run = f"TMPDIR={folder}" in variables
                is_worker = any(name.startswith("RANK=") for name in variables)
                if not (of_this_run and is_worker and str(EXAMPLE) in command):
                    continue
            status = dict(re.findall(r"^(Rss\w+):\s+(\d+)", (process / "status").read_text(), re.M))
        except (OSError, UnicodeDecodeError):  # it has just ended
            continue
        if status:
            found.append((int(status["RssAnon"]) / 1024, int(status["RssFile"]) / 1024))
    return found


def run(engine: str, items: int, users: int, dim: int, processes: int, folder: Path) -> Run:
    """Run the example, and look at the memory of its processes ten times per second."""
    command = [sys.executable, *(TORCHRUN if engine == "torchrun" else ())]
    command += [f"--nproc-per-node={processes}"] if engine == "torchrun" else []
    command += [str(EXAMPLE), "--engine", engine, "--workers", str(processes)]
    command += ["--items", str(items), "--users", str(users), "--dim", str(dim)]
    variables = {**os.environ, "TMPDIR": str(folder), "OMP_NUM_THREADS": "1"}
    with open(folder / "output", "w+", encoding="utf-8") as output:
        child = subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, env=variables, start_new_session=True
        )
        own = mapped = 0.0
        while child.poll() is None:
            for anonymous, files in memory_of_workers(folder):
                own, mapped = max(own, anonymous), max(mapped, files)
            time.sleep(0.1)
        output.seek(0)
        text = output.read()
    seconds = re.search(r"items: ([\d.]+) s", text)
    if seconds is None:
        raise SystemExit(f"{' '.join(command)} failed:\n{text}")
    return Run(engine, items, users, float(seconds[1]), own, mapped)


def fit(runs: Sequence[Run]) -> tuple[float, float]:
    """The start and the slope of seconds over items times users, by relative errors."""
    pairs = np.array([run.items * run.users for run in runs], dtype=np.float64)
    seconds = np.array([run.seconds for run in runs])
    columns = np.stack([np.ones_like(pairs), pairs], axis=1) / seconds[:, None]
    start, slope = np.linalg.lstsq(columns, np.ones_like(seconds), rcond=None)[0]
    return float(start), float(slope)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run all sizes, and print the table and the extrapolation."""
    parser = argparse.ArgumentParser(
        description=__doc__.partition("\n")[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--engines", nargs="+", default=["ray", "torchrun"])
    parser.add_argument("--items", nargs="+", type=int, default=[100_000, 300_000, 1_000_000])
    parser.add_argument("--users", nargs="+", type=int, default=[1_000, 3_000, 10_000])
    parser.add_argument("--dim", type=int, default=384)
    parser.add_argument("--processes", type=int, default=4)
    options = parser.parse_args(arguments)
    print("| engine | items | users | seconds | ns per pair | own MiB | mapped MiB |")
    print("|---|--:|--:|--:|--:|--:|--:|")
    with tempfile.TemporaryDirectory() as folder:
        for engine in options.engines:
            runs = []
            for items, users in itertools.product(options.items, options.users):
                one = run(engine, items, users, options.dim, options.processes, Path(folder))
                runs.append(one)
                each = 1e9 * one.seconds / items / users
                print(
                    f"| {engine} | {items:,} | {users:,} | {one.seconds:.1f} | {each:.1f} "
                    f"| {one.own_mib:.0f} | {one.mapped_mib:.0f} |",
                    flush=True,
                )
            start, slope = fit(runs)
            print(
                f"\n{engine}: {start:.2f} s + {1e9 * slope:.2f} ns per item and user; 10 million "
                f"items and 100,000 users: {(start + slope * LARGE) / 60:.0f} minutes\n"
            )


if __name__ == "__main__":
    main()
