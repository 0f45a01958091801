"""Rank metrics of queries with several targets; `ops.reference` defines them.

Each is a sum over the targets of a query, in float64: a thread takes a query and walks its targets.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from rl4rec_kernels.ops._arguments import Targets
from rl4rec_kernels.ops._blocks import row_of_each
from rl4rec_kernels.ops.triton.launch import launch
from rl4rec_kernels.ops.triton.metrics import at_rank, harmonic, metric

_BLOCK = 32
# Numbered as Kind and Ties in rl4rec_kernels/metrics.py.
_NDCG = tl.constexpr(0)
_HIT = tl.constexpr(1)
_MRR = tl.constexpr(2)
_AUC = tl.constexpr(3)
_PRECISION = tl.constexpr(7)
_MAP = tl.constexpr(8)
_PESSIMISTIC = tl.constexpr(1)
_AVERAGE = tl.constexpr(2)
_EXPECTED = tl.constexpr(3)
_OF_ONE = {6: 1, 7: 1, 8: 2}  # recall and precision are sums of hits, map of 1 / rank times targets
_ALL = (1 << 31) - 1  # targets that matter: of hit and mrr only the first


def _in_order(above: Tensor, tied: Tensor, offsets: Tensor) -> tuple[Tensor, ...]:
    """Where each target is among those of its query, which are sorted; see csrc's Target."""
    rows = row_of_each(Targets(above, offsets))
    order = above.argsort(stable=True)
    order = order[rows[order].argsort(stable=True)]
    above, size = above[order], tied[order] + 1
    slots = torch.arange(len(above), dtype=torch.int64, device=above.device)
    is_first = torch.ones_like(above, dtype=torch.bool)
    is_first[1:] = (above[1:] != above[:-1]) | (rows[1:] != rows[:-1])
    start = torch.where(is_first, slots, 0).cummax(0).values
    group = is_first.cumsum(0) - 1
    relevant = torch.zeros_like(above).index_add(0, group, torch.ones_like(above))[group]
    return above, size, relevant, slots - start + 1, start - offsets[rows]


@triton.jit
def _term(
    above, size, relevant, index, before, total, KIND: tl.constexpr, CUTOFF: tl.constexpr,
    ONE: tl.constexpr, TIES: tl.constexpr,
):  # fmt: skip
    """What a target adds to a metric of its query, which is `ONE` if it has one target."""
    count = tl.minimum(tl.maximum(CUTOFF - above, 0), size)  # of the group, up to the cut-off
    long = size.to(tl.float64)
    if TIES != _EXPECTED:
        rank = (above + index).to(tl.float64)
        if TIES == _PESSIMISTIC:
            rank += (size - relevant).to(tl.float64)
        elif TIES == _AVERAGE:
            rank = above.to(tl.float64) + index.to(tl.float64) * (long + 1) / (relevant + 1).to(
                tl.float64
            )
        value = at_rank(rank, total, ONE, CUTOFF)
        if KIND == _MAP:
            value *= (before + index).to(tl.float64)
        return value
    elif KIND == _HIT:
        none = tl.zeros_like(long) + 1
        for i in range(0, tl.max(relevant, axis=0)):
            share = tl.maximum(size - count - i, 0).to(tl.float64) / tl.maximum(size - i, 1).to(
                tl.float64
            )
            none = tl.where(i < relevant, none * share, none)
        return 1 - none
    elif KIND == _MRR:
        last = tl.minimum(count, size - relevant + 1)
        chance = relevant.to(tl.float64) / long  # of the first target at j
        value = tl.zeros_like(chance)
        for j in range(1, tl.max(last, axis=0) + 1):
            value += tl.where(j <= last, chance / (above + j).to(tl.float64), 0.0)
            rest = tl.maximum(size - j, 1).to(tl.float64)
            chance *= (size - j - relevant + 1).to(tl.float64) / rest
        return value
    elif KIND == _MAP:
        slope = (relevant - 1).to(tl.float64) / tl.maximum(size - 1, 1).to(tl.float64)
        mean = (harmonic(above + count) - harmonic(above)) / long
        first = (before + 1).to(tl.float64) - slope * (above + 1).to(tl.float64)
        return tl.where(count == 0, 0.0, first * mean + slope * count.to(tl.float64) / long)
    else:
        return metric(above, size - 1, total, ONE, CUTOFF, TIES)


@triton.jit
def _scaled(value, n, total, KIND: tl.constexpr, CUTOFF: tl.constexpr, NUM_TARGETS: tl.constexpr):
    """Turn the sum over the n targets of a query into the metric."""
    count = tl.maximum(n, 1).to(tl.float64)
    if NUM_TARGETS == 1:
        return value
    elif KIND == _NDCG:
        ideal = tl.zeros_like(value)
        for i in range(1, tl.minimum(tl.max(n, axis=0), CUTOFF) + 1):
            rank = tl.zeros_like(value) + i
            ideal += tl.where(i <= n, 1 / tl.log2(1 + rank), 0.0)
        return value / tl.where(n == 0, 1.0, ideal)
    elif KIND == _PRECISION:
        return value / CUTOFF
    elif KIND == _MAP:
        return value / tl.minimum(count, CUTOFF)
    elif KIND == _AUC:
        pairs = count * tl.maximum(total - n, 1).to(tl.float64)
        ordered = value * (total - 1).to(tl.float64) - count * (count - 1) / 2
        return tl.where(total > n, ordered / pairs, 1.0)
    else:
        return value / count


@triton.jit
def _value(
    above, size, relevant, index, before, begin, n, total, KIND: tl.constexpr,
    CUTOFF: tl.constexpr, ONE: tl.constexpr, NUM_TARGETS: tl.constexpr, TIES: tl.constexpr,
):  # fmt: skip
    """A metric of some queries, whose n targets are at begin, begin + 1 and so on."""
    value = tl.zeros(n.shape, tl.float64)
    for t in range(0, tl.minimum(tl.max(n, axis=0), NUM_TARGETS)):
        at = begin + t
        has_target = t < n
        own_above = tl.load(above + at, mask=has_target, other=0)
        own_size = tl.load(size + at, mask=has_target, other=1)
        own_relevant = tl.load(relevant + at, mask=has_target, other=1)
        own_index = tl.load(index + at, mask=has_target, other=1)
        own_before = tl.load(before + at, mask=has_target, other=0)
        term = _term(
            own_above, own_size, own_relevant, own_index, own_before, total, KIND, CUTOFF, ONE, TIES
        )  # fmt: skip
        value += tl.where(has_target, term, 0.0)
    return _scaled(value, n, total, KIND, CUTOFF, NUM_TARGETS)


@triton.jit
def _metrics_of_targets(
    out, above, size, relevant, index, before, total, offsets, num_rows, BLOCK: tl.constexpr,
    METRICS: tl.constexpr, TIES: tl.constexpr,
):  # fmt: skip
    rows = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = rows < num_rows
    begin = tl.load(offsets + rows, mask=inside, other=0)
    n = tl.load(offsets + rows + 1, mask=inside, other=0) - begin
    is_bad = n == 0
    listed = tl.load(total + begin, mask=n > 0, other=1)
    for t in range(0, tl.max(n, axis=0)):
        is_bad = is_bad | (tl.load(total + begin + t, mask=t < n, other=0) < 0)
    for m in tl.static_range(0, len(METRICS)):
        value = _value(
            above, size, relevant, index, before, begin, n, listed, METRICS[m][0], METRICS[m][1],
            METRICS[m][2], METRICS[m][3], TIES,
        )  # fmt: skip
        value = tl.where(is_bad, float("nan"), value)
        tl.store(out + rows * len(METRICS) + m, value.to(tl.float32), mask=inside)


def metrics_of_targets(
    above: Tensor,
    tied: Tensor,
    total: Tensor,
    offsets: Tensor,
    kinds: list[int],
    cutoffs: list[int],
    ties: int,
) -> Tensor:
    """As `ops.reference.metrics_of_targets`, float32; NaN also where a total is negative."""
    num_rows = len(offsets) - 1
    metrics = tuple(
        (kind, cutoff, _OF_ONE.get(kind, kind), 1 if kind in (_HIT.value, _MRR.value) else _ALL)
        for kind, cutoff in zip(kinds, cutoffs, strict=True)
    )
    out = torch.empty((num_rows, len(metrics)), dtype=torch.float32, device=above.device)
    if out.numel():
        if not len(above):
            return out.fill_(torch.nan)
        counts = (*_in_order(above, tied, offsets), total.contiguous(), offsets.contiguous())
        grid = triton.cdiv(num_rows, _BLOCK)
        launch(_metrics_of_targets, grid, out, *counts, num_rows, _BLOCK, metrics, ties)
    return out
