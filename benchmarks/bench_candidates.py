"""Ranking a target among sampled candidates: our kernels, what projects do today, and the limit.

The limit is the time of ``embedding_bag``, which reads the same rows.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

import rl4rec_kernels as rk
from benchmarks.baselines import bmm, einsum
from benchmarks.data import gaussian


class Problem(NamedTuple):
    """The table of a problem, ranked among `columns` candidates per query."""

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


@functools.lru_cache(maxsize=1)  # a table of a million rows takes 1.5 GB: keep only one
def data(problem: Problem) -> tuple[Tensor, Tensor, Tensor]:
    _, num_items, dtype, batch, columns, dim = problem
    return gaussian(batch, num_items, dim, columns, dtype=dtype)


def per_row_loop(query: Tensor, table: Tensor, candidates: Tensor) -> list[int]:
    """Index, multiply, topk, find the target, per row, as reward functions do today."""
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
