"""Ranking and searching at every size of a service's and a trainer's calls: B x N x dtype.

Each table of the page has one operation, dtype and N, and a column per B. Contestants of a cell are
measured in turn, and ours is bold if it is behind, see benchmarks/in_turn.py. Results of int8 are
those of float32 (`refine=True`), so torch's float32 is its competitor. 10^7 items have fewer
dimensions, dtypes and B, and are left out where there is too little memory for torch's scores.

`make bench BENCHES=benchmarks/bench_grid.py PAGE=grid` writes the page alone, in about 6 minutes.
"""

import functools
import os
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import rl4rec_kernels as rk
from benchmarks.baselines import matmul_and_count, matmul_and_topk
from benchmarks.data import gaussian
from benchmarks.peers import FAISS
from rl4rec_kernels._utils.imports import is_installed

K = 10
QUERIES = (1, 2, 4, 8, 16, 64, 256, 1024, 4096)
ITEMS = (1_000, 12_102, 1_000_000)
MANY_ITEMS, MANY_D, MANY_QUERIES = 10_000_000, 64, (1, 8, 64)
MANY_BYTES = 12 << 30  # free memory that they need: table, a copy of it, and scores of the peers
MOST_SCORES = 64_000_000  # that the peers write, to limit their time and memory
DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "int8": torch.int8,
}

Data = tuple[Tensor, Tensor, Tensor]


def dim_of(num_items: int) -> int:
    return MANY_D if num_items == MANY_ITEMS else 384


@functools.lru_cache(maxsize=1)
def table_of(num_items: int) -> Data:
    return gaussian(max(QUERIES), num_items, dim_of(num_items))


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
    return FAISS.run(query[:num_queries], table, K)


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
    (operation, dtype, n, b)
    for n in ITEMS
    for dtype in DTYPES
    for operation in OPERATIONS
    for b in QUERIES
    if n * b <= MOST_SCORES
] + [
    (operation, dtype, MANY_ITEMS, b)
    for dtype in ("float32", "bfloat16")
    for operation in OPERATIONS
    for b in MANY_QUERIES
]


@pytest.mark.parametrize(("operation", "dtype", "num_items", "num_queries"), CELLS)
def test_grid(
    contest_in_turn: Callable[..., None],
    operation: str,
    dtype: str,
    num_items: int,
    num_queries: int,
) -> None:
    group = f"{operation}, {dtype}, N={num_items:,}, D={dim_of(num_items)}"
    if num_items == MANY_ITEMS and free_bytes() < MANY_BYTES:
        note = (
            f"{num_items:,} items were not measured: that needs {MANY_BYTES >> 30} GiB of memory."
        )
        contest_in_turn(group, {}, num_queries, "queries", note)
        return
    prepare, names = OPERATIONS[operation]
    has_faiss = is_installed(FAISS.module)
    with_faiss = has_faiss and dtype == "float32" and num_items < MANY_ITEMS
    work = {
        name: prepare(name, num_items, num_queries, dtype)
        for name in names
        if with_faiss or not name.startswith("FAISS")
    }
    contest_in_turn(group, work, num_queries, "queries")


def free_bytes() -> int:
    """Memory that can be had, as far as the system says."""
    try:
        with open("/proc/meminfo") as file:
            kibibytes = dict(line.split(":", 1) for line in file)["MemAvailable"].split()[0]
        return int(kibibytes) << 10
    except (OSError, KeyError):
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
