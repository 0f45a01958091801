"""DataLoaders: batches, shuffling, workers."""

import argparse
from types import SimpleNamespace

import pytest
from torch.utils.data import DataLoader, SequentialSampler

from rl4rec_kernels.data import collate_samples, create_dataloaders, load_item_metadata
from tests.data.cases import dataset, write_tiny
from tests.errors import raises


def arguments(root, **options):
    return SimpleNamespace(dataset_name="tiny", data_dir=root, **options)


@pytest.fixture
def tiny(tmp_path):
    rows = "".join(f"{u} {u % 9 + 1} {u % 9 + 2} {u % 9 + 3} {u % 9 + 4}\n" for u in range(40))
    return write_tiny(tmp_path, rows, {str(i): {"title": f"item {i}"} for i in range(1, 31)})


def test_batches(tiny):
    train, valid, test, generator, metadata = create_dataloaders(
        arguments(tiny, num_negs=3, num_items=31, batch_size=16)
    )
    assert metadata == load_item_metadata("tiny", tiny)
    assert [loader.dataset.split for loader in (train, valid, test)] == ["train", "valid", "test"]
    for loader in (train, valid, test):
        batches = list(loader)
        assert [len(batch["prompts"]) for batch in batches] == [16, 16, 8]
        samples = {sample["user_id"]: sample for sample in loader.dataset}
        for batch in batches:
            assert list(batch) == ["prompts", "targets", "histories", "user_ids", "neg_items"]
            for i, user in enumerate(batch["user_ids"]):
                sample = samples[user]
                assert batch["prompts"][i] == sample["prompt"] == generator(sample["history"])
                assert batch["targets"][i] == sample["target"]
                assert batch["histories"][i] == sample["history"]
                assert batch["neg_items"][i] == sample["neg_items"]
                assert len(sample["neg_items"]) == 3
        assert sorted(u for batch in batches for u in batch["user_ids"]) == list(range(40))


def users(loader):
    return [user for batch in loader for user in batch["user_ids"]]


def test_training_is_shuffled_reproducibly(tiny):
    train, valid, *_ = create_dataloaders(arguments(tiny))
    first, second = users(train), users(train)
    assert first != second  # every epoch has its own order
    assert first != sorted(first)
    again, *_ = create_dataloaders(arguments(tiny))
    assert [users(again), users(again)] == [first, second]
    other, *_ = create_dataloaders(arguments(tiny, seed=1))
    assert users(other) != first
    assert users(valid) == users(valid) == list(range(40))
    assert isinstance(valid.sampler, SequentialSampler)


def test_defaults_and_evaluation_negatives(tiny):
    train, valid, test, *_ = create_dataloaders(arguments(tiny))
    assert train.batch_size == 32
    assert next(iter(train))["neg_items"] is None  # rank among all items
    options = {"num_negs": 4, "num_items": 31}
    train, valid, test, *_ = create_dataloaders(arguments(tiny, eval_num_negs=0, **options))
    assert train.dataset.negatives.shape == (40, 4)
    assert next(iter(valid))["neg_items"] is next(iter(test))["neg_items"] is None
    train, valid, test, *_ = create_dataloaders(arguments(tiny, eval_num_negs=2, **options))
    assert [loader.dataset.num_negs for loader in (train, valid, test)] == [4, 2, 2]
    train, valid, test, *_ = create_dataloaders(arguments(tiny, **options))
    assert [loader.dataset.num_negs for loader in (train, valid, test)] == [4, 4, 4]
    *_, generator, _ = create_dataloaders(arguments(tiny, max_history=1))
    assert generator.max_history == 1


@pytest.mark.parametrize(
    ("options", "error", "named"),
    [
        ({"dataset_name": None}, ValueError, ("args", "dataset_name")),
        ({"num_negs": 3}, ValueError, ("num_negs=3", "num_items")),
        ({"batch_size": 0}, ValueError, ("args.batch_size", "at least 1", 0)),
        ({"batch_size": "8"}, TypeError, ("args.batch_size", "'8'")),
        ({"num_workers": -1}, ValueError, ("args.num_workers", "at least 0", -1)),
        ({"num_negs": None}, TypeError, ("args.num_negs", None)),
        ({"seed": -3}, ValueError, ("args.seed", "at least 0", -3)),
    ],
)
def test_bad_arguments_are_named(tiny, options, error, named):
    with raises(error, *named):
        create_dataloaders(argparse.Namespace(**{**vars(arguments(tiny)), **options}))


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_workers_give_the_same_batches(tiny, method):
    ds = dataset(tiny, num_negs=2, num_items=31)
    options = {"batch_size": 8, "collate_fn": collate_samples}
    alone = list(DataLoader(ds, **options))
    shared = DataLoader(ds, num_workers=2, multiprocessing_context=method, **options)
    assert list(shared) == alone


def test_workers_of_create_dataloaders(tiny):
    plain, *_ = create_dataloaders(arguments(tiny, num_negs=2, num_items=31))
    workers, *_ = create_dataloaders(arguments(tiny, num_negs=2, num_items=31, num_workers=2))
    assert list(workers) == list(plain)
    assert list(workers) == list(plain)  # also in the second epoch, with persistent workers
