"""Hard negatives, compared with a sort of all scores."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import rl4rec_kernels as rk
from rl4rec_kernels.data.prompts import recent_titles
from rl4rec_kernels.negatives import mining
from tests.errors import raises
from tests.ops.catalog_cases import every_score


def by_sorting(query, table, targets, seen, num_negs, skip_top=0, valid=None):
    """The expected result of `mine_hard_negatives`, from the operators' scores."""
    found = []
    for row, scores in enumerate(every_score(query, table).tolist()):
        others = set(range(len(table))) - {int(targets[row])} - set(map(int, seen[row]))
        if valid is not None:
            others &= set(valid.nonzero().flatten().tolist())
        found.append(sorted(others, key=lambda item: (-scores[item], item)))
    return [row[skip_top : skip_top + num_negs] for row in found]


def a_case(rows=23, items=90, exact=False, seed=0):
    """Queries, a table whose row 0 is padding, targets, seen items, the mask of items."""
    generator = torch.Generator().manual_seed(seed)
    if exact:
        query, table = (
            torch.randint(-1, 2, (n, 3), generator=generator).float() for n in (rows, items)
        )
    else:
        query, table = (torch.randn(n, 16, generator=generator) for n in (rows, items))
    rng = np.random.default_rng(seed)
    targets = rng.integers(1, items, rows)
    seen = [rng.integers(1, items, rng.integers(0, 30)).tolist() for _ in range(rows)]
    valid = torch.ones(items, dtype=torch.bool)
    valid[0] = False
    return query, table, targets, seen, valid


@given(st.integers(0, 2**32), st.booleans(), st.integers(1, 20), st.integers(0, 20))
@settings(deadline=None, max_examples=30)
def test_the_best_remaining_items_are_found(seed, exact, num_negs, skip_top):
    *arguments, valid = a_case(exact=exact, seed=seed)  # whole numbers: ties everywhere
    for mask in (None, valid):
        got = rk.mine_hard_negatives(*arguments, num_negs, skip_top, valid=mask)
        assert got.dtype == np.int64
        assert got.tolist() == by_sorting(*arguments, num_negs, skip_top, mask)


def test_seen_in_every_form():
    query, table, targets, seen, valid = a_case()
    want = rk.mine_hard_negatives(query, table, targets, seen, 5, valid=valid)
    ragged = rk.RaggedIds.from_lists(seen)
    padded = np.full((len(seen), 30), -1)
    for row, items in enumerate(seen):
        padded[row, : len(items)] = items
    forms = [
        ragged,
        rk.RaggedIds(*map(torch.from_numpy, ragged)),
        padded,
        torch.from_numpy(padded).int(),
        [np.array(items, dtype=np.int32) for items in seen],
        [items + [int(target)] * 2 for items, target in zip(seen, targets, strict=True)],
    ]
    for form in forms:
        for wanted in (targets, targets.tolist(), torch.from_numpy(targets)):
            got = rk.mine_hard_negatives(query, table, wanted, form, 5, valid=valid)
            assert np.array_equal(got, want)


@pytest.mark.parametrize("dtype", [torch.int8, torch.bfloat16], ids=str)
def test_a_refined_copy_gives_the_same_result(dtype):
    query, table, targets, seen, valid = a_case(items=3000)
    quantized = rk.quantize_table(table, dtype)
    want = rk.mine_hard_negatives(query, table, targets, seen, 20, 5, valid=valid)
    got = rk.mine_hard_negatives(query, quantized, targets, seen, 20, 5, valid=valid, refine=True)
    assert np.array_equal(got, want)
    rough = rk.mine_hard_negatives(query, quantized, targets, seen, 20, 5, valid=valid)
    assert np.mean([np.isin(a, b).mean() for a, b in zip(rough, want, strict=True)]) > 0.9


def test_a_row_only_depends_on_itself(monkeypatch, capfd):
    query, table, targets, seen, valid = a_case(rows=50)

    def mine(rows, **options):
        return rk.mine_hard_negatives(
            query[rows],
            table,
            targets[rows],
            [seen[row] for row in rows],
            7,
            2,
            valid=valid,
            **options,
        )

    want = mine(range(50))
    assert np.array_equal(mine(range(49, -1, -1)), want[::-1])
    assert np.array_equal(mine([17]), want[17:18])
    assert mine([]).shape == (0, 7)
    assert capfd.readouterr().err == ""
    monkeypatch.setattr(mining, "_BLOCK", 16)  # several blocks, the last one short
    threads = torch.get_num_threads()
    try:
        for n in (1, 3):
            torch.set_num_threads(n)
            assert np.array_equal(mine(range(50)), want)
    finally:
        torch.set_num_threads(threads)
    assert "mining negatives" in capfd.readouterr().err
    assert np.array_equal(mine(range(50), show_progress=False, backend="reference"), want)
    assert capfd.readouterr().err == ""


def test_all_remaining_items_can_be_mined():
    arguments = torch.ones(1, 1), torch.arange(5.0)[:, None], [1], [[2]]
    valid = torch.tensor([False, True, True, True, True])
    assert rk.mine_hard_negatives(*arguments, 2, valid=valid).tolist() == [[4, 3]]
    assert rk.mine_hard_negatives(*arguments, 1, 1, valid=valid).tolist() == [[3]]
    assert rk.mine_hard_negatives(*arguments, 3).tolist() == [[4, 3, 0]]


NAN, BIG = float("nan"), 1e30


@pytest.mark.parametrize(
    ("changes", "error", "named"),
    [
        ({"num_negs": 0}, ValueError, ("num_negs", "at least 1", 0)),
        ({"num_negs": 2.0}, TypeError, ("num_negs", 2.0)),
        ({"skip_top": -1}, ValueError, ("skip_top", "at least 0", -1)),
        ({"query": torch.ones(2, 3)}, ValueError, ("query", 3, "table", 4)),
        ({"query": [[1.0]]}, TypeError, ("query", "tensor", "list")),
        ({"query": torch.tensor([[1.0] * 4, [NAN] * 4])}, ValueError, ("query", "row 1", "NaN")),
        ({"table": torch.full((9, 4), NAN)}, ValueError, ("table", "row 0", "NaN")),
        (
            {"query": torch.full((2, 4), BIG), "table": torch.full((9, 4), -BIG)},
            ValueError,
            ("row 0", "overflow"),
        ),
        ({"refine": True}, TypeError, ("refine=True", "quantize_table")),
        ({"targets": [1]}, ValueError, ("targets", "2 rows", (1,))),
        ({"targets": [1, 9]}, IndexError, ("targets", "item 9")),
        ({"targets": [1, 0]}, IndexError, ("targets: 0", "not an item")),
        ({"seen": [[1]]}, ValueError, ("seen", "2 rows", "got 1")),
        ({"seen": None}, TypeError, ("seen", "list of lists", None)),
        ({"seen": [[1], [9]]}, IndexError, ("seen", "item 9")),
        ({"seen": [[1], [-2]]}, IndexError, ("seen", -2)),
        (
            {"valid": torch.ones(8, dtype=torch.bool)},
            ValueError,
            ("valid", "bool tensor [9]", (8,)),
        ),
        ({"user_ids": [7]}, ValueError, ("user_ids", (2,), (1,))),
        (
            {"num_negs": 4, "skip_top": 3, "user_ids": [70, 71]},
            ValueError,
            ("user 71", "row 1", "5 items", "num_negs=4", "skip_top=3", 7),
        ),
        ({"num_negs": 6}, ValueError, ("row 1", "5 items")),
        ({"num_negs": 100, "seen": [[], []]}, ValueError, ("row 0", "7 items")),
    ],
)
def test_bad_arguments_are_named(changes, error, named):
    valid = torch.ones(9, dtype=torch.bool)
    valid[0] = False
    arguments = {
        "query": torch.ones(2, 4),
        "table": torch.ones(9, 4),
        "targets": [1, 2],
        "seen": [[0, 1], [3, 3, 4, 2]],
        "num_negs": 2,
        "valid": valid,
    } | changes
    with raises(error, *named):
        rk.mine_hard_negatives(**arguments)


USERS = 200  # of Beauty


@pytest.fixture(scope="module")
def mined(beauty_dir, encoder):
    """The first 400 items of Amazon Beauty, and hard negatives of 200 users."""
    items = rk.load_item_metadata("beauty", beauty_dir)
    items = {item: items[item] for item in items if item <= 400}
    train = rk.RecommendationDataset(
        "beauty", items, rk.PromptGenerator(items), split="train", data_dir=beauty_dir
    )
    users = slice(0, USERS)
    index = rk.ItemIndex.build(items, encoder, fields=("title",), show_progress=False)
    texts = [recent_titles(items, train.history(i)) for i in range(USERS)]
    query = encoder.encode_queries(texts, show_progress=False)
    seen = rk.RaggedIds.from_lists(train.seen.to_lists()[users])
    hard = rk.mine_hard_negatives(
        query,
        index.table,
        train.targets[users],
        seen,
        10,
        3,
        valid=index.valid,
        user_ids=train.user_ids[users],
    )
    return train, index, query, hard, seen


def test_beauty_hard_negatives_are_harder_than_random_ones(mined):
    train, index, query, hard, seen = mined
    random = rk.sample_negatives(
        train.num_items, seen, 10, user_ids=train.user_ids[:USERS], weights=index.valid.float()
    )
    scores = [
        rk.score_candidates(query, index.table, torch.from_numpy(ids)).mean(1)
        for ids in (hard, random)
    ]
    assert (scores[0] > scores[1]).all()
    assert scores[0].mean() > scores[1].mean() + 0.2  # cosines
    sequences = dict(zip(train.user_ids.tolist(), train.seen.to_lists(), strict=True))
    for user, target, row in zip(train.user_ids, train.targets, hard.tolist(), strict=False):
        assert len(set(row)) == 10
        assert not set(row) & {int(target), *sequences[int(user)]}
        assert index.valid[row].all()
    # The skipped three score at least as high as all negatives.
    top = rk.topk_catalog(query, index.table, 3, seen, valid=index.valid)
    kept = rk.score_candidates(query, index.table, torch.from_numpy(hard))
    assert (top[0][:, -1:] >= kept).all()
    assert not (top[1][:, :, None] == torch.from_numpy(hard)[:, None]).any()


def test_beauty_hard_negatives_lower_the_reward(mined):
    """All steps: texts, mining, a dataset, batches, rewards."""
    train, index, query, hard, _ = mined
    rest = train.with_negatives(np.empty((len(train), 0)), num_random=10).negatives[USERS:]
    mixed = train.with_negatives(np.concatenate([hard, rest]), num_random=10)
    easy = train.with_negatives(np.empty((len(train), 0)), num_random=20)
    loader = rk.create_dataloader(mixed, batch_size=USERS)
    batch = next(iter(loader))
    assert batch["user_ids"] == train.user_ids[:USERS].tolist()
    assert [row[:10] for row in batch["neg_items"]] == hard.tolist()
    rewards = []
    for negatives in (batch["neg_items"], easy.negatives[:USERS]):
        candidates = np.column_stack([train.targets[:USERS], negatives])
        rewards.append(
            rk.reward_candidates(query, index.table, torch.from_numpy(candidates)).mean()
        )
    assert rewards[0] < rewards[1] - 0.05
