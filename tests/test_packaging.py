"""The contents of the sdist, versions, and errors of a build or an import that fails."""

import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import textwrap
import tomllib
from pathlib import Path

import pytest
import torch

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
    """A copy of the sources, without build products."""
    ignore = shutil.ignore_patterns("__pycache__", "*.so")
    for name in ("rl4rec_kernels", "csrc", "tests", "examples", "benchmarks", "docs", ".github"):
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
    assert {"CITATION.cff", ".pre-commit-config.yaml", ".github/workflows/ci.yml"} <= shipped
    assert not any(name.endswith((".so", ".pyc")) for name in shipped)


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"CXX": "/nowhere/g++"}, "CXX=/nowhere/g++"),
        ({"CXX": "", "PATH": "/nowhere"}, "PATH"),
    ],
)
def test_without_a_compiler_the_build_says_what_to_install(tree, variables, words):
    done = run("setup.py", "build_ext", cwd=tree, RL4REC_CUDA="0", **variables)
    assert done.returncode != 0
    for part in ("C++17 compiler", words, "install g++ or clang"):
        assert part in done.stderr
    assert "Traceback" not in done.stderr


def test_operators_that_were_not_built_are_named(tree):
    done = run("-c", "import rl4rec_kernels", cwd=tree)
    assert "ImportError" in done.stderr
    assert "operators" in done.stderr
    assert done.stderr.rstrip().endswith("pip install --no-build-isolation -e .")


def test_a_source_tree_that_hides_an_installed_package_names_it(tree, tmp_path_factory):
    installed = tmp_path_factory.mktemp("installed") / "rl4rec_kernels"
    installed.mkdir()
    (installed / "_C.built.so").touch()
    done = run("-c", "import rl4rec_kernels", cwd=tree, PYTHONPATH=str(installed.parent))
    assert f"ImportError: the compiled operators are missing from {tree}" in done.stderr
    assert str(installed) in done.stderr
    assert "directory" in done.stderr


def test_operators_that_cannot_be_loaded_are_named(tree):
    (tree / "rl4rec_kernels" / "_C.broken.so").write_bytes(b"of another machine")
    done = run("-c", "import rl4rec_kernels", cwd=tree)
    assert "ImportError: the compiled operators" in done.stderr
    assert f"torch {torch.__version__}" in done.stderr
    assert "pip install" in done.stderr


def test_the_version_is_that_of_pyproject():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    assert rl4rec_kernels.__version__ == project["version"]


def test_a_source_tree_that_is_not_installed_imports():
    code = """
        import importlib.metadata as metadata
        def version(name):
            raise metadata.PackageNotFoundError(name)
        metadata.version = version
        import rl4rec_kernels
        print(rl4rec_kernels.__version__)
    """
    done = run("-c", textwrap.dedent(code), cwd=ROOT)
    assert done.stdout.strip() == "0+unknown", done.stderr


def test_hooks_run_the_checks_of_the_makefile():
    hooks = (ROOT / ".pre-commit-config.yaml").read_text("utf-8")
    for tool in ("ruff check", "ruff format", "clang-format"):
        assert f"entry: .venv/bin/{tool} " in hooks


def test_the_workflow_covers_the_supported_versions():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    workflow = (ROOT / ".github/workflows/ci.yml").read_text("utf-8")
    declared = [c.rpartition(" :: ")[2] for c in project["classifiers"] if "Python :: 3." in c]
    assert json.loads(re.search(r"python: (\[.*\])", workflow)[1]) == declared
    assert declared[0] == project["requires-python"].removeprefix(">=")
    assert json.loads(re.search(r"torch: (\[.*\])", workflow)[1]) == ["2.10", "latest"]
    assert "torch>=2.10" in project["dependencies"]


def test_wheels_are_built_for_the_supported_versions():
    text = (ROOT / "pyproject.toml").read_text("utf-8")
    options = tomllib.loads(text)["tool"]["cibuildwheel"]
    pythons = re.findall(r"Python :: 3\.(\d+)", text)
    assert options["build"] == f"cp3{{{','.join(pythons)}}}-manylinux_x86_64"
    workflow = (ROOT / ".github/workflows/wheels.yml").read_text("utf-8")
    assert f"build: [{', '.join(f'cp3{minor}' for minor in pythons)}]" in workflow
    assert "'torch==2.10.*'" in options["before-build"]  # the oldest
    for library in ("libtorch*", "libc10*"):
        assert f"--exclude '{library}'" in options["repair-wheel-command"]
