"""Numbers that no machine has room or time for: an error at once, with the bound."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import rl4rec_kernels as rk
from rl4rec_kernels.data import load_interactions, load_item_metadata
from rl4rec_kernels.data.interactions import Interactions
from rl4rec_kernels.service.batching import Limits
from rl4rec_kernels.service.options import check_options
from tests.data.cases import write_tiny
from tests.errors import raises

TABLE = torch.eye(4)
METADATA = {item: {"title": "soap"} for item in range(1, 6)}
COUNTS = rk.RankCounts(torch.tensor([0]), torch.tensor([0]), torch.tensor([6]))
NONE = Interactions(np.array([1]), rk.RaggedIds.from_lists([[1]]))
ROWS = 1 << 24  # of a table with few items


def dataset(metadata=METADATA, **options):
    return rk.RecommendationDataset("tiny", metadata, str, "train", **options)


def options(**given):
    check_options("tiny", "minilm", name="a", namespace="b", **given)


def mine(**given):
    return rk.mine_hard_negatives(TABLE, TABLE, [1] * 4, [[]] * 4, **{"num_negs": 1} | given)


# What is called, with which argument, up to which bound.
CALLS = [
    (lambda v: rk.create_dataloader([1], num_workers=v), "num_workers", 1024),
    (lambda v: rk.create_dataloader([1], batch_size=v), "batch_size", 2**31 - 1),
    (lambda v: rk.create_dataloader([1], seed=2**33 * v), "seed", 2**64 - 1),
    (
        lambda v: rk.create_dataloaders(SimpleNamespace(dataset_name="tiny", num_workers=v)),
        "args.num_workers",
        1024,
    ),
    (lambda v: dataset(num_items=v), "num_items", ROWS),
    (lambda v: dataset(num_negs=v * 4, num_items=9), "num_negs", 2**32 - 1),
    (lambda v: dataset({v: {"title": "soap"}}, interactions=NONE), f"item {2**31}", ROWS),
    (lambda v: rk.sample_negatives(9, [[]], 1, num_threads=v), "num_threads", 4096),
    (lambda v: rk.sample_negatives(4 * v, [[]], 1), "num_items", 2**32 - 1),
    (lambda v: rk.sample_negatives(9, [[]], 4 * v), "num_negs", 2**32 - 1),
    (lambda v: rk.bias_variance_estimator(("mrr",), 5, v), "num_items", 10**8),
    (lambda v: rk.corrected_metrics(COUNTS, ("mrr",), v), "num_items", 10**8),
    (lambda v: rk.unbiased_rank(1, 5, v * 2**32), "num_items", 2**53),
    (lambda v: rk.evaluate(TABLE, TABLE, [1] * 4, num_bootstrap=v), "num_bootstrap", 10**6),
    (lambda v: rk.evaluate(TABLE, TABLE, [1] * 4, num_bins=v), "num_bins", 10**4),
    (lambda v: rk.topk_catalog(TABLE, TABLE, v), "k", 4),
    (lambda v: mine(num_negs=v), "num_negs", 2**31 - 1),
    (lambda v: mine(skip_top=v), "skip_top", 2**31 - 1),
    (lambda v: rk.RecReward(k=v), "k", 1 << 20),
    (lambda v: rk.RecReward(normalize=True, group_size=v), "group_size", 2**31 - 1),
    (lambda v: rk.Encoder(batch_size=v), "batch_size", 2**31 - 1),
    (lambda v: rk.Encoder(max_length=v), "max_length", 2**31 - 1),
    (lambda v: options(replicas=v), "replicas", 1024),
    (lambda v: options(shards=v), "shards", 1024),
    (lambda v: options(num_threads=v), "num_threads", 4096),
    (lambda v: Limits(max_batch_size=v), "max_batch_size", 2**31 - 1),
    (lambda v: Limits(cache_mib=v), "cache_mib", 2**31 - 1),
    (lambda v: Limits(max_held_mib=v), "max_held_mib", 2**31 - 1),
    (
        lambda v: rk.read_interactions({"user_id": [1], "item_id": [1]}, k_core=v),
        "k_core",
        2**31 - 1,
    ),
]
TIMES = [
    (lambda v: rk.RecReward(timeout_s=v), "timeout_s"),
    (lambda v: rk.find_service(timeout_s=v), "timeout_s"),
    (lambda v: rk.RetrievalClient("a", "b", timeout_s=v), "timeout_s"),
    (lambda v: rk.RetrievalClient("a", "b", reconnect_s=v), "reconnect_s"),
    (lambda v: options(timeout_s=v), "timeout_s"),
    (lambda v: Limits(queue_timeout_s=v), "queue_timeout_s"),
    (lambda v: Limits(batch_wait_timeout_s=v), "batch_wait_timeout_s"),
]


@pytest.mark.parametrize(("call", "name", "bound"), CALLS)
def test_a_number_beyond_all_bounds_is_refused_with_the_bound(call, name, bound):
    with raises(ValueError, name, bound):
        call(2**31)


@pytest.mark.parametrize("call", [lambda v: dataset(num_items=v), CALLS[0][0], CALLS[10][0]])
def test_numbers_beyond_int64_are_refused(call):
    with raises(ValueError, 2**63):
        call(2**63)


@pytest.mark.parametrize("value", [math.inf, math.nan, 1e30])
@pytest.mark.parametrize(("call", "name"), TIMES)
def test_endless_times_are_refused_with_the_bound(call, name, value):
    with raises(ValueError, name, "1e+09", value):
        call(value)


def test_ids_beyond_a_table_are_refused_with_the_file(tmp_path):
    rows = "1 1 2 3 4000000000\n"
    write_tiny(tmp_path, rows, {"1": {"title": "a"}, "4000000000": {"title": "b"}})
    folder = tmp_path / "tiny"
    with raises(ValueError, folder, "item 4000000000", ROWS):
        load_item_metadata("tiny", tmp_path)
    with raises(ValueError, folder, "item 4000000000", ROWS):
        load_interactions("tiny", tmp_path)
