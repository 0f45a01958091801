"""Ranking and searching at every size of a service's and a trainer's calls: B x N x dtype.

Each table of the page has one operation, dtype and N, and a column per B. Cells of ours in which
another contestant is faster are bold. Results of int8 are those of float32 (`refine=True`), so
torch's float32 is its competitor.

`make bench BENCHES=benchmarks/bench_grid.py PAGE=grid` writes the page alone, in a few minutes.
"""

import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import rl4rec_kernels as rk
from benchmarks.baselines import matmul_and_count, matmul_and_topk
from benchmarks.data import gaussian
from benchmarks.peers import FAISS

D, K = 384, 10
QUERIES = (1, 2, 4, 8, 16, 64, 256, 1024, 4096)
ITEMS = (1_000, 12_102, 1_000_000)
MOST_SCORES = 64_000_000  # that the peers write, to limit their time and memory
DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "int8": torch.int8,
}

Data = tuple[Tensor, Tensor, Tensor]


@functools.lru_cache(maxsize=1)
def table_of(num_items: int) -> Data:
    return gaussian(max(QUERIES), num_items, D)


@functools.lru_cache(maxsize=1)
def data(num_items: int, dtype: str) -> tuple[Data, Tensor | rk.QuantizedTable]:
    """Queries, table and targets for the peers, and the table for us."""
    query, table, targets = table_of(num_items)
    if dtype == "int8":
        return (query, table, targets), rk.quantize_table(table)
    table = table.to(DTYPES[dtype])
    return (query.to(DTYPES[dtype]), table, targets), table


@functools.lru_cache(maxsize=1)
def faiss_search(num_items: int, num_queries: int) -> Callable[[], Any]:
    query, table, _ = table_of(num_items)
    return FAISS.need().run(query[:num_queries], table, K)


def rank(name: str, num_items: int, num_queries: int, dtype: str) -> Callable[[], Any]:
    (query, table, targets), ours = data(num_items, dtype)
    query, targets = query[:num_queries], targets[:num_queries]
    if name == "rank_catalog":
        return lambda: rk.rank_catalog(query, ours, targets, refine=dtype == "int8")
    return lambda: matmul_and_count(query, table, targets)


def search(name: str, num_items: int, num_queries: int, dtype: str) -> Callable[[], Any]:
    (query, table, _), ours = data(num_items, dtype)
    query = query[:num_queries]
    if name == "topk_catalog":
        return lambda: rk.topk_catalog(query, ours, K, refine=dtype == "int8")
    if name == "FAISS IndexFlatIP":
        return faiss_search(num_items, num_queries)
    return lambda: matmul_and_topk(query, table, K)


OPERATIONS = {
    "rank": (rank, ("rank_catalog", "torch matmul and count")),
    f"best {K}": (search, ("topk_catalog", "torch matmul and topk", "FAISS IndexFlatIP")),
}
# In an order in which each table is made once.
CELLS = [
    (operation, name, dtype, n, b)
    for n in ITEMS
    for dtype in DTYPES
    for operation, (_, names) in OPERATIONS.items()
    for b in QUERIES
    if n * b <= MOST_SCORES
    for name in names
    if dtype == "float32" or not name.startswith("FAISS")
]


@pytest.mark.parametrize(("operation", "name", "dtype", "num_items", "num_queries"), CELLS)
def test_grid(
    contest: Callable[..., Any],
    operation: str,
    name: str,
    dtype: str,
    num_items: int,
    num_queries: int,
) -> None:
    prepare, names = OPERATIONS[operation]
    role = "ours" if name == names[0] else "peer"
    rounds = max(3, min(30, MOST_SCORES // (num_items * num_queries)))
    group = f"{operation}, {dtype}, N={num_items:,}, D={D}"
    work = prepare(name, num_items, num_queries, dtype)
    contest(group, name, role, work, rounds=rounds, x=num_queries, axis="queries", plot=False)
