"""One local Ray with one service for all tests that need them."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rl4rec_kernels import Encoder, ItemIndex, LocalRetrievalService, RetrievalService, find_service
from tests.service.cases import METADATA


@pytest.fixture(scope="session")
def index_file(encoder: Encoder, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("service") / "toys.safetensors"
    ItemIndex.build(METADATA, encoder).save(path)
    return path


@pytest.fixture(scope="session")
def local(index_file, encoder) -> LocalRetrievalService:
    """The same service in this process, whose answers are expected."""
    return LocalRetrievalService({"toys": ItemIndex.open(index_file)}, encoder)


@pytest.fixture(scope="session")
def ray() -> Iterator[Any]:
    """A Ray for this run of the tests; subprocesses find it too, by RAY_ADDRESS."""
    ray = pytest.importorskip("ray")
    before = os.environ.pop("RAY_ADDRESS")
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    os.environ["RAY_ADDRESS"] = ray.get_runtime_context().gcs_address
    yield ray
    ray.shutdown()
    os.environ["RAY_ADDRESS"] = before


@pytest.fixture(scope="session")
def client(ray, index_file) -> Any:
    """The service, started as in the user's guide, and found as `RecReward` finds it."""
    RetrievalService.options(
        name="OnRay", namespace="tests", lifetime="detached", get_if_exists=True, num_cpus=0.5
    ).remote({"toys": str(index_file), "beauty": str(index_file)})
    return find_service("OnRay", "tests")
