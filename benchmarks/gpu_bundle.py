"""Packs what a GPU machine would have to build: `.gpu/bundle.tgz`, at most 40 MiB.

    python -m benchmarks.gpu_bundle [--python PYTHON]

In it are the compiled operators, which serve any torch from 2.10 on because they use its stable
interface only, the other modules for Python 3.12 (PYTHON312 in the environment names it), and
Triton's cache with the machine code of the kernels for an H100. Triton finds that only if it has
the same version: PYTHON is an interpreter with that Triton and any torch; no GPU is needed.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
BUNDLE = ROOT / ".gpu/bundle.tgz"
SUFFIX = ".cpython-312-x86_64-linux-gnu.so"
LIMIT = 40 << 20


def run(*command: str, **options: object) -> str:
    done = subprocess.run(
        command, cwd=ROOT, check=True, text=True, stdout=subprocess.PIPE, **options
    )
    return done.stdout


def add_operators(folder: Path) -> None:
    """Copy the operators; their names only say which Python they were built with."""
    for name in ("_C", "_C_cuda"):
        built = sorted((ROOT / "rl4rec_kernels").glob(f"{name}.*so"))
        if not built:
            raise SystemExit(f"{name} is missing: build with RL4REC_CUDA=1 first")
        shutil.copy(built[0], folder / f"{name}{SUFFIX}")


def add_modules(folder: Path) -> bool:
    """Build the pybind11 modules for Python 3.12, to whose version they are bound."""
    import pybind11

    python = os.environ.get("PYTHON312", "python3.12")
    code = "import sysconfig; print(sysconfig.get_path('include'))"
    try:
        include = run(python, "-c", code).strip()
    except (OSError, subprocess.CalledProcessError):
        return False
    for name in ("sampler", "ids"):
        sources = [str(path) for path in sorted((ROOT / "csrc" / name).glob("*.cpp"))]
        run(
            os.environ.get("CXX", "g++"), "-std=c++17", "-O3", "-shared", "-fPIC", "-pthread",
            "-fvisibility=hidden", f"-I{ROOT / 'csrc'}", f"-I{include}",
            f"-I{pybind11.get_include()}", *sources, "-o", str(folder / f"_{name}{SUFFIX}"),
        )  # fmt: skip
    return True


def add_triton_cache(folder: Path, python: str) -> str:
    """Compile the Triton kernels for compute capability 9.0; return Triton's version."""
    environment = {name: v for name, v in os.environ.items() if name != "TRITON_INTERPRET"}
    environment |= {"TRITON_CACHE_DIR": str(folder), "PYTHONPATH": str(ROOT)}
    run(python, "tests/ops/triton_resources.py", "90", env=environment)
    for file in folder.rglob("*"):
        if file.suffix in (".ttir", ".ttgir", ".llir", ".ptx", ".source"):
            file.unlink()
    return run(python, "-c", "import triton; print(triton.__version__)").strip()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--python", default=sys.executable, help="has the GPU machine's Triton")
    parser.add_argument("--no-triton", action="store_true", help="without Triton's cache")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "rl4rec_kernels").mkdir()
        (folder / "triton").mkdir()
        add_operators(folder / "rl4rec_kernels")
        has_modules = add_modules(folder / "rl4rec_kernels")
        version = None
        if not arguments.no_triton:
            version = add_triton_cache(folder / "triton", arguments.python)
        manifest = {
            "commit": run("git", "rev-parse", "HEAD").strip(),
            "triton": version,
            "pybind11 modules": has_modules,
        }
        (folder / "manifest.json").write_text(json.dumps(manifest, indent=1))
        BUNDLE.parent.mkdir(exist_ok=True)
        with tarfile.open(BUNDLE, "w:gz") as archive:
            archive.add(folder, ".")
    size = BUNDLE.stat().st_size
    print(f"{BUNDLE.relative_to(ROOT)}: {size / 2**20:.1f} MiB, {manifest}")
    if not has_modules:
        print("without the pybind11 modules: there is no python3.12 here; the machine builds them")
    if size > LIMIT:
        raise SystemExit(f"the bundle is larger than {LIMIT >> 20} MiB")


if __name__ == "__main__":
    main()
