"""Trainers that are not installed here, by harnesses of the steps that their code takes.

Each harness does what the file does that its docstring names, in our words.
"""

import asyncio
import functools
import importlib
import importlib.util
import inspect
import json
import logging
import os
import pickle
import subprocess
import sys
import threading
import types

import numpy as np
import pytest
import torch

from rl4rec_kernels import export_dataset
from rl4rec_kernels.adapters import areal, nemo_rl, openrlhf, verl
from rl4rec_kernels.adapters._scoring import RewardLost
from rl4rec_kernels.adapters.trl import AsyncTRLReward
from rl4rec_kernels.data import write_label
from rl4rec_kernels.service.local import LocalRetrievalService
from tests.adapters.conftest import HISTORIES, NEGATIVES, OPTIONS, TARGETS, TEXTS
from tests.data.cases import dataset, write_tiny

LABELS = [write_label(*row) for row in zip(TARGETS, HISTORIES, NEGATIVES, strict=True)]
PROMPT = "<|im_start|>user\nwhat next?<|im_end|>\n<|im_start|>assistant\n"


# verl 0.10


def load_verl(name: str, reward_kwargs: dict):
    """verl/trainer/ppo/reward.py, get_custom_reward_fn: bound options, as a partial."""
    raw = getattr(importlib.import_module("rl4rec_kernels.adapters.verl"), name)

    def call(raw_fn, extra, **kwargs):
        return raw_fn(**{**kwargs, **extra})

    async def call_async(raw_fn, extra, **kwargs):
        return await raw_fn(**{**kwargs, **extra})

    bound = call_async if inspect.iscoroutinefunction(raw) else call
    return functools.partial(bound, raw, reward_kwargs)


async def run_single(compute_score, row: dict, text: str) -> dict:
    """verl/experimental/reward_loop/reward_manager/naive.py, run_single."""
    extra_info = row["extra_info"]
    extra_info["num_turns"], extra_info["rollout_reward_scores"] = None, {}
    arguments = {
        "data_source": row["data_source"],
        "solution_str": text,
        "ground_truth": row["reward_model"]["ground_truth"],
        "extra_info": extra_info,
    }
    if inspect.iscoroutinefunction(compute_score):
        return await compute_score(**arguments)
    loop = asyncio.get_running_loop()
    return await loop.run_in_executor(None, lambda: compute_score(**arguments))


def rows_for_verl() -> list[dict]:
    rows = zip(TARGETS, HISTORIES, NEGATIVES, strict=True)
    return [
        {
            "data_source": "toys",
            "reward_model": {"ground_truth": target},
            "extra_info": {"history": np.array(history), "neg_items": np.array(negatives)},
        }
        for target, history, negatives in rows
    ]


@pytest.mark.parametrize("name", ["compute_score", "compute_score_sync"])
def test_verl(reward, expected, name):
    options = {key: value for key, value in OPTIONS.items() if key != "dataset_name"}
    compute_score = load_verl(name, options)
    assert inspect.iscoroutinefunction(compute_score) == (name == "compute_score")

    async def run_all():
        rows = zip(rows_for_verl(), TEXTS, strict=True)
        return await asyncio.gather(*(run_single(compute_score, *row) for row in rows))

    results = asyncio.run(run_all())
    columns = {key: np.array([one[key] for one in results]) for key in results[0]}
    assert all(set(one) == {"score", "rank", "hit"} for one in results)
    assert columns["score"] == pytest.approx(expected)
    assert all(1 <= rank <= 5 for rank in columns["rank"])
    novel = {**OPTIONS, "novelty": 1, "item_counts": np.full(50, 3)}
    rare = verl.compute_score_sync("toys", TEXTS[0], LABELS[0], **novel)
    assert rare["score"] == pytest.approx(expected[0] / 4)
    whole = reward(TEXTS[:1], TARGETS[:1], HISTORIES[:1])
    alone = verl.compute_score_sync("toys", TEXTS[0], "3", {"history": [1, 2]}, **OPTIONS)
    assert alone["score"] == pytest.approx(whole[0])


def test_verl_reads_what_is_exported(tmp_path):
    datasets = pytest.importorskip("datasets")
    tiny = dataset(write_tiny(tmp_path), num_negs=2, num_items=10)
    path = tmp_path / "train.parquet"
    export_dataset(tiny, "verl", path)
    rows = datasets.load_dataset("parquet", data_files=str(path), cache_dir=str(tmp_path))["train"]
    for row, sample in zip(rows, tiny, strict=True):
        label = verl._read("tiny", row["reward_model"]["ground_truth"], row["extra_info"], {})[1]
        assert (label.target, label.history) == (sample["target"], sample["history"])
        assert label.neg_items == sample["neg_items"]
        assert row["prompt"] == [{"role": "user", "content": sample["prompt"]}]
    with pytest.raises(ValueError, match="extra_info has no history"):
        verl.compute_score_sync("toys", "x", 3, {})


# OpenRLHF 0.11


def load_openrlhf():
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


def test_openrlhf(configured, expected):
    reward_func = load_openrlhf()

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
    ("label", "words"),
    [("[3]", "label must be JSON text or a mapping"), ('{"target": 99}', "targets: item 99")],
)
def test_openrlhf_does_not_go_on_without_a_reward(configured, label, words, caplog):
    with pytest.raises(RewardLost, match=words):
        asyncio.run(execute(load_openrlhf(), PROMPT, label, "soap"))
    assert "no reward" in caplog.text
    with pytest.raises(RewardLost, match="does not contain the end of its prompt"):
        openrlhf.reward_func(["soap"], [PROMPT], LABELS[:1])


def test_openrlhf_takes_options_from_a_file_of_ones_own(reward, expected):
    mine = functools.partial(openrlhf.reward_func, reward_options=OPTIONS)
    assert asyncio.run(execute(mine, PROMPT, LABELS[0], TEXTS[0]))["reward"] == pytest.approx(
        expected[:1]
    )


def test_openrlhf_needs_options(monkeypatch):
    monkeypatch.delenv("RL4REC_REWARD", raising=False)
    with pytest.raises(RewardLost, match="RL4REC_REWARD is not set"):
        openrlhf.reward_func([PROMPT + "soap"], [PROMPT], LABELS[:1])


def test_openrlhf_finds_the_response():
    long = "x " * 100 + PROMPT
    assert openrlhf.response(long + "soap", long) == "soap"
    assert openrlhf.response(long[90:] + "soap", long) == "soap"  # its beginning was cut off
    assert openrlhf.response("<s> " + long + "soap", long) == "soap"  # a token was put before


# slime 0.3.1


def load_function(path: str):
    """slime/utils/misc.py, load_function."""
    module, _, name = path.rpartition(".")
    return getattr(importlib.import_module(module), name)


def test_slime(configured, expected):
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
    args = types.SimpleNamespace(
        reward_key="score", rl4rec_reward={**OPTIONS, "reward_type": "hit"}
    )
    assert asyncio.run(custom_rm(args, samples[0]))["score"] in (0.0, 1.0)


# AReaL 2.0


def call_areal(**changes) -> float:
    """areal/workflow/rlvr.py, _compute_rewards: by position, then the dataset's columns."""
    row = {"messages": [], "target": 3, "history": [1, 2], "neg_items": [5, 9, 11], "user_id": 1}
    return areal.reward_fn("?", TEXTS[0] + "<|im_end|>", [0], [1], **{**row, **changes})


def test_areal(configured, expected):
    assert call_areal() == pytest.approx(expected[0])
    with pytest.raises(ValueError, match="label has no target"):
        areal.reward_fn("?", "soap", [0], [1], answer="3")


def test_areal_gives_up_before_areal_does(configured, monkeypatch):
    entered, leave = threading.Event(), threading.Event()

    def hang(self, *args, **kwargs):
        entered.set()
        leave.wait(60)

    monkeypatch.setattr(LocalRetrievalService, "rank", hang)
    monkeypatch.setattr(areal, "DEADLINE", 0.2)
    try:
        # a TimeoutError would be taken for one of AReaL's own, and become 0
        with pytest.raises(RuntimeError, match="no reward after 0 s; AReaL would make it 0"):
            call_areal()
        assert entered.is_set()
    finally:
        leave.set()


# NeMo-RL 0.6


def calculate_rewards(env, batch: list[tuple[list[dict], dict]]) -> list[float]:
    """nemo_rl/experience/rollouts.py, calculate_rewards: the answer is taken apart by position."""
    logs = [[{key: m[key] for key in ("role", "content")} for m in log] for log, _ in batch]
    observations, metadata, stops, rewards, terminateds, answers = env.step(
        logs, [info for _, info in batch]
    )
    stops = [None] * len(terminateds) if stops is None else stops
    answers = [None] * len(terminateds) if answers is None else answers
    rows = zip(observations, metadata, stops, rewards, terminateds, answers, strict=True)
    return [reward.item() for _, _, _, reward, done, _ in rows if done.bool()]


def test_nemo_rl(reward, expected):
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
    with pytest.raises(ValueError, match="config has no reward"):
        nemo_rl.RecEnvironment({})


def test_nemo_rl_actor_class():
    ray = pytest.importorskip("ray")
    assert isinstance(nemo_rl.RecEnvironmentActor, ray.actor.ActorClass)
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        _ = nemo_rl.Nothing


# What all share


CHILD = """
import json, pickle, sys
from rl4rec_kernels.adapters import areal, nemo_rl, openrlhf, slime, verl
import rl4rec_kernels.adapters.trl
heavy = {"trl", "transformers", "ray", "datasets", "sentence_transformers"} & set(sys.modules)
import torch
reward = pickle.loads(bytes.fromhex(sys.argv[1]))
print(json.dumps([sorted(heavy), torch.cuda.is_initialized(), reward.__name__]))
"""


def test_importable_without_trainers_and_cuda(reward):
    """As a spawned process of TRL's asynchronous trainer or of AReaL's pool imports them."""
    function = pickle.dumps(AsyncTRLReward(reward))
    run = subprocess.run(
        [sys.executable, "-c", CHILD, function.hex()],
        env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(run.stdout) == [[], False, "rec_logrank"]


@pytest.mark.parametrize(
    ("text", "error", "words"),
    [
        ("{", ValueError, "RL4REC_REWARD is not JSON"),
        ("[1]", TypeError, "must be a JSON object"),
        ('{"metric": "ndcg"}', TypeError, "unexpected keyword argument 'metric'"),
        ('{"normalize": true}', ValueError, "would always earn 0"),
    ],
)
def test_bad_options_are_named(monkeypatch, text, error, words):
    monkeypatch.setenv("RL4REC_REWARD", text)
    with pytest.raises(error, match=words):
        call_areal()


def test_options_pick_the_service():
    options = json.dumps({**OPTIONS, "retrieval_service_name": "nobody"})
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RL4REC_REWARD", options)
        with pytest.raises(LookupError, match="no retrieval service 'nobody'"):
            call_areal()
