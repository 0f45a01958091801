"""Ranking targets in the whole catalog and finding the best items: our kernels, what projects do
today, FAISS, and the limit.

The limit is the time that the fastest matrix product on this machine, of MKL (torch), OpenBLAS
(NumPy) and oneDNN, takes for the scores alone. Low-precision tables have their own limit.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

import rl4rec_kernels as rk
from benchmarks.baselines import (
    bfloat16_product,
    matmul_and_count,
    matmul_and_topk,
    onednn_product,
    openblas_product,
)
from benchmarks.data import beauty, gaussian
from benchmarks.memory import peak_growth
from benchmarks.peers import FAISS

B, N, D = 1024, 12_102, 384
DATA = ("Beauty", "Gaussian")


class Problem(NamedTuple):
    query: Tensor
    table: Tensor
    targets: Tensor
    bfloat16: rk.QuantizedTable
    int8: rk.QuantizedTable


@functools.lru_cache(maxsize=2)
def data(name: str) -> Problem:
    query, table, targets = beauty(B) if name == "Beauty" else gaussian(B, N, D)
    copies = (rk.quantize_table(table, dtype) for dtype in (torch.bfloat16, torch.int8))
    return Problem(query, table, targets, *copies)


compiled = torch.compile(matmul_and_count, fullgraph=True)
Contestants = dict[str, tuple[str, Callable[..., Callable[[], Any]]]]


def rank(table: str, **options: Any) -> Callable[[Problem], Callable[[], Any]]:
    return lambda p: lambda: rk.rank_catalog(p.query, getattr(p, table), p.targets, **options)


def best(table: str, **options: Any) -> Callable[[Problem, int], Callable[[], Any]]:
    return lambda p, k: lambda: rk.topk_catalog(p.query, getattr(p, table), k, **options)


# A contestant is prepared first; what that returns is timed.
RANKERS: Contestants = {
    "rank_catalog, float32": ("ours", rank("table")),
    "OpenBLAS product alone": ("limit", lambda p: openblas_product(p.query, p.table)),
    "MKL product alone": ("limit", lambda p: lambda: p.query @ p.table.T),
    "oneDNN product alone": ("limit", lambda p: onednn_product(p.query, p.table)),
    "reward_catalog, float32": ("ours", lambda p: lambda: rk.reward_catalog(*p[:3])),
    "torch matmul and count": ("peer", lambda p: lambda: matmul_and_count(*p[:3])),
    "torch.compile matmul and count": ("peer", lambda p: lambda: compiled(*p[:3])),
}
LOW_PRECISION_RANKERS: Contestants = {
    "rank_catalog, bfloat16, refine": ("ours", rank("bfloat16", refine=True)),
    "torch bfloat16 product alone": ("limit", lambda p: bfloat16_product(p.query, p.table)),
    "rank_catalog, int8, refine": ("ours", rank("int8", refine=True)),
    "rank_catalog, bfloat16": ("ours", rank("bfloat16")),
    "rank_catalog, int8": ("ours", rank("int8")),
    "rank_catalog, float32": RANKERS["rank_catalog, float32"],
    "torch matmul and count": RANKERS["torch matmul and count"],
}
SEARCHERS: Contestants = {
    "topk_catalog, float32": ("ours", best("table")),
    "OpenBLAS product alone": ("limit", lambda p, k: openblas_product(p.query, p.table)),
    "topk_catalog, bfloat16, refine": ("ours", best("bfloat16", refine=True)),
    "topk_catalog, int8, refine": ("ours", best("int8", refine=True)),
    "FAISS IndexFlatIP": ("peer", lambda p, k: FAISS.need().run(*p[:2], k)),
    "torch matmul and topk": ("peer", lambda p, k: lambda: matmul_and_topk(*p[:2], k)),
}


@pytest.mark.parametrize("name", RANKERS)
@pytest.mark.parametrize("source", DATA)
def test_rank(contest: Callable[..., Any], source: str, name: str) -> None:
    role, prepare = RANKERS[name]
    group = f"rank in the whole catalog, {source}, B={B:,}, N={N:,}, D={D}"
    contest(group, name, role, prepare(data(source)), rounds=15)


@pytest.mark.parametrize("name", LOW_PRECISION_RANKERS)
@pytest.mark.parametrize("source", DATA)
def test_rank_in_low_precision(contest: Callable[..., Any], source: str, name: str) -> None:
    role, prepare = LOW_PRECISION_RANKERS[name]
    group = f"the same rank from low-precision tables, {source}"
    contest(group, name, role, prepare(data(source)), rounds=15)


@pytest.mark.parametrize("name", SEARCHERS)
@pytest.mark.parametrize("k", [10, 100, 1000])
@pytest.mark.parametrize("source", DATA)
def test_topk(contest: Callable[..., Any], source: str, k: int, name: str) -> None:
    role, prepare = SEARCHERS[name]
    contest(f"best {k:,} items, {source}", name, role, prepare(data(source), k), rounds=15)


@pytest.mark.parametrize("name", ["rank_catalog, float32", "topk_catalog, k=10, float32"])
@pytest.mark.parametrize("num_items", [10**4, 10**5, 10**6, 10**7])
def test_growth(contest: Callable[..., Any], num_items: int, name: str) -> None:
    query, table, targets = gaussian(256, num_items, 64)
    work = {
        "rank_catalog, float32": lambda: rk.rank_catalog(query, table, targets),
        "topk_catalog, k=10, float32": lambda: rk.topk_catalog(query, table, 10),
    }[name]
    group = "growth with the number of items, B=256, D=64"
    contest(group, name, "ours", work, rounds=10 if num_items < 10**6 else 3, x=num_items)


MEMORY = """
import torch, rl4rec_kernels as rk
query, table = torch.randn(4096, 384), torch.randn(1_000_000, 384)
targets = torch.randint(1_000_000, (4096,))
def work(n):
    return {call}
work(64)
"""
CALLS = {
    "rank_catalog": "rk.rank_catalog(query[:n], table[:n], targets[:n] % n)",
    "topk_catalog": "rk.topk_catalog(query[:n], table[:n], 10)",
}


@pytest.mark.parametrize("name", CALLS)
def test_memory(contest: Callable[..., Any], name: str) -> None:
    group = "memory beside arguments and result, B=4,096, N=1,000,000, D=384"
    setup, work = MEMORY.format(call=CALLS[name]), "work(1_000_000)"
    contest(group, name, "ours", lambda: peak_growth(setup, work), memory=True)
