"""Counts of several targets per query on a GPU: what is of the size of the targets."""

from collections.abc import Callable

import torch
from torch import Tensor

from rl4rec_kernels.ops._arguments import Ids, Targets
from rl4rec_kernels.ops._blocks import have_repeats, row_of_each
from rl4rec_kernels.ops._exclusions import exclusion_keys

Scores = Callable[[Tensor, Tensor], Tensor]
"""Scores float32 of pairs, by their rows of queries and of items."""
Counts = Callable[[Tensor, Tensor, Tensor | None], Tensor]
"""Counts int64 [2, T] of all items above a target and tied with it, the target too, by the scores
and offsets of targets, and the excluded pairs that do not compete, if there are some."""


def rank_in_lists(
    shape: tuple[int, int],
    targets: Targets,
    exclude: Ids,
    valid: Tensor | None,
    bad: Tensor,
    score: Scores,
    count: Counts,
) -> tuple[Tensor, ...]:
    """The result of `ops.reference.rank_catalog_targets` for queries and items of this number.

    `bad` is set if an id is out of range, or a target is not valid or repeated. The total of a
    target that is out of range is negative.
    """
    (num_queries, num_items), num_targets = shape, targets.values.shape[0]
    none = torch.zeros(num_targets, dtype=torch.int64, device=targets.values.device)
    if num_queries == 0 or num_targets == 0:
        return none, none.clone(), none.clone()
    if num_items == 0:
        bad.fill_(1)
        return none, none.clone(), none - 1
    own = Targets(targets.values.long(), targets.offsets.contiguous())
    offsets = own.offsets
    fits = (offsets[0] == 0) & (offsets[-1] == num_targets) & (offsets.diff() >= 0).all()
    is_here = (own.values >= 0) & (own.values < num_items)
    ids = torch.where(is_here, own.values, 0)
    bad |= ~fits | ~is_here.all() | have_repeats(own, num_items)
    if valid is not None:
        bad |= ~valid[ids].all()
    rows = row_of_each(own)
    offsets = torch.where(fits, offsets, 0)  # else there is an error, whatever is counted
    scores = score(rows, ids)
    total = none + num_items if valid is None else none + valid.sum()
    keys = None
    if exclude.values is not None and exclude.values.numel():
        pairs = (rows * num_items + ids).sort().values
        keys = _excluded_keys(exclude, num_items, pairs, valid, num_queries, bad)
        num_excluded = none.new_zeros(num_queries)
        num_excluded.index_add_(0, keys.clamp(min=0) // num_items, (keys >= 0).long())
        total = total - num_excluded[rows]
    above, tied = count(scores, offsets, keys)
    is_nan = scores.isnan()  # they share the last ranks
    num_nan = none.new_zeros(num_queries).index_add(0, rows, is_nan.long())[rows]
    above = torch.where(is_nan, total - num_nan, above)
    tied = torch.where(is_nan, num_nan, tied) - 1  # not with itself
    return above, tied, torch.where(is_here, total, -1)


def _excluded_keys(
    exclude: Ids,
    num_items: int,
    targets: Tensor,
    valid: Tensor | None,
    num_queries: int,
    bad: Tensor,
) -> Tensor:
    """Pairs to take out of the counts as numbers row * N + id: each once; -1 for what stays in.

    `targets` are the pairs of targets, sorted. No shape depends on values, so that a CUDA graph can
    be captured.
    """
    assert exclude.values is not None
    keys = exclusion_keys(exclude.values, exclude.offsets, num_queries, num_items, bad)
    stays = keys == torch.nn.functional.pad(keys[:-1], (1, 0), value=-1)  # repeats
    at = torch.searchsorted(targets, keys).clamp(max=len(targets) - 1)
    stays |= targets[at] == keys
    if valid is not None:
        stays |= ~valid[keys.clamp(min=0) % num_items]
    return keys.masked_fill(stays, -1)
