"""NeMo-RL 0.6, by a harness of the steps that its code takes."""

import pytest
import torch

from rl4rec_kernels.adapters import nemo_rl
from tests.adapters.conftest import LABELS, OPTIONS, TEXTS
from tests.errors import raises


def calculate_rewards(env, batch: list[tuple[list[dict], dict]]) -> list[float]:
    """nemo_rl/experience/rollouts.py, calculate_rewards: the answer is unpacked by position."""
    logs = [[{key: m[key] for key in ("role", "content")} for m in log] for log, _ in batch]
    observations, metadata, stops, rewards, terminateds, answers = env.step(
        logs, [info for _, info in batch]
    )
    stops = [None] * len(terminateds) if stops is None else stops
    answers = [None] * len(terminateds) if answers is None else answers
    rows = zip(observations, metadata, stops, rewards, terminateds, answers, strict=True)
    return [reward.item() for _, _, _, reward, done, _ in rows if done.bool()]


def test_rewards_are_those_of_recreward(reward, expected):
    env = nemo_rl.RecEnvironment({"reward": OPTIONS})
    batch = [
        (
            [
                {"role": "user", "content": "what next?", "token_ids": torch.tensor([1])},
                {"role": "assistant", "content": text, "token_ids": torch.tensor([2])},
            ],
            {"ground_truth": label},
        )
        for text, label in zip(TEXTS, LABELS, strict=True)
    ]
    assert calculate_rewards(env, batch) == pytest.approx(expected)
    kept = {"rewards": torch.tensor(expected)}
    batch, metrics = env.global_post_process_and_metrics(kept)
    assert batch is kept
    assert metrics["reward"] == pytest.approx(sum(expected) / 4)
    with raises(ValueError, "config", "reward"):
        nemo_rl.RecEnvironment({})


def test_the_actor_class_is_made_on_demand():
    ray = pytest.importorskip("ray")
    assert isinstance(nemo_rl.RecEnvironmentActor, ray.actor.ActorClass)
    with raises(AttributeError, "Nothing"):
        _ = nemo_rl.Nothing
