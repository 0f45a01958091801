"""The best items of each query among all items.

1. A sample of the items is scored, one in 4 to 32, and the best of each of many groups of them
   is kept. The k-th best of these is a bound that at least k items reach.
2. All items are scored, and those that reach the bound are collected: about as many times k as
   there are items for one of the sample. There is room for four times as many, or twice.
3. These are sorted. Queries for which more items reached the bound than there was room for (their
   best items are where the sample had few) are searched again, item by item.

An item's key is its score, then its id, in one int64 that sorts as results do. Keys are unique, so
the order of ties does not depend on chance, and a table of equal items is not a special case. The
sample is asked for as many more items as are excluded; these are removed before the sort.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from rl4rec_kernels.ops._exclusions import exclusion_keys
from rl4rec_kernels.ops.triton.launch import is_open, launch, processors
from rl4rec_kernels.ops.triton.tile import (
    BLOCK,
    Operands,
    is_row_of_item,
    operands,
    share_tiles,
    tile_scores,
)

_SAMPLE = (4, 32)  # one of so many items is in the sample: at least, at most
_STRIP = 4  # items of a tile that are in one group
_ROOM = 8  # keys that a query has room for, in multiples of k
_SPARE = 1024  # and some more, for small k
_KEYS_AT_ONCE = 1 << 26  # of all queries: 512 MiB

_NO_KEY = torch.iinfo(torch.int64).min
_LOWEST = -0x7F800000 << 32  # the key that all items with a score above -inf reach
_NONE = tl.constexpr(_NO_KEY)
_LAST_ID = 0x7FFFFFFF


@triton.jit
def _make_keys(scores, items, is_item):
    """Keys of scores; items that score NaN or -inf have none."""
    bits = (scores + 0.0).to(tl.int32, bitcast=True)  # -0 becomes 0
    ordered = tl.where(bits < 0, bits ^ 0x7FFFFFFF, bits)  # sorts as the floats do
    keys = (ordered.to(tl.int64) << 32) | (0x7FFFFFFF - items).to(tl.int64)
    return tl.where(is_item & (scores > float("-inf")), keys, _NONE)


@triton.jit
def _sample_groups(
    keys, valid, num_groups, item_step, num_sampled, sides, tile: tl.constexpr, STRIP: tl.constexpr
):
    """Keys of the best of each group: `STRIP` adjacent slots of every `num_groups`-th tile.

    Tiles have every `item_step`-th item: similar items are often next to each other.
    """
    BLOCK: tl.constexpr = tile.block
    STRIPS: tl.constexpr = BLOCK // STRIP
    num_queries, num_items = sides.num_queries, sides.num_items
    num_blocks = tl.cdiv(num_queries, BLOCK)
    rows = (tl.program_id(0) % num_blocks) * BLOCK + tl.arange(0, BLOCK)
    group = tl.program_id(0) // num_blocks
    strips = tl.arange(0, STRIPS)[None, :]
    best = tl.full([BLOCK, STRIPS], float("-inf"), tl.float32)
    best_slots = tl.zeros([BLOCK, STRIPS], tl.int32)
    last = (num_items - 1) // item_step * item_step
    for sample in range(group, num_sampled, num_groups):
        first = sample * BLOCK
        items = (first + tl.arange(0, BLOCK)) * item_step
        # Slots after the last item of the sample have its score: they do not come first.
        query_rows, table_rows = tl.minimum(rows, num_queries - 1), tl.minimum(items, last)
        scores = tile_scores(sides, query_rows, table_rows, tile, False)
        # A sample may leave out what is not finite yet; NaN would win a maximum.
        exists = is_open(scores) == 0
        if valid is not None:
            exists = exists & is_row_of_item(items, num_items, valid)[None, :]
        scores = tl.where(exists, scores, float("-inf"))
        strip_best, slot = tl.max(
            tl.reshape(scores, [BLOCK, STRIPS, STRIP]), axis=2, return_indices=True
        )
        # Of equal scores the first one stays. Only here are slots compared with the end: before,
        # that would take registers that float32 does not have.
        better = (strip_best > best) & (first + strips * STRIP + slot <= last // item_step)
        best = tl.where(better, strip_best, best)
        best_slots = tl.where(better, first + strips * STRIP + slot, best_slots)
    exists = (rows[:, None] < num_queries) & (strips >= 0)
    out = keys + (rows.to(tl.int64) * num_groups + group)[:, None] * STRIPS + strips
    tl.store(out, _make_keys(best, best_slots * item_step, exists), mask=exists)


@triton.jit
def _score_all(out, sides, tile: tl.constexpr):
    BLOCK: tl.constexpr = tile.block
    num_queries, num_items = sides.num_queries, sides.num_items
    items = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    rows = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    query_rows, table_rows = tl.minimum(rows, num_queries - 1), tl.minimum(items, num_items - 1)
    scores = tile_scores(sides, query_rows, table_rows, tile)
    exists = (rows[:, None] < num_queries) & (items[None, :] < num_items)
    tl.store(out + rows.to(tl.int64)[:, None] * num_items + items[None, :], scores, mask=exists)


@triton.jit
def _collect(keys, found, capacity, bounds, valid, tiles_per_program, sides, tile: tl.constexpr):
    """Store the keys that reach their query's bound, in any order, while there is room."""
    BLOCK: tl.constexpr = tile.block
    num_queries, num_items = sides.num_queries, sides.num_items
    num_blocks = tl.cdiv(num_queries, BLOCK)
    rows = (tl.program_id(0) % num_blocks) * BLOCK + tl.arange(0, BLOCK)
    inside = rows < num_queries
    bound = tl.load(bounds + rows, mask=inside, other=0)
    ordered = (bound >> 32).to(tl.int32)
    bound_score = tl.where(ordered < 0, ordered ^ 0x7FFFFFFF, ordered).to(tl.float32, bitcast=True)
    bound_score = tl.where(inside, bound_score, float("inf"))[:, None]
    bound_item = tl.where(inside, 0x7FFFFFFF - (bound & 0xFFFFFFFF).to(tl.int32), -1)[:, None]
    rows = tl.minimum(rows, num_queries - 1)
    slots = tl.arange(0, BLOCK)
    first = (tl.program_id(0) // num_blocks) * tiles_per_program
    for i in range(first, tl.minimum(first + tiles_per_program, tl.cdiv(num_items, BLOCK))):
        items = i * BLOCK + slots
        scores = tile_scores(sides, rows, tl.minimum(items, num_items - 1), tile)
        is_item = is_row_of_item(items, num_items, valid)
        reach = (scores > bound_score) | ((scores == bound_score) & (items[None, :] <= bound_item))
        reach = reach & is_item[None, :]
        # One key of each row at a time: rarely does a row have two in a tile.
        count = tl.sum(reach.to(tl.int32), axis=1)
        slot = tl.atomic_add(found + rows, count, mask=count > 0)
        left = tl.where(reach, scores, float("-inf"))
        for n in range(0, tl.max(count, axis=0)):
            best, column = tl.max(left, axis=1, return_indices=True)
            tl.store(
                keys + rows.to(tl.int64) * capacity + slot + n,
                _make_keys(best, i * BLOCK + column, n < count),
                mask=(n < count) & (slot + n < capacity),
            )
            left = tl.where(slots[None, :] == column[:, None], float("-inf"), left)


@triton.jit
def _is_excluded(keys, num_keys, wanted, steps, BLOCK: tl.constexpr):
    """Whether sorted `keys` hold the wanted ones, by bisection."""
    low = tl.zeros([BLOCK], tl.int64)
    high = low + num_keys
    for _ in range(0, steps):
        middle = (low + high) // 2
        less = (low < high) & (tl.load(keys + middle, mask=low < high, other=0) < wanted)
        high = tl.where(less, high, middle)
        low = tl.where(less, middle + 1, low)
    return tl.load(keys + low, mask=low < num_keys, other=-1) == wanted


@triton.jit
def _kth_key(keys, size, k, BLOCK: tl.constexpr):
    """The k-th largest of some keys, bit by bit; the lowest key there is if they are fewer."""
    value = tl.full([], _NONE, tl.int64)
    if size >= k:
        for i in range(0, 64):
            if i == 0:
                trial = tl.zeros([], tl.int64)  # the sign
            else:
                trial = value + (tl.full([], 1, tl.int64) << (63 - i))
            above = 0
            for start in range(0, size, BLOCK):
                slots = start + tl.arange(0, BLOCK)
                part = tl.load(keys + slots, mask=slots < size, other=_NONE)
                above += tl.sum(((part >= trial) & (slots < size)).to(tl.int32), axis=0)
            value = tl.where(above >= k, trial, value)
    return value


@triton.jit
def _keep(keys, size, lowest, BLOCK: tl.constexpr):
    """Move the keys that are at least `lowest` to the front; return how many there are."""
    kept = 0
    for start in range(0, size, BLOCK):
        slots = start + tl.arange(0, BLOCK)
        part = tl.load(keys + slots, mask=slots < size, other=_NONE)
        stays = (slots < size) & (part >= lowest)
        tl.debug_barrier()  # all have been read before they are overwritten
        tl.store(keys + kept + tl.cumsum(stays.to(tl.int32), axis=0) - 1, part, mask=stays)
        kept += tl.sum(stays.to(tl.int32), axis=0)
    tl.debug_barrier()
    return kept


@triton.jit
def _search_again(
    keys, found, capacity, k, excluded, num_excluded, bisections, first_row, valid, sides,
    tile: tl.constexpr,
):  # fmt: skip
    """Find the k best of one query whose room was too small, item by item."""
    BLOCK: tl.constexpr = tile.block
    num_items = sides.num_items
    row = tl.program_id(0).to(tl.int64)
    if tl.load(found + row) > capacity:
        own = keys + row * capacity
        slots = tl.arange(0, BLOCK)
        size = 0
        lowest = tl.full([], _NONE, tl.int64)
        for i in range(0, tl.cdiv(num_items, BLOCK)):
            items = i * BLOCK + slots
            is_item = is_row_of_item(items, num_items, valid)
            if excluded is not None:
                pair = (first_row + row) * num_items + items
                is_item &= _is_excluded(excluded, num_excluded, pair, bisections, BLOCK) == 0
            scores = tile_scores(sides, row + 0 * slots, tl.minimum(items, num_items - 1), tile)
            scores = tl.sum(tl.where(slots[:, None] == 0, scores, 0.0), axis=0)
            found_keys = _make_keys(scores, items, is_item)
            reach = found_keys > lowest
            tl.store(own + size + tl.cumsum(reach.to(tl.int32), axis=0) - 1, found_keys, mask=reach)
            size += tl.sum(reach.to(tl.int32), axis=0)
            tl.debug_barrier()
            if size > capacity - BLOCK:
                lowest = _kth_key(own, size, k, BLOCK)
                size = _keep(own, size, lowest, BLOCK)
        size = _keep(own, size, _kth_key(own, size, k, BLOCK), BLOCK)
        for start in range(size, capacity, BLOCK):
            rest = start + slots
            tl.store(own + rest, tl.full([BLOCK], _NONE, tl.int64), mask=rest < capacity)


def _capacity(wanted: int) -> int:
    """The keys that a query has room for."""
    return _ROOM * wanted + _SPARE


def _bounds(
    both: Operands, k: int, allowance: Tensor | int, wanted: int, valid: Tensor | None
) -> Tensor:
    """Keys int64 [B] that at least k items of each query reach, and `allowance` more."""
    sides, tile, options = both
    num_queries, device = sides.num_queries, sides.query.device
    num_tiles, num_blocks = triton.cdiv(sides.num_items, BLOCK), triton.cdiv(num_queries, BLOCK)
    strips, programs = BLOCK // _STRIP, 2 * processors(device)
    num_groups = max(triton.cdiv(4 * wanted, strips), triton.cdiv(programs, num_blocks))
    least, most = _SAMPLE
    sample = min(max(_capacity(wanted) // (4 * wanted), least), most)
    item_step = max(1, num_tiles // max(num_groups, triton.cdiv(num_tiles, sample)))
    num_sampled = triton.cdiv(triton.cdiv(sides.num_items, item_step), BLOCK)
    num_groups = min(num_groups, num_sampled)
    keys = torch.empty((num_queries, num_groups * strips), dtype=torch.int64, device=device)
    args = (valid, num_groups, item_step, num_sampled, sides, tile, _STRIP)
    launch(_sample_groups, num_blocks * num_groups, keys, *args, **options)
    ordered = keys.sort(dim=1, descending=True).values
    rank = torch.full((num_queries,), k - 1, dtype=torch.int64, device=device) + allowance
    bounds = ordered.gather(1, rank.clamp(max=ordered.shape[1] - 1)[:, None])[:, 0]
    return torch.where(rank < ordered.shape[1], bounds, _NO_KEY)


def _all_keys(both: Operands, valid: Tensor | None) -> Tensor:
    """Keys of all items, int64 [B, N], for tables that fit into the room."""
    sides, tile, options = both
    shape = sides.num_queries, sides.num_items
    scores = torch.empty(shape, dtype=torch.float32, device=sides.query.device)
    grid = triton.cdiv(sides.num_items, BLOCK), triton.cdiv(sides.num_queries, BLOCK)
    launch(_score_all, grid, scores, sides, tile, **options)
    ordered = (scores + 0.0).view(torch.int32)  # as in _make_keys
    ordered = torch.where(ordered < 0, ordered ^ 0x7FFFFFFF, ordered).long()
    found = scores > -torch.inf
    found = found if valid is None else found & valid
    ids = torch.arange(sides.num_items, dtype=torch.int64, device=scores.device)
    return torch.where(found, (ordered << 32) | (_LAST_ID - ids), _NO_KEY)


def _best_keys(
    both: Operands,
    k: int,
    allowance: Tensor | int,
    wanted: int,
    valid: Tensor | None,
    excluded: Tensor | None,
    first_row: int,
) -> Tensor:
    """Keys of the k best items of each query in order, int64 [B, k]; `_NO_KEY` fills up."""
    sides, tile, options = both
    num_queries, num_items, capacity = sides.num_queries, sides.num_items, _capacity(wanted)
    device = sides.query.device
    if num_items <= capacity:
        keys = _all_keys(both, valid)
    else:
        bounds = _bounds(both, k, allowance, wanted, valid).clamp(min=_LOWEST)
        keys = torch.full((num_queries, capacity), _NO_KEY, dtype=torch.int64, device=device)
        found = torch.zeros(num_queries, dtype=torch.int32, device=device)
        room, both_sides = (found, capacity), (sides, tile)
        programs, tiles = share_tiles(sides)
        launch(_collect, programs, keys, *room, bounds, valid, tiles, *both_sides, **options)
        size = 0 if excluded is None else excluded.numel()
        args = (k, excluded, size, size.bit_length(), first_row, valid)
        launch(_search_again, num_queries, keys, *room, *args, *both_sides, **options)
    if excluded is not None:
        rows = torch.arange(first_row, first_row + num_queries, dtype=torch.int64, device=device)
        pairs = rows[:, None] * num_items + (_LAST_ID - (keys & 0xFFFFFFFF))
        slot = torch.searchsorted(excluded, pairs).clamp(max=excluded.numel() - 1)
        keys = keys.masked_fill((excluded[slot] == pairs) & (keys != _NO_KEY), _NO_KEY)
    return keys.topk(k, dim=1).values


def topk_catalog(
    query: Tensor,
    table: Tensor,
    k: int,
    exclude: Tensor | None,
    exclude_offsets: Tensor | None,
    valid: Tensor | None,
    row_stats: Tensor | None,
    source: Tensor | None,
    bad: Tensor,
) -> tuple[Tensor, Tensor]:
    """As `ops.reference.topk_catalog`, in float32; `bad` is set if an id is out of range."""
    if source is not None:  # exact, and fast enough on the tensor cores
        table, row_stats = source, None
    valid = None if valid is None else valid.contiguous()
    both = operands(query, table, row_stats)
    both.options["maxnreg"] = None  # these kernels need more registers than those that count
    num_queries, num_items = query.shape[0], table.shape[0]
    keys = torch.empty((num_queries, k), dtype=torch.int64, device=query.device)
    excluded: Tensor | None = None
    allowance: Tensor | int = 0  # a bound on the excluded items of each query
    mean_excluded = 0
    if num_queries and exclude is not None and exclude.numel():
        excluded = exclusion_keys(exclude, exclude_offsets, num_queries, num_items, bad)
        allowance = exclude.shape[1] if exclude_offsets is None else exclude_offsets.diff().clamp(0)
        mean_excluded = triton.cdiv(exclude.numel(), num_queries)
    wanted = k + mean_excluded
    step = max(1, _KEYS_AT_ONCE // _capacity(wanted) // BLOCK) * BLOCK
    for first in range(0, num_queries, step):
        rows = slice(first, first + step)
        allowed = allowance[rows] if isinstance(allowance, Tensor) else allowance
        keys[rows] = _best_keys(both.part(rows), k, allowed, wanted, valid, excluded, first)
    ordered = (keys >> 32).to(torch.int32)
    scores = torch.where(ordered < 0, ordered ^ 0x7FFFFFFF, ordered).view(torch.float32)
    missing = keys == _NO_KEY
    ids = _LAST_ID - (keys & 0xFFFFFFFF)
    return scores.masked_fill(missing, -torch.inf), ids.masked_fill(missing, -1)
