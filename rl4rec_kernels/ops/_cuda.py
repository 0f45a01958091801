"""Calls the kernels in CUDA C++ (csrc/cuda): an operator's arguments, then the flag of bad ids."""

import torch
from torch import Tensor

from rl4rec_kernels.ops import _gradients

_raw = torch.ops.rl4rec_cuda_raw
_MAX_METRICS = 64  # that a kernel takes


def score_candidates(
    query: Tensor, table: Tensor, ids: Tensor, offsets: Tensor | None, bad: Tensor
) -> Tensor:
    """See `ops.score_candidates`."""
    return _raw.score_candidates(query, table, ids, offsets, bad)


def score_candidates_grad_query(
    grad: Tensor, query: Tensor, table: Tensor, ids: Tensor, offsets: Tensor | None, bad: Tensor
) -> Tensor:
    """See `ops._gradients`."""
    return _gradients.grad_query(_raw.weighted_segment_sum, grad, query, table, ids, offsets)


def score_candidates_grad_table(
    grad: Tensor, query: Tensor, table: Tensor, ids: Tensor, offsets: Tensor | None, bad: Tensor
) -> Tensor:
    """See `ops._gradients`."""
    return _gradients.grad_table(_raw.weighted_segment_sum, grad, query, table, ids, offsets)


def rank_candidates(
    query: Tensor, table: Tensor, ids: Tensor, offsets: Tensor | None, bad: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """See `ops.rank_candidates`."""
    return _raw.rank_candidates(query, table, ids, offsets, bad)


def reward_candidates(
    query: Tensor,
    table: Tensor,
    ids: Tensor,
    offsets: Tensor | None,
    kinds: list[int],
    cutoffs: list[int],
    ties: int,
    bad: Tensor,
) -> Tensor:
    """See `ops.reward_candidates`."""
    parts = [
        _raw.reward_candidates(
            query,
            table,
            ids,
            offsets,
            kinds[m : m + _MAX_METRICS],
            cutoffs[m : m + _MAX_METRICS],
            ties,
            bad,
        )
        for m in range(0, max(1, len(kinds)), _MAX_METRICS)
    ]
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)
