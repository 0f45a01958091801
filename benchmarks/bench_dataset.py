"""Building a training split with 99 negatives per user, from files to samples.

The limit is reading the same files without drawing. The peers read them too, and draw per user in
the two ways in which recommenders do it today.
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


def one_by_one(sequence: list[int], num_items: int, rng: np.random.RandomState) -> list[int]:
    """Draw one item at a time, until there are enough that the user has not seen."""
    negatives, refused = [], set(sequence)
    for _ in range(NUM_NEGS):
        item = rng.randint(1, num_items)
        while item in refused:
            item = rng.randint(1, num_items)
        negatives.append(item)
        refused.add(item)
    return negatives


def in_blocks(sequence: list[int], num_items: int, rng: np.random.Generator) -> np.ndarray:
    """Draw many items at once, remove those seen or repeated, and keep the first."""
    left = np.empty(0, dtype=np.int64)
    size = 2 * NUM_NEGS
    while left.size < NUM_NEGS:
        drawn = rng.integers(1, num_items, size)
        _, first = np.unique(drawn, return_index=True)
        drawn = drawn[np.sort(first)]
        left = drawn[~np.isin(drawn, sequence)]
        size *= 2
    return left[:NUM_NEGS]


def per_user(draw: Callable[..., Any], make_rng: Callable[[int], Any]) -> Callable[..., np.ndarray]:
    """Read the files, then draw the negatives of each user in turn."""

    def run(name: str, root: Path) -> np.ndarray:
        interactions, num_items = read(name, root)
        sequences, rng = interactions.sequences.to_lists(), make_rng(42)
        negatives = np.empty((len(sequences), NUM_NEGS), dtype=np.int64)
        for row, sequence in zip(negatives, sequences, strict=True):
            row[:] = draw(sequence, num_items, rng)
        return negatives

    return run


CONTESTANTS: dict[str, tuple[str, Callable[[str, Path], Any], int]] = {
    "RecommendationDataset": ("ours", build, 10),
    "reading the files": ("limit", read, 10),
    "rejection in blocks, user by user": ("peer", per_user(in_blocks, np.random.default_rng), 3),
    "rejection one by one, user by user": ("peer", per_user(one_by_one, np.random.RandomState), 1),
}


@pytest.mark.parametrize("contestant", CONTESTANTS)
@pytest.mark.parametrize("name", WHERE)
def test_build_training_split(name: str, contestant: str, contest: Callable[..., Any]) -> None:
    root = Path(os.environ.get(WHERE[name]) or "")
    if not (root / name).is_dir():
        pytest.skip(f"needs {name}: set {WHERE[name]} to the directory that contains {name}/")
    role, function, rounds = CONTESTANTS[contestant]
    group = f"training split of {name}, {NUM_NEGS} negatives per user"
    contest(group, contestant, role, lambda: function(name, root), rounds=rounds)
