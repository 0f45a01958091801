"""Catalogs by the CUDA C++ kernels for GPUs of compute capability 9.0 (csrc/cuda/sm90).

The kernels score and count; what is of the size of the queries or of their exclusions is done here,
by torch. Nothing waits for the device.
"""

from typing import Any

import torch
from torch import Tensor

from rl4rec_kernels.ops import _backends
from rl4rec_kernels.ops._arguments import Catalog
from rl4rec_kernels.ops._exclusions import exclusion_keys

_DTYPES = (torch.bfloat16, torch.float16)


def check_dtypes(query: Tensor, catalog: Catalog) -> None:
    """Check what the kernels multiply.

    Raises
    ------
    ValueError
        If `query` and the table are not both bfloat16 or both float16.
    """
    values, _, row_stats, _ = catalog
    if query.dtype == values.dtype and query.dtype in _DTYPES and row_stats is None:
        return
    quantized = " quantized" if row_stats is not None else ""
    raise ValueError(
        "backend='cuda' scores a catalog if query and table are both bfloat16 or both float16, got "
        f"{query.dtype} and{quantized} {values.dtype}; pass backend='triton' or 'auto'"
    )


def check_device(query: Tensor) -> None:
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
    if not hasattr(_backends.kernels("cuda"), "count_catalog"):
        raise ValueError(
            "backend='cuda' needs kernels for catalogs, which were not compiled; install again "
            "with nvcc 12 or later, or pass backend='triton'"
        )


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
    assert row_stats is None and source is None  # noqa: PT018 - see check_dtypes
    num_queries, num_items = query.shape[0], table.shape[0]
    valid = None if valid is None else valid.contiguous()
    targets = targets.long().contiguous()
    known = (targets >= 0) & (targets < num_items)
    wrong = ~known if target_scores is None else ~known & (targets != -1)
    bad |= wrong.any()
    if valid is not None and num_items:
        bad |= (known & ~valid[torch.where(known, targets, 0)]).any()
    if target_scores is None:
        scores = raw.score_pairs(query, table, None, targets)
    else:
        scores = target_scores.contiguous()
    above, tied = raw.count_catalog(query, table, scores, valid)
    total = torch.full_like(above, num_items) if valid is None else valid.sum().expand_as(above)
    total = total.clone()
    if exclude is not None and exclude.numel() and num_items and num_queries:
        keys = exclusion_keys(exclude, exclude_offsets, num_queries, num_items, bad)
        repeated = torch.nn.functional.pad(keys[1:] == keys[:-1], (1, 0))  # next to each other
        rows, items = keys.clamp(min=0) // num_items, keys % num_items
        counted = (keys >= 0) & ~repeated & (items != targets[rows])
        if valid is not None:
            counted &= valid[items]
        found = raw.score_pairs(query, table, rows, torch.where(counted, items, -1))
        for counts, hits in (
            (above, found > scores[rows]),
            (tied, found == scores[rows]),
            (total, counted),
        ):
            counts.index_add_(0, rows, (hits & counted).long(), alpha=-1)
    is_nan = scores.isnan()
    tied = tied - (known & ~is_nan).long()  # the target with itself
    total = total + (~known).long()  # which counts wherever it is
    above = torch.where(is_nan, total - 1, above)  # a NaN target ranks last
    return above, tied, torch.where(wrong, -1, total)


def topk_catalog(raw: Any, *args: Any) -> tuple[Tensor, Tensor]:
    """As `ops.reference.topk_catalog`; only the pass over all items is by `collect_catalog`.

    Triton samples the items before it, and searches again where there was too little room.
    """
    return _backends.kernels("triton").topk_catalog(*args, collect=raw.collect_catalog)
