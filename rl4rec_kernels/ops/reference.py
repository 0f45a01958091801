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
from typing import NamedTuple

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


def rank_catalog_targets(
    query: Tensor,
    table: Tensor,
    targets: Tensor,
    target_offsets: Tensor,
    exclude: Tensor | None = None,
    offsets: Tensor | None = None,
    valid: Tensor | None = None,
    scores: Tensor | None = None,
) -> RankCounts:
    """Counts of each of several targets of a query in the query's one list, which has them all.

    Targets with a score of NaN share the last ranks. `scores` is as in `rank_catalog`.
    """
    all_scores, competes = score_catalog(query, table, exclude, offsets, valid)
    scores = all_scores if scores is None else scores
    counts = []
    for b, where in enumerate(row_slices(targets, target_offsets)):
        own = targets[where].long()
        competes[b, own] = True
        listed = scores[b, competes[b]]
        num_nan = int(scores[b, own].isnan().sum())
        for score in scores[b, own]:
            if score.isnan():
                counts.append((len(listed) - num_nan, num_nan - 1, len(listed)))
            else:
                above, tied = int((listed > score).sum()), int((listed == score).sum()) - 1
                counts.append((above, tied, len(listed)))
    columns = torch.tensor(counts, dtype=torch.int64, device=query.device).reshape(-1, 3)
    return RankCounts(*columns.unbind(1))


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
    if kind in (Kind.HIT, Kind.RECALL):
        return within
    if kind is Kind.PRECISION:
        return within / cutoff
    if kind in (Kind.MRR, Kind.MAP):
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


class TiedGroup(NamedTuple):
    """Items of one score in a query's list: `size` of them at the ranks `above` + 1 and so on."""

    above: int
    size: int
    relevant: int  # targets among them


def tied_groups(above: list[int], tied: list[int]) -> list[TiedGroup]:
    """The groups that have targets, best first, from the counts of a query's targets."""
    sizes = {a: t + 1 for a, t in zip(above, tied, strict=True)}
    return [TiedGroup(a, sizes[a], above.count(a)) for a in sorted(sizes)]


def metric_at_ranks(metric: Metric, ranks: list[float], total: int) -> float:
    """A metric of n relevant items at these ranks, which rise."""
    kind, cutoff = metric
    n, hits = len(ranks), sum(r <= cutoff for r in ranks)
    if kind is Kind.NDCG:
        ideal = sum(1 / math.log2(1 + i) for i in range(1, min(n, cutoff) + 1))
        return sum(1 / math.log2(1 + r) for r in ranks[:hits]) / ideal
    if kind is Kind.HIT:
        return float(hits > 0)
    if kind is Kind.MRR:
        return 1 / ranks[0] if hits else 0.0
    if kind is Kind.RECALL:
        return hits / n
    if kind is Kind.PRECISION:
        return hits / cutoff
    if kind is Kind.MAP:
        return sum(i / r for i, r in enumerate(ranks[:hits], 1)) / min(n, cutoff)
    if kind is Kind.AUC:  # of the items below each target, n - i are targets
        pairs = sum(total - r - (n - i) for i, r in enumerate(ranks, 1))
        return pairs / (n * (total - n)) if total > n else 1.0
    if kind is Kind.LOGRANK:
        return 1 - sum(map(math.log, ranks)) / n / math.log(total) if total > 1 else 1.0
    return sum(ranks) / n


def expected_metric(metric: Metric, groups: list[TiedGroup], total: int) -> float:
    """The mean of a metric over all orders of each tied group."""
    kind, cutoff = metric
    if kind in (Kind.HIT, Kind.MRR):  # those of the first target, which is in the first group
        (above, size, relevant), ways = groups[0], math.comb(groups[0].size, groups[0].relevant)
        first = [math.comb(size - j, relevant - 1) / ways for j in range(1, size + 1)]
        gains = [1.0 if kind is Kind.HIT else 1 / (above + j) for j in range(1, size + 1)]
        terms = zip(first, gains, strict=True)
        return sum(p * gain for p, gain in list(terms)[: max(0, cutoff - above)])
    if kind is Kind.MAP:
        summed, before = 0.0, 0
        for above, size, relevant in groups:
            for j in range(1, min(size, cutoff - above) + 1):
                others = (j - 1) * (relevant - 1) / (size - 1) if size > 1 else 0
                summed += relevant / size * (before + 1 + others) / (above + j)
            before += relevant
        return summed / min(before, cutoff)
    # The others are sums over the targets, of which each is at every rank of its group equally
    # often. So is the sum over `relevant` of `size` targets that take these ranks.
    n = sum(group.relevant for group in groups)
    if kind is Kind.AUC:
        mean = sum(g.relevant * (g.above + (g.size + 1) / 2) for g in groups) / n
        return (total - mean - (n - 1) / 2) / (total - n) if total > n else 1.0
    one, summed = Kind.HIT if kind in (Kind.RECALL, Kind.PRECISION) else kind, 0.0
    for above, size, relevant in groups:
        ranks = torch.arange(above + 1, above + size + 1, dtype=torch.float64, device="cpu")
        summed += relevant * metric_at_rank(Metric(one, cutoff), ranks, total).mean().item()
    if kind is Kind.NDCG:
        return summed / sum(1 / math.log2(1 + i) for i in range(1, min(n, cutoff) + 1))
    return summed / (cutoff if kind is Kind.PRECISION else n)


def metrics_of_targets(
    counts: RankCounts, offsets: Tensor, metrics: list[Metric], ties: Ties
) -> Tensor:
    """Metrics [B, M] in float64 of queries with several targets; NaN for those without."""
    shape = offsets.shape[0] - 1, len(metrics)
    result = torch.full(shape, math.nan, dtype=torch.float64, device="cpu")
    for row, where in enumerate(row_slices(counts.above, offsets)):
        above, tied, total = (count[where].tolist() for count in counts)
        if not above:
            continue
        groups = tied_groups(above, tied)
        ranks: list[float] = []
        for first, size, relevant in groups:
            for j in range(1, relevant + 1):
                shift = {
                    Ties.PESSIMISTIC: size - relevant + j,
                    Ties.AVERAGE: j * (size + 1) / (relevant + 1),  # the mean rank of the j-th
                }.get(ties, j)
                ranks.append(first + shift)
        for column, metric in enumerate(metrics):
            if ties is Ties.EXPECTED:
                result[row, column] = expected_metric(metric, groups, total[0])
            else:
                result[row, column] = metric_at_ranks(metric, ranks, total[0])
    return result.to(counts.above.device)


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
