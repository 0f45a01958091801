"""A service's options are checked before anything is started."""

import pytest

from rl4rec_kernels.adapters.http import start_http
from rl4rec_kernels.service import deploy, start_service
from rl4rec_kernels.service.connection import original_error
from tests.errors import raises


@pytest.fixture(autouse=True)
def no_ray(monkeypatch):
    def connect() -> None:
        pytest.fail("a cluster is looked for before the options are checked")

    monkeypatch.setattr(deploy, "connected_ray", connect)
    monkeypatch.setattr("rl4rec_kernels.adapters.http.connected_ray", connect)


@pytest.mark.parametrize(
    ("options", "error", "named"),
    [
        ({"num_threads": "0"}, TypeError, ("num_threads", "'0'")),
        ({"num_threads": 0}, ValueError, ("num_threads", 0)),
        ({"replicas": 0}, ValueError, ("replicas", 0)),
        ({"replicas": 1.5}, TypeError, ("replicas", 1.5)),
        ({"shards": -1}, ValueError, ("shards", -1)),
        ({"shards": 2}, ValueError, ("shards", "datasets", "'toys'")),
        ({"num_cpus": "two"}, TypeError, ("num_cpus", "'two'")),
        ({"num_gpus": -1}, ValueError, ("num_gpus", -1)),
        ({"timeout_s": 0}, ValueError, ("timeout_s", 0)),
        ({"name": ""}, ValueError, ("name", "''")),
        ({"namespace": 5}, ValueError, ("namespace", 5)),
        ({"data_dir": 5}, TypeError, ("data_dir", 5)),
        ({"limits": 5}, TypeError, ("limits", 5)),
        ({"limits": {"max_batch": 5}}, TypeError, ("limits", "max_batch", "max_batch_size")),
        ({"limits": {"cache_mib": -1}}, ValueError, ("cache_mib", -1)),
        ({"datasets": []}, ValueError, ("datasets", "[]")),
        ({"datasets": None}, ValueError, ("datasets", None)),
        ({"datasets": [1]}, TypeError, ("datasets", 1)),
        ({"datasets": {"toys": 5}}, TypeError, ("datasets['toys']", "int")),
        ({"encoder": None}, TypeError, ("encoder", None)),
        ({"encoder": {"model": "minilm", "backend": "jax"}}, ValueError, ("backend", "'jax'")),
        ({"encoder": {"models": "minilm"}}, TypeError, ("encoder", "models")),
    ],
)
def test_options_of_a_service(options, error, named):
    with raises(error, *named):
        start_service(**{"datasets": "toys", **options})


def test_an_index_file_that_is_here_is_opened(tmp_path):
    path = tmp_path / "toys.safetensors"
    path.write_bytes(b"x" * 100)
    with raises(ValueError, path):
        start_service({"toys": path})


@pytest.mark.parametrize(
    ("options", "error", "named"),
    [
        ({"port": 99999}, ValueError, ("port", 99999)),
        ({"port": "80"}, TypeError, ("port", "'80'")),
        ({"host": "no.such.host.invalid"}, ValueError, ("host", "no.such.host.invalid")),
        ({"host": ""}, ValueError, ("host", "''")),
        ({"host": None}, ValueError, ("host", None)),
        ({"token": ""}, ValueError, ("token",)),
        ({"reward_type": "best"}, ValueError, ("reward_type", "'best'")),
        ({"k": 0}, ValueError, ("k", 0)),
    ],
)
def test_options_of_http(options, error, named):
    pytest.importorskip("ray.serve")
    with raises(error, *named):
        start_http("toys", **options)


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("died\n\x1b[36mray::f()\x1b[39m\n  File x\nValueError: k: 5\n", ValueError("k: 5")),
        ("builtins.TypeError: n", TypeError("n")),
        ("UnicodeDecodeError: x", RuntimeError("UnicodeDecodeError: x")),
        ("\x1b[31mgone", RuntimeError("gone")),
    ],
)
def test_the_last_line_of_rays_errors_is_the_original_error(text, error):
    original = original_error(Exception(text))
    assert (type(original), str(original)) == (type(error), str(error))
