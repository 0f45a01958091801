"""Queries of quantized tables, which GPU kernels round as the tables are."""

import torch
from torch import Tensor

_LEAST = 2.0**-149  # above 0 in float32


def round_queries(
    query: Tensor, values: Tensor, row_stats: Tensor | None
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Return the queries that are multiplied with `values`, and the scales of both.

    Scales are float32 [B] and [N], None where they are 1; queries have them for int8. Without
    `row_stats` the table is not quantized.
    """
    if row_stats is None:
        return query, None, None
    if values.dtype == torch.bfloat16:
        return query.to(torch.bfloat16), None, None
    table_scale = row_stats[:, 0].contiguous()
    if values.dtype != torch.int8:
        return query.to(torch.bfloat16), None, table_scale
    largest = query.float().abs().amax(1) if query.shape[1] else query.new_zeros(len(query))
    scale = torch.where(largest == 0, 1.0, (largest / 127).clamp(min=_LEAST)).float()
    # int8 has no NaN; a scale of NaN makes all scores NaN.
    scale = torch.where(scale.isfinite(), scale, torch.nan)
    query = (query.float() / scale[:, None]).round().clamp(-127, 127).to(torch.int8)
    return query, scale, table_scale
