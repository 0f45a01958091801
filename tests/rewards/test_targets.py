"""Rewards of texts with several targets, against a plain loop over rows."""

import asyncio
import math

import numpy as np
import pytest

from rl4rec_kernels import RaggedIds
from rl4rec_kernels.adapters._scoring import ranks_and_hits, read_columns, score
from rl4rec_kernels.data.labels import write_label
from rl4rec_kernels.metrics import parse_metrics
from rl4rec_kernels.ops import reference
from rl4rec_kernels.rewards.completions import extract_query
from rl4rec_kernels.service.wire import pack_call, unpack_call
from tests.errors import raises
from tests.rewards.cases import HISTORIES, NEGATIVES, TEXTS, make

SEVERAL = [[3, 9, 2], 17, [40, 6]]  # 2 is also in the history, 9 among the negatives
METRICS = ("recall@5", "Precision@5", "MAP@5", "NDCG@5", "hit@5", "mrr@7")


def loop(service, metric: str, negatives) -> list[float]:
    """The metric of each text's one list; the toy scores have no ties with targets."""
    scores = service.calculate_reward([extract_query(text) for text in TEXTS], "toys")
    values = []
    for b, given in enumerate(SEVERAL):
        own = given if isinstance(given, list) else [given]
        items = range(1, 50) if negatives is None else negatives[b]
        left_out = HISTORIES[b] if negatives is None else []
        listed = own + [i for i in items if i not in own and i not in left_out]
        order = sorted(listed, key=lambda i: -scores[b, i])
        ranks = sorted(order.index(i) + 1 for i in own)
        values.append(reference.metric_at_ranks(parse_metrics([metric])[0], ranks, len(listed)))
    return values


@pytest.mark.parametrize("negatives", [NEGATIVES, None], ids=["negatives", "catalog"])
def test_rewards_equal_a_loop_over_rows(service, negatives):
    for metric in METRICS:
        reward = make(service, reward_type=metric, ties="optimistic")
        got = reward(TEXTS, SEVERAL, HISTORIES, negatives)
        assert got == pytest.approx(loop(service, metric, negatives), abs=1e-6)
    alone = [
        reward([TEXTS[b]], [SEVERAL[b]], [HISTORIES[b]], negatives and [negatives[b]])[0]
        for b in range(3)
    ]
    assert alone == got
    ragged = RaggedIds.from_lists([t if isinstance(t, list) else [t] for t in SEVERAL])
    assert reward(TEXTS, ragged, HISTORIES, negatives) == got
    assert asyncio.run(reward.score_async(TEXTS, SEVERAL, HISTORIES, negatives)).rewards == got
    assert reward(TEXTS, [[3], 17, np.array([40])], HISTORIES, negatives) == reward(
        TEXTS, [3, 17, 40], HISTORIES, negatives
    )


def test_types_with_k_have_several_targets_too(service):
    for name in ("recall", "precision", "map"):
        named = make(service, reward_type=name, k=5)(TEXTS, SEVERAL, HISTORIES)
        assert named == make(service, reward_type=f"{name}@5")(TEXTS, SEVERAL, HISTORIES)


def test_softmax_and_novelty_are_means_over_targets(service):
    reward = make(service, reward_type="softmax")
    got = reward(TEXTS[:1], [[3, 8]], None)
    one = [reward(TEXTS[:1], [target], None)[0] for target in (3, 8)]
    assert got == pytest.approx([sum(one) / 2], rel=1e-5)
    counts = np.zeros(50, int)
    counts[3] = 3
    weighted = make(service, reward_type="mrr", novelty=1.0, item_counts=counts)
    plain = make(service, reward_type="mrr")(TEXTS[:1], [[3, 8]], None)
    assert weighted(TEXTS[:1], [[3, 8]], None) == pytest.approx([plain[0] * (1 / 4 + 1) / 2])


def test_negatives_that_are_targets_are_removed(service):
    reward = make(service)
    got = reward(TEXTS[:1], [[3, 8]], [[]], [[5, 8, 5, 3, 9]])
    assert (reward.last_report.targets, reward.last_report.duplicates) == (2, 1)
    assert got == reward(TEXTS[:1], [[3, 8]], [[]], [[5, 9]])
    explained = reward.explain(TEXTS[0], [3, 8], [1], [5, 9])
    assert (explained.num_targets, explained.total) == (2, 4)
    assert explained.target in (3, 8)
    assert "best of 2" in str(explained)


def test_adapters(service):
    reward = make(service, reward_type="recall@5")
    labels = [write_label(t, h) for t, h in zip(SEVERAL, HISTORIES, strict=True)]
    found = score(reward, TEXTS, labels)
    assert [row["score"] for row in found] == reward(TEXTS, SEVERAL, HISTORIES)
    rows, arguments = read_columns(TEXTS, SEVERAL, HISTORIES, None)
    assert rows == [0, 1, 2]
    ranks, hits = ranks_and_hits(reward, reward.score(*arguments))
    assert len(ranks) == len(hits) == 3


def test_calls_are_packed_whole(service):
    call = service._check(TEXTS, "toys", SEVERAL, NEGATIVES, None, False)
    assert call.texts == [TEXTS[0]] * 3 + [TEXTS[1]] + [TEXTS[2]] * 2
    again = unpack_call(pack_call(call))
    assert again.targets.tolist() == call.targets.tolist() == [3, 9, 2, 17, 40, 6]
    assert again.candidates.to_lists()[5] == [6, 40, 6, 4]


def test_bad_targets(service):
    reward = make(service)
    with raises(ValueError, "targets", "row 0", 3):
        reward(TEXTS[:1], [[3, 3]], None)
    with raises(ValueError, "targets[1]"):
        reward(TEXTS[:2], [[3, 4], []], None)
    with raises(IndexError, "targets", 99):
        reward(TEXTS[:1], [[3, 99]], None)
    with raises(TypeError, "targets[0]", math.pi):
        reward(TEXTS[:1], [[3, math.pi]], None)
