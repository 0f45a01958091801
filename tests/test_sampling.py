"""Negative sampling: the law of the draws, reproducibility, and errors."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rl4rec_kernels import RaggedIds, _sampler, sample_negatives

EVERYONE = 40_000  # users in the statistical tests; seeds are fixed, so these never flicker


def p_value(observed: np.ndarray, expected: np.ndarray) -> float:
    """Pearson's chi-square test of counts."""
    observed, expected = observed.ravel(), expected.ravel()
    assert not observed[expected == 0].any()
    kept = expected > 0
    statistic = ((observed[kept] - expected[kept]) ** 2 / expected[kept]).sum()
    half = torch.tensor([kept.sum() - 1, statistic], dtype=torch.float64) / 2
    return torch.special.gammaincc(half[0], half[1]).item()


def pairs(rows: np.ndarray, num_items: int) -> np.ndarray:
    """How often each ordered pair is drawn first and second."""
    return np.bincount(rows[:, 0] * num_items + rows[:, 1], minlength=num_items**2)


def successive(weights: np.ndarray) -> np.ndarray:
    """Probability of each ordered pair when drawing one after the other (Plackett-Luce)."""
    share = weights / weights.sum()
    return np.array(
        [
            [0 if i == j else share[i] * share[j] / (1 - share[i]) for j in range(len(share))]
            for i in range(len(share))
        ]
    )


def test_philox_gives_the_published_values():
    """Known answers of Random123's philox4x32-10."""
    known = {
        ((0,) * 4, (0,) * 2): "6627e8d5 e169c58d bc57ac4c 9b00dbd8",
        ((2**32 - 1,) * 4, (2**32 - 1,) * 2): "408f276d 41c83b0e a20bc7c6 6d5451fd",
        ((0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344), (0xA4093822, 0x299F31D0)): (
            "d16cfe09 94fdcceb 5001e420 24126ea1"
        ),
    }
    for (counter, key), words in known.items():
        got = _sampler.philox(list(counter), list(key))
        assert " ".join(f"{word:08x}" for word in got) == words


def test_the_chi_square_test_has_power():
    """A bias of one part in twenty, such as `random % n` has for an unlucky n, is found out."""
    rng = np.random.default_rng(0)
    biased = np.bincount(rng.integers(0, 21, EVERYONE) % 20, minlength=20)
    assert p_value(biased, np.full(20, EVERYONE / 20)) < 1e-6


@pytest.mark.parametrize("num_negs", [2, 9], ids=["by rejection", "from the list"])
@pytest.mark.parametrize("position", [0, 1])
def test_uniform(num_negs, position):
    rows = sample_negatives(13, [[3, 7]] * EVERYONE, num_negs, seed=1)
    allowed = [i for i in range(1, 13) if i not in (3, 7)]
    counts = np.bincount(rows[:, min(position, num_negs - 1)], minlength=13)
    expected = np.zeros(13)
    expected[allowed] = EVERYONE / 10
    assert p_value(counts, expected) > 1e-4
    last = np.bincount(rows[:, -1], minlength=13)  # drawn from the list where num_negs is 9
    assert p_value(last, expected) > 1e-4


@pytest.mark.parametrize("num_negs", [2, 5], ids=["by rejection", "from the list"])
def test_uniform_pairs(num_negs):
    rows = sample_negatives(7, [[6]] * EVERYONE, num_negs, seed=2)
    expected = np.zeros((7, 7))
    for i, j in itertools.permutations(range(1, 6), 2):
        expected[i, j] = EVERYONE / 20
    assert p_value(pairs(rows, 7), expected) > 1e-4


def test_every_item_is_drawn_alike_when_users_have_seen_different_things(beauty_dir):
    lines = (beauty_dir / "beauty" / "sequential_data.txt").read_text().splitlines()
    seen = RaggedIds.from_lists([list(map(int, line.split()))[1:] for line in lines])
    rows = sample_negatives(12_102, seen, 99, seed=3)
    # Every user draws 99 of what is left alike, so an item is drawn in proportion to the users
    # who have not seen it, each weighing 99 / (what that user has left).
    left = 12_101 - np.diff(seen.offsets)
    chance = np.repeat(99 / left, np.diff(seen.offsets))
    expected = (99 / left).sum() - np.bincount(seen.values, chance, minlength=12_102)
    expected[0] = 0
    assert p_value(np.bincount(rows.ravel(), minlength=12_102), expected) > 1e-4


@pytest.mark.parametrize("dominance", [1, 1e5], ids=["by rejection", "from the list"])
def test_weighted_pairs_follow_successive_sampling(dominance):
    """A dominant item that is taken makes nearly every draw a rejection: the list takes over."""
    weights = np.array([9.0, 1, 2, 3, 0, 4, 5 * dominance])
    seen = [[6]] * EVERYONE if dominance > 1 else [[]] * EVERYONE
    rows = sample_negatives(7, seen, 2, weights=weights, seed=4)
    allowed = weights.copy()
    allowed[0] = 0  # below first_item
    if dominance > 1:
        allowed[6] = 0
    expected = successive(allowed) * EVERYONE
    assert p_value(pairs(rows, 7), expected) > 1e-4
    uniform = sample_negatives(7, seen, 2, seed=4)
    assert p_value(pairs(uniform, 7)[expected.ravel() > 0], expected[expected > 0]) < 1e-6


def test_weights_over_many_orders_of_magnitude():
    weights = np.r_[0, np.logspace(-300, 300, 7)]
    rows = sample_negatives(8, [[]] * 100, 7, weights=weights)
    assert (rows == np.arange(7, 0, -1)).all()  # each outweighs all below it


@pytest.mark.parametrize("weights", [None, np.arange(500) % 7])
def test_nothing_but_seed_and_user_matters(weights):
    rng = np.random.default_rng(0)
    seen = [rng.integers(0, 500, rng.integers(0, 300)).tolist() for _ in range(1000)]
    users = rng.permutation(10**12 + np.arange(1000))
    rows = sample_negatives(500, seen, 30, user_ids=users, weights=weights, num_threads=1)
    for threads in (2, 5, 64):
        again = sample_negatives(
            500, RaggedIds.from_lists(seen), 30, user_ids=users, weights=weights,
            num_threads=threads,
        )  # fmt: skip
        assert (again == rows).all()
    order = rng.permutation(1000)[:77]
    subset = sample_negatives(
        500, [seen[i] for i in order], 30, user_ids=users[order], weights=weights
    )
    assert (subset == rows[order]).all()
    other_seed = sample_negatives(500, seen, 30, user_ids=users, weights=weights, seed=43)
    assert (other_seed != rows).mean() > 0.9


def test_values_stay_the_same_from_release_to_release():
    weights = np.arange(1000.0)
    got = sample_negatives(1000, [[5], []], 4, user_ids=[7, 2**40], seed=2**64 - 1)
    assert got.tolist() == GOLDEN_UNIFORM
    got = sample_negatives(1000, [[5], []], 4, weights=weights)
    assert got.tolist() == GOLDEN_WEIGHTED
    assert sample_negatives(9, [[1, 2]], 6).tolist() == GOLDEN_LIST


GOLDEN_UNIFORM = [[949, 763, 64, 752], [221, 472, 95, 550]]
GOLDEN_WEIGHTED = [[469, 327, 657, 670], [833, 991, 828, 680]]
GOLDEN_LIST = [[4, 3, 6, 7, 8, 5]]


@settings(deadline=None, max_examples=200)
@given(st.data())
def test_negatives_are_new_and_differ(data):
    num_items = data.draw(st.integers(1, 200))
    first = data.draw(st.integers(0, min(3, num_items)))
    ids = st.lists(st.integers(0, num_items - 1), max_size=num_items * 2)
    seen = data.draw(st.lists(ids, max_size=5))
    weights = data.draw(st.none() | st.just(np.arange(num_items) % 5 / 3))
    allowed = [
        {i for i in range(first, num_items) if i not in row and (weights is None or weights[i])}
        for row in map(set, seen)
    ]
    most = min(map(len, allowed), default=num_items)
    num_negs = data.draw(st.integers(0, most) | st.just(most))
    rows = sample_negatives(num_items, seen, num_negs, weights=weights, first_item=first)
    assert rows.shape == (len(seen), num_negs)
    assert rows.dtype == np.int64
    for row, ok in zip(rows.tolist(), allowed, strict=True):
        assert len(set(row)) == num_negs
        assert set(row) <= ok
    if seen and most < num_items:
        with pytest.raises(ValueError, match=rf"only {most} items left.*num_negs is {most + 1}"):
            sample_negatives(num_items, seen, most + 1, weights=weights, first_item=first)


def test_a_user_who_has_seen_nearly_everything():
    seen = np.arange(1_000_000)
    rows = sample_negatives(1_000_003, RaggedIds(seen, np.array([0, seen.size])), 3)
    assert sorted(rows[0]) == [1_000_000, 1_000_001, 1_000_002]


def test_torch_and_narrow_ids_are_taken():
    seen = RaggedIds(torch.tensor([1, 2, 3], dtype=torch.int32), torch.tensor([0, 2, 3]))
    want = sample_negatives(50, [[1, 2], [3]], 5)
    assert (sample_negatives(50, seen, 5) == want).all()
    assert (sample_negatives(50, iter([(1, 2), np.array([3])]), 5) == want).all()


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"num_negs": -1}, ValueError, "num_negs must be from 0"),
        ({"num_negs": 1.5}, TypeError, "num_negs must be a whole number"),
        ({"num_items": True}, TypeError, "num_items must be a whole number"),
        ({"seed": -1}, ValueError, "seed must be from 0"),
        ({"seed": 2**64}, ValueError, "seed must be from 0"),
        ({"first_item": 11}, ValueError, "first_item must be from 0 to 10"),
        ({"num_threads": 0}, ValueError, "num_threads must be from 1"),
        ({"seen": [[1], [10]]}, IndexError, "user 1 has item 10, but ids go from 0 to 9"),
        ({"seen": [[-1], [1]]}, IndexError, "user 0 has item -1"),
        ({"seen": "abc"}, TypeError, "seen must be RaggedIds or a list"),
        ({"seen": [[1.5], [1]]}, TypeError, "seen: row 0"),
        (
            {"seen": RaggedIds(np.array([1]), np.array([0, 2]))},
            ValueError,
            "must ascend from 0 to 1",
        ),
        ({"user_ids": [1]}, ValueError, "user_ids must have one id for each of the 2"),
        ({"user_ids": [0.5, 1]}, TypeError, "user_ids must hold integers"),
        ({"weights": [1.0]}, ValueError, "one number for each of the 10 items"),
        ({"weights": [1] * 9 + [-1]}, ValueError, "item 9 has -1"),
        ({"weights": [1] * 9 + [float("nan")]}, ValueError, "item 9 has nan"),
        ({"weights": ["a"] * 10}, TypeError, "weights must be numbers"),
        ({"num_negs": 8, "user_ids": [70, 80]}, ValueError, "user 80 has only 7 items left.*of 9"),
        ({"weights": [1, 1] + [0] * 8}, ValueError, "user 0 has only 0 items left"),
    ],
)
def test_bad_arguments_are_named(changes, error, words):
    arguments = {"num_items": 10, "seen": [[1], [2, 3]], "num_negs": 2} | changes
    with pytest.raises(error, match=words):
        sample_negatives(**arguments)


def test_no_users():
    assert sample_negatives(10, [], 3).shape == (0, 3)
    assert sample_negatives(1, [], 0).shape == (0, 0)
