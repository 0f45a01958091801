"""Files are written as a whole, or stay as they were."""

import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from rl4rec_kernels import ItemIndex
from rl4rec_kernels._utils.writing import replacing
from tests.errors import raises


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
    ItemIndex.from_embeddings(torch.randn(100, 16)).save(path)
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
ItemIndex.from_embeddings(torch.ones(9, 16)).save({str(path)!r})
"""
    before = path.read_bytes()
    run = subprocess.run([sys.executable, "-c", script], check=False)
    assert run.returncode == -signal.SIGKILL
    assert path.read_bytes() == before
    ItemIndex.from_embeddings(torch.ones(9, 16)).save(path)
    assert len(ItemIndex.open(path)) == 8


def test_a_full_disk_keeps_the_old_file(path, monkeypatch):
    before = path.read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with raises(OSError, "No space left"):
        ItemIndex.from_embeddings(torch.ones(9, 16)).save(path)
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == [path.name]
