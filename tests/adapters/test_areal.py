"""AReaL 2.0, by a harness of the steps that its code takes."""

import threading

import pytest

from rl4rec_kernels.adapters import areal
from rl4rec_kernels.service.local import LocalRetrievalService
from tests.adapters.conftest import TEXTS
from tests.errors import raises


def call() -> float:
    """areal/workflow/rlvr.py, _compute_rewards: by position, then the dataset's columns."""
    row = {"messages": [], "target": 3, "history": [1, 2], "neg_items": [5, 9, 11], "user_id": 1}
    return areal.reward_fn("?", TEXTS[0] + "<|im_end|>", [0], [1], **row)


def test_rewards_are_those_of_recreward(configured, expected):
    assert call() == pytest.approx(expected[0])
    with raises(ValueError, "label", "target"):
        areal.reward_fn("?", "soap", [0], [1], answer="3")


def test_a_call_gives_up_before_areal_does(configured, monkeypatch):
    entered, leave = threading.Event(), threading.Event()

    def hang(self, *args, **kwargs):
        entered.set()
        leave.wait(60)

    monkeypatch.setattr(LocalRetrievalService, "rank", hang)
    monkeypatch.setattr(areal, "DEADLINE", 0.2)
    try:
        # AReaL would take a TimeoutError for its own, and set the reward to 0
        with raises(RuntimeError, "no reward", "0 s", "AReaL"):
            call()
        assert entered.is_set()
    finally:
        leave.set()
