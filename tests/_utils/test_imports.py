"""Optional packages, and folders that only have the name of one."""

import ast
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import rl4rec_kernels
from rl4rec_kernels._utils.imports import is_installed, require
from tests.errors import raises

ABSENT = "a_package_that_nobody_has"


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("folder", [False, True])
def test_a_missing_package_names_its_extra(here, folder):
    if folder:
        (here / ABSENT / "inner").mkdir(parents=True)
        (here / ABSENT / "inner" / "module.py").touch()
    assert not is_installed(ABSENT)
    for module in (ABSENT, f"{ABSENT}.inner", f"{ABSENT}.inner.module", f"{ABSENT}.none"):
        with raises(ImportError, ABSENT, "pip install", "[extra]", here if folder else ""):
            require(module, "extra")


def test_a_folder_is_skipped_by_tests_that_need_the_package(here):
    (here / ABSENT).mkdir()
    with pytest.raises(pytest.skip.Exception):
        pytest.importorskip(ABSENT)
    assert pytest.importorskip("safetensors.torch").save_file


def test_a_folder_does_not_hide_an_installed_package(here):
    (here / "safetensors").mkdir()
    assert is_installed("safetensors")
    assert require("safetensors.torch", "encoder").save_file


def test_a_package_that_takes_a_folder_for_another_one(here, monkeypatch):
    (here / "installed.py").write_text(f"from {ABSENT} import Thing")
    with raises(ModuleNotFoundError, ABSENT):  # an error of the package itself
        require("installed", "extra")
    (here / ABSENT).mkdir()
    with raises(ImportError, "installed", here / ABSENT, "rename"):
        require("installed", "extra")


# Imitates an environment without extras, in a directory with folders of their names.
FOLDERS = """
import importlib.machinery, os, sys
sys.path.insert(0, os.getcwd())
NAMES = os.listdir()

class Folders:
    def find_spec(self, name, path=None, target=None):
        if name in NAMES:
            return importlib.machinery.PathFinder.find_spec(name, [os.getcwd()])

sys.meta_path.insert(0, Folders())
from rl4rec_kernels._utils.imports import require
from rl4rec_kernels._utils.progress import progress
from rl4rec_kernels.cli import main
from rl4rec_kernels.service.client import NoClusterError, connected_ray

assert list(progress([1, 2], "tqdm", show=True)) == [1, 2]
for name in NAMES:
    try:
        require(name, "extra")
    except ImportError as error:
        assert f"{name} is not installed" in str(error), error
        assert os.path.abspath(name) in str(error), error
    else:
        raise AssertionError(name)
try:
    connected_ray()
except NoClusterError as error:
    assert "pip install 'rl4rec-kernels[ray]'" in str(error), error
sys.argv = ["rl4rec", "sample", "toys"]
main()
"""


def test_folders_are_not_extras(tmp_path):
    for name in ("datasets", "matplotlib", "openvino", "ray", "rich", "tqdm", "typer"):
        (tmp_path / name).mkdir()
    done = subprocess.run(
        [sys.executable, "-c", FOLDERS], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2, done.stderr
    assert "error: typer is not installed" in done.stderr
    assert "pip install 'rl4rec-kernels[cli]'" in done.stderr
    assert "Traceback" not in done.stderr


def required() -> set[tuple[str, str]]:
    """The package and the extra of each `require` in the package's sources."""
    calls = set()
    for path in Path(rl4rec_kernels.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "require":
                module, extra = (ast.literal_eval(argument) for argument in node.args)
                calls.add((module.partition(".")[0], extra))
    return calls


def installed_by(project: str, extra: str, found: set[str]) -> set[str]:
    """The names of all projects that an extra installs, with what these need themselves."""
    for line in metadata.requires(project) or []:
        requirement = Requirement(line)
        name, extras = canonicalize_name(requirement.name), requirement.extras or {""}
        marker = requirement.marker
        if marker is not None and not marker.evaluate({"extra": extra}):
            continue
        for inner in extras - {
            key.partition("/")[2] for key in found if key.startswith(f"{name}/")
        }:
            found |= {name, f"{name}/{inner}"}
            try:
                installed_by(name, inner, found)
            except metadata.PackageNotFoundError:
                continue
    return found


@pytest.mark.parametrize(("package", "extra"), sorted(required()))
def test_each_error_names_an_extra_that_installs_the_package(package, extra):
    if package not in metadata.packages_distributions():
        pytest.skip(f"{package} is not installed")
    assert extra in metadata.metadata("rl4rec-kernels").get_all("Provides-Extra")
    projects = {canonicalize_name(name) for name in metadata.packages_distributions()[package]}
    assert projects & installed_by("rl4rec-kernels", extra, set())
