"""Drawing negatives, and checking them."""

from numbers import Real
from typing import Any

import numpy as np

from rl4rec_kernels.ids import RaggedIds, rows_of


def check_alpha(alpha: float) -> None:
    """Check the exponent of `sampling_weights`.

    Raises
    ------
    TypeError, ValueError
        If it is not a finite number from 0.
    """
    if isinstance(alpha, bool) or not isinstance(alpha, Real):
        raise TypeError(f"neg_alpha must be a number, got {alpha!r}")
    if not 0 <= alpha < np.inf:
        raise ValueError(f"neg_alpha must be 0 (uniform) or more (popularity^alpha), got {alpha}")


def sampling_weights(
    num_items: int, known_items: np.ndarray, item_counts: np.ndarray, alpha: float
) -> np.ndarray | None:
    """Return each item's weight ``count ** alpha``, 0 for those without metadata.

    Returns
    -------
    float64, shape [num_items], or None
        None where every item from 1 has the same weight, which is faster to draw from.
    """
    if alpha == 0 and known_items.size == num_items - 1:
        return None
    weights = np.zeros(num_items)
    weights[known_items] = item_counts[known_items].astype(np.float64) ** alpha
    return weights


def draw_negatives(
    num_items: int,
    seen: RaggedIds,
    num_negs: int,
    *,
    seed: int,
    user_ids: np.ndarray,
    weights: np.ndarray | None = None,
) -> np.ndarray:
    """Draw and check ``num_negs`` negatives a user, int64 [U, num_negs].

    Parameters
    ----------
    num_items : int
        Negatives are below this.
    seen : RaggedIds, U rows
        What each user may not be given.
    num_negs : int
        How many.
    seed : int
        See `split_seed`.
    user_ids : int64, shape [U]
        A user's negatives depend on the seed and the user's id only.
    weights : float64, shape [num_items], optional
        See `sampling_weights`.

    Raises
    ------
    ValueError
        If a user has too few items left.
    RuntimeError
        If the sampler broke its promise.
    """
    from rl4rec_kernels.negatives.sampling import (
        sample_negatives,  # compiled; not needed without negatives
    )

    negatives = sample_negatives(
        num_items, seen, num_negs, seed=seed, user_ids=user_ids, weights=weights, first_item=1
    )
    try:
        verify_negatives(negatives, num_items, seen, user_ids, weights)
    except ValueError as error:
        raise RuntimeError(f"{error}; this is a bug of the sampler, please report it") from error
    return negatives


def check_given(negatives: Any, num_users: int) -> np.ndarray:
    """Turn negatives that were made elsewhere into int64 [num_users, n].

    Raises
    ------
    TypeError, ValueError
        If they are no such array of whole numbers.
    """
    array = np.asarray(negatives)
    if array.ndim != 2 or array.shape[0] != num_users:
        raise ValueError(
            f"negatives must be [{num_users}, n], a row for each user in the order of "
            f"user_ids, got shape {array.shape}"
        )
    if array.dtype.kind not in "iu" and array.size:
        raise TypeError(f"negatives must be item ids, got {array.dtype}")
    return array.astype(np.int64)


def put_beside(ids: RaggedIds, more: np.ndarray) -> RaggedIds:
    """Ragged ids with the rows of the array `more` [U, n] before theirs."""
    width = more.shape[1]
    values = np.insert(ids.values, np.repeat(ids.offsets[:-1], width), more.ravel())
    return RaggedIds(values, ids.offsets + width * np.arange(len(ids.offsets)))


def verify_negatives(
    negatives: np.ndarray,
    num_items: int,
    seen: RaggedIds,
    user_ids: np.ndarray,
    weights: np.ndarray | None = None,
) -> None:
    """Check that negatives are items that exist, differ, and were not seen.

    Raises
    ------
    ValueError
        If one is not; the message names the user and the item.
    """

    def refuse(items: np.ndarray, bad: np.ndarray, why: str) -> None:
        if bad.any():
            row, column = np.argwhere(bad)[0]
            raise ValueError(f"negative {items[row, column]} of user {user_ids[row]} {why}")

    outside = (negatives < 1) | (negatives >= num_items)
    refuse(negatives, outside, f"is outside 1…{num_items - 1}")
    if weights is not None:
        refuse(negatives, weights[negatives] == 0, "has weight 0 or no metadata")
    # Sorted, repeats are neighbours, and the search below reads its table in one direction.
    ordered = np.sort(negatives, axis=1)
    refuse(ordered[:, 1:], ordered[:, 1:] == ordered[:, :-1], "stands there twice")
    # A pair (row, item) as one number; the last entry keeps every search inside the table.
    seen_pairs = np.sort(rows_of(seen) * num_items + seen.values)
    seen_pairs = np.append(seen_pairs, np.iinfo(np.int64).max)
    pairs = np.arange(ordered.shape[0])[:, None] * num_items + ordered
    refuse(ordered, seen_pairs[np.searchsorted(seen_pairs, pairs)] == pairs, "was seen by the user")
