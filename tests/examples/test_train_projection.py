"""The example that trains a projection, from end to end, in seconds."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import torch

from tests.data.cases import write

EXAMPLE = Path(__file__).parents[2] / "examples" / "train_projection.py"
NUM_ITEMS = 40


def load_example():
    spec = importlib.util.spec_from_file_location("train_projection", EXAMPLE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_held_out_ndcg_rises(tmp_path, monkeypatch):
    """Every user walks through the items in the same order, which titles do not tell."""
    monkeypatch.setenv("RL4REC_CACHE", str(tmp_path / "cache"))
    words = np.random.default_rng(0).permutation(
        ["Star", "Red", "Blue", "Night", "Dog", "River", "Moon", "War", "Love", "City"]
    )
    titles = [f"{words[i // 10]} {words[i % 10]}" for i in range(NUM_ITEMS)]
    items = {str(i + 1): {"title": title} for i, title in enumerate(titles)}
    rows = [
        [user + 1, *(1 + (user + step) % NUM_ITEMS for step in range(8))]
        for user in range(NUM_ITEMS)
    ]
    text = "".join(" ".join(map(str, row)) + "\n" for row in rows)
    root = write(
        tmp_path, "walks", sequential_data__txt=text, item_metadata__json=json.dumps(items)
    )
    module = load_example()
    settings = module.Settings(
        name="walks", data_dir=str(root), steps=60, batch=64, learning_rate=3e-3
    )
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        first, last = module.run(settings)
    finally:
        torch.set_num_threads(before)
    assert last > first + 0.1
