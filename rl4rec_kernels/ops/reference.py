"""Defines every operator in plain torch; all backends are tested against these definitions.

A score is the dot product rounded to float32: infinite beyond its range, and NaN only if an input
is NaN or infinities cancel (``inf * 0``, ``inf - inf``). So +inf ties with +inf, however far beyond
the range two dot products are. Subnormal values count like others.

Slow and memory-hungry on purpose: each candidate row is gathered and scored in float64, in which
products of float32 values neither overflow nor vanish. Of the rounding to float32 only the ends of
its range are applied, so that kernels can be held against more precise scores. Arguments
are those of the registered operators: `ids` is a matrix [B, C], or the values of ragged rows that
`offsets` [B + 1] delimits.
"""

import itertools
import math

import torch
from torch import Tensor

from rl4rec_kernels.metrics import Kind, Metric, RankCounts, Ties


def row_slices(ids: Tensor, offsets: Tensor | None) -> list[slice]:
    """The position of each row's ids in ``ids.reshape(-1)``."""
    if offsets is None:
        rows, columns = ids.shape
        return [slice(b * columns, (b + 1) * columns) for b in range(rows)]
    bounds = offsets.tolist()
    return [slice(a, b) for a, b in itertools.pairwise(bounds)]


def at_ends_of_float32(scores: Tensor) -> Tensor:
    """Round float64 scores to float32 where its range ends: beyond it, and below normal numbers."""
    rounded, limits = scores.float().double(), torch.finfo(torch.float32)
    inside = (scores.abs() >= limits.tiny) & (rounded.abs() <= limits.max)
    return torch.where(inside, scores, rounded)


def score_candidates(
    query: Tensor, table: Tensor, ids: Tensor, offsets: Tensor | None = None
) -> Tensor:
    """Dot product of every candidate with its query; padding (-1) scores -inf. Float64."""
    flat = ids.reshape(-1).long()
    scores = query.new_full(flat.shape, -math.inf, dtype=torch.float64)
    for b, where in enumerate(row_slices(ids, offsets)):
        items = (flat[where] >= 0).nonzero().squeeze(1) + where.start
        found = at_ends_of_float32(table[flat[items]].double() @ query[b].double())
        scores = scores.index_put((items,), found)
    return scores.reshape(ids.shape)


def rank_candidates(
    query: Tensor,
    table: Tensor,
    ids: Tensor,
    offsets: Tensor | None = None,
    scores: Tensor | None = None,
) -> RankCounts:
    """Counts of each row's candidates against its first one, the target.

    `scores` replaces the reference's own scores, to rank those of another backend.
    """
    scores = score_candidates(query, table, ids, offsets) if scores is None else scores
    flat_ids, flat_scores = ids.reshape(-1), scores.reshape(-1)
    counts = []
    for where in row_slices(ids, offsets):
        row, score = flat_ids[where], flat_scores[where]
        competitors = score[(row != -1) & (row != row[0])]
        if score[0].isnan():
            above, tied = competitors.numel(), 0
        else:
            above = int((competitors > score[0]).sum())
            tied = int((competitors == score[0]).sum())
        counts.append((above, tied, 1 + competitors.numel()))
    columns = torch.tensor(counts, dtype=torch.int64, device=query.device).reshape(-1, 3)
    return RankCounts(*columns.unbind(1))


def score_catalog(
    query: Tensor,
    table: Tensor,
    exclude: Tensor | None = None,
    offsets: Tensor | None = None,
    valid: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Scores of all items, float64 [B, N], and which of them compete, bool [B, N]."""
    competes = torch.ones(query.shape[0], table.shape[0], dtype=torch.bool, device=query.device)
    if valid is not None:
        competes &= valid
    if exclude is not None:
        flat = exclude.reshape(-1).long()
        for b, where in enumerate(row_slices(exclude, offsets)):
            competes[b, flat[where][flat[where] != -1]] = False
    return at_ends_of_float32(query.double() @ table.double().T), competes


def rank_catalog(
    query: Tensor,
    table: Tensor,
    targets: Tensor,
    exclude: Tensor | None = None,
    offsets: Tensor | None = None,
    valid: Tensor | None = None,
    scores: Tensor | None = None,
) -> RankCounts:
    """Counts of all competing items against each query's target, which always counts itself.

    `scores` replaces the reference's own scores, to rank those of another backend.
    """
    all_scores, competes = score_catalog(query, table, exclude, offsets, valid)
    scores = all_scores if scores is None else scores
    target = scores.gather(1, targets.long()[:, None])
    competes = competes.scatter(1, targets.long()[:, None], False)
    above = ((scores > target) | target.isnan()) & competes
    tied = (scores == target) & competes
    return RankCounts(above.sum(1), tied.sum(1), 1 + competes.sum(1))


def topk_catalog(
    query: Tensor,
    table: Tensor,
    k: int,
    exclude: Tensor | None = None,
    offsets: Tensor | None = None,
    valid: Tensor | None = None,
    scores: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """The k best competing items by score, then by lower id: scores and ids, [B, k].

    Items that score NaN or -inf are left out; (-inf, -1) fills up.
    """
    all_scores, competes = score_catalog(query, table, exclude, offsets, valid)
    scores = all_scores if scores is None else scores
    scores = scores.masked_fill(~competes | scores.isnan(), -math.inf)
    order = scores.sort(dim=1, descending=True, stable=True)
    best, ids = order.values[:, :k], order.indices[:, :k]
    return best, ids.masked_fill(best == -math.inf, -1)


def _log_softmax_of_first(logits: Tensor) -> Tensor:
    """Log-softmax of the first of n logits. Those at plus infinity, or all at minus infinity, share
    the mass equally, which is the limit.
    """
    largest = logits.detach().max()
    if largest.isinf():
        logits = torch.where(logits == largest, 0.0, -math.inf)
    return logits.log_softmax(0)[:1]


def log_prob_candidates(
    query: Tensor,
    table: Tensor,
    ids: Tensor,
    offsets: Tensor | None,
    log_q: Tensor | None,
    temperature: float,
    scores: Tensor | None = None,
) -> Tensor:
    """Log-softmax of each row's first candidate, float64 [B]; `log_q` [N] is subtracted.

    `scores` replaces the reference's own scores.
    """
    scores = score_candidates(query, table, ids, offsets) if scores is None else scores
    flat_ids, logits = ids.reshape(-1).long(), scores.reshape(-1).double() / temperature
    if log_q is not None:
        logits = logits - log_q.double()[flat_ids.clamp(min=0)]
    lengths = [where.stop - where.start for where in row_slices(ids, offsets)]
    found = [query.new_zeros(0, dtype=torch.float64)]
    for row, own in zip(flat_ids.split(lengths), logits.split(lengths), strict=True):
        competes = (row != -1) & (row != row[0])
        found.append(_log_softmax_of_first(torch.cat([own[:1], own[competes]])))
    return torch.cat(found)


def log_prob_catalog(
    query: Tensor,
    table: Tensor,
    targets: Tensor,
    exclude: Tensor | None,
    offsets: Tensor | None,
    valid: Tensor | None,
    temperature: float,
    scores: Tensor | None = None,
) -> Tensor:
    """Log-softmax of each query's target among all competing items, float64 [B].

    `scores` replaces the reference's own scores.
    """
    all_scores, competes = score_catalog(query, table, exclude, offsets, valid)
    logits = (all_scores if scores is None else scores).double() / temperature
    competes = competes.scatter(1, targets.long()[:, None], False)
    found = [query.new_zeros(0, dtype=torch.float64)]
    for row, target, others in zip(logits, targets.tolist(), competes, strict=True):
        found.append(_log_softmax_of_first(torch.cat([row[target : target + 1], row[others]])))
    return torch.cat(found)


def exact_table(values: Tensor, row_stats: Tensor | None, source: Tensor | None) -> Tensor:
    """The embeddings that are ranked: `source` for refined results, else the scaled `values`."""
    if source is not None or row_stats is None:
        return values if source is None else source
    return values.double() * row_stats[:, :1].double()


def metric_at_rank(metric: Metric, rank: Tensor, total: int) -> Tensor:
    """A metric of one relevant item at given ranks, float64, from 1; halves may occur."""
    kind, cutoff = metric
    within = (rank <= cutoff).double()
    if kind is Kind.NDCG:
        return within / torch.log2(1 + rank)
    if kind is Kind.HIT:
        return within
    if kind is Kind.MRR:
        return within / rank
    if kind is Kind.AUC:
        return (total - rank) / (total - 1) if total > 1 else torch.ones_like(rank)
    if kind is Kind.LOGRANK:
        return 1 - rank.log() / math.log(total) if total > 1 else torch.ones_like(rank)
    return rank


def metrics_from_counts(counts: RankCounts, metrics: list[Metric], ties: Ties) -> Tensor:
    """Metrics [B, M] in float64; the expectation over ties is a mean over all their ranks."""
    device = counts.above.device
    result = torch.empty(len(counts.above), len(metrics), dtype=torch.float64, device=device)
    for row, (above, tied, total) in enumerate(torch.stack(tuple(counts), 1).tolist()):
        ranks = {
            Ties.OPTIMISTIC: [1 + above],
            Ties.PESSIMISTIC: [1 + above + tied],
            Ties.AVERAGE: [1 + above + tied / 2],
            Ties.EXPECTED: range(1 + above, 2 + above + tied),
        }[ties]
        rank = torch.tensor(ranks, dtype=torch.float64, device=device)
        for column, metric in enumerate(metrics):
            result[row, column] = metric_at_rank(metric, rank, total).mean()
    return result


def reward_candidates(
    query: Tensor,
    table: Tensor,
    ids: Tensor,
    offsets: Tensor | None,
    metrics: list[Metric],
    ties: Ties,
) -> Tensor:
    """Metrics of every row's target, float64 [B, M]."""
    counts = rank_candidates(query, table, ids, offsets)
    return metrics_from_counts(counts, metrics, ties)
