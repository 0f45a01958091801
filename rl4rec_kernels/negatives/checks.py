"""Weights to draw a dataset's negatives by, and the check of drawn and given negatives."""

import numpy as np

from rl4rec_kernels.ids import RaggedIds, pairs_of


def sampling_weights(
    num_items: int, known_items: np.ndarray, item_counts: np.ndarray, alpha: float
) -> np.ndarray | None:
    """Each item's weight ``count ** alpha``, 0 without metadata, float64 [num_items].

    None if all items from 1 have the same weight, which is faster to draw from.
    """
    if alpha == 0 and known_items.size == num_items - 1:
        return None
    weights = np.zeros(num_items)
    weights[known_items] = item_counts[known_items].astype(np.float64) ** alpha
    return weights


def verify_negatives(
    negatives: np.ndarray,
    num_items: int,
    seen: RaggedIds,
    user_ids: np.ndarray,
    weights: np.ndarray | None = None,
) -> None:
    """Raise ValueError unless negatives [U, n] are existing, different, unseen items."""

    def refuse(items: np.ndarray, bad: np.ndarray, why: str) -> None:
        if bad.any():
            row, column = np.argwhere(bad)[0]
            raise ValueError(f"negative {items[row, column]} of user {user_ids[row]} {why}")

    outside = (negatives < 1) | (negatives >= num_items)
    refuse(negatives, outside, f"is not an item id from 1 to {num_items - 1}")
    if weights is not None:
        refuse(negatives, weights[negatives] == 0, "has weight 0 or no metadata")
    # After sorting, repeats are neighbours, and the search below reads its table in order.
    ordered = np.sort(negatives, axis=1)
    refuse(ordered[:, 1:], ordered[:, 1:] == ordered[:, :-1], "appears twice")
    # The last entry keeps every search inside the table.
    seen_pairs = np.append(np.sort(pairs_of(seen, num_items)), np.iinfo(np.int64).max)
    pairs = np.arange(ordered.shape[0])[:, None] * num_items + ordered
    refuse(ordered, seen_pairs[np.searchsorted(seen_pairs, pairs)] == pairs, "was seen by the user")
