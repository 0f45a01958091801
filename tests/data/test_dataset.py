"""RecommendationDataset: samples, negatives, errors, export."""

import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rl4rec_kernels import RaggedIds, sample_negatives
from rl4rec_kernels.data import (
    Interactions,
    PromptGenerator,
    RecommendationDataset,
    load_item_metadata,
    split_seed,
)
from tests.data.cases import INTER, ITEM, SEQUENCES, dataset, write, write_tiny
from tests.errors import raises

ITEM_COUNT = 10  # rows for the tiny dataset's items 1…9 and padding


def in_memory(sequences, items=None, **options):
    """A dataset of sequences in memory, with users numbered from 1."""
    items = items or {i: {"title": f"t{i}"} for row in sequences for i in row}
    users = np.arange(1, len(sequences) + 1)
    return RecommendationDataset(
        data_name="memory",
        item_metadata=items,
        prompt_generator=PromptGenerator(items),
        interactions=Interactions(users, RaggedIds.from_lists(sequences)),
        **options,
    )


def test_sample_is_plain_python(tmp_path):
    sample = dataset(write_tiny(tmp_path), num_negs=2, num_items=ITEM_COUNT)[1]
    assert list(sample) == ["prompt", "history", "target", "user_id", "neg_items"]
    assert sample["history"] == [5]
    assert (sample["target"], sample["user_id"]) == (4, 2)
    assert set(sample["neg_items"]) < {1, 6, 7, 8, 9}  # items that user 2 never has
    values = [sample["target"], sample["user_id"], *sample["history"], *sample["neg_items"]]
    assert {type(value) for value in values} == {int}
    assert "Brush red" in sample["prompt"]


def test_indexing(tmp_path):
    ds = dataset(write_tiny(tmp_path))
    assert ds[-1] == ds[2] == ds[np.int64(2)]
    for index in (3, -4):
        with raises(IndexError, f"index {index} "):
            ds[index]
    with pytest.raises(TypeError):
        ds["0"]


def test_repr_and_tokens(tmp_path):
    assert "split='train', samples=3" in repr(dataset(write_tiny(tmp_path)))
    write(tmp_path, "atom", atom__inter=INTER, atom__item=ITEM)
    ds = dataset(tmp_path, "test", name="atom")
    assert [ds.user_tokens[u] for u in ds.user_ids] == ["ann", "bob"]
    assert [ds.item_tokens[i] for i in ds.targets] == ["w", "z"]
    assert ds.item_metadata[ds[0]["target"]]["title"] == "West"


def test_items_without_metadata_are_never_drawn(tmp_path):
    sequences = "".join(f"{u} 1 2 3 4\n" for u in range(300))
    items = {str(i): {"title": str(i)} for i in (1, 2, 3, 4, 6, 9, 11)}
    ds = dataset(write_tiny(tmp_path, sequences, items), num_negs=2, num_items=20)
    assert set(ds.negatives.ravel().tolist()) == {6, 9, 11}
    with raises(ValueError, "user ", "num_negs is 4"):
        dataset(tmp_path, num_negs=4, num_items=20)  # only three are left


@pytest.mark.parametrize(
    ("options", "error", "named"),
    [
        ({"split": "val"}, ValueError, ("split", "train, valid, test", "'val'")),
        ({"num_negs": 5}, ValueError, ("num_negs=5", "num_items=max(item_metadata.keys()) + 1")),
        ({"num_negs": -1}, ValueError, ("num_negs", "at least 0", -1)),
        ({"num_negs": 1.0}, TypeError, ("num_negs", 1.0)),
        ({"num_items": 6}, ValueError, ("item_metadata", "item 9", "num_items is 6")),
        ({"num_items": 1}, ValueError, ("num_items", "from 2", "got 1")),
        ({"num_items": 10**12}, ValueError, ("num_items", "2 to 4294967295", 10**12)),
        ({"num_items": "10"}, TypeError, ("num_items", "'10'")),
        ({"seed": -1}, ValueError, ("seed", "at least 0", -1)),
        ({"seed": None}, TypeError, ("seed", None)),
        ({"neg_alpha": -1}, ValueError, ("neg_alpha", "at least 0", -1)),
        ({"neg_alpha": float("nan")}, ValueError, ("neg_alpha", "nan")),
        ({"neg_alpha": "1"}, TypeError, ("neg_alpha", "'1'")),
        ({"item_metadata": {}}, ValueError, ("item_metadata", "empty")),
        ({"prompt_generator": None}, TypeError, ("prompt_generator", "PromptGenerator", None)),
        ({"data_name": "no"}, FileNotFoundError, ("'no'",)),
    ],
)
def test_bad_arguments_are_named(tmp_path, options, error, named):
    write_tiny(tmp_path)
    metadata = load_item_metadata("tiny", tmp_path)
    given_ = {
        "data_name": "tiny",
        "item_metadata": metadata,
        "prompt_generator": PromptGenerator(metadata),
        "split": "train",
        "data_dir": tmp_path,
    }
    with raises(error, *named):
        RecommendationDataset(**{**given_, **options})


def test_item_beyond_the_table_is_named(tmp_path):
    root = write_tiny(tmp_path, SEQUENCES + "8 1 2 3 20 4\n")
    with raises(ValueError, "user 8", "item 20", "num_items is 10"):
        dataset(root, num_items=10)
    # Without num_items there is no table; the item just has no metadata.
    assert dataset(root).report.unknown_items == 1


def test_too_many_negatives_names_the_user(tmp_path):
    with raises(ValueError, "user 7", "3 items"):
        dataset(write_tiny(tmp_path), num_negs=4, num_items=ITEM_COUNT)


@st.composite
def sequences(draw):
    size = draw(st.integers(12, 60))
    item = st.integers(1, size)
    rows = st.lists(st.lists(item, min_size=4, max_size=9), min_size=1, max_size=12)
    return size, draw(rows)


@given(sequences(), st.integers(0, 2**40), st.sampled_from(["train", "valid", "test"]))
@settings(deadline=None, max_examples=60)
def test_negatives_are_never_seen(case, seed, split):
    size, rows = case
    items = {i: {"title": str(i)} for i in range(1, size + 1)}
    options = {"items": items, "split": split, "seed": seed, "num_items": size + 1}
    ds = in_memory(rows, num_negs=3, **options)
    for row, negatives in zip(rows, ds.negatives.tolist(), strict=True):
        assert len(set(negatives)) == 3
        assert not set(negatives) & set(row)
        assert all(1 <= item <= size for item in negatives)
    again = in_memory(rows, num_negs=3, **options)
    assert np.array_equal(ds.negatives, again.negatives)


def test_negatives_depend_on_user_split_and_seed_only():
    rng = np.random.default_rng(0)
    rows = [rng.choice(np.arange(1, 200), 6, replace=False).tolist() for _ in range(50)]
    items = {i: {"title": str(i)} for i in range(1, 200)}

    def draw(order, split="train", seed=42):
        interactions = Interactions(
            np.array(order), RaggedIds.from_lists([rows[user] for user in order])
        )
        ds = RecommendationDataset(
            "memory", items, PromptGenerator(items), split, 20, 200, seed, interactions=interactions
        )
        return dict(zip(ds.user_ids.tolist(), map(tuple, ds.negatives.tolist()), strict=True))

    whole = draw(list(range(50)))
    assert draw(list(reversed(range(50)))) == whole
    assert draw([31, 7]) == {31: whole[31], 7: whole[7]}
    for other in (draw(range(50), "valid"), draw(range(50), "test"), draw(range(50), seed=43)):
        # 20 of about 193 items: two independent draws share about 2 of them.
        shared = [len(set(whole[u]) & set(other[u])) for u in range(50)]
        assert 1.0 < np.mean(shared) < 3.2
    # Drawn as documented.
    by_hand = sample_negatives(200, rows, 20, seed=split_seed(42, "train"), user_ids=range(50))
    assert [tuple(row) for row in by_hand.tolist()] == [whole[u] for u in range(50)]


@pytest.mark.parametrize("alpha", [0.0, 0.75])
def test_negatives_follow_popularity(alpha):
    rng = np.random.default_rng(1)
    popularity = 1 / np.arange(1, 40)
    popularity /= popularity.sum()
    rows = [
        rng.choice(np.arange(1, 40), 6, replace=False, p=popularity).tolist() for _ in range(3000)
    ]
    items = {i: {"title": str(i)} for i in range(1, 41)}  # item 40 is in no history
    ds = in_memory(rows, items, split="test", num_negs=1, num_items=41, neg_alpha=alpha)
    weights = ds.item_counts.astype(float) ** alpha
    weights[0] = 0
    assert (weights[40] > 0) == (alpha == 0)
    chances = np.tile(weights, (len(rows), 1))
    np.put_along_axis(chances, np.array(rows), 0, axis=1)
    chances /= chances.sum(axis=1, keepdims=True)
    drawn = np.bincount(ds.negatives.ravel(), minlength=41)
    spread = np.sqrt((chances * (1 - chances)).sum(axis=0))
    assert np.all(np.abs(drawn - chances.sum(axis=0)) <= 4.5 * spread)


def test_item_counts(tmp_path):
    ds = dataset(write_tiny(tmp_path), "valid", num_items=12)
    assert ds.item_counts.tolist() == [0, 2, 2, 2, 2, 1, 0, 0, 0, 0, 0, 0]
    assert ds.item_counts.dtype == np.int64


def test_pickling(tmp_path):
    ds = dataset(write_tiny(tmp_path), num_negs=2, num_items=ITEM_COUNT)
    copy = pickle.loads(pickle.dumps(ds))
    assert [copy[i] for i in range(3)] == [ds[i] for i in range(3)]
    assert copy.report == ds.report


def test_hugging_face_export(tmp_path):
    ds = dataset(write_tiny(tmp_path), num_negs=2, num_items=ITEM_COUNT)
    hf = ds.to_hf()
    assert hf.column_names == ["prompt", "history", "target", "user_id", "neg_items"]
    assert list(hf) == [ds[i] for i in range(3)]
    chat = ds.to_hf(conversational=True)
    assert chat[1]["prompt"] == [{"role": "user", "content": ds[1]["prompt"]}]
    # Without negatives the column keeps its type.
    bare = dataset(tmp_path).to_hf()
    assert bare[0]["neg_items"] == []
    assert bare.features == hf.features
