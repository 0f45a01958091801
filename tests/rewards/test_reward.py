"""The reward function, against a plain loop over rows."""

import asyncio
import math
import pickle
import threading

import numpy as np
import pytest
import torch

from rl4rec_kernels import RaggedIds, RecReward, RecRewardFrunction
from tests.errors import raises
from tests.rewards.cases import (
    HISTORIES,
    NEGATIVES,
    TARGETS,
    TEXTS,
    hit,
    loop,
    make,
    mixed,
    mrr,
    ndcg,
)


@pytest.mark.parametrize("metric", [ndcg, hit, mrr, mixed], ids=lambda f: f.__name__)
@pytest.mark.parametrize("k", [1, 3, 10])
@pytest.mark.parametrize("negatives", [NEGATIVES, None], ids=["negatives", "catalog"])
def test_rewards_equal_a_loop_over_rows(service, metric, k, negatives):
    reward = make(service, reward_type=metric.__name__, k=k)
    got = reward(TEXTS, TARGETS, HISTORIES, negatives)
    assert all(type(value) is float for value in got)
    assert got == pytest.approx(
        loop(service, metric, TEXTS, TARGETS, HISTORIES, negatives, k), abs=1e-6
    )


def test_ties_share_their_ranks(service):
    kwargs = {"generated_texts": ["x"], "targets": [3], "histories": [[]], "neg_items": [[21]]}
    assert make(service, reward_type="rank")(**kwargs) == [1.5]
    assert make(service, reward_type="rank", ties="pessimistic")(**kwargs) == [2.0]


def test_a_row_gets_the_same_reward_alone_and_in_a_batch(service):
    reward = make(service, reward_type="rank")
    for negatives in (NEGATIVES, None):
        batch = reward(TEXTS, TARGETS, HISTORIES, negatives)
        for b in range(3):
            own = negatives and [negatives[b]]
            assert reward([TEXTS[b]], [TARGETS[b]], [HISTORIES[b]], own) == [batch[b]]


def test_the_target_competes_although_it_is_in_the_history(service):
    reward = make(service, reward_type="rank")
    want = reward(["x"], [3], [[7]])
    assert reward(["x"], [3], [[7, 3]]) == want


def test_metric_names_and_all_kinds_of_ids(service):
    auc = make(service, reward_type="auc")
    want = auc(TEXTS, TARGETS, HISTORIES, NEGATIVES)
    padded = torch.tensor([[*row, *[-1] * (11 - len(row))] for row in NEGATIVES])
    for form in (padded, padded.numpy(), RaggedIds.from_lists(NEGATIVES)):
        assert auc(TEXTS, torch.tensor(TARGETS), HISTORIES, form) == want
    assert auc(TEXTS, [np.int64(t) for t in TARGETS], None, NEGATIVES) == want
    gaps = [[*row, math.nan] for row in NEGATIVES]
    assert auc(np.array(TEXTS), np.array(TARGETS, float), [None] * 3, gaps) == want
    assert auc(np.array(TEXTS, object), TARGETS, HISTORIES, NEGATIVES) == want
    fixed = make(service, reward_type="ndcg@2", k=10)(TEXTS, TARGETS, HISTORIES, NEGATIVES)
    assert fixed == make(service, reward_type="ndcg", k=2)(TEXTS, TARGETS, HISTORIES, NEGATIVES)


@pytest.mark.parametrize("kind", ["mixed", "ndcg_softmax", "auc"])
@pytest.mark.parametrize("negatives", [NEGATIVES, None], ids=["negatives", "catalog"])
def test_coroutines_get_the_same(service, kind, negatives):
    reward = make(service, reward_type=kind)

    class Blocking:  # a service without coroutines runs in a thread
        rank, rank_with_log_prob = service.rank, service.rank_with_log_prob

    blocking = make(Blocking(), reward_type=kind)

    async def many():
        calls = [
            (
                TEXTS[b : b + 1],
                TARGETS[b : b + 1],
                HISTORIES[b : b + 1],
                negatives and negatives[b : b + 1],
            )
            for b in range(3)
        ]
        return await asyncio.gather(*(r.score_async(*c) for r in (reward, blocking) for c in calls))

    got = [scored.rewards[0] for scored in asyncio.run(many())]
    assert got == pytest.approx(reward(TEXTS, TARGETS, HISTORIES, negatives) * 2, abs=1e-6)


def test_compute_metrics(service):
    got = make(service, k=5).compute_metrics(TEXTS, TARGETS, HISTORIES, NEGATIVES)
    for name, metric in (("ndcg@5", ndcg), ("hit@5", hit), ("mrr@5", mrr)):
        want = loop(service, metric, TEXTS, TARGETS, HISTORIES, NEGATIVES, k=5)
        assert got[name] == pytest.approx(np.mean(want), abs=1e-6)
    assert list(make(service).compute_metrics(TEXTS, TARGETS, HISTORIES, metrics=["auc"])) == [
        "auc"
    ]


def test_found_by_name_in_every_process(service):
    service.register("reward tests", "tests")
    reward = RecRewardFrunction(
        retrieval_service_name="reward tests", namespace="tests", dataset_name="toys"
    )
    again = pickle.loads(pickle.dumps(reward))
    assert again(TEXTS, TARGETS, HISTORIES) == reward(TEXTS, TARGETS, HISTORIES)
    assert reward.__name__ == "rec_ndcg"
    with raises(TypeError, "service=", "pickled", "retrieval_service_name"):
        pickle.dumps(make(service))
    with raises(LookupError, "retrieval service", "'nobody'"):
        RecReward("nobody", dataset_name="toys")(TEXTS, TARGETS, HISTORIES)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"reward_type": "bleu"}, ("reward_type", "'bleu'", "ndcg_softmax", "logrank")),
        ({"k": 0}, ("k", "at least 1", 0)),
        ({"k": 2**30}, ("k", "between 1 and", 2**30)),
        ({"ties": "lucky"}, ("tie", "'lucky'")),
        ({"use_negatives_only": "no"}, ("use_negatives_only", "None, True or False", "'no'")),
        ({"normalize": "no"}, ("normalize", "True or False", "'no'")),
        ({"group_size": 4}, ("group_size=4", "normalize=True")),
        ({"group_size": 1, "normalize": True}, ("group_size", "at least 2", 1)),
        ({"temperature": 0}, ("temperature", "more than 1e-30", "less than 1e+30", 0)),
        ({"temperature": math.nan}, ("temperature", "more than 1e-30", "less than 1e+30", "nan")),
        ({"softmax_weight": 1.5}, ("softmax_weight", "at least 0", "at most 1", 1.5)),
        ({"timeout_s": 0}, ("timeout_s", "more than 0", 0)),
        ({"novelty": -1, "item_counts": [1]}, ("novelty", "at least 0", -1)),
        ({"novelty": 0.5}, ("novelty=0.5", "item_counts")),
        ({"item_counts": [[1]]}, ("item_counts", "whole number", "int64 (1, 1)")),
        ({"item_counts": [1, -1]}, ("item_counts", "whole number", "at least 0")),
        ({"item_counts": [0.5]}, ("item_counts", "whole number", "float64")),
        ({"item_counts": [3, 0.5]}, ("item_counts", 0.5, "item 1")),
        ({"item_counts": [3, math.nan]}, ("item_counts", "nan", "item 1")),
        ({"item_counts": [True]}, ("item_counts", "bool")),
    ],
)
def test_bad_options_are_named(options, named):
    with raises(ValueError, *named):
        RecReward(**options)


def test_k_is_a_whole_number():
    with raises(TypeError, "k", "whole number", 2.0):
        RecReward(k=2.0)


@pytest.mark.parametrize(
    ("changes", "error", "named"),
    [
        ({"generated_texts": []}, ValueError, ("generated_texts", "empty")),
        ({"generated_texts": "abc"}, TypeError, ("generated_texts", "list", "str")),
        ({"generated_texts": None}, TypeError, ("generated_texts", "list", "NoneType")),
        ({"generated_texts": {"a", "b"}}, TypeError, ("generated_texts", "list", "set")),
        ({"targets": [1]}, ValueError, ("targets", 3, "(1,)")),
        ({"targets": [1, 3.9, 2]}, TypeError, ("targets[1]", 3.9)),
        ({"targets": [1, 2, math.nan]}, TypeError, ("targets[2]", "nan")),
        ({"histories": [[1], [0.5], []]}, TypeError, ("histories[1]", 0.5)),
        ({"targets": [1, 2, 99]}, IndexError, ("targets", 99)),
        ({"histories": [[1]]}, ValueError, ("histories", 3, 1)),
        ({"neg_items": [[1], [2], [0]]}, IndexError, ("neg_items", "0 ", "item")),
    ],
)
def test_bad_arguments_are_named(service, changes, error, named):
    arguments = {"generated_texts": TEXTS, "targets": TARGETS, "histories": HISTORIES} | changes
    with raises(error, *named):
        make(service)(**arguments)


def test_other_coroutines_run_while_a_service_is_found(service, monkeypatch):
    reward = make(None, retrieval_service_name="slow")
    finding, done = threading.Event(), threading.Event()

    def find(*arguments):
        finding.set()
        assert done.wait(30)
        return service

    monkeypatch.setattr("rl4rec_kernels.rewards.reward.find_service", find)

    async def main():
        scored = asyncio.ensure_future(reward.score_async(["x"], [3], [[]], [[5, 6]]))
        while not finding.is_set():
            await asyncio.sleep(0.001)
        done.set()  # which nobody could if the loop were blocked
        return await scored

    assert asyncio.run(main()).rewards == make(service)(["x"], [3], [[]], [[5, 6]])
