"""Scaling, the softmax of the target and weights by novelty."""

import pickle

import numpy as np
import pytest
import torch

from rl4rec_kernels import ItemIndex, LocalRetrievalService, RecReward
from rl4rec_kernels.rewards.completions import extract_query
from tests.errors import raises
from tests.rewards.cases import HISTORIES, NEGATIVES, TARGETS, TEXTS, make


def test_normalize_is_off_and_safe(service):
    plain = np.array(make(service, reward_type="mrr")(TEXTS, TARGETS, HISTORIES))
    got = make(service, reward_type="mrr", k=10**6, normalize=True)(TEXTS, TARGETS, HISTORIES)
    scores = np.array(make(service, reward_type="mrr", k=10**6)(TEXTS, TARGETS, HISTORIES))
    np.testing.assert_allclose(got, (scores - scores.mean()) / scores.std())
    assert make(service, normalize=True)(["x"], [3], [[]]) == [0.0]
    assert plain.min() >= 0


def test_normalize_in_groups(service):
    texts, targets = [*TEXTS[:1] * 2, "soap", "comb"], [3, 3, 17, 40]
    arguments = (texts, targets, [[]] * 4, [NEGATIVES[1]] * 4)
    plain = np.array(make(service, reward_type="auc")(*arguments))
    assert plain[2] != plain[3]
    got = make(service, reward_type="auc", normalize=True, group_size=2)(*arguments)
    # equal texts get equal rewards, although rounding may give them a spread
    higher = np.sign(plain[2] - plain[3])
    assert got == pytest.approx([0.0, 0.0, higher, -higher])
    grouped = make(service, normalize=True, group_size=2)
    with raises(ValueError, "generated_texts", "group_size=2", "3 texts"):
        grouped(TEXTS, TARGETS, HISTORIES)


@pytest.mark.parametrize("negatives", [NEGATIVES, None], ids=["negatives", "catalog"])
def test_softmax_of_the_target(service, negatives):
    everything = service.calculate_reward([extract_query(text) for text in TEXTS], "toys").double()
    shares = []
    for b, target in enumerate(TARGETS):
        items = negatives[b] if negatives else [i for i in range(1, 50) if i not in HISTORIES[b]]
        scores = everything[b, [target, *(i for i in items if i != target)]].numpy()
        weights = np.exp((scores - scores.max()) / 0.2)
        shares.append(weights[0] / weights.sum())
    arguments = (TEXTS, TARGETS, HISTORIES, negatives)
    softmax = make(service, reward_type="softmax", temperature=0.2)
    assert softmax(*arguments) == pytest.approx(shares, rel=1e-5)
    mix = make(service, reward_type="ndcg_softmax", temperature=0.2, softmax_weight=0.25, k=3)
    ndcgs = np.array(make(service, reward_type="ndcg", k=3)(*arguments))
    assert mix(*arguments) == pytest.approx(0.75 * ndcgs + 0.25 * np.array(shares), rel=1e-5)
    # The counts for ndcg are those of `rank`.
    counts, want = mix.score(*arguments).counts, make(service).score(*arguments).counts
    assert all(torch.equal(a, b) for a, b in zip(counts, want, strict=True))


def test_softmax_keeps_the_target_that_is_in_the_history(service):
    softmax = make(service, reward_type="softmax")
    assert softmax(["x"], [3], [[7]]) == softmax(["x"], [3], [[7, 3]])
    with raises(IndexError, "histories", 99):
        softmax(["x"], [3], [[99]])


def test_novelty_weighs_rare_targets_more(service):
    counts = np.zeros(50, dtype=np.int64)
    counts[[3, 17]] = 99, 3
    arguments = (TEXTS, TARGETS, HISTORIES, NEGATIVES)
    plain = np.array(make(service, reward_type="mrr", k=50)(*arguments))
    novel = make(service, reward_type="mrr", k=50, novelty=0.5, item_counts=counts)
    assert novel(*arguments) == pytest.approx(plain * [0.1, 0.5, 1.0])
    assert pickle.loads(pickle.dumps(RecReward(novelty=1, item_counts=counts))).novelty == 1
    short = make(service, novelty=0.5, item_counts=counts[:20])
    with raises(IndexError, "targets", 40, 20):
        short(*arguments)


INF = torch.inf


@pytest.mark.parametrize(
    ("row", "share", "counts"),
    [
        ([INF, 1.0, INF, 0.0], 1 / 2, (0, 1, 4)),
        ([1.0, INF, INF, 0.0], 0.0, (2, 0, 4)),
        ([INF, 1.0, 0.0, 0.0], 1.0, (0, 0, 4)),
        ([-INF, 1.0, 0.0, 0.0], 0.0, (3, 0, 4)),
        ([-INF, -INF, -INF, -INF], 1 / 4, (0, 3, 4)),
        ([-INF, INF, -INF, -INF], 0.0, (1, 2, 4)),
        ([2.0, -INF, 2.0, -INF], 1 / 2, (0, 1, 4)),
        ([3e37, -3e37, 3e37, 3e37], 1 / 3, (0, 2, 4)),
    ],
)
@pytest.mark.parametrize("column", [0, 3])
@pytest.mark.parametrize("sampled", [False, True])
def test_scores_that_are_not_finite(encoder, row, share, counts, column, sampled):
    row = row.copy()
    row[0], row[column] = row[column], row[0]
    (query,) = encoder.encode_queries(["x"])
    beyond = 3e38 * query.sign()  # its score is above what float32 can hold
    table = torch.stack([beyond * np.sign(s) if abs(s) == INF else query * s for s in row])
    service = LocalRetrievalService(
        {"toys": ItemIndex.from_embeddings(table, ids=range(4))}, encoder
    )
    reward = make(service, reward_type="softmax", temperature=1e-29)
    others = [i for i in range(4) if i != column]
    scored = reward.score(["x"], [column], [[]], [others] if sampled else None)
    assert scored.rewards == pytest.approx([share], abs=1e-6)
    assert tuple(int(count) for count in scored.counts) == counts
