"""Real runs: rankings by a recommender of truncated singular vectors, on real histories."""

from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from scipy.sparse import csr_array
from scipy.sparse.linalg import svds
from torch import Tensor

import rl4rec_kernels as rk
from rl4rec_kernels.data import load_interactions

METRICS = ("ndcg@10", "hit@10", "mrr@10", "mrr")
DIM = 32


class Ranked(NamedTuple):
    """Ids and scores [B, C] with the target in column 0, and how ours ranks the targets."""

    ids: Tensor
    scores: Tensor
    counts: rk.RankCounts

    def ours(self, ties: str = "expected") -> dict[str, np.ndarray]:
        values = rk.metrics_from_counts(self.counts, METRICS, ties).double().numpy()
        return dict(zip(METRICS, values.T, strict=True))


@lru_cache(maxsize=2)
def _embeddings(name: str, root: Path) -> tuple[list[list[int]], Tensor, Tensor]:
    """Sequences, and the vectors of users and items from their histories."""
    sequences = [s for s in load_interactions(name, root).sequences.to_lists() if len(s) > 1]
    rows = np.repeat(np.arange(len(sequences)), [len(s) - 1 for s in sequences])
    items = np.concatenate([s[:-1] for s in sequences])
    shape = (len(sequences), int(max(map(max, sequences))) + 1)
    matrix = csr_array((np.ones(len(items), np.float32), (rows, items)), shape=shape)
    *_, vectors = svds(matrix, k=DIM, v0=np.ones(min(shape), np.float32))
    # bfloat16, as in many indexes, gives dot products fewer values, so that there are real ties.
    table = torch.from_numpy(np.ascontiguousarray(vectors.T)).bfloat16().float()
    return sequences, torch.from_numpy(matrix @ table.numpy()), table


def among_negatives(name: str, root: Path, users: int = 256) -> Ranked:
    """Targets among 99 negatives each."""
    sequences, query, table = _embeddings(name, root)
    negatives = rk.sample_negatives(len(table), sequences[:users], 99)
    targets = torch.tensor([s[-1] for s in sequences[:users]])
    ids = torch.cat([targets[:, None], torch.from_numpy(negatives)], 1)
    counts = rk.rank_candidates(query[:users], table, ids)
    return Ranked(ids, rk.score_candidates(query[:users], table, ids), counts)


def in_catalog(name: str, root: Path, users: int = 32) -> Ranked:
    """Targets among all items outside of the users' histories, of equal length for a matrix."""
    sequences, query, table = _embeddings(name, root)
    history = [set(s[:-1]) for s in sequences]
    lengths = np.bincount([len(h) for h in history if h])
    wanted = np.flatnonzero(lengths >= users)[-1]
    chosen = [u for u, s in enumerate(sequences) if len(history[u]) == wanted][:users]
    assert not any(sequences[u][-1] in history[u] for u in chosen)
    ids = torch.tensor(
        [
            [s[-1], *(i for i in range(1, len(table)) if i not in history[u] and i != s[-1])]
            for u, s in ((u, sequences[u]) for u in chosen)
        ]
    )
    valid = torch.ones(len(table), dtype=torch.bool)
    valid[0] = False
    seen = rk.RaggedIds.from_lists([sorted(history[u]) for u in chosen])
    counts = rk.rank_catalog(query[chosen], table, ids[:, 0], exclude=seen, valid=valid)
    return Ranked(ids, rk.score_candidates(query[chosen], table, ids), counts)


def of_scores(scores: list[float], ids: list[int] | None = None) -> Ranked:
    """One target, in column 0, among given scores, by a table of one dimension."""
    columns = torch.tensor([ids if ids is not None else list(range(1, len(scores) + 1))])
    values = torch.tensor([scores])
    table = torch.zeros(int(columns.max()) + 1, 1)
    table[columns[0].flip(0), 0] = values[0].flip(0)
    return Ranked(columns, values, rk.rank_candidates(torch.ones(1, 1), table, columns))


def coarse(ranked: Ranked, values: int = 8) -> Ranked:
    """The same run, with scores rounded to a few values so that most targets tie."""
    low, high = ranked.scores.min(), ranked.scores.max()
    scores = ((ranked.scores - low) / (high - low) * values).ceil()
    ids = torch.arange(scores.numel()).view_as(scores)
    counts = rk.rank_candidates(torch.ones(len(scores), 1), scores.reshape(-1, 1), ids)
    return Ranked(ranked.ids, scores, counts)
