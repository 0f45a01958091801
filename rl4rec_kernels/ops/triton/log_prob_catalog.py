"""Log-probabilities of targets among all items, and their gradients.

Exponentials are summed where scores are computed, over fixed ranges of items, whose sums are then
added in their order: results do not depend on the batch. Excluded pairs are sorted by tile, so that
each program finds its pairs. The gradients are products of blocks of the softmax with the
embeddings, by torch.
"""

import math
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from rl4rec_kernels.ops._exclusions import sort_by_tile
from rl4rec_kernels.ops.triton.launch import is_open, launch
from rl4rec_kernels.ops.triton.log_prob_candidates import exponentials
from rl4rec_kernels.ops.triton.pairs import score_targets
from rl4rec_kernels.ops.triton.rank_catalog import rank_catalog
from rl4rec_kernels.ops.triton.tile import (
    BLOCK,
    Operands,
    is_row_of_item,
    operands,
    tile_scores,
)

_MAX_RANGES = 256  # so that what is kept per query does not grow with the table
_PAIRS = tl.constexpr(32)  # excluded ones that are looked up at once
_ITEMS_AT_ONCE = 4096  # of the softmax in the backward pass
Excluded = tuple[Tensor | None, Tensor | None]


@triton.jit
def _competitors(keys, starts, valid, block, i, sides, BLOCK: tl.constexpr):
    """Which pairs of a block of queries and the i-th tile of items compete, int1 [BLOCK, BLOCK]."""
    PAIRS: tl.constexpr = _PAIRS
    slots = tl.arange(0, BLOCK)
    is_item = is_row_of_item(i * BLOCK + slots, sides.num_items, valid)
    competes = is_item[None, :] & (slots[:, None] >= 0)
    if keys is not None:
        # The product of a column per pair with a 1 at its query and a row with a 1 at its item.
        cell = block.to(tl.int64) * tl.cdiv(sides.num_items, BLOCK) + i
        end = tl.load(starts + cell + 1)
        found = tl.zeros([BLOCK, BLOCK], tl.float32)
        for first in range(tl.load(starts + cell), end, PAIRS):
            numbers = first + tl.arange(0, PAIRS)
            key = tl.load(keys + numbers, mask=numbers < end, other=-1)
            rows = tl.where(numbers < end, key // sides.num_items - block * BLOCK, -1)
            items = key % sides.num_items - i * BLOCK
            at_query = (slots[:, None] == rows[None, :]).to(tl.float16)
            at_item = (items[:, None] == slots[None, :]).to(tl.float16)
            found = tl.dot(at_query, at_item, found)
        competes = competes & (found == 0)
    return competes


@triton.jit
def _sum_exponentials(
    references, sums, keys, starts, valid, tiles_per_range, num_ranges, scale, sides,
    tile: tl.constexpr, SETTLE: tl.constexpr,
):  # fmt: skip
    """Sum, or leave NaN to a second launch with `SETTLE`, as in `rank_catalog._count_catalog`."""
    BLOCK: tl.constexpr = tile.block
    num_queries, num_items = sides.num_queries, sides.num_items
    num_blocks = tl.cdiv(num_queries, BLOCK)
    block = tl.program_id(0) % num_blocks
    rows = block * BLOCK + tl.arange(0, BLOCK)
    inside = rows < num_queries
    if SETTLE:
        own = rows.to(tl.int64) * num_ranges + tl.program_id(0) // num_blocks
        sums_before = tl.load(sums + own, mask=inside, other=0.0)
        if tl.max((sums_before != sums_before).to(tl.int32), axis=0) == 0:
            return
    query_rows = tl.minimum(rows, num_queries - 1)
    reference = tl.full([BLOCK], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK], tl.float32)
    number = tl.program_id(0) // num_blocks
    first = number * tiles_per_range
    for i in range(first, tl.minimum(first + tiles_per_range, tl.cdiv(num_items, BLOCK))):
        items = tl.minimum(i * BLOCK + tl.arange(0, BLOCK), num_items - 1)
        scores = tile_scores(sides, query_rows, items, tile, SETTLE)
        if not SETTLE:
            num_open = tl.sum(is_open(scores).to(tl.int32), axis=1)
            total = tl.where(num_open > 0, float("nan"), total)
        competes = _competitors(keys, starts, valid, block, i, sides, BLOCK)
        largest = tl.max(tl.where(competes, scores, float("-inf")), axis=1)
        largest = tl.maximum(reference, largest)
        more = tl.where(competes, exponentials(scores, largest[:, None], scale), 0.0)
        total = total * exponentials(reference, largest, scale) + tl.sum(more, axis=1)
        reference = largest
    out = rows.to(tl.int64) * num_ranges + number
    tl.store(references + out, reference, mask=inside)
    tl.store(sums + out, total, mask=inside)


@triton.jit
def _add_ranges(
    log_probs, normalizer, references, sums, target_scores, inverse_temperature, num_ranges,
    num_queries, BLOCK: tl.constexpr,
):  # fmt: skip
    rows = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = rows < num_queries
    inverse = tl.load(inverse_temperature)
    ranges = rows.to(tl.int64) * num_ranges
    largest = tl.full([BLOCK], float("-inf"), tl.float32)
    for i in range(0, num_ranges):
        reference = tl.load(references + ranges + i, mask=inside, other=float("-inf"))
        largest = tl.maximum(largest, reference)
    total = tl.zeros([BLOCK], tl.float64)
    for i in range(0, num_ranges):
        reference = tl.load(references + ranges + i, mask=inside, other=float("-inf"))
        part = tl.load(sums + ranges + i, mask=inside, other=0.0).to(tl.float64)
        difference = (reference.to(tl.float64) - largest.to(tl.float64)) * inverse
        total += part * tl.exp(tl.where(reference == largest, 0.0, difference))
    log_sum = tl.log(total)
    score = tl.load(target_scores + rows, mask=inside, other=0.0)
    difference = (score.to(tl.float64) - largest.to(tl.float64)) * inverse
    found = tl.where(score == largest, 0.0, difference) - log_sum
    tl.store(log_probs + rows, found.to(tl.float32), mask=inside)
    tl.store(normalizer + 2 * rows, largest.to(tl.float64), mask=inside)
    tl.store(normalizer + 2 * rows + 1, log_sum, mask=inside)


@triton.jit
def _weigh(
    weights, keys, starts, valid, normalizer, factors, first_tile, stride, scale, sides,
    tile: tl.constexpr,
):  # fmt: skip
    BLOCK: tl.constexpr = tile.block
    num_queries, num_items = sides.num_queries, sides.num_items
    block = tl.program_id(1)
    i = first_tile + tl.program_id(0)
    rows = block * BLOCK + tl.arange(0, BLOCK)
    inside = rows < num_queries
    columns = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    items = tl.minimum(i * BLOCK + tl.arange(0, BLOCK), num_items - 1)
    scores = tile_scores(sides, tl.minimum(rows, num_queries - 1), items, tile)
    competes = _competitors(keys, starts, valid, block, i, sides, BLOCK)
    reference = tl.load(normalizer + 2 * rows, mask=inside, other=0.0).to(tl.float32)
    factor = tl.load(factors + rows, mask=inside, other=0.0)
    found = factor[:, None] * exponentials(scores, reference[:, None], scale)
    out = weights + rows.to(tl.int64)[:, None] * stride + columns[None, :]
    tl.store(out, tl.where(competes, found, 0.0), mask=inside[:, None])


def _scale(temperature: float) -> float:
    return math.log2(math.e) / temperature


def log_prob_catalog(
    query: Tensor,
    table: Tensor,
    targets: Tensor,
    exclude: Tensor | None,
    exclude_offsets: Tensor | None,
    valid: Tensor | None,
    temperature: float,
    bad: Tensor,
) -> tuple[Tensor, Tensor]:
    """As `ops.reference.log_prob_catalog`, in float32, and the normalizer float64 [B, 2].

    The normalizer is the largest score and the log of the sum of exponentials relative to it. `bad`
    is set if an id is out of range or a target is not valid.
    """
    valid = None if valid is None else valid.contiguous()
    num_queries, num_items = query.shape[0], table.shape[0]
    device = query.device
    both = operands(query, table, None)
    scores = score_targets(both, targets, valid, bad, elsewhere=False)
    if num_queries == 0 or num_items == 0:
        nothing = torch.empty((num_queries, 0), dtype=torch.float32, device=device)
        return add_ranges(nothing, nothing, scores, temperature)
    own = _clamped(targets, num_items)
    keys, starts = sort_by_tile(exclude, exclude_offsets, own, num_items, bad, (BLOCK, BLOCK))
    num_tiles, num_blocks = triton.cdiv(num_items, BLOCK), triton.cdiv(num_queries, BLOCK)
    tiles_per_range = triton.cdiv(num_tiles, _MAX_RANGES)
    num_ranges = triton.cdiv(num_tiles, tiles_per_range)
    references, sums = (
        torch.empty((num_queries, num_ranges), dtype=torch.float32, device=device) for _ in range(2)
    )
    sides, tile, options = both
    options = {**options, "maxnreg": None}
    args = (sums, keys, starts, valid, tiles_per_range, num_ranges, _scale(temperature))
    programs = num_blocks * num_ranges
    launch(_sum_exponentials, programs, references, *args, sides, tile, False, **options)
    options["num_stages"] = 1  # it is rarely needed, and takes more registers
    launch(_sum_exponentials, programs, references, *args, sides, tile, True, **options)
    return add_ranges(references, sums, scores, temperature)


def rank_log_prob_catalog(*args: Any) -> tuple[Tensor, ...]:
    """Counts, as `rank_catalog`, and log-probabilities: by two passes over the items."""
    *catalog, _, bad = args
    arguments: Any = (*catalog, None, None, None, bad)
    return *rank_catalog(*arguments), log_prob_catalog(*args)[0]


def add_ranges(
    references: Tensor, sums: Tensor, scores: Tensor, temperature: float
) -> tuple[Tensor, Tensor]:
    """Log-probabilities float32 [B] and normalizers from sums over ranges, float32 [B, ranges].

    `references` has the largest score of each range, `scores` those of the targets.
    """
    num_queries, num_ranges = sums.shape
    log_probs = torch.empty(num_queries, dtype=torch.float32, device=sums.device)
    normalizer = torch.empty((num_queries, 2), dtype=torch.float64, device=sums.device)
    if sums.numel() == 0:
        return log_probs.fill_(torch.nan), normalizer
    inverse = torch.full((1,), 1.0 / temperature, dtype=torch.float64, device=sums.device)
    arguments = (normalizer, references, sums, scores, inverse, num_ranges, num_queries, BLOCK)
    launch(_add_ranges, triton.cdiv(num_queries, BLOCK), log_probs, *arguments)
    return log_probs, normalizer


def _clamped(targets: Tensor, num_items: int) -> Tensor:
    return targets.long().clamp(0, num_items - 1)


def log_prob_catalog_grad(
    grad: Tensor,
    log_probs: Tensor,
    normalizer: Tensor,
    query: Tensor,
    table: Tensor,
    targets: Tensor,
    exclude: Tensor | None,
    exclude_offsets: Tensor | None,
    valid: Tensor | None,
    temperature: float,
    needs_query: bool,
    needs_table: bool,
) -> tuple[Tensor, Tensor]:
    """Gradients of `log_prob_catalog`, without rows if not needed; ids have been checked."""
    valid = None if valid is None else valid.contiguous()
    num_queries, num_items = query.shape[0], table.shape[0]
    device = query.device
    grad_query = torch.zeros(query.shape, dtype=torch.float32, device=device)
    grad_table = table.new_zeros((num_items if needs_table else 0, table.shape[1]))
    if num_queries and num_items:
        bad = torch.zeros(1, dtype=torch.int32, device=device)
        targets = _clamped(targets, num_items)
        ids = (exclude, exclude_offsets)
        excluded = sort_by_tile(*ids, targets, num_items, bad, (BLOCK, BLOCK))
        slopes = grad.double() / temperature
        factors = (-slopes * (-normalizer[:, 1]).exp()).float()
        target_weights = (-slopes * log_probs.double().expm1()).float()[:, None]
        both = operands(query, table, None)
        with torch.autocast(device.type, enabled=False):
            for first in range(0, num_items, _ITEMS_AT_ONCE):
                end = min(first + _ITEMS_AT_ONCE, num_items)
                weights = _weights(
                    both, excluded, valid, normalizer, factors, _scale(temperature), first, end
                )
                columns = (targets - first).clamp(0, end - first - 1)[:, None]
                is_here = ((targets >= first) & (targets < end))[:, None]
                here = torch.where(is_here, target_weights, weights.gather(1, columns))
                weights.scatter_(1, columns, here)
                if needs_query:
                    items = table[first:end].float()
                    if valid is not None:  # other rows may be NaN
                        items = torch.where(valid[first:end, None], items, 0.0)
                    grad_query.addmm_(weights, items)
                if needs_table:
                    grad_table[first:end] = weights.T @ query.float()
    return grad_query[: num_queries if needs_query else 0].to(query.dtype), grad_table


def _weights(
    both: Operands,
    excluded: Excluded,
    valid: Tensor | None,
    normalizer: Tensor,
    factors: Tensor,
    scale: float,
    first: int,
    end: int,
) -> Tensor:
    """The derivatives with respect to the scores of some items, float32 [B, end - first]."""
    sides, tile, options = both
    num_tiles, num_blocks = triton.cdiv(end - first, BLOCK), triton.cdiv(sides.num_queries, BLOCK)
    shape = (sides.num_queries, num_tiles * BLOCK)
    weights = torch.empty(shape, dtype=torch.float32, device=factors.device)
    args = (*excluded, valid, normalizer, factors, first // BLOCK, shape[1], scale)
    options = {**options, "maxnreg": None}
    launch(_weigh, (num_tiles, num_blocks), weights, *args, sides, tile, **options)
    return weights[:, : end - first]
