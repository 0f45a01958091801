"""99 negatives for each user of Beauty: our sampler, and three ways to do it in NumPy."""

import os
from pathlib import Path

import numpy as np
import pytest

from rl4rec_kernels import RaggedIds, sample_negatives

NUM_ITEMS, NUM_NEGS = 12_102, 99
GROUP = f"draw {NUM_NEGS} negatives for 22,363 users"


@pytest.fixture(scope="module")
def histories() -> list[np.ndarray]:
    """Beauty's if RL4REC_DATA has it, else as many random ones of the same mean length."""
    path = Path(os.environ.get("RL4REC_DATA", "data")) / "beauty" / "sequential_data.txt"
    if path.is_file():
        return [np.array(line.split()[1:], dtype=np.int64) for line in path.open()]
    rng = np.random.default_rng(0)
    return [rng.choice(NUM_ITEMS - 1, 9, replace=False) + 1 for _ in range(22_363)]


def rejection_loop(histories: list[np.ndarray]) -> list[list[int]]:
    """Draw until there are enough new items: the usual loop, with a generator per user."""
    result = []
    for user, seen in enumerate(histories):
        rng = np.random.default_rng((42, user))
        taken, negatives = set(seen.tolist()), []
        while len(negatives) < NUM_NEGS:
            for item in rng.integers(1, NUM_ITEMS, NUM_NEGS).tolist():
                if item not in taken and len(negatives) < NUM_NEGS:
                    taken.add(item)
                    negatives.append(item)
        result.append(negatives)
    return result


def choice(histories: list[np.ndarray]) -> list[np.ndarray]:
    """Generator.choice from the unseen items."""
    items = np.arange(1, NUM_ITEMS)
    rng = np.random.default_rng(42)
    return [rng.choice(np.setdiff1d(items, seen), NUM_NEGS, replace=False) for seen in histories]


def random_keys(histories: list[np.ndarray]) -> list[np.ndarray]:
    """The items with the smallest random keys, by blocks of users."""
    rng = np.random.default_rng(42)
    result = []
    for start in range(0, len(histories), 256):
        block = histories[start : start + 256]
        keys = rng.random((len(block), NUM_ITEMS), dtype=np.float32)
        keys[:, 0] = 2
        for row, seen in zip(keys, block, strict=True):
            row[seen] = 2
        result.append(np.argpartition(keys, NUM_NEGS)[:, :NUM_NEGS])
    return result


def test_ours(contest, histories):
    seen = RaggedIds.from_lists(histories)
    work = lambda: sample_negatives(NUM_ITEMS, seen, NUM_NEGS)  # noqa: E731
    rows = contest(GROUP, "sample_negatives", "ours", work)
    assert rows.shape == (len(histories), NUM_NEGS)


def test_ours_weighted(contest, histories):
    seen = RaggedIds.from_lists(histories)
    weights = np.bincount(seen.values, minlength=NUM_ITEMS) ** 0.75
    work = lambda: sample_negatives(NUM_ITEMS, seen, NUM_NEGS, weights=weights)  # noqa: E731
    contest(GROUP, "sample_negatives, popularity^0.75", "ours", work)


@pytest.mark.parametrize("peer", [rejection_loop, choice, random_keys], ids=lambda f: f.__name__)
def test_peer(contest, histories, peer):
    name = f"NumPy {peer.__name__.replace('_', ' ')}"
    rounds = 1 if peer is choice else 3  # a round takes a minute
    contest(GROUP, name, "peer", lambda: peer(histories), rounds=rounds)
