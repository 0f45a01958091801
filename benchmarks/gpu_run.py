"""All that a GPU machine should do in 8 minutes, in the order of what teaches most.

    python -m benchmarks.gpu_run [--minutes 8] [--dry-run] [--profile]

It unpacks the bundle of `gpu_bundle` if there is one, loads the extensions or builds them, runs
every kernel once, then the tests beside memcheck and racecheck, then the benchmarks, which use the
GPU alone. After each step `benchmarks/results/gpu-run.md` and `.json` say how it went, and the
benchmarks write their own page after each table: a run that is cut leaves what it has found. It
needs no network. With --dry-run launches are replaced by emulated ones, on tiny shapes; with
--profile Nsight Compute measures the kernels instead, which takes about 3 minutes.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tarfile
import time
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parents[1]
BUNDLE = ROOT / ".gpu/bundle.tgz"
PYTHON = sys.executable
GPU_TESTS = ["tests/ops/test_on_gpu.py", "tests/ops/test_gpu_same_bits.py"]
GPU_TESTS += ["tests/ops/test_gpu_candidates.py", "tests/ops/test_gpu_catalog.py"]
GPU_TESTS += ["tests/cuda/test_gpu.py", "tests/cuda"]


class Step(NamedTuple):
    """Commands that run at the same time, and the seconds they may take."""

    commands: dict[str, list[str]]
    seconds: float


class Run:
    """The steps so far, and the time that is left."""

    def __init__(self, folder: Path, seconds: float) -> None:
        self.folder, self.end = folder, time.monotonic() + seconds
        self.records: list[dict[str, Any]] = []
        folder.mkdir(parents=True, exist_ok=True)

    @property
    def left(self) -> float:
        return self.end - time.monotonic()

    def do(self, step: Step, environment: dict[str, str]) -> bool:
        """Run a step; return whether all of it succeeded."""
        limit, start, running = min(step.seconds, self.left), time.monotonic(), {}
        for name, command in step.commands.items():
            with (self.folder / f"gpu-run-{name}.txt").open("w") as out:
                running[name] = subprocess.Popen(
                    command, cwd=ROOT, env=environment, stdout=out, stderr=subprocess.STDOUT
                )
        good = True
        for name, process in running.items():
            try:
                code: Any = process.wait(max(1.0, start + limit - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                code = "out of time"
            good &= code == 0
            self.note(name, code, time.monotonic() - start)
        return good

    def note(self, name: str, result: Any, seconds: float) -> None:
        """Write down how a step went."""
        log = self.folder / f"gpu-run-{name}.txt"
        lines = log.read_text(errors="replace").splitlines() if log.exists() else []
        self.records.append(
            {"step": name, "result": result, "seconds": round(seconds, 1), "last": lines[-3:]}
        )
        print(f"{name}: {result}, {seconds:.0f} s, {self.left:.0f} s left", flush=True)
        page = ["# A run on a GPU machine", "", "| step | result | seconds |", "|---|---|--:|"]
        page += [f"| {r['step']} | {r['result']} | {r['seconds']} |" for r in self.records]
        (self.folder / "gpu-run.md").write_text("\n".join(page) + "\n")
        (self.folder / "gpu-run.json").write_text(json.dumps(self.records, indent=1))


def unpack(cache: Path) -> str:
    """Put the bundle's extensions and Triton's cache where they are looked for."""
    if not BUNDLE.exists():
        return "no bundle"
    with tarfile.open(BUNDLE) as archive:
        archive.extractall(cache, filter="data")
    for file in (cache / "rl4rec_kernels").iterdir():
        shutil.copy(file, ROOT / "rl4rec_kernels" / file.name)
    return (cache / "manifest.json").read_text()


def sanitizers() -> dict[str, list[str]]:
    program = shutil.which("compute-sanitizer") or "/usr/local/cuda/bin/compute-sanitizer"
    if not Path(program).exists():
        return {}
    start = [
        "env",
        "PYTORCH_NO_CUDA_MEMORY_CACHING=1",
        program,
        "--error-exitcode",
        "1",
        "--report-api-errors",
        "no",
        "--tool",
    ]
    script = [PYTHON, "tests/cuda/sanitize.py"]
    return {
        "memcheck": [*start, "memcheck", *script],
        "racecheck": [*start, "racecheck", *script, "cuda"],
    }


def steps(dry_run: bool, out: Path) -> list[Step]:
    """The steps before the benchmarks."""
    loads = "import rl4rec_kernels as rk, torch; print(rk.__version__, torch.__version__)"
    if dry_run:
        tests = [PYTHON, "-m", "pytest", "-q", "tests/gpu/test_checks.py", "-k", "wait"]
        return [Step({"load": [PYTHON, "-c", loads]}, 60), Step({"tests": tests}, 120)]
    tests = [PYTHON, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", "not emulated"]
    try:
        import xdist  # noqa: F401

        tests += ["-n", "12"]
    except ImportError:
        pass
    return [
        Step({"smoke": [PYTHON, "tests/cuda/sanitize.py"]}, 90),
        Step({"tests": [*tests, *GPU_TESTS], **sanitizers()}, 170),
    ]


def benchmark(dry_run: bool, folder: Path, seconds: float) -> Step:
    command = [PYTHON, "-m", "benchmarks.bench_gpu", "--seconds", str(max(0, seconds - 20))]
    if dry_run:
        command[2:] = ["tests.gpu.rehearse", "--out", str(folder / "emulated.md")]
    return Step({"bench": command}, seconds)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=8)
    parser.add_argument("--dry-run", action="store_true")
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results")
    arguments = parser.parse_args()
    run, cache = Run(arguments.out, 60 * arguments.minutes), ROOT / ".cache/gpu"
    environment = {name: v for name, v in os.environ.items() if name != "TRITON_INTERPRET"}
    environment["PYTHONPATH"] = str(ROOT)
    if arguments.dry_run:
        environment["TRITON_INTERPRET"] = "0"
    else:
        cache.mkdir(parents=True, exist_ok=True)
        print(unpack(cache), flush=True)
        environment["TRITON_CACHE_DIR"] = str(cache / "triton")
        check = "from rl4rec_kernels.ops import _backends as b; assert b.has_cuda_library()"
        if not run.do(Step({"load": [PYTHON, "-c", check]}, 60), environment):
            build = [PYTHON, "setup.py", "build_ext", "--inplace"]
            if not run.do(Step({"build": build}, 240), {**environment, "RL4REC_CUDA": "1"}):
                return 1
    if arguments.profile:
        names = "regex:_count_catalog|_collect|tile_kernel|rank_kernel|segment_sum"
        profile = ["ncu", "--set", "basic", "--kernel-name", names, "--launch-count", "8"]
        profile += [PYTHON, "-m", "benchmarks.bench_gpu", "--seconds", "100"]
        return 0 if run.do(Step({"profile": profile}, 180), environment) else 1
    good = all([run.do(step, environment) for step in steps(arguments.dry_run, arguments.out)])
    good &= run.do(benchmark(arguments.dry_run, arguments.out, run.left), environment)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
