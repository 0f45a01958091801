"""Ranks of several targets per query by the CUDA C++ kernels for Hopper (csrc/cuda/sm90)."""

from typing import Any

from torch import Tensor

from rl4rec_kernels.ops._arguments import Catalog, Ids, Targets
from rl4rec_kernels.ops._hopper_sides import excluded_pairs, operands_of, scales_of_tiles
from rl4rec_kernels.ops._target_lists import rank_in_lists


def rank_catalog_targets(
    raw: Any,
    query: Tensor,
    table: Tensor,
    targets: Tensor,
    target_offsets: Tensor,
    exclude: Tensor | None,
    exclude_offsets: Tensor | None,
    valid: Tensor | None,
    row_stats: Tensor | None,
    source: Tensor | None,
    bad: Tensor,
) -> tuple[Tensor, ...]:
    """As `rank_in_lists`, by the raw operators `score_pairs` and `count_catalog_targets`."""
    valid = None if valid is None else valid.contiguous()
    catalog = Catalog(table, valid, row_stats, source)
    *sides, query_scale, table_scale = operands_of(query, catalog)
    scales = query_scale, scales_of_tiles(table_scale)
    shape = num_queries, num_items = len(query), len(table)

    def score(rows: Tensor, ids: Tensor) -> Tensor:
        scores: Tensor = raw.score_pairs(*sides, rows, ids, *scales)
        return scores

    def count(scores: Tensor, offsets: Tensor, keys: Tensor | None) -> Tensor:
        excluded: tuple[Tensor | None, Tensor | None] = None, None
        if keys is not None:
            excluded = excluded_pairs(keys, keys < 0, num_queries, num_items)
        counts: Tensor = raw.count_catalog_targets(
            *sides, scores, offsets, valid, *excluded, *scales
        )
        return counts

    own, others = Targets(targets, target_offsets), Ids(exclude, exclude_offsets)
    return rank_in_lists(shape, own, others, valid, bad, score, count)
