"""Fixtures shared by all tests."""

import atexit
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import pytest

# OpenMP reads this when torch is imported. Tests often share their cores, and threads that wait for
# work would keep them busy.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import torch

# Triton reads this when it is imported, so it must be set before any import that may import Triton.
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")

# No test uses a Ray of this machine, and its subprocesses find none: there is none at this address,
# and Ray's files are in a folder for this run, whose path is short because it contains sockets.
os.environ["RAY_ADDRESS"] = "127.0.0.1:1"
os.environ["RAY_TMPDIR"] = tempfile.mkdtemp(prefix="rl4rec-", dir="/tmp")

from rl4rec_kernels import Encoder
from rl4rec_kernels._utils.imports import is_installed
from rl4rec_kernels.ops import cpu_levels, use_cpu_level
from tests.cuda.emulated import Emulated
from tests.interpreted import make_fast

_import_or_skip = pytest.importorskip


def _import_or_skip_folders(name: str, *arguments: Any, **options: Any) -> Any:
    """Skip a test also where only a folder in the working directory has the package's name."""
    if not is_installed(name.partition(".")[0]):
        pytest.skip(f"{name} is not installed", allow_module_level=True)
    return _import_or_skip(name, *arguments, **options)


pytest.importorskip = _import_or_skip_folders

pytest_plugins = ["tests.service.fixtures"]
atexit.register(shutil.rmtree, os.environ["RAY_TMPDIR"], ignore_errors=True)


@pytest.fixture(scope="session", autouse=True)
def interpreted() -> None:
    """Triton's interpreter, where kernels are interpreted."""
    if os.environ.get("TRITON_INTERPRET") == "1" and is_installed("triton"):
        make_fast()


@pytest.fixture(scope="session")
def beauty_dir() -> Path:
    """The directory that contains ``beauty/``: $RL4REC_DATA, else the test is skipped."""
    root = os.environ.get("RL4REC_DATA")
    if not root or not (Path(root) / "beauty").is_dir():
        pytest.skip("needs Amazon Beauty: set RL4REC_DATA to the directory that contains beauty/")
    return Path(root)


@pytest.fixture(scope="session")
def ml100k_dir() -> Path:
    """The directory that contains ``ml-100k/``, RecBole's atomic files."""
    root = os.environ.get("RL4REC_ML100K")
    if not root or not (Path(root) / "ml-100k").is_dir():
        pytest.skip("needs MovieLens-100k: run `make test`, which downloads it")
    return Path(root)


@pytest.fixture(scope="session")
def encoder() -> Encoder:
    """The packaged MiniLM."""
    return Encoder(device="cpu")


@pytest.fixture(scope="session")
def short_encoder() -> Encoder:
    """The packaged MiniLM for the first words alone: all items of Beauty take seconds."""
    return Encoder(device="cpu", batch_size=256, max_length=12)


@pytest.fixture(scope="session")
def index_cache(tmp_path_factory) -> Path:
    """The $RL4REC_CACHE in which tests share the encoded items of the real data sets."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(params=cpu_levels())
def level(request: pytest.FixtureRequest):
    """Run the test at each CPU level."""
    with use_cpu_level(request.param):
        yield request.param


@pytest.fixture(scope="session")
def emulated() -> Emulated:
    """The CUDA kernels, whose PTX is executed on the CPU."""
    return Emulated()
