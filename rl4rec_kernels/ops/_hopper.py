"""Catalogs by the CUDA C++ kernels for GPUs of compute capability 9.0 (csrc/cuda/sm90).

The kernels score, count and sum; what is of the size of the queries or of their exclusions is done
here, by torch. Nothing waits for the device.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from rl4rec_kernels.ops import _backends, _hopper_targets, _hopper_topk
from rl4rec_kernels.ops._arguments import NO_IDS, Catalog, Ids
from rl4rec_kernels.ops._backends import Backend
from rl4rec_kernels.ops._exclusions import exclusion_keys, sort_by_tile
from rl4rec_kernels.ops._hopper_sides import (
    TILE,
    operands_of,
    places_in_tiles,
    scales_of_tiles,
)

_DTYPES = {  # of queries and items that are multiplied
    (torch.bfloat16, torch.bfloat16),
    (torch.float16, torch.float16),
    (torch.float32, torch.float32),
    (torch.float32, torch.bfloat16),
}

topk_catalog = _hopper_topk.topk_catalog
rank_catalog_targets = _hopper_targets.rank_catalog_targets


def resolve_backend(backend: Backend, query: Tensor, catalog: Catalog) -> Backend:
    """Return the backend of a call on a catalog, as `_backends.resolve_backend`.

    Raises
    ------
    ValueError
        If the backend is unknown, or cannot run on the device or with the dtypes.
    """
    if not isinstance(backend, str) or backend != "cuda":
        return _backends.resolve_backend(backend, query, cuda=False)
    _check_dtypes(query, catalog)
    backend = _backends.resolve_backend(backend, query)
    _check_device(query)
    return backend


def _check_dtypes(query: Tensor, catalog: Catalog) -> None:
    """Check what the kernels multiply.

    Raises
    ------
    ValueError
        If `query` and the table have dtypes that they do not.
    """
    values, _, row_stats, source = catalog
    table = values if source is None else source
    if source is None and row_stats is not None:  # queries are rounded
        return
    if (query.dtype, table.dtype) not in _DTYPES:
        raise ValueError(
            "backend='cuda' scores a catalog if query and table have the same dtype, or query is "
            f"float32 and table bfloat16, got {query.dtype} and {table.dtype}; "
            "pass backend='triton' or 'auto'"
        )


def _check_device(query: Tensor) -> None:
    """Check that the kernels run on the GPU of `query`.

    Raises
    ------
    ValueError
        If its compute capability is not 9.0, or the package was built without these kernels.
    """
    if not query.is_cuda:  # a test has replaced the kernels
        return
    capability = torch.cuda.get_device_capability(query.device)
    if capability != (9, 0):
        raise ValueError(
            "backend='cuda' scores a catalog on GPUs of compute capability 9.0 only, got "
            f"{'.'.join(map(str, capability))}; pass backend='triton' or 'auto'"
        )
    if not hasattr(_backends.kernels("cuda"), "count_catalog_targets"):
        raise ValueError(
            "backend='cuda' needs kernels for catalogs, which were not compiled; install again "
            "with nvcc 12 or later, or pass backend='triton'"
        )


def or_triton(name: str) -> Callable[..., Any]:
    """Return what implements an operator with `kernels`: a function of this module, or Triton's."""

    def call(kernels: Any, *args: Any) -> Any:
        if kernels is _backends.kernels("cuda"):
            return globals()[name](kernels, *args)
        return getattr(kernels, name)(*args)

    return call


def rank_catalog(
    raw: Any,
    query: Tensor,
    table: Tensor,
    targets: Tensor,
    exclude: Tensor | None,
    exclude_offsets: Tensor | None,
    valid: Tensor | None,
    row_stats: Tensor | None,
    source: Tensor | None,
    target_scores: Tensor | None,
    bad: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """As `ops.reference.rank_catalog`, by the raw operators `score_pairs` and `count_catalog`.

    `target_scores` are given if targets may be elsewhere (-1). `bad` is set if an id is out of
    range or a target is not valid. The total of a row whose target is out of range is negative.
    """
    catalog = Catalog(table, valid, row_stats, source)
    call = _Call(raw, query, catalog, targets, Ids(exclude, exclude_offsets), bad)
    scores = call.score_targets() if target_scores is None else target_scores.contiguous()
    wrong = ~call.known if target_scores is None else ~call.known & (call.targets != -1)
    bad |= wrong.any()
    counts = raw.count_catalog(*call.sides, scores, call.valid, *call.scales)
    return call.without_excluded(counts, scores, wrong)


def log_prob_catalog(
    raw: Any,
    query: Tensor,
    table: Tensor,
    targets: Tensor,
    exclude: Tensor | None,
    exclude_offsets: Tensor | None,
    valid: Tensor | None,
    temperature: float,
    bad: Tensor,
) -> tuple[Tensor, Tensor]:
    """As Triton's `log_prob_catalog`, by the raw operators `score_pairs` and `sum_catalog`."""
    catalog = Catalog(table, valid, None, None)
    call = _Call(raw, query, catalog, targets, Ids(exclude, exclude_offsets), bad)
    bad |= (~call.known).any()
    return call.log_probs(call.score_targets(), temperature)


def rank_log_prob_catalog(
    raw: Any,
    query: Tensor,
    table: Tensor,
    targets: Tensor,
    exclude: Tensor | None,
    exclude_offsets: Tensor | None,
    valid: Tensor | None,
    temperature: float,
    bad: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Both of them, to the bit, by one pass over the items."""
    catalog = Catalog(table, valid, None, None)
    call = _Call(raw, query, catalog, targets, Ids(exclude, exclude_offsets), bad)
    bad |= (~call.known).any()
    scores = call.score_targets()
    counts = call.targets.new_zeros((2, len(targets)))
    log_probs, _ = call.log_probs(scores, temperature, counts)
    return *call.without_excluded(counts, scores, ~call.known), log_probs


class _Call:
    """What the operators on the catalog share."""

    def __init__(
        self,
        raw: Any,
        query: Tensor,
        catalog: Catalog,
        targets: Tensor,
        exclude: Ids,
        bad: Tensor,
    ) -> None:
        self.raw, self.bad = raw, bad
        *self.sides, query_scale, table_scale = operands_of(query, catalog)
        self.scales = query_scale, scales_of_tiles(table_scale)
        self.num_queries, self.num_items, valid = len(query), len(catalog.values), catalog.valid
        self.valid = None if valid is None else valid.contiguous()
        self.targets = targets.long().contiguous()
        self.known = (self.targets >= 0) & (self.targets < self.num_items)
        if self.valid is not None and self.num_items:
            bad |= (self.known & ~self.valid[torch.where(self.known, self.targets, 0)]).any()
        some = exclude.values is not None and exclude.values.numel() > 0
        self.exclude = exclude if some and self.num_items and self.num_queries else NO_IDS

    def score_targets(self) -> Tensor:
        """The score of each query's target; -inf for those that are not in the table."""
        return self.score_pairs(None, self.targets)

    def score_pairs(self, rows: Tensor | None, items: Tensor) -> Tensor:
        scores: Tensor = self.raw.score_pairs(*self.sides, rows, items, *self.scales)
        return scores

    def without_excluded(
        self, counts: Tensor, scores: Tensor, wrong: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The result of `rank_catalog` from the counts [2, B] of all valid items."""
        above, tied = counts
        valid, num_items = self.valid, self.num_items
        total = torch.full_like(above, num_items) if valid is None else valid.sum().expand_as(above)
        total = total.clone()
        ids, offsets = self.exclude
        if ids is not None:
            keys = exclusion_keys(ids, offsets, self.num_queries, num_items, self.bad)
            repeated = F.pad(keys[1:] == keys[:-1], (1, 0))  # next to each other
            rows, items = keys.clamp(min=0) // num_items, keys % num_items
            counted = (keys >= 0) & ~repeated & (items != self.targets[rows])
            if valid is not None:
                counted &= valid[items]
            pairs = torch.where(counted, items, -1)
            found = self.score_pairs(rows, pairs)
            for part, hits in (
                (above, found > scores[rows]),
                (tied, found == scores[rows]),
                (total, counted),
            ):
                part.index_add_(0, rows, (hits & counted).long(), alpha=-1)
        is_nan = scores.isnan()
        tied = tied - (self.known & ~is_nan).long()  # the target with itself
        total = total + (~self.known).long()  # which counts wherever it is
        above = torch.where(is_nan, total - 1, above)  # a NaN target ranks last
        return above, tied, torch.where(wrong, -1, total)

    def log_probs(
        self, scores: Tensor, temperature: float, counts: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """The result of `log_prob_catalog`; `counts` [2, B] are added to, as `count_catalog`."""
        own = self.targets.clamp(0, max(0, self.num_items - 1))
        keys, starts = sort_by_tile(*self.exclude, own, self.num_items, self.bad, TILE)
        pairs = None if keys is None else places_in_tiles(keys, self.num_items)
        sums = self.raw.sum_catalog(
            *self.sides,
            None if counts is None else scores,
            self.valid,
            pairs,
            starts,
            math.log2(math.e) / temperature,
            None if counts is None else counts.view(-1),
        )
        scores = scores.masked_fill(~self.known, torch.nan)
        add_ranges = _backends.kernels("triton").add_ranges
        found: tuple[Tensor, Tensor] = add_ranges(*sums, scores, temperature)
        return found
