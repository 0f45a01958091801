"""The page "Recipes": rewards of other projects, by their formulas and by this library.

Each formula is written anew from the project's source, whose file and commit the page names.
"""

import math

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

import rl4rec_kernels as rk
from rl4rec_kernels.rewards.completions import extract_query
from tests.rewards.cases import TEXTS, make

NUM_ITEMS = 40


@pytest.fixture(scope="module")
def table() -> torch.Tensor:
    """Unit vectors, all different."""
    return normalize(torch.randn(NUM_ITEMS, 16, generator=torch.Generator().manual_seed(1)), dim=1)


@pytest.fixture(scope="module")
def chosen() -> tuple[torch.Tensor, torch.Tensor]:
    """Items that a policy wrote, and the true ones, of which some are the same."""
    generator = torch.Generator().manual_seed(2)
    targets = torch.randint(0, NUM_ITEMS, (64,), generator=generator)
    written = torch.randint(0, NUM_ITEMS, (64,), generator=generator)
    written[::3] = targets[::3]
    return written, targets


def test_minionerec_rule_reward(table, chosen):
    """1 if the item is the true one."""
    written, targets = chosen
    theirs = [float(item == target) for item, target in zip(*chosen, strict=True)]
    ours = rk.reward_catalog(table[written], table, targets, metrics=("hit@1",))[:, 0]
    assert ours.tolist() == theirs
    assert 0 < sum(theirs) < len(theirs)


def test_minionerec_rule_reward_of_items_with_the_same_title(table, chosen):
    """Their embeddings are equal and tie, unless the table has each of them once."""
    written, targets = chosen
    titles = torch.arange(NUM_ITEMS) // 2
    theirs = (titles[written] == titles[targets]).float()
    by_item = table[titles]
    tied = rk.reward_catalog(by_item[written], by_item, targets, metrics=("hit@1",))[:, 0]
    assert torch.equal(tied, theirs / 2)
    once, row = torch.unique(by_item, dim=0, return_inverse=True)
    ours = rk.reward_catalog(once[row[written]], once, row[targets], metrics=("hit@1",))[:, 0]
    assert torch.equal(ours, theirs)


def test_minionerec_semantic_reward(table, chosen):
    """The cosine of both embeddings."""
    written, targets = chosen
    raw = table * torch.arange(1, NUM_ITEMS + 1)[:, None]  # any lengths
    theirs = torch.cosine_similarity(raw[targets], raw[written], dim=-1)
    unit = normalize(raw, dim=1)
    ours = rk.score_candidates(unit[written], unit, targets[:, None])[:, 0]
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("k", [5, 1000])
def test_r2ec_compute_rec_score(service, k):
    """(1 - w) NDCG@k + w softmax of the target, over all items, nothing left out."""
    targets, weight, temperature = [5, 17, 40], 0.05, 0.02
    scores = service.calculate_reward([extract_query(text) for text in TEXTS], "toys")[:, 1:].cpu()
    similarity, labels = scores / temperature, torch.tensor(targets) - 1  # item 0 is padding
    best = similarity.topk(min(k, similarity.shape[1])).indices
    discounts = 1 / torch.log2(torch.arange(2, best.shape[1] + 2))
    ndcg = torch.where(best == labels[:, None], discounts, 0).sum(1)
    softmax = similarity.softmax(1).gather(1, labels[:, None])[:, 0]
    theirs = (1 - weight) * ndcg + weight * softmax

    ours = make(
        service,
        reward_type="ndcg_softmax",
        k=k,
        softmax_weight=weight,
        temperature=temperature,
        use_negatives_only=False,
    )
    assert ours(TEXTS, targets, None) == pytest.approx(theirs.tolist(), rel=1e-5)


@pytest.mark.parametrize("k", [25, 3000])
def test_rec_r1_ndcg_of_a_dense_search(service, k):
    """NDCG@k of the target in the list that a search returns, best first."""
    targets = [5, 17, 40]
    theirs = []
    scores = service.calculate_reward([extract_query(text) for text in TEXTS], "toys").cpu()
    for row, target in zip(scores, targets, strict=True):
        listed = (row[1:].argsort(descending=True) + 1).tolist()[:k]
        gains = [float(item == target) for item in listed]
        theirs.append(float(np.sum(gains / np.log2(np.arange(2, len(gains) + 2)))))
    ours = make(service, reward_type="ndcg", k=k, use_negatives_only=False)
    assert ours(TEXTS, targets, None) == pytest.approx(theirs, rel=1e-6)
    assert any(theirs)


def test_rank_grpo_log_decay_of_one_true_title():
    """Position i earns the discounted gains from i on: [i <= r] / log2(1 + r) for a hit at r."""
    for rank in range(1, 21):
        hits = np.arange(1, 21) == rank
        gains = hits / np.log2(np.arange(20) + 2.0)
        theirs = gains.sum() - np.concatenate(([0.0], np.cumsum(gains)[:-1]))
        counts = rk.RankCounts(*(torch.tensor([n]) for n in (rank - 1, 0, 20)))
        ours = rk.metrics_from_counts(counts, ("ndcg@20",)).item()
        assert ours == pytest.approx(1 / math.log2(1 + rank))
        assert theirs == pytest.approx(np.where(np.arange(1, 21) <= rank, ours, 0), abs=1e-6)


def test_openonerec_pass_at_1(table, chosen):
    """1 if the first item is one of several true ones."""
    written, targets = chosen
    truths = [sorted({int(target), int(target + 1) % NUM_ITEMS}) for target in targets]
    theirs = [float(int(item) in true) for item, true in zip(written, truths, strict=True)]
    rows = torch.tensor([row for row, true in enumerate(truths) for _ in true])
    flat = torch.tensor([item for true in truths for item in true])
    hits = rk.reward_catalog(table[written][rows], table, flat, metrics=("hit@1",))[:, 0]
    ours = torch.zeros(len(truths)).index_add(0, rows, hits)
    assert ours.tolist() == theirs
    assert 0 < sum(theirs) < len(theirs)
