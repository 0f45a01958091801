"""verl 0.9.1, by a harness of the steps that its code takes."""

import asyncio
import functools
import importlib
import inspect

import numpy as np
import pytest

from rl4rec_kernels import export_dataset
from rl4rec_kernels.adapters import verl
from rl4rec_kernels.adapters._scoring import RewardLost
from rl4rec_kernels.data.labels import read_label
from tests.adapters.conftest import HISTORIES, LABELS, NEGATIVES, OPTIONS, TARGETS, TEXTS
from tests.data.cases import dataset, write_tiny
from tests.errors import raises


def load(name: str, reward_kwargs: dict):
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


def make_rows() -> list[dict]:
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
def test_rewards_are_those_of_recreward(reward, expected, name):
    options = {key: value for key, value in OPTIONS.items() if key != "dataset_name"}
    compute_score = load(name, options)
    assert inspect.iscoroutinefunction(compute_score) == (name == "compute_score")

    async def run_all():
        rows = zip(make_rows(), TEXTS, strict=True)
        return await asyncio.gather(*(run_single(compute_score, *row) for row in rows))

    results = asyncio.run(run_all())
    columns = {key: np.array([one[key] for one in results]) for key in results[0]}
    assert all(set(one) == {"score", "rank", "hit"} for one in results)
    assert columns["score"] == pytest.approx(expected)
    assert all(1 <= rank <= 5 for rank in columns["rank"])


def test_options_labels_and_the_whole_catalog(reward, expected):
    novel = {**OPTIONS, "novelty": 1, "item_counts": np.full(50, 3)}
    rare = verl.compute_score_sync("toys", TEXTS[0], LABELS[0], **novel)
    assert rare["score"] == pytest.approx(expected[0] / 4)
    whole = reward(TEXTS[:1], TARGETS[:1], HISTORIES[:1])
    alone = verl.compute_score_sync(
        "toys", TEXTS[0], "3", {"history": [1, 2]}, reward_router_address="verl's own", **OPTIONS
    )
    assert alone["score"] == pytest.approx(whole[0])
    for target in (3.0, "3.0", np.array([3]), np.str_("3")):
        again = verl.compute_score_sync("toys", TEXTS[0], target, {"history": [1, 2]}, **OPTIONS)
        assert again == alone
    for target in (3.9, "3.9", True, "soap", None):
        with raises((TypeError, ValueError), target):
            verl.compute_score_sync("toys", TEXTS[0], target, {"history": [1]}, **OPTIONS)


def test_a_failure_is_not_a_reward_of_0(reward):
    """verl/experimental/reward_loop/reward_manager/limited.py, run_single."""

    async def run_limited(ground_truth) -> float:
        extra = {"history": [1, 2]}
        try:
            call = verl.compute_score("toys", "soap", ground_truth, extra, **OPTIONS)
            return (await asyncio.wait_for(call, 60))["score"]
        except Exception:
            return 0.0

    for target in (99, 3.9, None):
        with raises(RewardLost, target):
            asyncio.run(run_limited(target))


def test_exported_files_are_understood(tmp_path):
    datasets = pytest.importorskip("datasets")
    tiny = dataset(write_tiny(tmp_path), num_negs=2, num_items=10)
    path = tmp_path / "train.parquet"
    export_dataset(tiny, "verl", path)
    rows = datasets.load_dataset("parquet", data_files=str(path), cache_dir=str(tmp_path))["train"]
    for row, sample in zip(rows, tiny, strict=True):
        label = verl._read("tiny", row["reward_model"]["ground_truth"], row["extra_info"], {})[1]
        assert read_label(label)._asdict() == {
            name: sample[name] for name in ("target", "history", "neg_items")
        }
        assert row["prompt"] == [{"role": "user", "content": sample["prompt"]}]
    with raises(ValueError, "extra_info", "history"):
        verl.compute_score_sync("toys", "x", 3, {})
