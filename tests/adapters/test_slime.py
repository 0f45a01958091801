"""slime 0.3.1, by a harness of the steps that its code takes."""

import asyncio
import importlib
import types

import pytest

from tests.adapters.conftest import LABELS, OPTIONS, TEXTS


def load_function(path: str):
    """slime/utils/misc.py, load_function."""
    module, _, name = path.rpartition(".")
    return getattr(importlib.import_module(module), name)


def test_rewards_are_those_of_recreward(configured, expected):
    custom_rm = load_function("rl4rec_kernels.adapters.slime.custom_rm")
    samples = [
        types.SimpleNamespace(prompt="?", response=f"{text}</s>", label=label, metadata={})
        for text, label in zip(TEXTS, LABELS, strict=True)
    ]
    args = types.SimpleNamespace(reward_key=None)

    async def one_by_one():
        return await asyncio.gather(*(custom_rm(args, sample) for sample in samples))

    assert asyncio.run(one_by_one()) == pytest.approx(expected)
    assert asyncio.run(custom_rm(args, samples)) == pytest.approx(expected)
    assert asyncio.run(custom_rm(args, [])) == []
    args = types.SimpleNamespace(
        reward_key="score", rl4rec_reward={**OPTIONS, "reward_type": "hit"}
    )
    assert asyncio.run(custom_rm(args, samples[0]))["score"] in (0.0, 1.0)
