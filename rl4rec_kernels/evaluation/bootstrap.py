"""Percentile bootstrap intervals of means over users."""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from rl4rec_kernels._utils.progress import progress

_BLOCK_BYTES = 32 << 20  # of the users' weights in a block of replicates
_LONG_WORK = 200_000_000  # draws that take seconds, so that a progress bar is shown


def bootstrap_intervals(
    values: Mapping[str, Tensor], num_bootstrap: int, confidence: float, seed: int
) -> dict[str, Tensor]:
    """Return intervals of the mean of each column, by drawing users with replacement.

    A replicate has the same users for all keys and columns, so that they can be compared.
    Replicate i depends only on the seed, i and the number of users.

    Parameters
    ----------
    values : mapping of str to Tensor [B, M]
        Metrics of B >= 1 users.
    num_bootstrap : int
        Number R of replicates.
    confidence : float
        Share of the replicates inside the interval, for example 0.95.
    seed : int
        At least 0.

    Returns
    -------
    dict of str to Tensor, float64 [2, M]
        The low and the high end.

    Notes
    -----
    A replicate is a vector of how often each user was drawn, and its means are one row of the
    product [R, B] x [B, M], which is computed in blocks of rows of 32 MiB.
    """
    num_users = len(next(iter(values.values())))
    means = {
        name: torch.empty(num_bootstrap, columns.shape[1], dtype=torch.float64, device="cpu")
        for name, columns in values.items()
    }
    block = max(1, _BLOCK_BYTES // (8 * num_users))
    starts = range(0, num_bootstrap, block)
    for start in progress(starts, "bootstrap", show=num_bootstrap * num_users > _LONG_WORK):
        stop = min(start + block, num_bootstrap)
        weights = torch.from_numpy(
            np.stack([_times_drawn(num_users, (seed, i)) for i in range(start, stop)])
        )
        for name, columns in values.items():
            means[name][start:stop] = weights @ columns.double() / num_users
    ends = torch.tensor(
        [(1 - confidence) / 2, (1 + confidence) / 2], dtype=torch.float64, device="cpu"
    )
    return {name: mean.quantile(ends, dim=0) for name, mean in means.items()}


def _times_drawn(num_users: int, seed: tuple[int, int]) -> np.ndarray:
    """How often each user is drawn, in as many draws as there are users, float64."""
    drawn = np.random.default_rng(seed).integers(num_users, size=num_users)
    return np.bincount(drawn, minlength=num_users).astype(np.float64)
