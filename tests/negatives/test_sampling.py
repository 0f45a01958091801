"""Negative sampling: distribution, reproducibility, and errors."""

import itertools
import signal

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rl4rec_kernels import RaggedIds, _sampler, sample_negatives
from tests.errors import raises

EVERYONE = 40_000  # users in the statistical tests, which have fixed seeds and so are never flaky


def p_value(observed: np.ndarray, expected: np.ndarray) -> float:
    """Pearson's chi-square test of counts; cells where fewer than 5 are expected are one cell."""
    observed, expected = observed.ravel(), expected.ravel().astype(float)
    assert observed.sum() == pytest.approx(expected.sum())
    assert not observed[expected == 0].any()
    rare = expected < 5
    if rare.any():
        observed = np.append(observed[~rare], observed[rare].sum())
        expected = np.append(expected[~rare], expected[rare].sum())
    kept = expected > 0
    statistic = ((observed[kept] - expected[kept]) ** 2 / expected[kept]).sum()
    half = torch.tensor([kept.sum() - 1, statistic], dtype=torch.float64) / 2
    return torch.special.gammaincc(half[0], half[1]).item()


def count(columns: np.ndarray, num_items: int) -> np.ndarray:
    """How often each sequence of items occurs in the columns."""
    counts = np.zeros((num_items,) * columns.shape[1], dtype=np.int64)
    np.add.at(counts, tuple(columns.T), 1)
    return counts


def successive(weights: np.ndarray, draws: int) -> np.ndarray:
    """Probability of each sequence when drawing one after another (Plackett-Luce)."""
    table = np.zeros((len(weights),) * draws)
    for items in itertools.permutations(np.flatnonzero(weights), draws):
        left = weights.sum()
        table[items] = 1
        for item in items:
            table[items] *= weights[item] / left
            left -= weights[item]
    return table


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
    """A 6-bit number modulo 12 favours four items by a fifth, which it detects."""
    bits = np.random.default_rng(0).integers(0, 64, EVERYONE)
    even = np.full(12, EVERYONE / 12)
    assert p_value(np.bincount(bits % 12), even) < 1e-6
    assert p_value(np.bincount(bits * 3 // 16), even) < 1e-6  # multiplication is not better
    kept = bits[bits < 60] % 12
    assert p_value(np.bincount(kept), even * kept.size / EVERYONE) > 1e-4


@pytest.mark.parametrize(
    ("seen", "num_negs"),
    [([3, 7], 2), ([1, 2, 3, 5, 8, 11, 12], 3), ([3, 7], 9)],
    ids=["by rejection", "from the list", "by rejection, then from the list"],
)
def test_uniform(seen, num_negs):
    rows = sample_negatives(13, [seen] * EVERYONE, num_negs, seed=1)
    allowed = np.ones(13)
    allowed[[0, *seen]] = 0
    for position in range(num_negs):
        assert p_value(count(rows[:, [position]], 13), successive(allowed, 1) * EVERYONE) > 1e-4
    for columns in ([0, 1], [0, -1], [-2, -1]):
        assert p_value(count(rows[:, columns], 13), successive(allowed, 2) * EVERYONE) > 1e-4


def test_users_and_seeds_are_independent():
    """A weak generator would fail for neighbouring keys."""
    rows = sample_negatives(11, [[]] * EVERYONE, 1, seed=1)
    other_seed = sample_negatives(11, [[]] * EVERYONE, 1, seed=2)
    even = np.zeros((11, 11))
    even[1:, 1:] = 1 / 100
    neighbours = np.hstack([rows[:-1], rows[1:]])
    assert p_value(count(neighbours, 11), even * (EVERYONE - 1)) > 1e-4
    assert p_value(count(np.hstack([rows, other_seed]), 11), even * EVERYONE) > 1e-4


def test_uniform_when_users_have_seen_different_things():
    rng = np.random.default_rng(0)
    seen = [
        rng.choice(np.arange(1, 60), rng.integers(0, 55), replace=False) for _ in range(EVERYONE)
    ]
    rows = sample_negatives(60, seen, 2, seed=3)
    expected = np.zeros(60)
    for row in seen:
        chance = np.ones(60)
        chance[0] = 0
        chance[row] = 0
        expected += chance / chance.sum()
    assert p_value(count(rows[:, :1], 60), expected) > 1e-4
    assert p_value(count(rows[:, 1:], 60), expected) > 1e-4


def test_uniform_on_real_histories(beauty_dir):
    lines = (beauty_dir / "beauty" / "sequential_data.txt").read_text().splitlines()
    seen = RaggedIds.from_lists([list(map(int, line.split()))[1:] for line in lines])
    rows = sample_negatives(12_102, seen, 99, seed=3)
    # Every user draws 99 of the remaining items uniformly, so an item's count is the sum, over
    # the users who have not seen it, of 99 / (the items remaining for that user).
    left = 12_101 - np.diff(seen.offsets)
    chance = np.repeat(99 / left, np.diff(seen.offsets))
    expected = (99 / left).sum() - np.bincount(seen.values, chance, minlength=12_102)
    expected[0] = 0
    assert p_value(np.bincount(rows.ravel(), minlength=12_102), expected) > 1e-4


@pytest.mark.parametrize(
    ("heavy", "seen"),
    [(5, []), (150, []), (1e4, []), (1e6, [6])],
    ids=["by rejection", "switching now and then", "switching after one", "from the list"],
)
def test_weighted_draws_follow_successive_sampling(heavy, seen):
    """After a heavy item is drawn, nearly every try is rejected, so the list is used."""
    weights = np.array([9, 1, 2, 3, 0, 4, heavy])
    rows = sample_negatives(7, [seen] * EVERYONE, 3, weights=weights, seed=4)
    allowed = weights.copy()
    allowed[[0, *seen]] = 0
    assert p_value(count(rows, 7), successive(allowed, 3) * EVERYONE) > 1e-4
    # Power: it detects that one draw in twenty has slightly different weights.
    wrong = rows.copy()
    wrong[::20] = sample_negatives(
        7, [seen] * (EVERYONE // 20), 3, weights=[0, 3, 3, 3, 0, 2, heavy], seed=5
    )
    assert p_value(count(wrong, 7), successive(allowed, 3) * EVERYONE) < 1e-6


def test_first_weighted_draw_among_many_items():
    weights = np.r_[5, np.arange(1, 3000) ** -0.8]
    weights[::10] = 0
    rows = sample_negatives(3000, [[]] * 300_000, 1, weights=weights, seed=6)
    expected = weights * 300_000 / weights.sum()
    assert p_value(count(rows, 3000), expected) > 1e-4


def test_weights_over_many_orders_of_magnitude():
    weights = np.r_[0, np.logspace(-300, 300, 7)]
    rows = sample_negatives(8, [[]] * 100, 7, weights=weights)
    assert (rows == np.arange(7, 0, -1)).all()  # each outweighs all lower ones


@pytest.mark.parametrize("weights", [None, np.arange(500) % 7])
def test_only_seed_and_user_matter(weights):
    rng = np.random.default_rng(0)
    seen = [rng.integers(0, 500, rng.integers(0, 300)).tolist() for _ in range(1000)]
    users = rng.permutation(10**12 + np.arange(1000))
    rows = sample_negatives(500, seen, 30, user_ids=users, weights=weights, num_threads=1)
    for threads in (2, 5, 64):
        again = sample_negatives(
            500,
            RaggedIds.from_lists(seen),
            30,
            user_ids=users,
            weights=weights,
            num_threads=threads,
        )
        assert (again == rows).all()
    order = rng.permutation(1000)[:77]
    subset = sample_negatives(
        500, [seen[i] for i in order], 30, user_ids=users[order], weights=weights
    )
    assert (subset == rows[order]).all()
    other_seed = sample_negatives(500, seen, 30, user_ids=users, weights=weights, seed=43)
    assert (other_seed != rows).mean() > 0.9


def test_values_do_not_change_between_releases():
    weights = np.arange(1000.0)
    got = sample_negatives(1000, [[5], []], 4, user_ids=[7, 2**40], seed=2**64 - 1)
    assert got.tolist() == GOLDEN_UNIFORM
    got = sample_negatives(1000, [[5], []], 4, weights=weights)
    assert got.tolist() == GOLDEN_WEIGHTED
    assert sample_negatives(9, [[1, 2]], 6).tolist() == GOLDEN_LIST
    weights = [0, 1, 2, 3, 4, 5, 6, 7, 1e9]
    assert sample_negatives(9, [[8]], 6, weights=weights).tolist() == GOLDEN_CLOCKS


GOLDEN_UNIFORM = [[852, 949, 213, 763], [963, 221, 491, 472]]
GOLDEN_WEIGHTED = [[613, 341, 844, 935], [510, 948, 605, 622]]
GOLDEN_LIST = [[5, 4, 3, 7, 8, 6]]
GOLDEN_CLOCKS = [[5, 7, 3, 6, 4, 2]]


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
        with raises(ValueError, f"only {most} items left", f"num_negs is {most + 1}"):
            sample_negatives(num_items, seen, most + 1, weights=weights, first_item=first)


def test_a_user_who_has_seen_almost_everything():
    seen = np.arange(1_000_000)
    rows = sample_negatives(1_000_003, RaggedIds(seen, np.array([0, seen.size])), 3)
    assert sorted(rows[0]) == [1_000_000, 1_000_001, 1_000_002]


def test_a_long_call_can_be_interrupted():
    """Signal handlers run during the call, so Ctrl-C takes effect before it returns."""
    heavy = np.ones(100_000)
    heavy[7] = 1e12  # drawn first, so that every user needs the list
    calls = []

    def third_call_raises(*_: object) -> None:
        calls.append(None)
        if len(calls) == 3:
            raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, third_call_raises)
    signal.setitimer(signal.ITIMER_REAL, 0.01, 0.01)
    try:
        with pytest.raises(KeyboardInterrupt):
            sample_negatives(100_000, [[]] * 5000, 2, weights=heavy, num_threads=2)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("threads", [1, 8])
def test_the_first_user_with_too_few_items_is_named(threads):
    seen = [list(range(1, 8 - (user >= 700))) for user in reversed(range(1000))]
    with raises(ValueError, "user 300", "1 items left", "of 8", "num_negs is 2"):
        sample_negatives(9, seen, 2, num_threads=threads)


def test_torch_and_narrow_ids_are_accepted():
    seen = RaggedIds(torch.tensor([1, 2, 3], dtype=torch.int32), torch.tensor([0, 2, 3]))
    want = sample_negatives(50, [[1, 2], [3]], 5)
    assert (sample_negatives(50, seen, 5) == want).all()
    assert (sample_negatives(50, iter([(1, 2), np.array([3])]), 5) == want).all()


@pytest.mark.parametrize(
    ("changes", "error", "named"),
    [
        ({"num_negs": -1}, ValueError, ("num_negs", "from 0", -1)),
        ({"num_negs": 1.5}, TypeError, ("num_negs", 1.5)),
        ({"num_negs": True}, TypeError, ("num_negs", True)),
        ({"num_negs": 11}, ValueError, ("user 0", "8 items left", "num_negs is 11")),
        ({"num_negs": 2**32 - 1}, ValueError, ("user 0", "8 items left")),
        ({"num_items": True}, TypeError, ("num_items", True)),
        ({"num_items": 2**32}, ValueError, ("num_items", "0 to 4294967295", 2**32)),
        ({"seed": 1.0}, TypeError, ("seed", 1.0)),
        ({"seed": -1}, ValueError, ("seed", "from 0", -1)),
        ({"seed": 2**64}, ValueError, ("seed", "from 0", 2**64)),
        ({"first_item": 11}, ValueError, ("first_item", "0 to 10", 11)),
        ({"num_threads": 0}, ValueError, ("num_threads", "from 1", 0)),
        ({"seen": [[1], [10]]}, IndexError, ("seen", "user 1", "item 10", "0 to 9")),
        ({"seen": [[-1], [1]]}, IndexError, ("seen", "user 0", "item -1")),
        ({"seen": "abc"}, TypeError, ("seen", "list of lists", "abc")),
        ({"seen": [[1], [1.5]]}, TypeError, ("seen[1]", "float64")),
        ({"seen": [[True], [1]]}, TypeError, ("seen[0]", "bool")),
        ({"seen": [[1], [2**63]]}, ValueError, ("seen[1]", 2**63)),
        (
            {"seen": RaggedIds(np.ones(1), np.array([0, 1, 1]))},
            TypeError,
            ("seen.values", "float64"),
        ),
        (
            {"seen": RaggedIds(np.array([1]), np.array([0, 2]))},
            ValueError,
            ("seen.offsets", "from 0 to 1"),
        ),
        ({"user_ids": [1]}, ValueError, ("user_ids", "2 rows", (1,))),
        ({"user_ids": [0.5, 1]}, TypeError, ("user_ids", "float64")),
        (
            {"user_ids": np.array([0, 2**63], dtype=np.uint64)},
            ValueError,
            ("user_ids", 2**63),
        ),
        ({"weights": [True] * 10}, TypeError, ("weights", "bool")),
        ({"weights": [1] * 9 + [float("inf")]}, ValueError, ("weights", "item 9", "inf")),
        ({"weights": [1.0]}, ValueError, ("weights", "10 items", (1,))),
        ({"weights": [1] * 9 + [-1]}, ValueError, ("weights", "item 9", -1)),
        ({"weights": [1] * 9 + [float("nan")]}, ValueError, ("weights", "item 9", "nan")),
        ({"weights": ["a"] * 10}, TypeError, ("weights", "<U1")),
        ({"num_negs": 8, "user_ids": [70, 80]}, ValueError, ("user 80", "7 items left", "of 9")),
        ({"weights": [1, 1] + [0] * 8}, ValueError, ("user 0", "0 items left")),
    ],
)
def test_bad_arguments_are_named(changes, error, named):
    arguments = {"num_items": 10, "seen": [[1], [2, 3]], "num_negs": 2} | changes
    with raises(error, *named):
        sample_negatives(**arguments)


def test_no_users():
    assert sample_negatives(10, [], 3).shape == (0, 3)
    assert sample_negatives(1, [], 0).shape == (0, 0)
