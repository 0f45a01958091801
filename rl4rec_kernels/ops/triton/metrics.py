"""Rank metrics from counts, alone and inside other kernels; `ops.reference` defines them.

All of it is elementwise and in float64. Means over the ranks of a tie are differences of closed
forms, so that a long tie costs no more than a short one; NDCG, which has no closed form, is summed
up to its cut-off.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from rl4rec_kernels.ops.triton.launch import launch

# Numbered as Kind and Ties in rl4rec_kernels/metrics.py.
_BLOCK = 128
_NDCG = tl.constexpr(0)
_HIT = tl.constexpr(1)
_MRR = tl.constexpr(2)
_AUC = tl.constexpr(3)
_LOGRANK = tl.constexpr(4)
_RECALL = tl.constexpr(6)
_PRECISION = tl.constexpr(7)
_MAP = tl.constexpr(8)
_OPTIMISTIC = tl.constexpr(0)
_PESSIMISTIC = tl.constexpr(1)
_AVERAGE = tl.constexpr(2)
_HALF_LOG_2_PI = tl.constexpr(0.9189385332046727)


@triton.jit
def store_metrics(out, above, tied, total, mask, METRICS: tl.constexpr, TIES: tl.constexpr):
    """Store the metrics of some rows, float32 at out + 0, 1, …; NaN where `total` is negative.

    `METRICS` is a tuple of (kind, cut-off); `out` are pointers to the rows' first metric.
    """
    for m in tl.static_range(0, len(METRICS)):
        value = metric(above, tied, total, METRICS[m][0], METRICS[m][1], TIES)
        value = tl.where(total < 0, float("nan"), value)
        tl.store(out + m, value.to(tl.float32), mask=mask)


@triton.jit
def metric(above, tied, total, KIND: tl.constexpr, CUTOFF: tl.constexpr, TIES: tl.constexpr):
    """A metric of one target; those of several targets become those that they are with one."""
    if KIND == _RECALL:
        return _metric(above, tied, total, _HIT, CUTOFF, TIES)
    elif KIND == _PRECISION:
        return _metric(above, tied, total, _HIT, CUTOFF, TIES) / CUTOFF
    elif KIND == _MAP:
        return _metric(above, tied, total, _MRR, CUTOFF, TIES)
    else:
        return _metric(above, tied, total, KIND, CUTOFF, TIES)


@triton.jit
def _metric(above, tied, total, KIND: tl.constexpr, CUTOFF: tl.constexpr, TIES: tl.constexpr):
    best = (above + 1).to(tl.float64)
    if TIES == _OPTIMISTIC:
        return at_rank(best, total, KIND, CUTOFF)
    elif TIES == _PESSIMISTIC:
        return at_rank(best + tied.to(tl.float64), total, KIND, CUTOFF)
    elif TIES == _AVERAGE:
        return at_rank(best + tied.to(tl.float64) / 2, total, KIND, CUTOFF)
    else:
        single = at_rank(best, total, KIND, CUTOFF)
        mean = _mean_over_ranks(above, tied, total, KIND, CUTOFF)
        return tl.where(tied == 0, single, mean)


@triton.jit
def at_rank(rank, total, KIND: tl.constexpr, CUTOFF: tl.constexpr):
    """The metric of a target at a rank; a target without competitors has the best value."""
    within = (rank <= CUTOFF).to(tl.float64)
    others = tl.maximum(total - 1, 1).to(tl.float64)
    if KIND == _NDCG:
        return within / tl.log2(1 + rank)
    elif KIND == _HIT:
        return within
    elif KIND == _MRR:
        return within / rank
    elif KIND == _AUC:
        return tl.where(total > 1, (total.to(tl.float64) - rank) / others, 1.0)
    elif KIND == _LOGRANK:
        log_total = tl.log(tl.maximum(total, 2).to(tl.float64))
        return tl.where(total > 1, 1 - tl.log(rank) / log_total, 1.0)
    else:
        return rank


@triton.jit
def _mean_over_ranks(above, tied, total, KIND: tl.constexpr, CUTOFF: tl.constexpr):
    """The mean over the ranks above + 1 … above + tied + 1."""
    size = (tied + 1).to(tl.float64)
    last = tl.minimum(above + tied + 1, CUTOFF)  # the last rank that counts
    first = tl.minimum(above, last)  # ranks first + 1 … last count
    if KIND == _NDCG:
        summed = tl.zeros_like(size)
        steps = tl.max(tl.where(tied == 0, 0, last - first), axis=0)
        for i in range(1, steps + 1):
            rank = (first + i).to(tl.float64)
            summed += tl.where(first + i <= last, 1 / tl.log2(1 + rank), 0.0)
        return summed / size
    elif KIND == _HIT:
        return (last - first).to(tl.float64) / size
    elif KIND == _MRR:
        return (harmonic(last) - harmonic(first)) / size
    elif KIND == _LOGRANK:
        log_total = tl.log(tl.maximum(total, 2).to(tl.float64))
        mean_log = (_log_factorial(last) - _log_factorial(first)) / size
        return tl.where(total > 1, 1 - mean_log / log_total, 1.0)
    else:  # linear in the rank, so the mean is the metric at the mean rank
        return at_rank((above + 1).to(tl.float64) + tied.to(tl.float64) / 2, total, KIND, CUTOFF)


@triton.jit
def harmonic(n):
    """1 + 1/2 + … + 1/n up to a constant (Abramowitz & Stegun 6.3.18, at n + 16)."""
    x = (n + 16).to(tl.float64)
    square = x * x
    value = tl.log(x) + 1 / (2 * x) - 1 / (12 * square) + 1 / (120 * square * square)
    for i in tl.static_range(0, 16):
        value -= 1 / (x - i)
    return value


@triton.jit
def _log_factorial(n):
    """log(n!) by Stirling's series (Abramowitz & Stegun 6.1.41), at n + 9."""
    x = (n + 9).to(tl.float64)
    product = x - 1
    for i in tl.static_range(2, 9):
        product *= x - i  # less than 1e100 for any count
    square = x * x
    series = 1 / (12 * x) - 1 / (360 * x * square) + 1 / (1260 * x * square * square)
    return (x - 0.5) * tl.log(x) - x + _HALF_LOG_2_PI + series - tl.log(product)


@triton.jit
def _metrics_from_counts(
    out, above, tied, total, num_rows, BLOCK: tl.constexpr, METRICS: tl.constexpr,
    TIES: tl.constexpr,
):  # fmt: skip
    rows = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = rows < num_rows
    above = tl.load(above + rows, mask=inside, other=0)
    tied = tl.load(tied + rows, mask=inside, other=0)
    total = tl.load(total + rows, mask=inside, other=1)
    store_metrics(out + rows * len(METRICS), above, tied, total, inside, METRICS, TIES)


def metrics_from_counts(
    above: Tensor, tied: Tensor, total: Tensor, kinds: list[int], cutoffs: list[int], ties: int
) -> Tensor:
    """As `ops.reference.metrics_from_counts`, float32; NaN where a total is negative."""
    num_rows, metrics = len(above), tuple(zip(kinds, cutoffs, strict=True))
    out = torch.empty((num_rows, len(metrics)), dtype=torch.float32, device=above.device)
    if out.numel():
        counts = (above.contiguous(), tied.contiguous(), total.contiguous())
        grid = triton.cdiv(num_rows, _BLOCK)
        launch(_metrics_from_counts, grid, out, *counts, num_rows, _BLOCK, metrics, ties)
    return out
