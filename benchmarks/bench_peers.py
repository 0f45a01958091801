"""From embeddings to NDCG@10, Hit@10 and MRR@10, and to the best items: ours and other libraries.

All contestants get the same embeddings of Amazon Beauty. Libraries that need scores get them from
our kernel, whose time is negligible compared with theirs; those that need ranked lists get them
from FAISS. Peers that are not installed are skipped.
"""

import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import rl4rec_kernels as rk
from benchmarks import peers
from benchmarks.baselines import einsum, matmul_and_count, matmul_and_topk, openblas_product
from benchmarks.data import beauty, gaussian
from benchmarks.memory import peak_growth

B, NUM_NEGS, K = 1024, 99, 10
METRICS = ("ndcg@10", "hit@10", "mrr@10")
NEGATIVES_GROUP = f"NDCG, Hit and MRR at 10 among {NUM_NEGS} negatives, Beauty, B={B:,}"


@functools.lru_cache(maxsize=1)
def data() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Queries, table, targets, and targets with 99 negatives each."""
    query, table, targets = beauty(B)
    negatives = rk.sample_negatives(len(table), targets[:, None].tolist(), NUM_NEGS)
    return query, table, targets, torch.cat([targets[:, None], torch.from_numpy(negatives)], 1)


def by_loop(query: Tensor, table: Tensor, ids: Tensor) -> list[list[float]]:
    """Index, multiply, sort, look up, per row, as reward functions do today."""
    rewards = []
    for vector, row in zip(query, ids, strict=True):
        order = (table[row] @ vector).argsort(descending=True)
        rank = int((order == 0).nonzero()) + 1
        found = rank <= K
        ndcg = found / torch.log2(torch.tensor(1.0 + rank)).item()
        rewards.append([ndcg, float(found), found / rank])
    return rewards


def by_einsum(query: Tensor, table: Tensor, ids: Tensor) -> Tensor:
    return metrics_of(einsum(query, table, ids))


def metrics_of(above: Tensor) -> Tensor:
    rank = above + 1
    found = (rank <= K).float()
    return torch.stack([found / torch.log2(1.0 + rank), found, found / rank], 1)


AMONG_NEGATIVES: dict[str, tuple[str, Callable[..., Any]]] = {
    "reward_candidates": ("ours", lambda q, t, ids: rk.reward_candidates(q, t, ids, METRICS)),
    "torch einsum": ("peer", by_einsum),
    "torch.compile einsum": ("peer", torch.compile(by_einsum, fullgraph=True)),
    "per-row loop": ("peer", by_loop),
}


@pytest.mark.parametrize("name", AMONG_NEGATIVES)
def test_among_negatives(contest: Callable[..., Any], name: str) -> None:
    query, table, _, ids = data()
    role, function = AMONG_NEGATIVES[name]
    rounds = 3 if "compile" in name else 9
    contest(NEGATIVES_GROUP, name, role, lambda: function(query, table, ids), rounds=rounds)


@pytest.mark.parametrize("name", [n for n in peers.METRICS if "divide_by_achievable" not in n])
def test_among_negatives_by_library(contest: Callable[..., Any], name: str) -> None:
    query, table, _, ids = data()
    run = peers.METRICS[name].need().run
    label = f"{'RecBole uni100' if name == 'RecBole' else name}, given score_candidates"
    work = lambda: run(ids, rk.score_candidates(query, table, ids))  # noqa: E731
    contest(NEGATIVES_GROUP, label, "peer", work, rounds=3)


def recbole_full(query: Tensor, table: Tensor, targets: Tensor) -> Callable[[], Any]:
    """Its full evaluation: scores of all items, without the padding's, then topk and metrics."""
    peers.METRICS["RecBole"].need()

    def work() -> Any:
        scores = query @ table.T
        scores[:, 0] = -torch.inf
        return peers.recbole_evaluate(scores, targets)

    return work


def after_search(name: str) -> Callable[[Tensor, Tensor, Tensor], Callable[[], Any]]:
    """The best ten items by FAISS, then metrics of these lists; a target not in its list gets 0."""

    def prepare(query: Tensor, table: Tensor, targets: Tensor) -> Callable[[], Any]:
        search, metrics = peers.FAISS.need().run(query, table, K), peers.METRICS[name].need()

        def work() -> Any:
            scores, ids = map(torch.from_numpy, search())
            is_target = ids == targets[:, None]
            target = torch.where(is_target.any(1), (scores * is_target).sum(1), -1e9)
            columns = torch.cat([targets[:, None], ids.masked_fill(is_target, len(table))], 1)
            scores = torch.cat([target[:, None], scores.masked_fill(is_target, -1e9)], 1)
            return metrics.run(columns, scores)

        return work

    return prepare


# A contestant is prepared first; what that returns is timed.
IN_CATALOG: dict[str, tuple[str, Callable[[Tensor, Tensor, Tensor], Callable[[], Any]]]] = {
    "reward_catalog": ("ours", lambda q, t, y: lambda: rk.reward_catalog(q, t, y, metrics=METRICS)),
    "OpenBLAS product alone": ("limit", lambda q, t, y: openblas_product(q, t)),
    "torch matmul and count": (
        "peer",
        lambda q, t, y: lambda: metrics_of(matmul_and_count(q, t, y)),
    ),
    "RecBole full evaluation": ("peer", recbole_full),
    "FAISS, then ranx": ("peer", after_search("ranx")),
    "FAISS, then pytrec_eval": ("peer", after_search("pytrec_eval")),
    "FAISS, then RecTools": ("peer", after_search("RecTools")),
}


@pytest.mark.parametrize("name", IN_CATALOG)
def test_in_catalog(contest: Callable[..., Any], name: str) -> None:
    query, table, targets, _ = data()
    role, prepare = IN_CATALOG[name]
    group = f"NDCG, Hit and MRR at 10 in the whole catalog, Beauty, B={B:,}"
    contest(group, name, role, prepare(query, table, targets), rounds=5)


def search(name: str, query: Tensor, table: Tensor) -> tuple[str, Callable[[], Any]]:
    """The role of a contestant of exact search, and its prepared search."""
    if name == "topk_catalog":
        return "ours", lambda: rk.topk_catalog(query, table, K)
    if name == "torch matmul and topk":
        return "peer", lambda: matmul_and_topk(query, table, K)
    return "peer", peers.SEARCHERS[name].need().run(query, table, K)


ROUNDS = {"topk_catalog": 9, "torch matmul and topk": 5}  # others: 3


@pytest.mark.parametrize("name", ["topk_catalog", "torch matmul and topk", *peers.SEARCHERS])
def test_search(contest: Callable[..., Any], name: str) -> None:
    query, table, *_ = data()
    group = f"best {K} items by exact search, Beauty, B={B:,}"
    contest(group, name, *search(name, query, table), rounds=ROUNDS.get(name, 3))


SETUP = """
import torch, rl4rec_kernels as rk
from benchmarks import peers
from benchmarks.baselines import matmul_and_count, matmul_and_topk
from benchmarks.data import gaussian
B, N = 1024, 12_102
query, table, targets = gaussian(B, N, 384)
ids = torch.randint(N, (B, 100))
def work(n):
    q, t, y, c = query[:n], table, targets[:n], ids[:n]
    return {call}
work(2)
"""
MEMORY = {
    "rank among 100": {
        "rank_candidates": ("ours", "rk.rank_candidates(q, t, c)"),
        "torch einsum": ("peer", "torch.einsum('bd,bcd->bc', q, t[c])"),
        "RecBole uni100": ("peer", "peers.recbole_uni100(c, rk.score_candidates(q, t, c))"),
    },
    "rank in the whole catalog": {
        "rank_catalog": ("ours", "rk.rank_catalog(q, t, y)"),
        "torch matmul and count": ("peer", "matmul_and_count(q, t, y)"),
        "RecBole full evaluation": ("peer", "peers.recbole_evaluate(q @ t.T, y)"),
    },
    "best 10 items": {
        "topk_catalog": ("ours", "rk.topk_catalog(q, t, 10)"),
        "torch matmul and topk": ("peer", "matmul_and_topk(q, t, 10)"),
        **{
            name: ("peer", f"peers.SEARCHERS[{name!r}].run(q, t, 10)()") for name in peers.SEARCHERS
        },
    },
}


@pytest.mark.parametrize(
    ("what", "name"), [(w, name) for w, names in MEMORY.items() for name in names]
)
def test_memory(contest: Callable[..., Any], what: str, name: str) -> None:
    """Memory of a call besides the embeddings; FAISS and NumKong also copy the table."""
    if name.startswith("RecBole"):
        peers.METRICS["RecBole"].need()
    elif name in peers.SEARCHERS:
        peers.SEARCHERS[name].need()
    role, call = MEMORY[what][name]
    setup = SETUP.format(call=call)
    group = f"memory beside the embeddings, {what}, B={B:,}, N=12,102, D=384"
    contest(group, name, role, lambda: peak_growth(setup, "work(B)"), memory=True)


# How time grows with each size, while the others are as follows.
SHAPE = {"queries": 512, "candidates": 100, "dimensions": 256, "items": 12_102}
SIZES = {
    "queries": (32, 128, 512, 2048),
    "candidates": (10, 100, 1000),
    "dimensions": (64, 256, 1024, 4096),
    "items": (1_000, 10_000, 100_000),
}


@pytest.mark.parametrize(("axis", "size"), [(a, n) for a in SIZES for n in SIZES[a]])
@pytest.mark.parametrize("name", ["rank_candidates", "torch einsum"])
def test_growth_among_candidates(
    contest: Callable[..., Any], name: str, axis: str, size: int
) -> None:
    shape = {**SHAPE, axis: size}
    query, table, _ = gaussian(shape["queries"], shape["items"], shape["dimensions"])
    ids = torch.randint(len(table), (len(query), shape["candidates"]))
    if name == "rank_candidates":
        work, role = lambda: rk.rank_candidates(query, table, ids), "ours"
    else:
        work, role = lambda: by_einsum(query, table, ids), "peer"
    group = f"growth with {axis}, rank among candidates"
    contest(group, name, role, work, rounds=5, x=size, axis=axis)


@pytest.mark.parametrize(
    ("axis", "size"), [(a, n) for a in SIZES if a != "candidates" for n in SIZES[a]]
)
@pytest.mark.parametrize("name", ["topk_catalog", "FAISS IndexFlatIP", "torch matmul and topk"])
def test_growth_in_catalog(contest: Callable[..., Any], name: str, axis: str, size: int) -> None:
    shape = {**SHAPE, axis: size}
    query, table, _ = gaussian(shape["queries"], shape["items"], shape["dimensions"])
    group = f"growth with {axis}, best {K} items"
    contest(group, name, *search(name, query, table), rounds=3, x=size, axis=axis)
