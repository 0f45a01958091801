"""Metrics and exact searches of other libraries, from the same scores and embeddings.

`METRICS` turn ids and scores [B, C], with the target in column 0, into metrics per user.
`SEARCHERS` prepare exact top-k searches. The benchmarks measure both, and tests/peers compares
their answers with ours. Libraries are imported in functions, so that any of them may be missing.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor

from rl4rec_kernels._utils.imports import is_installed

K = 10
Answers = dict[str, np.ndarray]


class Peer(NamedTuple):
    """A library: its top-level module, and the function that calls it."""

    module: str
    run: Callable[..., Any]

    def need(self) -> "Peer":
        """Return the peer, or skip the test if it is not installed."""
        if not is_installed(self.module):
            pytest.skip(f"{self.module} is not installed: run `make test-peers`")
        return self


def torchmetrics_retrieval(ids: Tensor, scores: Tensor) -> Answers:
    from torchmetrics.functional import retrieval

    labels = torch.zeros(ids.shape[1], dtype=torch.bool)
    labels[0] = True
    functions = {
        "ndcg@10": retrieval.retrieval_normalized_dcg,
        "hit@10": retrieval.retrieval_hit_rate,
        "mrr@10": retrieval.retrieval_reciprocal_rank,
    }
    return {
        name: np.array([function(row, labels, top_k=K).item() for row in scores])
        for name, function in functions.items()
    }


def sklearn_ndcg(ids: Tensor, scores: Tensor) -> Answers:
    from sklearn.metrics import ndcg_score

    labels = np.zeros((1, ids.shape[1]))
    labels[0, 0] = 1
    return {"ndcg@10": np.array([ndcg_score(labels, row[None], k=K) for row in scores.numpy()])}


def _as_dicts(ids: Tensor, scores: Tensor) -> tuple[dict, dict]:
    """Judgements and runs as retrieval tools read them: documents have names, without repeats."""
    users = [f"{user:06d}" for user in range(len(ids))]
    judged = {user: {str(row[0]): 1} for user, row in zip(users, ids.tolist(), strict=True)}
    runs = {
        user: dict(zip(map(str, reversed(row)), reversed(values), strict=True))
        for user, row, values in zip(users, ids.tolist(), scores.tolist(), strict=True)
    }
    return judged, runs


def pytrec_eval_run(ids: Tensor, scores: Tensor) -> Answers:
    import pytrec_eval

    judged, runs = _as_dicts(ids, scores)
    names = {"ndcg@10": "ndcg_cut_10", "hit@10": "success_10", "mrr": "recip_rank"}
    measures = {"ndcg_cut.10", "success.10", "recip_rank"}
    results = pytrec_eval.RelevanceEvaluator(judged, measures).evaluate(runs)
    return {ours: np.array([results[u][theirs] for u in judged]) for ours, theirs in names.items()}


def ranx_evaluate(ids: Tensor, scores: Tensor) -> Answers:
    from ranx import Qrels, Run, evaluate

    judged, runs = _as_dicts(ids, scores)
    names = {"ndcg@10": "ndcg@10", "hit@10": "hit_rate@10", "mrr@10": "mrr@10", "mrr": "mrr"}
    results = evaluate(Qrels(judged), Run(runs), list(names.values()), return_mean=False)
    return {ours: np.atleast_1d(results[theirs]) for ours, theirs in names.items()}


def rectools_metrics(ids: Tensor, scores: Tensor, **ndcg: Any) -> Answers:
    import pandas as pd
    from rectools import Columns
    from rectools.metrics import MRR, NDCG, HitRate

    order = scores.argsort(dim=1, descending=True)  # it takes ranks, not scores
    users, columns = ids.shape
    ranked = pd.DataFrame(
        {
            Columns.User: np.repeat(np.arange(users), columns),
            Columns.Item: ids.gather(1, order).flatten().numpy(),
            Columns.Rank: np.tile(np.arange(1, columns + 1), users),
        }
    )
    relevant = pd.DataFrame({Columns.User: np.arange(users), Columns.Item: ids[:, 0].numpy()})
    metrics = {"ndcg@10": NDCG(K, **ndcg), "hit@10": HitRate(K), "mrr@10": MRR(K)}
    return {
        name: metric.calc_per_user(ranked, relevant).sort_index().to_numpy(float)
        for name, metric in metrics.items()
    }


def recbole_uni100(ids: Tensor, scores: Tensor) -> Answers:
    """Its evaluation with sampled negatives, which scatters scores over all items before topk."""
    scattered = scores.new_full((len(ids), int(ids.max()) + 1), -torch.inf)
    return recbole_evaluate(scattered.scatter_(1, ids.flip(1), scores.flip(1)), ids[:, 0])


def recbole_evaluate(scores: Tensor, targets: Tensor) -> Answers:
    """Its collector and its evaluator on scores [B, N] of all items."""
    # The release still uses np.float, which NumPy 1.24 removed.
    np.float = float  # type: ignore[attr-defined]
    from recbole.evaluator import Collector, Evaluator

    config = {
        "metrics": ["NDCG", "Hit", "MRR"],
        "topk": [K],
        "metric_decimal_place": 12,
        "eval_args": {"mode": "full"},
        "device": "cpu",
    }
    collector = Collector(config)
    collector.eval_batch_collect(scores, None, torch.arange(len(scores)), targets)
    collected, metrics = collector.get_data_struct(), Evaluator(config).metric_class
    found, relevant = metrics["ndcg"].used_info(collected)
    values = {
        "ndcg@10": metrics["ndcg"].metric_info(found, relevant),
        "hit@10": metrics["hit"].metric_info(found),
        "mrr@10": metrics["mrr"].metric_info(found),
    }
    return {name: per_user[:, K - 1].astype(float) for name, per_user in values.items()}


METRICS = {
    "torchmetrics": Peer("torchmetrics", torchmetrics_retrieval),
    "scikit-learn": Peer("sklearn", sklearn_ndcg),
    "pytrec_eval": Peer("pytrec_eval", pytrec_eval_run),
    "ranx": Peer("ranx", ranx_evaluate),
    "RecTools": Peer("rectools", rectools_metrics),
    "RecTools, divide_by_achievable": Peer(
        "rectools", partial(rectools_metrics, divide_by_achievable=True)
    ),
    "RecBole": Peer("recbole", recbole_uni100),
}

Search = Callable[[], tuple[np.ndarray, np.ndarray]]
THREADS = torch.get_num_threads()


def faiss_flat(query: Tensor, table: Tensor, k: int) -> Search:
    import faiss

    index = faiss.IndexFlatIP(table.shape[1])
    index.add(table.numpy())
    return lambda: index.search(query.numpy(), k)


def usearch_exact(query: Tensor, table: Tensor, k: int) -> Search:
    from usearch.index import MetricKind, search

    def run() -> tuple[np.ndarray, np.ndarray]:
        found = search(table.numpy(), query.numpy(), k, MetricKind.IP, exact=True, threads=THREADS)
        return 1 - found.distances, found.keys.astype(np.int64)

    return run


def numkong_product(query: Tensor, table: Tensor, k: int) -> Search:
    """Its packed matrix product (one thread per call), then NumPy's selection."""
    import numkong

    packed = numkong.dots_pack(table.numpy())

    def run() -> tuple[np.ndarray, np.ndarray]:
        scores = np.asarray(numkong.dots_packed(query.numpy(), packed))
        ids = np.argpartition(scores, -k, axis=1)[:, -k:]
        best = np.take_along_axis(scores, ids, 1)
        order = np.argsort(-best, axis=1)
        return np.take_along_axis(best, order, 1), np.take_along_axis(ids, order, 1)

    return run


def implicit_topk(query: Tensor, table: Tensor, k: int) -> Search:
    from implicit.cpu.topk import topk

    def run() -> tuple[np.ndarray, np.ndarray]:
        ids, scores = topk(table.numpy(), query.numpy(), k, num_threads=THREADS)
        return scores, ids.astype(np.int64)

    return run


def semantic_search(query: Tensor, table: Tensor, k: int) -> Search:
    from sentence_transformers.util import dot_score
    from sentence_transformers.util import semantic_search as search

    def run() -> tuple[np.ndarray, np.ndarray]:
        found = search(query, table, top_k=k, score_function=dot_score)
        return (
            np.array([[hit["score"] for hit in row] for row in found]),
            np.array([[hit["corpus_id"] for hit in row] for row in found]),
        )

    return run


FAISS = Peer("faiss", faiss_flat)
SEARCHERS = {
    "FAISS IndexFlatIP": FAISS,
    "usearch exact": Peer("usearch", usearch_exact),
    "NumKong product, NumPy selection": Peer("numkong", numkong_product),
    "implicit topk": Peer("implicit", implicit_topk),
    "sentence-transformers semantic_search": Peer("sentence_transformers", semantic_search),
}
