"""OpenRLHF 0.11.2, by a harness of the steps that its code takes."""

import asyncio
import functools
import importlib.util
import logging

import pytest
import torch

from rl4rec_kernels.adapters import openrlhf
from rl4rec_kernels.adapters._scoring import RewardLost
from tests.adapters.conftest import LABELS, OPTIONS, TEXTS
from tests.errors import raises

PROMPT = "<|im_start|>user\nwhat next?<|im_end|>\n<|im_start|>assistant\n"


def load():
    """openrlhf/utils/agent.py, SingleTurnAgentExecutor.__init__: the file, not the module."""
    spec = importlib.util.spec_from_file_location("reward_func", openrlhf.__file__)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.reward_func


async def execute(reward_func, prompt: str, label: str, text: str) -> dict:
    """The same file, execute: an Exception is logged, and the sample has no reward."""
    output = {"reward": None, "scores": None, "extra_logs": {}}
    try:
        info = await asyncio.to_thread(reward_func, [prompt + text], [prompt], [label])
        output.update(reward=info["rewards"], scores=info["scores"], extra_logs=info["extra_logs"])
    except Exception as error:
        logging.getLogger("harness").info("Failed to fetch reward from remote RM: %s", error)
    return output


def test_rewards_are_those_of_recreward(configured, expected):
    reward_func = load()

    async def run_all():
        samples = zip(LABELS, TEXTS, strict=True)
        return await asyncio.gather(
            *(execute(reward_func, PROMPT, label, f"{text}<|im_end|>") for label, text in samples)
        )

    outputs = asyncio.run(run_all())
    # openrlhf/trainer/ppo_utils/samples_generator.py, _process_response_into_experience
    rewards = torch.cat([torch.tensor([output["reward"]]) for output in outputs])
    assert rewards.tolist() == pytest.approx(expected)
    assert torch.equal(rewards, torch.cat([torch.tensor([one["scores"]]) for one in outputs]))
    logs = [{name: log.item() for name, log in one["extra_logs"].items()} for one in outputs]
    assert all(set(log) == {"rank", "hit"} and 1 <= log["rank"] <= 5 for log in logs)


@pytest.mark.parametrize(
    ("label", "named"), [("[3]", ("label", "[3]")), ('{"target": 99}', ("targets", 99))]
)
def test_a_failure_stops_the_run(configured, label, named, caplog):
    with raises(RewardLost, *named):
        asyncio.run(execute(load(), PROMPT, label, "soap"))
    assert "no reward" in caplog.text


def test_a_query_without_its_prompt_is_an_error(configured):
    with raises(RewardLost, "soap", "prompt", "--data.max_len"):
        openrlhf.reward_func(["soap"], [PROMPT], LABELS[:1])


def test_options_in_a_file_of_your_own(reward, expected):
    mine = functools.partial(openrlhf.reward_func, reward_options=OPTIONS)
    assert asyncio.run(execute(mine, PROMPT, LABELS[0], TEXTS[0]))["reward"] == pytest.approx(
        expected[:1]
    )


def test_options_are_required(monkeypatch):
    monkeypatch.delenv("RL4REC_REWARD", raising=False)
    with raises(RewardLost, "RL4REC_REWARD"):
        openrlhf.reward_func([PROMPT + "soap"], [PROMPT], LABELS[:1])


def test_the_response_is_what_follows_the_prompt():
    long = "x " * 100 + PROMPT
    assert openrlhf.response(long + "soap", long) == "soap"
    assert openrlhf.response(long[90:] + "soap", long) == "soap"  # its beginning was cut off
    assert openrlhf.response("<s> " + long + "soap", long) == "soap"  # decoding added a token
