"""The GRPO example from end to end, in seconds."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from rl4rec_kernels import Encoder, ItemIndex, load_item_metadata
from tests.data.cases import write

pytest.importorskip("trl")

EXAMPLE = Path(__file__).parents[2] / "examples" / "grpo_trl.py"
WORDS = ["Star", "Red", "Blue", "Night", "Dog", "River", "Moon", "War", "Love", "City"]
SIZES = {
    "seeds": 0,
    "warm-up-steps": 2,
    "grpo-steps": 4,
    "prompts": 2,
    "generations": 2,
    "new-tokens": 4,
    "texts-per-user": 2,
    "num-negs": 5,
}


@pytest.fixture(autouse=True)
def one_thread():
    """As the example sets it, but only in these tests."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def films(tmp_path) -> Path:
    """Twelve users with eight of forty films each."""
    rng = np.random.default_rng(0)
    items = {str(i): {"title": " ".join(rng.choice(WORDS, 2, replace=False))} for i in range(1, 41)}
    rows = [[user, *rng.choice(np.arange(1, 41), 8, replace=False)] for user in range(1, 13)]
    text = "".join(" ".join(map(str, row)) + "\n" for row in rows)
    root = write(
        tmp_path, "films", sequential_data__txt=text, item_metadata__json=json.dumps(items)
    )
    return root / "films"


def load_example():
    spec = importlib.util.spec_from_file_location("grpo_trl", EXAMPLE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_example_trains_and_reports(films, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("RL4REC_CACHE", str(tmp_path / "cache"))
    out = tmp_path / "out"
    options = [part for name, value in SIZES.items() for part in (f"--{name}", str(value))]
    example = load_example()
    options += ["--data", str(films), "--service"]
    runs = example.main([*options, "local", "--out", str(out)])

    saved = json.loads((out / "grpo.json").read_text())["runs"][0]
    assert saved["before"] == runs[0].before
    assert len(saved["training"]) == 2  # batches, of two updates each
    assert len(saved["before"]) == len(saved["after"]) == 3  # a quarter of twelve users
    values = [*saved["training"], *saved["before"], *saved["after"]]
    assert all(0 <= value <= 1 for value in values)
    assert len(set(values)) > 2
    assert (out / "grpo.png").read_bytes().startswith(b"\x89PNG")
    assert "seed 0: held-out logrank" in capsys.readouterr().out

    pytest.importorskip("ray")
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    command = [sys.executable, str(EXAMPLE), *options, "ray", "--out", str(out / "ray")]
    subprocess.run(command, check=True, env=environment, capture_output=True)
    on_ray = json.loads((out / "ray" / "grpo.json").read_text())["runs"][0]
    for name in ("training", "before", "after"):
        assert on_ray[name] == pytest.approx(saved[name], abs=1e-6)


def test_held_out_users_are_in_neither_stage(films):
    example = load_example()
    task = example.Task(films, example.Settings(num_negs=5))
    held_out = task.held_out(0)
    assert held_out != task.held_out(1)
    trained = {row["user_id"] for row in task.training_rows(held_out)}
    tested = {row["user_id"] for row in task.test_rows(held_out)}
    assert tested == held_out
    assert trained == set(range(1, 13)) - held_out
    everyone, others = task.warm_up_texts(set()), task.warm_up_texts(held_out)
    assert len(others) == len(everyone) * 9 // 12


def test_grpo_raises_the_reward(films, encoder: Encoder, monkeypatch):
    """Twenty steps on a reward for the same title for all users."""
    example = load_example()
    settings = example.Settings(
        num_negs=5,
        prompts=4,
        generations=8,
        new_tokens=3,
        grpo_steps=20,
        warm_up_steps=20,
        learning_rate=3e-3,
    )
    items = load_item_metadata("films", films.parent)
    index = ItemIndex.build(items, encoder)
    service = example.rk.LocalRetrievalService({"films": index}, encoder)
    reward = example.rk.RecReward(service=service, dataset_name="films", reward_type="logrank")
    score = reward.score

    def of_one_item(texts, targets, histories, neg_items=None):
        negatives = [[item for item in range(2, 41)]] * len(texts)
        return score(texts, [1] * len(texts), histories, negatives)

    monkeypatch.setattr(reward, "score", of_one_item)
    run = example.run_seed(example.Task(films, settings), reward, settings, 0)
    assert np.mean(run.after) > np.mean(run.before) + 0.1
