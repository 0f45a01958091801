"""Reproducible negative sampling without replacement."""

import os
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

from rl4rec_kernels import _sampler
from rl4rec_kernels._utils.arrays import as_array
from rl4rec_kernels._utils.checks import MAX_SEED, MAX_THREADS, whole_number
from rl4rec_kernels.ids import RaggedIds, as_column, pack_ids

MAX_ITEMS = 2**32 - 1
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
    ``(seed, user id)``: a user's negatives do not depend on the other users, their order, the size
    of the call or the number of threads.

    Parameters
    ----------
    num_items : int
        The number of rows of the item table, less than 2^32; ids are below it.
    seen : RaggedIds with U rows, or a list of U lists of ids
        Items that must not be drawn, per user. May contain repeats.
    num_negs : int
        How many items to draw per user.
    seed : int
        From 0 to 2^64 - 1.
    user_ids : int64, shape [U], optional
        The users, any ids. The same id always draws from the same stream. Default: 0 ... U - 1.
    weights : float, shape [num_items], optional
        Items are drawn one after another, each with probability proportional to its weight among
        the remaining ones (so the order within a row carries information). Pass
        ``popularity ** alpha`` for popularity sampling; items of weight 0 are never drawn. Default:
        uniform.
    first_item : int
        The lowest id to draw; by default 1, since 0 is padding.
    num_threads : int, optional
        Default: all processors that this process may use.

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
        If an argument has the wrong type.
    IndexError
        If a seen id is not below `num_items`; the message names the user.

    Notes
    -----
    The distribution is exact for uniform and weighted sampling. Items are drawn from all items,
    rejecting those already taken, or, where this would be slow, from a list of the remaining ones.
    A thread needs ``num_items / 8`` bytes; weights take another 16 bytes per item. A call can be
    interrupted (Ctrl-C).

    Examples
    --------
    >>> sample_negatives(1000, [[1, 2, 3], [4]], 5).shape
    (2, 5)
    """
    num_items = whole_number("num_items", num_items, 0, MAX_ITEMS)
    num_negs = whole_number("num_negs", num_negs, 0, MAX_ITEMS)
    first_item = whole_number("first_item", first_item, 0, num_items)
    seed = whole_number("seed", seed, 0, MAX_SEED)
    if num_threads is None:
        num_threads = len(os.sched_getaffinity(0))
    num_threads = whole_number("num_threads", num_threads, 1, MAX_THREADS)

    values, offsets = pack_ids("seen", seen)
    num_users = len(offsets) - 1
    users = np.arange(num_users) if user_ids is None else user_ids
    users = as_column("user_ids", users, num_users)
    if values.size and (values.min() < 0 or values.max() >= num_items):
        first = int(np.flatnonzero((values < 0) | (values >= num_items))[0])
        user = users[np.searchsorted(offsets, first, side="right") - 1]
        raise IndexError(
            f"seen: user {user} has item {values[first]}, but ids must be from 0 to "
            f"{num_items - 1}; pass a larger num_items or check the ids"
        )
    if weights is not None:
        weights = _check_weights(weights, num_items)
    return _sampler.sample(
        num_items, values, offsets, num_negs, seed, users, weights, first_item, num_threads
    )


def _check_weights(weights: npt.ArrayLike, num_items: int) -> npt.NDArray[np.float64]:
    array = as_array("weights", weights)
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
            f"weights must be finite and at least 0, item {bad[0]} has {array[bad[0]]}"
        )
    return array
