"""Three rows, and rewards by a plain loop over rows."""

import math

from rl4rec_kernels import RecReward
from rl4rec_kernels.rewards.completions import extract_query

TEXTS = ["red nail polish", "<think>soap?</think><query>dry hair</query>", "perfume"]
TARGETS, HISTORIES = [3, 17, 40], [[1, 2], [5], []]
NEGATIVES = [[5, 9, 11], [1, 2, 3, 4, 6, 7, 8, 9, 10, 11, 12], [4]]


def make(service, **options) -> RecReward:
    return RecReward(service=service, dataset_name="toys", **options)


def loop(service, metric, texts, targets, histories, neg_items=None, k=10) -> list[float]:
    """A loop over rows, in which a tie is worth the mean over its ranks."""
    rewards = []
    everything = service.calculate_reward([extract_query(text) for text in texts], "toys")
    for b, target in enumerate(targets):
        if neg_items is None:
            items = [i for i in range(1, 50) if i not in histories[b] and i != target]
        else:
            items = neg_items[b]
        scores = [everything[b, item].item() for item in items]
        own = everything[b, target].item()
        above, tied = sum(s > own for s in scores), sum(s == own for s in scores)
        values = [metric(rank, k) for rank in range(1 + above, 2 + above + tied)]
        rewards.append(sum(values) / len(values))
    return rewards


def ndcg(rank, k):
    return (rank <= k) / math.log2(1 + rank)


def hit(rank, k):
    return float(rank <= k)


def mrr(rank, k):
    return (rank <= k) / rank


def mixed(rank, k):
    return 0.7 * ndcg(rank, k) + 0.3 * hit(rank, k)
