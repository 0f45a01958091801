"""Ranking in plain torch, as projects write it today, and the matrix products that limit it."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def count_candidates(scores: Tensor) -> Tensor:
    """The number of candidates above the target, which is in column 0."""
    return (scores[:, 1:] > scores[:, :1]).sum(1)


def einsum(query: Tensor, table: Tensor, candidates: Tensor) -> Tensor:
    return count_candidates(torch.einsum("bd,bcd->bc", query, table[candidates]))


def bmm(query: Tensor, table: Tensor, candidates: Tensor) -> Tensor:
    return count_candidates(torch.bmm(table[candidates], query[:, :, None]).squeeze(2))


def count_items(scores: Tensor, targets: Tensor) -> Tensor:
    """The number of items above the target."""
    return (scores > scores.gather(1, targets[:, None])).sum(1)


def matmul_and_count(query: Tensor, table: Tensor, targets: Tensor) -> Tensor:
    return count_items(query @ table.T, targets)


def matmul_and_topk(query: Tensor, table: Tensor, k: int) -> Any:
    return (query @ table.T).topk(k)


def openblas_product(query: Tensor, table: Tensor) -> Callable[[], Any]:
    a, b = query.numpy(), table.numpy().T
    return lambda: a @ b


def onednn_product(query: Tensor, table: Tensor) -> Callable[[], Any]:
    a, b = query.to_mkldnn(), table.to_mkldnn()
    return lambda: torch.nn.functional.linear(a, b)


def bfloat16_product(query: Tensor, table: Tensor) -> Callable[[], Any]:
    a, b = query.bfloat16(), table.bfloat16().T
    return lambda: a @ b
