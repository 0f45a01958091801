"""Rank metrics computed from counts."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from rl4rec_kernels._utils.checks import shown
from rl4rec_kernels.metrics import RankCounts, TieRule, check_counts, parse_metrics, parse_ties
from rl4rec_kernels.ops import _backends, reference
from rl4rec_kernels.ops._backends import Backend


def metrics_from_counts(
    counts: RankCounts,
    metrics: Sequence[str],
    ties: TieRule = "expected",
    *,
    offsets: Tensor | None = None,
    backend: Backend = "auto",
) -> Tensor:
    """Compute rank metrics from counts.

    With one relevant item at rank r among `total` candidates:

    =========== ==========================================================
    ndcg@k      [r <= k] / log2(1 + r)
    hit@k       [r <= k]
    mrr@k       [r <= k] / r; ``mrr`` has no cut-off
    auc         (total - r) / (total - 1); 1 without competitors
    logrank     1 - log(r) / log(total); 1 without competitors
    rank        r
    recall@k    [r <= k]
    precision@k [r <= k] / k
    map@k       [r <= k] / r
    =========== ==========================================================

    With n relevant items at the ranks r_1 < … < r_n of one list (`offsets`), h of them up to k:

    =========== ==========================================================
    ndcg@k      the sum of 1 / log2(1 + r_i) over r_i <= k, divided by that of the ranks 1 … min(n,
                k)
    hit@k       [h > 0]
    mrr@k       [r_1 <= k] / r_1; ``mrr`` has no cut-off
    recall@k    h / n
    precision@k h / k
    map@k       the sum of i / r_i over r_i <= k, divided by min(n, k)
    auc         the share of the n (total - n) pairs of a target and another item that are in order;
                1 if there is none
    logrank     the mean over the relevant items
    rank        the mean over the relevant items
    =========== ==========================================================

    Parameters
    ----------
    counts : RankCounts
        Counts of B rows, on any device.
    metrics : sequence of str
        M metric names; case does not matter.
    ties : {"expected", "optimistic", "pessimistic", "average"}
        The rank r of a target with `above` competitors above it and `tied` at its score: optimistic
        1 + above, pessimistic 1 + above + tied, average 1 + above + tied / 2; expected is the mean
        of the metric over r = 1 + above ... 1 + above + tied, so that a constant model earns what
        chance earns (McSherry & Najork, ECIR 2008). With several targets of the same score,
        expected is the mean over all orders of the tied items; in the others, too, no two targets
        share a rank: they are the first ones, the last ones, or evenly spread.
    offsets : Tensor, int64 [B + 1], optional
        For counts of several targets per query: those of query i are from ``offsets[i]`` to
        ``offsets[i + 1]``, as `rank_catalog` returns them for `RaggedIds`.
    backend : {"auto", "cpu", "triton", "reference"}
        The implementation to use. ``"auto"`` uses C++ on the CPU and Triton on a GPU.

    Returns
    -------
    Tensor
        float32, shape [B, M]; computed in float64. With `offsets`, NaN for queries without targets.

    Raises
    ------
    ValueError
        If a metric or the tie rule is unknown, the counts differ in shape, or `offsets` do not
        belong to them. With ``"cpu"`` also
        if a count is negative, or ``above + tied`` is not less than ``total``; the message names
        the row. With the other backends such a row's metrics mean nothing.
    TypeError
        If the counts or the offsets are not int64.

    Examples
    --------
    >>> counts = RankCounts(torch.tensor([0]), torch.tensor([1]), torch.tensor([4]))
    >>> metrics_from_counts(counts, ("hit@1", "rank"))
    tensor([[0.5000, 1.5000]])
    """
    numbers = metric_arguments(metrics, ties)
    check_counts(counts)
    backend = _backends.resolve_backend(backend, counts[0], cuda=False)
    if offsets is not None:
        _check_offsets(offsets, counts)
    if backend == "reference":
        parsed, rule = parse_metrics(metrics), parse_ties(ties)
        if offsets is not None:
            return reference.metrics_of_targets(counts, offsets, parsed, rule).float()
        return reference.metrics_from_counts(counts, parsed, rule).float()
    operators = _backends.operators(backend)
    if offsets is not None:
        return operators.metrics_of_targets(*counts, offsets, *numbers)
    return operators.metrics_from_counts(*counts, *numbers)


def _check_offsets(offsets: Tensor, counts: RankCounts) -> None:
    if not isinstance(offsets, Tensor) or offsets.dtype != torch.int64:
        raise TypeError(f"offsets must be an int64 tensor, got {shown(offsets)}")
    if offsets.dim() != 1 or not offsets.shape[0]:
        raise ValueError(f"offsets must be [B + 1], got shape {tuple(offsets.shape)}")
    if offsets.device != counts.above.device:
        raise ValueError(
            f"offsets is on {offsets.device} but counts on {counts.above.device}; move one of them "
            "with .to(device)"
        )


def metric_arguments(metrics: Sequence[str], ties: TieRule) -> tuple[list[int], list[int], int]:
    """Return metrics and the tie rule as operators take them: kinds, cut-offs and the rule."""
    parsed = parse_metrics(metrics)
    return [int(m.kind) for m in parsed], [m.cutoff for m in parsed], int(parse_ties(ties))


def _empty_metrics_of_targets(above: Tensor, tied: Tensor, total: Tensor, *rest: Any) -> Tensor:
    offsets, kinds, *_ = rest
    return above.new_empty((offsets.shape[0] - 1, len(kinds)), dtype=torch.float32)


_backends.register("metrics_from_counts", _backends.empty_metrics, cuda=False)
_backends.register("metrics_of_targets", _empty_metrics_of_targets, cuda=False)
