"""Metrics of several targets per user as other libraries compute them, without ties.

A library that is not installed is left out: `make test-peers` installs pytrec_eval, ranx and
torchmetrics; RecBole, whose pins conflict with theirs, is compared where it can be imported.
"""

from typing import Any

import numpy as np
import pytest
import torch

import rl4rec_kernels as rk

USERS, ITEMS, KS = 40, 90, (1, 5, 10, 20)
METRICS = tuple(
    f"{family}@{k}" for family in ("ndcg", "recall", "precision", "map", "hit", "mrr") for k in KS
)


@pytest.fixture(scope="module")
def case() -> tuple[torch.Tensor, list[list[int]], dict[str, np.ndarray]]:
    """Scores of all items, some targets of each user, and our metrics."""
    generator = torch.Generator().manual_seed(0)
    query = torch.randn(USERS, 16, generator=generator)
    table = torch.randn(ITEMS, 16, generator=generator)
    rng = np.random.default_rng(0)
    targets = [rng.choice(ITEMS, 1 + user % 9, replace=False).tolist() for user in range(USERS)]
    ours = rk.reward_catalog(query, table, targets, metrics=METRICS)
    return query @ table.T, targets, dict(zip(METRICS, ours.double().numpy().T, strict=True))


def assert_agrees(ours: dict[str, np.ndarray], theirs: dict[str, Any]) -> None:
    for metric, values in theirs.items():
        np.testing.assert_allclose(ours[metric], values, atol=2e-6, err_msg=metric)


def of_trec(case: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Relevance and scores by user and item."""
    scores, targets, _ = case
    relevant = {f"u{u}": {f"i{i}": 1 for i in own} for u, own in enumerate(targets)}
    run = {
        f"u{u}": {f"i{i}": s for i, s in enumerate(row)} for u, row in enumerate(scores.tolist())
    }
    return relevant, run


def average_precision(case: Any, k: int) -> np.ndarray:
    """Ours, divided by the number of targets as trec_eval does, not by min(n, k)."""
    sizes = np.array(list(map(len, case[1])))
    return case[2][f"map@{k}"] * np.minimum(sizes, k) / sizes


def test_pytrec_eval(case):
    pytrec_eval = pytest.importorskip("pytrec_eval")
    relevant, run = of_trec(case)
    names = {"ndcg": "ndcg_cut", "recall": "recall", "precision": "P", "hit": "success"}
    cutoffs = ",".join(map(str, KS))
    measures = {f"{name}.{cutoffs}" for name in (*names.values(), "map_cut")}
    found = pytrec_eval.RelevanceEvaluator(relevant, measures).evaluate(run)
    rows = [found[f"u{user}"] for user in range(USERS)]
    for k in KS:
        assert_agrees(
            case[2], {f"{n}@{k}": [row[f"{m}_{k}"] for row in rows] for n, m in names.items()}
        )
        theirs = [row[f"map_cut_{k}"] for row in rows]
        np.testing.assert_allclose(average_precision(case, k), theirs, atol=2e-6)


def test_ranx(case):
    ranx = pytest.importorskip("ranx")
    relevant, run = of_trec(case)
    names = {
        "ndcg": "ndcg",
        "recall": "recall",
        "precision": "precision",
        "hit": "hit_rate",
        "mrr": "mrr",
    }
    measures = [f"{name}@{k}" for name in (*names.values(), "map") for k in KS]
    ranked = ranx.Run(run)
    ranx.evaluate(ranx.Qrels(relevant), ranked, measures, return_mean=False)
    for k in KS:
        theirs = {
            f"{n}@{k}": [ranked.scores[f"{m}@{k}"][f"u{u}"] for u in range(USERS)]
            for n, m in names.items()
        }
        assert_agrees(case[2], theirs)
        found = [ranked.scores[f"map@{k}"][f"u{u}"] for u in range(USERS)]
        np.testing.assert_allclose(average_precision(case, k), found, atol=2e-6)


def test_torchmetrics(case):
    functional = pytest.importorskip("torchmetrics.functional.retrieval")
    scores, targets, ours = case
    truth = torch.zeros(USERS, ITEMS, dtype=torch.bool)
    for user, own in enumerate(targets):
        truth[user, own] = True
    positive = scores.exp()  # its reciprocal rank leaves out scores below 0
    names = {
        "ndcg": functional.retrieval_normalized_dcg,
        "recall": functional.retrieval_recall,
        "precision": functional.retrieval_precision,
        "hit": functional.retrieval_hit_rate,
        "mrr": functional.retrieval_reciprocal_rank,
    }
    for k in KS:
        for name, function in names.items():
            theirs = [float(function(positive[u], truth[u], top_k=k)) for u in range(USERS)]
            assert_agrees(ours, {f"{name}@{k}": theirs})


def test_recbole(case, monkeypatch):
    metrics = pytest.importorskip("recbole.evaluator.metrics")
    monkeypatch.setattr(np, "float", float, raising=False)  # RecBole 1.2.1 needs it
    scores, targets, ours = case
    order = scores.argsort(dim=1, descending=True)[:, : max(KS)].numpy()
    hits = np.array([np.isin(row, own) for row, own in zip(order, targets, strict=True)])
    sizes = np.array(list(map(len, targets)))
    config = {"topk": list(KS), "metric_decimal_place": 9, "tail_ratio": 0.1}
    names = ("NDCG", "Recall", "Precision", "MAP", "Hit", "MRR")
    for name in names:
        metric = getattr(metrics, name)(config)
        arguments = (hits,) if name in ("Hit", "MRR", "Precision") else (hits, sizes)
        values = metric.metric_info(*arguments)
        assert_agrees(ours, {f"{name.lower()}@{k}": values[:, k - 1] for k in KS})


def test_lists_of_items_as_recbole_describes_them():
    metrics = pytest.importorskip("recbole.evaluator.metrics")
    generator, rng = torch.Generator().manual_seed(0), np.random.default_rng(0)
    query, table = (torch.randn(n, 8, generator=generator) for n in (USERS, ITEMS))
    counts = rng.integers(0, 20, ITEMS)
    ours = rk.evaluate(
        query, table, [1] * USERS, ks=KS, num_bootstrap=2, beyond_accuracy=True, item_counts=counts
    ).beyond_accuracy
    _, ids = rk.topk_catalog(query, table, max(KS))
    data = {
        "rec.items": ids,
        "data.num_items": ITEMS,
        "data.count_items": {item: int(c) for item, c in enumerate(counts) if c},
    }
    config = {"topk": list(KS), "metric_decimal_place": 9, "tail_ratio": 0.1}
    for name in (
        "ItemCoverage",
        "GiniIndex",
        "ShannonEntropy",
        "AveragePopularity",
        "TailPercentage",
    ):
        for key, value in getattr(metrics, name)(config).calculate_metric(data).items():
            assert ours[key] == pytest.approx(value, abs=1e-6), key
