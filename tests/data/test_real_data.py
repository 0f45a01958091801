"""Amazon Beauty and MovieLens-100k, and the user's guide on them."""

import argparse
import csv
import logging
from collections import defaultdict

import numpy as np
import pytest

from rl4rec_kernels.data import (
    PromptGenerator,
    RecommendationDataset,
    create_dataloaders,
    load_interactions,
    load_item_metadata,
)

SPLITS = ("train", "valid", "test")


@pytest.fixture(scope="module")
def raw_beauty(beauty_dir):
    """The sequences, read without the package."""
    lines = (beauty_dir / "beauty" / "sequential_data.txt").read_text().splitlines()
    rows = (list(map(int, line.split())) for line in lines)
    return {user: items for user, *items in rows}


@pytest.fixture(scope="module")
def beauty(beauty_dir):
    metadata = load_item_metadata("beauty", beauty_dir)
    interactions = load_interactions("beauty", beauty_dir)
    return {
        split: RecommendationDataset(
            data_name="beauty",
            item_metadata=metadata,
            prompt_generator=PromptGenerator(item_metadata=metadata),
            split=split,
            num_negs=99,
            num_items=12102,
            interactions=interactions,
        )
        for split in SPLITS
    }


def test_beauty_facts(beauty, raw_beauty, caplog):
    metadata = beauty["train"].item_metadata
    assert list(metadata) == list(range(1, 12102))
    assert sum("title" not in item for item in metadata.values()) == 7
    assert sum("brand" not in item for item in metadata.values()) == 4647
    assert all("category" in item for item in metadata.values())
    for back, split in zip((3, 2, 1), SPLITS, strict=True):
        ds = beauty[split]
        assert len(ds) == 22363
        assert ds.report.interactions == 198502
        assert ds.report.clean
        assert ds.user_ids.tolist() == list(raw_beauty)
        assert ds.targets.tolist() == [items[-back] for items in raw_beauty.values()]
        assert ds.histories.to_lists() == [items[:-back] for items in raw_beauty.values()]
    for user, items in ((1, [1, 2, 3, 4, 5]), (3, [4, *range(12, 20)])):
        assert raw_beauty[user] == items  # the independent reader is correct
        sample = beauty["test"][user - 1]
        assert (sample["history"], sample["target"]) == (items[:-1], items[-1])


@pytest.mark.parametrize("split", SPLITS)
def test_beauty_negatives(beauty, raw_beauty, split):
    ds = beauty[split]
    assert ds.negatives.shape == (22363, 99)
    assert ds.negatives.min() >= 1
    assert ds.negatives.max() <= 12101
    for negatives, items in zip(ds.negatives.tolist(), raw_beauty.values(), strict=True):
        assert len(set(negatives)) == 99
        assert not set(negatives) & set(items)


def test_beauty_splits_share_no_draw(beauty):
    drawn = [np.sort(beauty[split].negatives[:2000], axis=1) for split in SPLITS]
    for a, b in ((0, 1), (0, 2), (1, 2)):
        shared = [np.intersect1d(x, y).size for x, y in zip(drawn[a], drawn[b], strict=True)]
        assert np.mean(shared) == pytest.approx(99 * 99 / 12092, rel=0.2)


def test_beauty_items_are_drawn_uniformly(beauty):
    counts = np.bincount(beauty["train"].negatives.ravel(), minlength=12102)[1:]
    expected = 22363 * 99 / 12101
    # A user's own items are never drawn, so popular items are a little below the mean.
    assert counts.mean() == pytest.approx(expected)
    assert counts.var() == pytest.approx(expected, rel=0.1)


def test_beauty_prompts_can_all_be_made(beauty):
    ds = beauty["test"]
    assert all("<query>" in ds.prompt_generator(ds.history(i)) for i in range(len(ds)))


def test_movielens(ml100k_dir, caplog):
    with (ml100k_dir / "ml-100k" / "ml-100k.inter").open() as file:
        rows = list(csv.reader(file, delimiter="\t"))[1:]
    raw = defaultdict(list)
    for user, item, *_ in sorted(rows, key=lambda row: int(row[3])):
        raw[int(user)].append(int(item))
    metadata = load_item_metadata("ml-100k", ml100k_dir)
    assert list(metadata) == list(range(1, 1683))
    assert metadata[1] == {
        "token": "1",
        "title": "Toy Story",
        "release_year": "1995",
        "category": "Animation, Children's, Comedy",
    }
    assert all(item["token"] == str(i) for i, item in metadata.items())
    assert "release_year" not in metadata[267]
    for back, split in zip((3, 2, 1), SPLITS, strict=True):
        ds = RecommendationDataset(
            data_name="ml-100k",
            item_metadata=metadata,
            prompt_generator=PromptGenerator(item_metadata=metadata),
            split=split,
            num_negs=99,
            num_items=1683,
            data_dir=ml100k_dir,
        )
        assert len(ds) == 943
        # Tokens are 1…943 and 1…1682, so ids are the tokens' numbers.
        assert ds.targets.tolist() == [raw[user][-back] for user in range(1, 944)]
        assert ds.histories.to_lists() == [raw[user][:-back] for user in range(1, 944)]
        assert max(map(len, raw.values())) == 737
        assert not any(set(n) & set(raw[u]) for u, n in enumerate(ds.negatives.tolist(), 1))
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_guide_pipeline(beauty_dir, monkeypatch):
    monkeypatch.setenv("RL4REC_DATA", str(beauty_dir))
    args = argparse.Namespace(
        dataset_name="beauty",
        num_negs=99,
        num_items=12102,
        batch_size=32,
    )
    train_ds, valid_ds, test_ds, prompt_gen, item_meta = create_dataloaders(args)
    for loader in (train_ds, valid_ds, test_ds):
        assert len(loader) == -(-22363 // 32)
        batch = next(iter(loader))
        assert [len(batch[key]) for key in batch] == [32] * 5
        assert all(len(negatives) == 99 for negatives in batch["neg_items"])
        assert batch["prompts"][0] == prompt_gen(batch["histories"][0])
        assert batch["targets"][0] in item_meta
