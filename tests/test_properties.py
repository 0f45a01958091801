"""Properties of the operators, the metrics and the sampler for any arguments."""

from itertools import pairwise

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import rl4rec_kernels as rk
from rl4rec_kernels.data.labels import read_label, write_label
from rl4rec_kernels.ops import metrics_from_counts
from tests.errors import raises

SOME = settings(max_examples=40, deadline=None)
METRICS = ("ndcg@5", "hit@5", "mrr@5", "mrr", "auc", "logrank")
IDS = st.integers(-(2**63), 2**63 - 1)


@st.composite
def tables(draw, max_queries: int = 6, max_items: int = 60):
    """Queries, a table with few different values (so that scores tie), and targets."""
    rows, items, dim = draw(
        st.tuples(st.integers(1, max_queries), st.integers(2, max_items), st.integers(1, 20))
    )
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    query = torch.randint(-2, 3, (rows, dim), generator=generator).float()
    table = torch.randint(-2, 3, (items, dim), generator=generator).float()
    targets = torch.randint(items, (rows,), generator=generator)
    return query, table, targets, generator


def stacked(counts: rk.RankCounts) -> torch.Tensor:
    return torch.stack(tuple(counts))


@SOME
@given(tables(), st.integers(1, 30))
def test_the_order_of_candidates_does_not_matter(case, columns):
    query, table, targets, generator = case
    others = torch.randint(-1, len(table), (len(query), columns), generator=generator)
    candidates = torch.cat([targets[:, None], others], 1)
    order = torch.randperm(columns, generator=generator)
    shuffled = torch.cat([targets[:, None], others[:, order]], 1)
    counts = rk.rank_candidates(query, table, candidates)
    assert torch.equal(stacked(rk.rank_candidates(query, table, shuffled)), stacked(counts))
    assert (counts.above + counts.tied < counts.total).all()
    rewards = rk.reward_candidates(query, table, candidates, METRICS)
    assert torch.equal(rk.reward_candidates(query, table, shuffled, METRICS), rewards)
    scores = rk.score_candidates(query, table, others)
    assert torch.equal(rk.score_candidates(query, table, others[:, order]), scores[:, order])


@SOME
@given(tables())
def test_the_catalog_equals_all_items_as_candidates(case):
    """The two operators use different arithmetic; they agree where it is exact."""
    query, table, targets, _ = case
    everything = torch.arange(len(table)).expand(len(query), -1)
    candidates = torch.cat([targets[:, None], everything], 1)
    got = rk.rank_catalog(query, table, targets)
    assert torch.equal(stacked(got), stacked(rk.rank_candidates(query, table, candidates)))
    scores, ids = rk.topk_catalog(query, table, len(table))
    assert torch.equal(scores, rk.score_candidates(query, table, ids))
    place = (ids == targets[:, None]).int().argmax(1)
    assert ((got.above <= place) & (place <= got.above + got.tied)).all()


@SOME
@given(tables(), st.data())
def test_the_order_of_queries_and_items_does_not_matter(case, data):
    query, table, targets, generator = case
    exclude = torch.randint(-1, len(table), (len(query), 5), generator=generator)
    want = stacked(rk.rank_catalog(query, table, targets, exclude))
    rows = torch.tensor(data.draw(st.lists(st.integers(0, len(query) - 1), min_size=1)))
    got = rk.rank_catalog(query[rows], table, targets[rows], exclude[rows])
    assert torch.equal(stacked(got), want[:, rows])
    places = torch.randperm(len(table), generator=generator)
    moved = torch.empty_like(table)
    moved[places] = table
    there = torch.where(exclude >= 0, places[exclude], -1)
    assert torch.equal(stacked(rk.rank_catalog(query, moved, places[targets], there)), want)
    ragged = rk.RaggedIds.from_lists([[i for i in row if i >= 0] for row in exclude.tolist()])
    assert torch.equal(stacked(rk.rank_catalog(query, table, targets, ragged)), want)


@SOME
@given(tables(), st.data())
def test_parts_of_a_catalog_add_up(case, data):
    query, table, targets, _ = case
    whole = rk.rank_catalog(query, table, targets)
    cuts = sorted(data.draw(st.sets(st.integers(1, len(table) - 1), max_size=4)))
    k = data.draw(st.integers(1, len(table)))
    above, best = torch.zeros_like(whole.above), []
    for start, end in pairwise([0, *cuts, len(table)]):
        part = torch.cat([table[targets], table[start:end]])  # starts with all targets
        valid = torch.ones(len(part), dtype=torch.bool)
        for q in range(len(query)):
            valid[: len(query)] = False
            valid[q] = True
            row = slice(q, q + 1)
            above[q] += rk.rank_catalog(query[row], part, torch.tensor([q]), valid=valid).above[0]
        scores, ids = rk.topk_catalog(query, table[start:end], min(k, end - start))
        best.append((scores, ids + start))
    assert torch.equal(above, whole.above)
    scores, ids = (torch.cat(parts, 1) for parts in zip(*best, strict=True))
    order = scores.sort(dim=1, descending=True, stable=True).indices[:, :k]
    want_scores, want_ids = rk.topk_catalog(query, table, k)
    assert torch.equal(scores.gather(1, order), want_scores)
    assert torch.equal(ids.gather(1, order), want_ids)


@SOME
@given(st.integers(0, 10**6), st.integers(0, 200), st.integers(0, 10**6), st.sampled_from(METRICS))
def test_metrics_decrease_with_the_rank(above, tied, below, metric):
    """They are also between 0 and 1, and every tie rule between optimistic and pessimistic."""
    total = above + tied + below + 1
    counts = rk.RankCounts(*(torch.tensor([n]) for n in (above, tied, total)))

    def value(of: rk.RankCounts, ties: str = "expected") -> float:
        return metrics_from_counts(of, (metric,), ties).item()

    worst, mean, best = (value(counts, rule) for rule in ("pessimistic", "expected", "optimistic"))
    assert 0 <= worst <= mean + 1e-6
    assert mean - 1e-6 <= best <= 1
    assert worst - 1e-6 <= value(counts, "average") <= best + 1e-6
    if below:
        lower = counts._replace(above=counts.above + 1)
        assert value(lower) <= mean + 1e-6


@SOME
@given(st.integers(0, 2**64 - 1), st.integers(2, 200), st.integers(1, 8), st.booleans(), st.data())
def test_negatives_only_depend_on_their_user(seed, num_items, users, weighted, data):
    seen = data.draw(
        st.lists(st.sets(st.integers(0, num_items - 1)), min_size=users, max_size=users)
    )
    names = data.draw(st.lists(IDS, min_size=users, max_size=users, unique=True))
    left = [num_items - 1 - len(items - {0}) for items in seen]
    count = data.draw(st.integers(0, min(left)))
    weights = np.linspace(1, 9, num_items) if weighted else None
    options = {"seed": seed, "weights": weights}
    lists = [sorted(items) for items in seen]
    rows = rk.sample_negatives(num_items, lists, count, user_ids=names, **options)
    for user, row in enumerate(rows):
        assert len(set(row.tolist()) - seen[user] - {0}) == count
    order = data.draw(st.permutations(range(users)))
    again = rk.sample_negatives(
        num_items,
        [lists[u][::-1] for u in order],
        count,
        user_ids=[names[u] for u in order],
        num_threads=3,
        **options,
    )
    assert np.array_equal(again, rows[order])
    with raises(ValueError, "user ", "items left"):
        rk.sample_negatives(num_items, lists, min(left) + 1, user_ids=names, **options)


@given(IDS, st.lists(IDS), st.lists(IDS))
def test_labels_round_trip(target, history, neg_items):
    assert read_label(write_label(target, history, neg_items)) == (target, history, neg_items)
