"""Ranking a target among sampled candidates: our kernels, what projects do today, and the limit.

The limit is the time that ``embedding_bag`` takes to read the very same rows.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

import rl4rec_kernels as rk


class Problem(NamedTuple):
    """One shape; the first three are a batch of B queries over N items of D dimensions."""

    name: str
    num_items: int
    dtype: torch.dtype = torch.float32
    batch: int = 1024
    columns: int = 100
    dim: int = 384


PROBLEMS = [
    Problem("N=12,102 float32", 12_102),
    Problem("N=12,102 bfloat16", 12_102, torch.bfloat16),
    Problem("N=12,102 float16", 12_102, torch.float16),
    Problem("N=1,000,000 float32", 1_000_000),
]


@functools.lru_cache(maxsize=1)  # a table of a million rows takes 1.5 GB: keep one
def data(problem: Problem) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    query = torch.randn(problem.batch, problem.dim, generator=generator).to(problem.dtype)
    table = torch.randn(problem.num_items, problem.dim, generator=generator).to(problem.dtype)
    shape = (problem.batch, problem.columns)
    return query, table, torch.randint(problem.num_items, shape, generator=generator)


def rank_of(scores: Tensor) -> Tensor:
    return (scores[:, 1:] > scores[:, :1]).sum(1)


def einsum(query: Tensor, table: Tensor, candidates: Tensor) -> Tensor:
    return rank_of(torch.einsum("bd,bcd->bc", query, table[candidates]))


def bmm(query: Tensor, table: Tensor, candidates: Tensor) -> Tensor:
    return rank_of(torch.bmm(table[candidates], query[:, :, None]).squeeze(2))


def per_row_loop(query: Tensor, table: Tensor, candidates: Tensor) -> list[int]:
    """Index, multiply, topk, look for the target: once a row, as reward functions do today."""
    ranks = []
    for vector, ids in zip(query, candidates, strict=True):
        scores = table[ids] @ vector
        order = torch.topk(scores, k=len(ids)).indices
        ranks.append((order == 0).nonzero(as_tuple=True)[0][0].item())
    return ranks


def read_rows(query: Tensor, table: Tensor, candidates: Tensor) -> Tensor:
    starts = torch.arange(0, candidates.numel(), candidates.shape[1])
    return torch.nn.functional.embedding_bag(candidates.view(-1), table, starts, mode="sum")


CONTESTANTS: dict[str, tuple[str, Callable[..., Any]]] = {
    "rank_candidates": ("ours", rk.rank_candidates),
    "embedding_bag (reads the same rows)": ("limit", read_rows),
    "reward_candidates": ("ours", rk.reward_candidates),
    "score_candidates": ("ours", rk.score_candidates),
    "torch einsum": ("peer", einsum),
    "torch bmm": ("peer", bmm),
    "torch.compile einsum": ("peer", torch.compile(einsum, fullgraph=True)),
    "torch.compile bmm": ("peer", torch.compile(bmm, fullgraph=True)),
    "per-row loop": ("peer", per_row_loop),
}


@pytest.mark.parametrize("name", CONTESTANTS)
@pytest.mark.parametrize("problem", PROBLEMS, ids=lambda problem: problem.name)
def test_rank(contest, problem: Problem, name: str) -> None:
    role, function = CONTESTANTS[name]
    arguments = data(problem)
    rounds = 30 if role != "peer" else 7
    group = f"rank among {problem.columns} candidates, B={problem.batch:,}, D={problem.dim}, "
    contest(group + problem.name, name, role, lambda: function(*arguments), rounds=rounds)


@pytest.mark.parametrize("name", ["score_candidates", "torch einsum"])
def test_backward(contest, name: str) -> None:
    query, table, candidates = data(PROBLEMS[0])
    query, table = query.clone().requires_grad_(), table.clone().requires_grad_()
    role = "ours" if name == "score_candidates" else "peer"

    def step() -> None:
        if role == "ours":
            scores = rk.score_candidates(query, table, candidates)
        else:
            scores = torch.einsum("bd,bcd->bc", query, table[candidates])
        scores.sum().backward()
        query.grad = table.grad = None

    contest(f"forward and backward, {PROBLEMS[0].name}", name, role, step, rounds=10)
