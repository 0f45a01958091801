"""Rank metrics computed from counts."""

from collections.abc import Sequence

from torch import Tensor

from rl4rec_kernels.metrics import RankCounts, check_counts, parse_metrics, parse_ties
from rl4rec_kernels.ops import _backends, reference


def metrics_from_counts(
    counts: RankCounts, metrics: Sequence[str], ties: str = "expected", *, backend: str = "auto"
) -> Tensor:
    """Compute rank metrics from counts.

    With one relevant item at rank r among `total` candidates:

    ========= ==========================================================
    ndcg@k    [r <= k] / log2(1 + r)
    hit@k     [r <= k]
    mrr@k     [r <= k] / r; ``mrr`` has no cut-off
    auc       (total - r) / (total - 1); 1 without competitors
    logrank   1 - log(r) / log(total); 1 without competitors
    rank      r
    ========= ==========================================================

    Parameters
    ----------
    counts : RankCounts
        Counts of B rows, on any device.
    metrics : sequence of str
        M metric names.
    ties : {"expected", "optimistic", "pessimistic", "average"}
        The rank r of a target with `above` competitors above it and `tied` at its score: optimistic
        1 + above, pessimistic 1 + above + tied, average 1 + above + tied / 2; expected is the mean
        of the metric over r = 1 + above ... 1 + above + tied, so that a constant model earns what
        chance earns (McSherry & Najork, ECIR 2008).
    backend : {"auto", "cpu", "triton", "reference"}
        The implementation to use. ``"auto"`` uses C++ on the CPU and Triton on a GPU.

    Returns
    -------
    Tensor
        float32, shape [B, M]; computed in float64.

    Raises
    ------
    ValueError
        If a metric or the tie rule is unknown, or the counts differ in shape. With ``"cpu"`` also
        if a count is negative, or ``above + tied`` is not less than ``total``; the message names
        the row. With the other backends such a row's metrics mean nothing.
    TypeError
        If the counts are not int64.

    Examples
    --------
    >>> counts = RankCounts(torch.tensor([0]), torch.tensor([1]), torch.tensor([4]))
    >>> metrics_from_counts(counts, ("hit@1", "rank"))
    tensor([[0.5000, 1.5000]])
    """
    numbers = metric_arguments(metrics, ties)
    check_counts(counts)
    backend = _backends.resolve_backend(backend, counts[0], cuda=False)
    if backend == "reference":
        parsed, rule = parse_metrics(metrics), parse_ties(ties)
        return reference.metrics_from_counts(counts, parsed, rule).float()
    return _backends.operators(backend).metrics_from_counts(*counts, *numbers)


def metric_arguments(metrics: Sequence[str], ties: str) -> tuple[list[int], list[int], int]:
    """Return metrics and the tie rule as operators take them: kinds, cut-offs and the rule."""
    parsed = parse_metrics(metrics)
    return [int(m.kind) for m in parsed], [m.cutoff for m in parsed], int(parse_ties(ties))


_backends.register("metrics_from_counts", _backends.empty_metrics, cuda=False)
