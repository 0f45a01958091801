"""What is shipped, and what a user is told where it cannot be built or loaded."""

import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

import rl4rec_kernels

ROOT = Path(__file__).parent.parent
NO_SOURCES = not (ROOT / "setup.py").is_file()

pytestmark = pytest.mark.skipif(NO_SOURCES, reason="needs the source tree")


def run(*arguments: str, cwd: Path, **variables: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **variables},
    )


@pytest.fixture
def tree(tmp_path):
    """A copy of what is needed to build, without what was built."""
    ignore = shutil.ignore_patterns("__pycache__", "*.so")
    for name in ("rl4rec_kernels", "csrc", "tests", "examples", "benchmarks", "docs"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=ignore)
    for path in ROOT.iterdir():
        if path.is_file():
            shutil.copy(path, tmp_path)
    return tmp_path


def test_the_sdist_has_all_sources(tree):
    code = "from setuptools import build_meta; print(build_meta.build_sdist('out'))"
    done = run("-c", code, cwd=tree)
    assert done.returncode == 0, done.stderr
    with tarfile.open(tree / "out" / done.stdout.split()[-1]) as archive:
        shipped = {name.partition("/")[2] for name in archive.getnames()}
    for folder in ("rl4rec_kernels", "csrc", "tests", "docs"):
        sources = {str(p.relative_to(tree)) for p in (tree / folder).rglob("*") if p.is_file()}
        assert {name for name in sources if "__pycache__" not in name} <= shipped
    assert {"setup.py", "pyproject.toml", "CMakeLists.txt", "README.md", "LICENSE"} <= shipped
    assert not any(name.endswith((".so", ".pyc")) for name in shipped)


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"CXX": "/nowhere/g++"}, "CXX=/nowhere/g++ is not there"),
        ({"CXX": "", "PATH": "/nowhere"}, "none is on PATH"),
    ],
)
def test_without_a_compiler_the_build_says_what_to_install(tree, variables, words):
    done = run("setup.py", "build_ext", cwd=tree, RL4REC_CUDA="0", **variables)
    assert done.returncode != 0
    assert f"needs a C++17 compiler, and {words}: install g++ or clang" in done.stderr
    assert "Traceback" not in done.stderr


def test_operators_that_were_not_built_are_named(tree):
    done = run("-c", "import rl4rec_kernels", cwd=tree)
    assert "the compiled operators are missing" in done.stderr
    assert done.stderr.rstrip().endswith("pip install --no-build-isolation -e .")


def test_operators_that_do_not_fit_are_named(tree):
    (tree / "rl4rec_kernels" / "_C.broken.so").write_bytes(b"of another machine")
    done = run("-c", "import rl4rec_kernels", cwd=tree)
    assert "ImportError: the compiled operators do not fit this machine or torch" in done.stderr
    assert "build them again with: pip install" in done.stderr


def test_versions_agree():
    text = (ROOT / "pyproject.toml").read_text()
    assert f'version = "{rl4rec_kernels.__version__}"' in text
