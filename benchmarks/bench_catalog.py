"""Ranking targets in the whole catalog and finding the best items: our kernels, what projects do
today, FAISS, and the limit.

The limit is the time that the fastest matrix product of this machine takes for the scores alone, of
those in MKL (torch), OpenBLAS (NumPy) and oneDNN. Low-precision tables have a limit of their own.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

import rl4rec_kernels as rk
from benchmarks.data import beauty, gaussian
from benchmarks.memory import peak_growth
from benchmarks.peers import faiss_flat

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


def count(scores: Tensor, targets: Tensor) -> Tensor:
    return (scores > scores.gather(1, targets[:, None])).sum(1)


def matmul_and_count(query: Tensor, table: Tensor, targets: Tensor) -> Tensor:
    return count(query @ table.T, targets)


def onednn(query: Tensor, table: Tensor) -> Callable[[], Any]:
    a, b = query.to_mkldnn(), table.to_mkldnn()
    return lambda: torch.nn.functional.linear(a, b)


def openblas(query: Tensor, table: Tensor) -> Callable[[], Any]:
    a, b = query.numpy(), table.numpy().T
    return lambda: a @ b


def bfloat16_product(query: Tensor, table: Tensor) -> Callable[[], Any]:
    a, b = query.bfloat16(), table.bfloat16().T
    return lambda: a @ b


compiled = torch.compile(matmul_and_count, fullgraph=True)

# What each contestant does before it is timed, and then what is timed.
RANKERS: dict[str, tuple[str, Callable[[Problem], Callable[[], Any]]]] = {
    "rank_catalog, float32": ("ours", lambda p: lambda: rk.rank_catalog(*p[:3])),
    "OpenBLAS product alone": ("limit", lambda p: openblas(p.query, p.table)),
    "MKL product alone": ("limit", lambda p: lambda: p.query @ p.table.T),
    "oneDNN product alone": ("limit", lambda p: onednn(p.query, p.table)),
    "reward_catalog, float32": ("ours", lambda p: lambda: rk.reward_catalog(*p[:3])),
    "torch matmul and count": ("peer", lambda p: lambda: matmul_and_count(*p[:3])),
    "torch.compile matmul and count": ("peer", lambda p: lambda: compiled(*p[:3])),
}
LOW_PRECISION_RANKERS: dict[str, tuple[str, Callable[[Problem], Callable[[], Any]]]] = {
    "rank_catalog, bfloat16, refine": (
        "ours",
        lambda p: lambda: rk.rank_catalog(p.query, p.bfloat16, p.targets, refine=True),
    ),
    "torch bfloat16 product alone": ("limit", lambda p: bfloat16_product(p.query, p.table)),
    "rank_catalog, int8, refine": (
        "ours",
        lambda p: lambda: rk.rank_catalog(p.query, p.int8, p.targets, refine=True),
    ),
    "rank_catalog, bfloat16": (
        "ours",
        lambda p: lambda: rk.rank_catalog(p.query, p.bfloat16, p.targets),
    ),
    "rank_catalog, int8": ("ours", lambda p: lambda: rk.rank_catalog(p.query, p.int8, p.targets)),
    "rank_catalog, float32": ("ours", lambda p: lambda: rk.rank_catalog(*p[:3])),
    "torch matmul and count": ("peer", lambda p: lambda: matmul_and_count(*p[:3])),
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


def faiss_search(problem: Problem, k: int) -> Callable[[], Any]:
    pytest.importorskip("faiss")
    return faiss_flat(problem.query, problem.table, k)


def best(table: str, **options: Any) -> Callable[[Problem, int], Callable[[], Any]]:
    return lambda p, k: lambda: rk.topk_catalog(p.query, getattr(p, table), k, **options)


SEARCHERS: dict[str, tuple[str, Callable[[Problem, int], Callable[[], Any]]]] = {
    "topk_catalog, float32": ("ours", best("table")),
    "OpenBLAS product alone": ("limit", lambda p, k: openblas(p.query, p.table)),
    "topk_catalog, bfloat16, refine": ("ours", best("bfloat16", refine=True)),
    "topk_catalog, int8, refine": ("ours", best("int8", refine=True)),
    "FAISS IndexFlatIP": ("peer", faiss_search),
    "torch matmul and topk": ("peer", lambda p, k: lambda: (p.query @ p.table.T).topk(k)),
}


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
    contest(group, name, "ours", lambda: peak_growth(setup, work), rounds=1, memory=True)
