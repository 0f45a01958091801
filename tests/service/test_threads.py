"""How many threads short rankings use."""

import asyncio
import os

import pytest
import torch

from rl4rec_kernels.service import threads
from rl4rec_kernels.service.encoding_cache import EncodingCache


def test_free_processors_of_this_machine():
    assert 1 <= threads.free_processors() <= len(os.sched_getaffinity(0))


@pytest.mark.parametrize(("running", "free"), [(1, 8), (3, 6), (8, 1), (9, 1), (500, 1)])
def test_each_running_thread_occupies_a_processor(tmp_path, monkeypatch, running, free):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: range(8))
    monkeypatch.setattr(threads, "_LOAD", tmp_path / "loadavg")
    (tmp_path / "loadavg").write_text(f"0.20 0.18 0.12 {running}/80 11206\n")
    assert threads.free_processors() == free


@pytest.mark.parametrize("text", [None, "", "0.20 0.18 0.12", "0.20 0.18 0.12 a/b 3"])
def test_one_processor_if_the_load_is_unknown(tmp_path, monkeypatch, text):
    monkeypatch.setattr(threads, "_LOAD", tmp_path / "loadavg")
    if text is not None:
        (tmp_path / "loadavg").write_text(text)
    assert threads.free_processors() == 1


def test_use_threads_restores_the_number():
    before = torch.get_num_threads()
    with threads.use_threads(before + 1):
        assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before


def test_encoding_uses_the_number_of_threads_set_at_construction():
    seen = []

    def encode(texts):
        seen.append(torch.get_num_threads())
        return torch.ones(len(texts), 2)

    async def main():
        with threads.use_threads(1):  # in which the encoding thread starts
            await encodings.get(["soap"])

    with threads.use_threads(3):
        encodings = EncodingCache(encode, max_batch_size=4, batch_wait_timeout_s=0.0, cache_bytes=0)
        asyncio.run(main())
    assert seen == [3]
