"""Building a training split with 99 negatives a user, from files to samples.

The limit is reading the same files and drawing nothing. The peers read them too and then draw user
by user, the two ways in which recommenders do it today.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rl4rec_kernels.data import (
    Interactions,
    PromptGenerator,
    RecommendationDataset,
    load_interactions,
    load_item_metadata,
)

NUM_NEGS = 99
WHERE = {"beauty": "RL4REC_DATA", "ml-100k": "RL4REC_ML100K"}


def read(name: str, root: Path) -> tuple[Interactions, int]:
    num_items = max(load_item_metadata(name, root)) + 1
    return load_interactions(name, root), num_items


def build(name: str, root: Path) -> RecommendationDataset:
    metadata = load_item_metadata(name, root)
    return RecommendationDataset(
        data_name=name,
        item_metadata=metadata,
        prompt_generator=PromptGenerator(metadata),
        split="train",
        num_negs=NUM_NEGS,
        num_items=max(metadata) + 1,
        data_dir=root,
    )


def one_by_one(name: str, root: Path) -> np.ndarray:
    """Draw an item at a time until there are enough that the user has not seen."""
    interactions, num_items = read(name, root)
    sequences = interactions.sequences.to_lists()
    rng = np.random.RandomState(42)
    negatives = np.empty((len(sequences), NUM_NEGS), dtype=np.int64)
    for row, sequence in zip(negatives, sequences, strict=True):
        refused = set(sequence)
        for i in range(NUM_NEGS):
            item = rng.randint(1, num_items)
            while item in refused:
                item = rng.randint(1, num_items)
            row[i] = item
            refused.add(item)
    return negatives


def in_blocks(name: str, root: Path) -> np.ndarray:
    """Draw many items a user at once, remove those seen or repeated, and keep the first."""
    interactions, num_items = read(name, root)
    sequences = interactions.sequences.to_lists()
    rng = np.random.default_rng(42)
    negatives = np.empty((len(sequences), NUM_NEGS), dtype=np.int64)
    for row, sequence in zip(negatives, sequences, strict=True):
        left = np.empty(0, dtype=np.int64)
        size = 2 * NUM_NEGS
        while left.size < NUM_NEGS:
            drawn = rng.integers(1, num_items, size)
            _, first = np.unique(drawn, return_index=True)
            drawn = drawn[np.sort(first)]
            left = drawn[~np.isin(drawn, sequence)]
            size *= 2
        row[:] = left[:NUM_NEGS]
    return negatives


CONTESTANTS: dict[str, tuple[str, Callable[[str, Path], Any], int]] = {
    "RecommendationDataset": ("ours", build, 10),
    "reading the files": ("limit", read, 10),
    "rejection in blocks, user by user": ("peer", in_blocks, 3),
    "rejection one by one, user by user": ("peer", one_by_one, 1),
}


@pytest.mark.parametrize("contestant", CONTESTANTS)
@pytest.mark.parametrize("name", WHERE)
def test_build_training_split(name: str, contestant: str, contest: Callable[..., Any]) -> None:
    root = Path(os.environ.get(WHERE[name]) or "")
    if not (root / name).is_dir():
        pytest.skip(f"needs {name}: set {WHERE[name]} to the directory that contains {name}/")
    role, function, rounds = CONTESTANTS[contestant]
    group = f"training split of {name}, {NUM_NEGS} negatives a user"
    contest(group, contestant, role, lambda: function(name, root), rounds=rounds)
