"""Stateful objects under any sequence of uses, compared with simple models of them."""

import asyncio
import os
import tempfile
import threading
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

import rl4rec_kernels as rk
from rl4rec_kernels.service.batcher import AdmissionQueue
from rl4rec_kernels.service.encoding_cache import EncodingCache
from tests.errors import raises

TEXTS = ("", "soap", "nail polish", "perfume", "glitter " * 150, "broken one", "broken two")
INDEXES = st.integers(0, 10**6)


class LoopMachine(RuleBasedStateMachine):
    """A machine with an asyncio loop that only runs between the rules."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.unhandled: list[dict[str, Any]] = []  # errors that would only be logged
        self.loop.set_exception_handler(lambda loop, context: self.unhandled.append(context))

    def start(self, work: Coroutine[Any, Any, Any]) -> "asyncio.Task[Any]":
        task = self.loop.create_task(work)
        self.let_run()
        return task

    def let_run(self, turns: int = 20) -> None:
        async def turn() -> None:
            for _ in range(turns):
                await asyncio.sleep(0)

        self.loop.run_until_complete(turn())

    @invariant()
    def there_are_no_unhandled_errors(self) -> None:
        assert self.unhandled == []

    def teardown(self) -> None:
        for task in asyncio.all_tasks(self.loop):
            task.cancel()
        self.let_run()
        self.loop.close()


class AdmissionQueueMachine(LoopMachine):
    """Calls are admitted in order, as soon as the capacity allows."""

    @initialize(capacity=st.integers(1, 8))
    def make(self, capacity: int) -> None:
        self.queue = AdmissionQueue(capacity, queue_timeout_s=1000.0)
        self.waiting: list[tuple[asyncio.Task[Any], int]] = []
        self.admitted: list[int] = []

    def admit(self) -> None:
        """Admit calls in the model."""
        while self.waiting and sum(self.admitted) + self.waiting[0][1] <= self.queue.capacity:
            self.admitted.append(self.waiting.pop(0)[1])

    @rule(size=st.integers(1, 10))
    def acquire(self, size: int) -> None:
        self.waiting.append((self.start(self.queue.acquire(size)), min(size, self.queue.capacity)))
        self.admit()

    @precondition(lambda self: self.admitted)
    @rule(which=INDEXES)
    def release(self, which: int) -> None:
        self.queue.release(self.admitted.pop(which % len(self.admitted)))
        self.admit()
        self.let_run()

    @precondition(lambda self: self.waiting)
    @rule(which=INDEXES)
    def cancel(self, which: int) -> None:
        task, _ = self.waiting.pop(which % len(self.waiting))
        task.cancel()
        self.let_run()
        assert task.cancelled()
        self.admit()

    @invariant()
    def equals_the_model(self) -> None:
        if hasattr(self, "queue"):
            assert self.queue.used == sum(self.admitted) <= self.queue.capacity
            assert self.queue.waiting == len(self.waiting)
            assert not any(task.done() for task, _ in self.waiting)


class EncodingCacheMachine(LoopMachine):
    """Every call gets the encodings of its texts, or the error of one of them."""

    @initialize(cache_bytes=st.sampled_from([0, 1000, 2000, 1 << 20]), batch=st.integers(1, 4))
    def make(self, cache_bytes: int, batch: int) -> None:
        self.cache_bytes, self.batch = cache_bytes, batch
        self.cache = EncodingCache(
            self.encode, max_batch_size=batch, batch_wait_timeout_s=0.0, cache_bytes=cache_bytes
        )
        self.calls: list[tuple[list[str], asyncio.Task[Any]]] = []
        self.may_encode = threading.Event()  # set while the rule `wait` runs

    def encode(self, texts: Any) -> torch.Tensor:
        assert self.may_encode.wait(30)
        assert 1 <= len(texts) <= self.batch
        assert len(set(texts)) == len(texts)
        if any("broken" in text for text in texts):
            raise ValueError("broken")
        return torch.tensor([self.code(text) for text in texts])

    @staticmethod
    def code(text: str) -> list[float]:
        return [float(TEXTS.index(text)), 1.0]

    @rule(texts=st.lists(st.sampled_from(TEXTS), min_size=1, max_size=5))
    def ask(self, texts: list[str]) -> None:
        self.calls.append((texts, self.start(self.cache.get(texts))))

    @precondition(lambda self: self.calls)
    @rule(which=INDEXES)
    def cancel(self, which: int) -> None:
        self.calls.pop(which % len(self.calls))[1].cancel()
        self.let_run()

    @precondition(lambda self: self.calls)
    @rule()
    def wait(self) -> None:
        self.may_encode.set()
        tasks = [task for _, task in self.calls]
        self.loop.run_until_complete(asyncio.wait(tasks, timeout=30))
        for texts, task in self.calls:
            if any("broken" in text for text in texts):
                with raises(ValueError, "broken"):
                    task.result()
            else:
                assert task.result().tolist() == [self.code(text) for text in texts]
        self.calls = []
        self.may_encode.clear()

    @invariant()
    def stays_within_its_size(self) -> None:
        if hasattr(self, "cache"):
            assert 0 <= self.cache.used_bytes <= self.cache_bytes
            assert self.cache.hits <= self.cache.lookups

    def teardown(self) -> None:
        if hasattr(self, "cache"):
            if self.calls:
                self.wait()
            self.may_encode.set()
        super().teardown()


class IndexFileMachine(RuleBasedStateMachine):
    """An open index stays as it was when opened, or raises an error if its file was cut."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.path = Path(self.folder.name) / "toys.safetensors"
        self.version = 0
        self.file: list[int] | None = None  # the version, and the bytes cut off
        self.open: list[tuple[rk.ItemIndex, list[int]]] = []

    @rule(rows=st.integers(2, 3000))
    def save(self, rows: int) -> None:
        self.version += 1
        table = torch.full((rows, 4), float(self.version))
        rk.ItemIndex.from_embeddings(table, valid=torch.arange(rows) > 0).save(self.path)
        self.file = [self.version, 0]

    @precondition(lambda self: self.file is not None)
    @rule()
    def open_file(self) -> None:
        assert self.file is not None
        if self.file[1]:
            with raises((ValueError, OSError), self.path):
                rk.ItemIndex.open(self.path)
        else:
            self.open.append((rk.ItemIndex.open(self.path), self.file))

    @precondition(lambda self: self.file is None)
    @rule()
    def open_missing_file(self) -> None:
        with raises(FileNotFoundError, self.path):
            rk.ItemIndex.open(self.path)

    @precondition(lambda self: self.file is not None and self.path.stat().st_size > 1)
    @rule()
    def cut(self) -> None:
        assert self.file is not None
        size = self.path.stat().st_size
        os.truncate(self.path, size // 2)
        self.file[1] += size - size // 2

    @precondition(lambda self: self.file is not None)
    @rule()
    def delete(self) -> None:
        self.path.unlink()
        self.file = None

    @precondition(lambda self: self.open)
    @rule(which=INDEXES)
    def close(self, which: int) -> None:
        self.open.pop(which % len(self.open))

    @precondition(lambda self: self.open)
    @rule(which=INDEXES)
    def use(self, which: int) -> None:
        index, (version, cut) = self.open[which % len(self.open)]
        query, ids = torch.ones(1, 4), torch.tensor([[1, 0]])
        if cut:
            with raises(OSError, self.path):
                rk.score_candidates(query, index.table, ids)
        else:
            scores = rk.score_candidates(query, index.table, ids)
            assert scores.tolist() == [[4.0 * version] * 2]

    def teardown(self) -> None:
        self.open = []
        self.folder.cleanup()


@pytest.mark.parametrize("machine", [AdmissionQueueMachine, EncodingCacheMachine, IndexFileMachine])
def test_any_sequence_of_uses(machine):
    run_state_machine_as_test(
        machine, settings=settings(max_examples=60, stateful_step_count=25, deadline=None)
    )
