"""Names of metrics and tie rules, and checks of counts."""

import pytest
import torch

from rl4rec_kernels import RankCounts
from rl4rec_kernels.metrics import (
    MAX_CUTOFF,
    Kind,
    Ties,
    check_counts,
    parse_metric,
    parse_metrics,
    parse_ties,
)
from rl4rec_kernels.ops import metrics_from_counts
from tests.errors import raises


def test_names_are_parsed():
    assert parse_metric("ndcg@10") == (Kind.NDCG, 10)
    assert parse_metric(f"hit@{MAX_CUTOFF}") == (Kind.HIT, MAX_CUTOFF)
    assert parse_metric("mrr").cutoff > MAX_CUTOFF
    assert [metric.kind for metric in parse_metrics(("auc", "rank"))] == [Kind.AUC, Kind.RANK]
    assert parse_ties("average") is Ties.AVERAGE


@pytest.mark.parametrize(
    "metric",
    ["dcg@5", "ndcg@ten", "ndcg", "hit@-1", "auc@3", 5, "ndcg@0", f"hit@{MAX_CUTOFF + 1}"],
)
def test_unknown_metrics_are_rejected(metric):
    with raises(ValueError, repr(metric)):
        parse_metrics((metric,))


def test_a_cutoff_out_of_range_is_named():
    with raises(ValueError, "hit@0", "between 1", MAX_CUTOFF):
        parse_metrics(("mrr", "hit@0"))


def test_a_single_name_is_not_a_list_of_names():
    with raises(TypeError, "metrics", "sequence", "'mrr'"):
        parse_metrics("mrr")


def test_unknown_tie_rules_are_rejected():
    with raises(ValueError, "random", "expected"):
        parse_ties("random")


def test_bad_counts_are_rejected():
    good = RankCounts(*(torch.tensor([n]) for n in (0, 0, 1)))
    check_counts(good)
    check_counts(good._replace(total=torch.full_like(good.total, -1)))  # rows of unchecked ids
    with raises(TypeError, "counts.tied", "int64", "float32"):
        check_counts(good._replace(tied=torch.zeros(1)))
    with raises(ValueError, "counts.total", (2,)):
        check_counts(good._replace(total=torch.ones(2).long()))


@pytest.mark.parametrize("row", [(9, 0, 3), (-1, 0, 3), (0, -1, 3), (2, 1, 3), (0, 0, 0)])
def test_impossible_counts_are_named(row):
    above, tied, total = row
    counts = RankCounts(*torch.tensor([(0, 0, 1), row]).unbind(1))
    with raises(ValueError, "row 1", f"{above=}", f"{tied=}", f"{total=}"):
        metrics_from_counts(counts, ("auc",))
    huge = RankCounts(*torch.tensor([(2**63 - 1, 2**63 - 1, 3)]).unbind(1))
    with raises(ValueError, "row 0", f"above={2**63 - 1}"):
        metrics_from_counts(huge, ("auc",))
