"""AReaL 1.0.4, by a harness of the steps that its code takes."""

import asyncio
import multiprocessing
import sys
import threading
import types
from concurrent.futures import ProcessPoolExecutor

import pytest

from rl4rec_kernels.adapters import areal
from rl4rec_kernels.adapters._scoring import RewardLost
from rl4rec_kernels.service.local import LocalRetrievalService
from tests.adapters.conftest import OPTIONS, TEXTS
from tests.errors import raises

ROW = {"messages": [], "target": 3, "history": [1, 2], "neg_items": [5, 9, 11], "user_id": 1}


def call() -> float:
    """areal/workflow/rlvr.py, _compute_rewards: by position, then the dataset's columns."""
    return areal.reward_fn("?", TEXTS[0] + "<|im_end|>", [0], [1], **ROW)


def call_in_pool() -> float:
    """areal/api/reward_api.py: in a process that is forked at the first call."""
    context = multiprocessing.get_context("fork")
    with ProcessPoolExecutor(1, context) as pool:
        return pool.submit(call).result(60)


@pytest.fixture
def hanging(configured, monkeypatch):
    """A service that does not answer."""
    entered, leave = threading.Event(), threading.Event()

    def hang(self, *args, **kwargs):
        entered.set()
        leave.wait(60)

    monkeypatch.setattr(LocalRetrievalService, "answer", hang)
    monkeypatch.setattr(areal, "DEADLINE", 0.2)
    yield entered
    leave.set()


def test_rewards_are_those_of_recreward(configured, expected):
    assert call() == pytest.approx(expected[0])
    assert call_in_pool() == pytest.approx(expected[0])
    with raises(RewardLost, "ValueError", "label", "target"):
        areal.reward_fn("?", "soap", [0], [1], answer="3")


def test_a_call_gives_up_before_areal_does(hanging):
    # AReaL would take a TimeoutError for its own, and set the reward to 0
    with raises(RewardLost, "no reward", "0 s", "AReaL"):
        call()
    assert hanging.is_set()


def test_a_call_in_a_pool_gives_up_before_areal_does(hanging):
    with raises(RewardLost, "no reward", "0 s", "AReaL"):
        call_in_pool()


class RLVRWorkflow:
    """areal/workflow/rlvr.py, without the generation."""

    def __init__(self, reward_fn, gconfig, tokenizer, enable_thinking=False):
        self.reward_fn, self.gconfig, self.tokenizer = reward_fn, gconfig, tokenizer

    async def arun_episode(self, text: str, data: dict) -> float:
        resp = types.SimpleNamespace(input_tokens=[0], output_tokens=text)
        return await self._compute_rewards(resp, "?", data)


@pytest.fixture
def workflow(monkeypatch):
    """Make the workflow as AReaL does, from its path and its arguments."""
    module = types.SimpleNamespace(RLVRWorkflow=RLVRWorkflow)
    for name in ("areal", "areal.workflow", "areal.workflow.rlvr"):
        monkeypatch.setitem(sys.modules, name, module)
    areal._workflow.cache_clear()
    yield lambda **options: areal.RecWorkflow(
        gconfig=None, tokenizer=types.SimpleNamespace(decode=lambda tokens: tokens), **options
    )
    areal._workflow.cache_clear()


def test_the_workflow_awaits_the_rewards(configured, expected, workflow):
    async def run(one) -> list[float]:
        return await asyncio.gather(*(one.arun_episode(TEXTS[0], ROW) for _ in range(8)))

    assert asyncio.run(run(workflow())) == pytest.approx([expected[0]] * 8)
    hits = asyncio.run(run(workflow(reward_options={**OPTIONS, "reward_type": "hit"})))
    assert set(hits) < {0.0, 1.0}


def test_an_error_of_the_workflow_stops_areal(configured, workflow):
    """It catches an Exception, and continues without the sample."""
    with raises(RewardLost, "IndexError", "targets", 99):
        asyncio.run(workflow().arun_episode("soap", {**ROW, "target": 99}))
