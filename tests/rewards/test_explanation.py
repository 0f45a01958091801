"""`RecReward.explain` and the DEBUG line, against a case made by hand."""

import asyncio
import logging
import math

import numpy as np
import pytest
import torch

from rl4rec_kernels import RecReward, metrics_from_counts
from rl4rec_kernels.metrics import RankCounts
from tests.errors import raises
from tests.rewards.cases import HISTORIES, NEGATIVES, TARGETS, TEXTS, make

SCORES = torch.tensor([0.5, 0.9, 0.5, 0.7, 0.5, 0.1, 0.2, 0.3])  # of items 0 to 7


class ByHand:
    """A service whose scores do not depend on the text."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def rank(self, *arguments):
        return self.rank_with_log_prob(*arguments, 1.0)[0]

    def rank_with_log_prob(self, texts, dataset_name, targets, neg_items, histories, temperature):
        self.texts += texts
        counts, log_probs = [], []
        for i, target in enumerate(targets.tolist()):
            items = set(range(8)) if neg_items is None else {target, *neg_items.to_lists()[i]}
            if neg_items is None and histories is not None:
                items -= set(histories.to_lists()[i]) - {target}
            scores = [SCORES[item] for item in items]
            own = SCORES[target]
            above, equal = sum(s > own for s in scores), sum(s == own for s in scores)
            counts.append([int(above), int(equal) - 1, len(items)])
            logits = SCORES[[target, *(items - {target})]] / temperature
            log_probs.append(logits.log_softmax(0)[0])
        return RankCounts(*torch.tensor(counts).T), torch.stack(log_probs)


def explain(text="soap", target=2, history=(), neg_items=None, **options):
    return RecReward(service=ByHand(), dataset_name="x", **options).explain(
        text, target, history, neg_items
    )


def test_a_rank_beyond_k():
    got = explain("<query> dry hair </query>", target=6, history=[], k=5)
    assert (got.query, got.target, got.sampled) == ("dry hair", 6, False)
    assert (got.above, got.tied, got.total, got.rank) == (6, 0, 8, 7.0)
    assert (got.parts, got.reward) == ({"ndcg@5": 0.0}, 0.0)
    assert got.reason == "rank 7 of 8, beyond k=5, so ndcg@5 is 0"
    assert str(got).splitlines() == [
        "reward 0: rank 7 of 8, beyond k=5, so ndcg@5 is 0",
        "  query    'dry hair'",
        "  target   item 6 among all items",
        "  counts   6 above, 0 tied, 8 in total",
        "  removed  0 repeated negatives, 0 negatives equal to the target, 0 items of the history",
        "  formula  ndcg@5",
    ]


def test_a_tie():
    # items 1 and 3 are above item 2, items 0 and 4 have its score
    got = explain(k=4)
    assert (got.above, got.tied, got.total, got.rank) == (2, 2, 8, 4.0)
    assert got.reward == pytest.approx((1 / math.log2(4) + 1 / math.log2(5)) / 3, abs=1e-6)
    assert got.reason.startswith("tied with 2 others: expected over ranks 3 to 5 of 8, so ndcg@4")
    assert "beyond k=2, so ndcg@2 is 0" in explain(k=2).reason
    worst = explain(k=4, ties="pessimistic")
    assert (worst.rank, worst.reward) == (5.0, 0.0)
    assert worst.reason == (
        "tied with 2 others: pessimistic over ranks 3 to 5 of 8, which is rank 5, beyond k=4, "
        "so ndcg@4 is 0"
    )


def test_removed_negatives_and_the_history():
    got = explain(target=3, history=[1, 5], neg_items=[1, 5, 1, 3, 5, 1])
    assert (got.removed.duplicates, got.removed.targets, got.left_out) == (3, 1, 0)
    assert (got.above, got.tied, got.total, got.sampled) == (1, 0, 3, True)
    assert "3 repeated negatives, 1 negative equal to the target" in str(got)
    assert "item 3 among 2 negatives" in str(got)
    got = explain(target=3, history=[1, 5, 5, 3, -1])
    assert (got.above, got.total, got.left_out) == (0, 6, 2)  # the target competes
    assert "2 items of the history" in str(got)
    assert got.reward == 1.0


def test_an_empty_query():
    got = explain("I write <query> </query>")
    assert got.query == ""
    assert got.reason.startswith("empty query; tied with")


def test_no_competitors():
    got = explain(target=3, history=[0, 1, 2, 4, 5, 6, 7], reward_type="auc")
    assert (got.total, got.left_out, got.reward) == (1, 7, 1.0)
    assert got.reason == "no competitors, so auc is 1"


def test_novelty():
    counts = np.array([0, 0, 9, 0, 0, 0, 0, 0])
    got = explain(k=8, reward_type="mrr", novelty=0.5, item_counts=counts)
    plain = explain(k=8, reward_type="mrr")
    assert got.novelty == pytest.approx(10**-0.5)
    assert got.reward == pytest.approx(plain.reward * 10**-0.5)
    assert got.reason == f"{plain.reason}, times a novelty weight of 0.32"


KINDS = ["ndcg", "hit", "mrr", "mixed", "softmax", "ndcg_softmax", "auc", "logrank", "rank"]
RULES = ["optimistic", "pessimistic", "average"]


@pytest.mark.parametrize(
    ("kind", "ties"),
    [(kind, "expected") for kind in KINDS] + [("mixed", rule) for rule in RULES],
)
@pytest.mark.parametrize("negatives", [NEGATIVES, None], ids=["negatives", "catalog"])
def test_values_are_those_of_a_call(service, kind, ties, negatives):
    reward = make(service, reward_type=kind, ties=ties, k=3)
    scored = reward.score(TEXTS, TARGETS, HISTORIES, negatives)
    for b, text in enumerate(TEXTS):
        got = reward.explain(text, TARGETS[b], HISTORIES[b], negatives and negatives[b])
        assert got.reward == pytest.approx(scored.rewards[b], rel=1e-4)
        assert (got.above, got.tied, got.total) == tuple(int(part[b]) for part in scored.counts)
        ranks = metrics_from_counts(scored.counts, ("rank",), ties)
        assert got.rank == ranks[b, 0].item()
        assert got.left_out == (0 if negatives else len(HISTORIES[b]))
        assert got.query == ("dry hair" if b == 1 else text)
        assert all(name in got.reason for name in got.parts)
        assert f"reward {got.reward:.4g}" in str(got)


def test_normalized_rewards_are_explained_before_scaling(service):
    plain = make(service, reward_type="auc").explain(TEXTS[0], 3, [])
    scaled = make(service, reward_type="auc", normalize=True, group_size=2)
    assert scaled.explain(TEXTS[0], 3, []) == plain


def test_bad_arguments_are_named(service):
    with raises(IndexError, "targets", 99):
        make(service).explain("x", 99, [])
    with raises(TypeError, "history", 5):
        make(service).explain("x", 3, 5)


@pytest.mark.parametrize("kind", ["ndcg", "ndcg_softmax"])
def test_one_debug_line_per_call(caplog, kind):
    texts, targets, negatives = ["<query>soap</query>", "b"], [2, 3], [[4, 5, 6], [1, 2, 5]]
    reward = RecReward(service=ByHand(), dataset_name="x", reward_type=kind)
    with caplog.at_level(logging.INFO, "rl4rec_kernels.rewards"):
        quiet = reward.score(texts, targets, None, negatives)
    assert not caplog.records
    with caplog.at_level(logging.DEBUG, "rl4rec_kernels.rewards"):
        scored = reward.score(texts, targets, None, negatives)
        asyncio.run(reward.score_async(texts, targets, None, negatives))
    assert scored.rewards == quiet.rewards
    line = (
        f"query 'soap': target 2 at rank 1.5 of 4, 1 tied; reward {scored.rewards[0]:g}, "
        "the first of 2"
    )
    assert [record.getMessage() for record in caplog.records] == [line, line]
    assert {record.levelname for record in caplog.records} == {"DEBUG"}
