"""Log-probabilities of targets among their candidates."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from rl4rec_kernels.ops.triton.launch import Sides, launch
from rl4rec_kernels.ops.triton.rows import blocks_for, dot_rows, find_chunk, walk

_WHOLE_ROW = 1 << 30  # candidates of a program: sums over a row then have one order
_LOG2_E = tl.constexpr(1.4426950408889634)


@triton.jit
def exponentials(scores, reference, scale):
    """2 to the power of (scores - reference) * scale; infinite scores equal their reference."""
    difference = tl.where(scores == reference, 0.0, (scores - reference) * scale)
    return tl.exp2(difference.to(tl.float32))


@triton.jit
def _log_prob_candidates(
    log_probs, normalizer, log_q, inverse_temperature, sides, walk, bad, blocks: tl.constexpr
):
    ROWS: tl.constexpr = blocks.rows
    LOG2_E: tl.constexpr = _LOG2_E
    num_rows, num_items = sides.num_queries, sides.num_items
    row, ids_begin, length, _ = find_chunk(walk, num_rows, bad)
    if row < num_rows:
        target = tl.load(walk.ids + ids_begin, mask=length > 0, other=-1).to(tl.int64)
        is_bad = (target < 0) | (target >= num_items)
        inverse = tl.load(inverse_temperature)  # float64, as the logits
        reference = tl.full([], float("-inf"), tl.float64)
        total = tl.full([], 0.0, tl.float64)
        target_logit = tl.full([], 0.0, tl.float64)
        for start in range(0, length, ROWS):
            slots = start + tl.arange(0, ROWS)
            inside = slots < length
            items = tl.load(walk.ids + ids_begin + slots, mask=inside, other=-1).to(tl.int64)
            is_item = (items >= 0) & (items < num_items)
            is_bad = is_bad | (tl.max(((is_item == 0) & (items != -1)).to(tl.int32), axis=0) > 0)
            logits = dot_rows(sides, row, items, is_item, blocks).to(tl.float64) * inverse
            if log_q is not None:
                logits -= tl.load(log_q + items, mask=is_item, other=0.0).to(tl.float64)
            if start == 0:
                target_logit += tl.sum(tl.where(slots == 0, logits, 0.0), axis=0)
            counts = is_item & ((items != target) | (slots == 0))
            largest = tl.max(tl.where(counts, logits, float("-inf")), axis=0)
            largest = tl.maximum(reference, largest)
            more = tl.where(counts, exponentials(logits, largest, LOG2_E), 0.0)
            before = tl.where(reference == largest, 0.0, reference - largest)
            total = total * tl.exp(before) + tl.sum(more.to(tl.float64), axis=0)
            reference = largest
        log_sum = tl.log(total)
        found = tl.where(target_logit == reference, 0.0, target_logit - reference) - log_sum
        if is_bad:
            tl.store(bad, 1)
            found += float("nan")
        tl.store(log_probs + row, found.to(tl.float32))
        tl.store(normalizer + 2 * row, reference)
        tl.store(normalizer + 2 * row + 1, log_sum)


def log_prob_candidates(
    query: Tensor,
    table: Tensor,
    ids: Tensor,
    offsets: Tensor | None,
    log_q: Tensor | None,
    temperature: float,
    bad: Tensor,
) -> tuple[Tensor, Tensor]:
    """As `ops.reference.log_prob_candidates`, in float32, and the normalizer float64 [B, 2].

    The normalizer is the largest logit and the log of the sum of exponentials relative to it. `bad`
    is set if an id is out of range or a row has no target; such a row is NaN.
    """
    num_rows, dim = query.shape
    log_probs = torch.empty(num_rows, dtype=torch.float32, device=query.device)
    normalizer = torch.empty((num_rows, 2), dtype=torch.float64, device=query.device)
    if num_rows:
        blocks = blocks_for(dim)
        candidates, programs = walk(ids, offsets, num_rows, _WHOLE_ROW, shared=0)
        inverse = torch.full((1,), 1.0 / temperature, dtype=torch.float64, device=query.device)
        log_q = None if log_q is None else log_q.contiguous()
        args = (normalizer, log_q, inverse, Sides.of(query, table), candidates, bad, blocks)
        launch(_log_prob_candidates, programs, log_probs, *args)
    return log_probs, normalizer
