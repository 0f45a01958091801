"""Reproducible negative sampling without replacement."""

import os
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from rl4rec_kernels import _sampler
from rl4rec_kernels._utils.checks import whole_number
from rl4rec_kernels.ids import RaggedIds

MOST_ITEMS = 2**32 - 1
"""The sampler draws 32-bit numbers."""


def sample_negatives(
    num_items: int,
    seen: RaggedIds | Iterable[Sequence[int]],
    num_negs: int,
    *,
    seed: int = 42,
    user_ids: npt.ArrayLike | None = None,
    weights: npt.ArrayLike | None = None,
    first_item: int = 1,
    num_threads: int | None = None,
) -> npt.NDArray[np.int64]:
    """Draw items that users have not seen, without replacement.

    The generator is counter-based (Philox4x32-10; Salmon et al., SC 2011) and keyed by
    ``(seed, user id)``: what a user is given does not depend on the other users, their order, the
    size of the call or the number of threads.

    Parameters
    ----------
    num_items : int
        Ids end before this; it is the number of rows of the item table. Less than 2^32.
    seen : RaggedIds with U rows, or a list of U lists of ids
        Items that must not be drawn, for every user. Repeats do no harm.
    num_negs : int
        How many items to draw for each user.
    seed : int
        From 0 to 2^64 - 1.
    user_ids : int64, shape [U], optional
        The users; default 0 ... U - 1. Any ids will do; the same id draws by the same stream.
    weights : float, shape [num_items], optional
        Items are drawn one after the other, each with probability in proportion to its weight among
        what is left (so the order of a row carries information). Pass ``popularity ** alpha`` for
        popularity sampling; items of weight 0 are never drawn. Default: all alike.
    first_item : int
        Ids start here; 0 is padding by default.
    num_threads : int, optional
        Default: all processors this process may use.

    Returns
    -------
    ndarray
        int64, shape [U, num_negs].

    Raises
    ------
    ValueError
        If an argument is out of range, or a user has too few items left; the message names the
        user and the counts. Nothing is drawn then.
    TypeError
        If an argument is of the wrong kind.
    IndexError
        If a seen id is not below `num_items`; the message names the user.

    Notes
    -----
    The law is exact for both kinds of sampling, whichever way a user is served: by drawing from all
    items and rejecting what is taken, or, where that would take long, from a list of what is left.
    A thread needs ``num_items / 8`` bytes, and weights another 16 bytes an item. A call can be
    interrupted (Ctrl-C).

    Examples
    --------
    >>> sample_negatives(1000, [[1, 2, 3], [4]], 5).shape
    (2, 5)
    """
    num_items = whole_number("num_items", num_items, 0, MOST_ITEMS)
    num_negs = whole_number("num_negs", num_negs, 0, MOST_ITEMS)
    first_item = whole_number("first_item", first_item, 0, num_items)
    seed = whole_number("seed", seed, 0, 2**64 - 1)
    if num_threads is None:
        num_threads = len(os.sched_getaffinity(0))
    num_threads = whole_number("num_threads", num_threads, 1, 4096)

    values, offsets = _check_seen(seen)
    num_users = len(offsets) - 1
    users = np.arange(num_users) if user_ids is None else _integers("user_ids", user_ids)
    if users.shape != (num_users,):
        raise ValueError(
            f"user_ids must have one id for each of the {num_users} rows of seen, "
            f"got shape {users.shape}"
        )
    if values.size and (values.min() < 0 or values.max() >= num_items):
        first = int(np.flatnonzero((values < 0) | (values >= num_items))[0])
        user = users[np.searchsorted(offsets, first, side="right") - 1]
        raise IndexError(
            f"seen: user {user} has item {values[first]}, but ids go from 0 to "
            f"{num_items - 1}; pass a larger num_items or check the ids"
        )
    if weights is not None:
        weights = _check_weights(weights, num_items)
    return _sampler.sample(
        num_items, values, offsets, num_negs, seed, users, weights, first_item, num_threads
    )


def _integers(name: str, values: Any) -> npt.NDArray[np.int64]:
    """Check an array of integers."""
    array = np.asarray(values)
    if array.dtype.kind not in "iu" and array.size:
        raise TypeError(f"{name} must hold integers, got {array.dtype}")
    if array.dtype == np.uint64 and array.size and array.max() >= 2**63:
        raise ValueError(f"{name} must be less than 2^63, got {array.max()}")
    return np.ascontiguousarray(array, dtype=np.int64)


def _check_seen(seen: Any) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Turn `seen` into checked values and offsets."""
    if not isinstance(seen, RaggedIds):
        if isinstance(seen, str | bytes) or not isinstance(seen, Iterable):
            raise TypeError(f"seen must be RaggedIds or a list of id lists, got {seen!r}")
        try:
            seen = RaggedIds.from_lists(seen)
        except TypeError as error:
            raise TypeError(f"seen: {error}") from None
    values = _integers("seen.values", seen.values)
    offsets = _integers("seen.offsets", seen.offsets)
    if values.ndim != 1 or offsets.ndim != 1 or not offsets.size:
        raise ValueError(
            f"seen must have values [nnz] and offsets [U + 1], got {values.shape} "
            f"and {offsets.shape}"
        )
    if offsets[0] != 0 or offsets[-1] != values.size or (np.diff(offsets) < 0).any():
        raise ValueError(
            f"seen.offsets must ascend from 0 to {values.size}, the number of values; "
            f"they go from {offsets[0]} to {offsets[-1]}"
        )
    return values, offsets


def _check_weights(weights: npt.ArrayLike, num_items: int) -> npt.NDArray[np.float64]:
    """Check the weights of the items."""
    array = np.asarray(weights)
    if array.dtype.kind not in "iuf":
        raise TypeError(f"weights must be numbers, got {array.dtype}")
    array = np.ascontiguousarray(array, dtype=np.float64)
    if array.shape != (num_items,):
        raise ValueError(
            f"weights must have one number for each of the {num_items} items, "
            f"got shape {array.shape}"
        )
    bad = np.flatnonzero(~(np.isfinite(array) & (array >= 0)))
    if bad.size:
        raise ValueError(
            f"weights must be finite and not negative, but item {bad[0]} has {array[bad[0]]}"
        )
    return array
