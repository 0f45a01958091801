"""Counts and log-probabilities over a catalog whose rows are in slices, on several machines.

Each slice counts among its own rows and sums the exponentials of their scores, in one pass. Counts
and sums add up.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from rl4rec_kernels.ops import _backends
from rl4rec_kernels.ops._arguments import Catalog, Ids
from rl4rec_kernels.ops._blocks import over_slices


@torch.no_grad()
def count_and_sum(
    query: Tensor,
    catalog: Catalog,
    targets: Tensor,
    exclude: Ids,
    target_scores: Tensor,
    temperature: float,
) -> tuple[Tensor, Tensor]:
    """Count a slice's competitors and sum the exponentials of its items' scores, on the CPU.

    Returns counts as of `count_slices`, and float64 [B, 2]: for each query the largest score, and
    the log of the sum of e^((score - largest) / temperature), of its competitors and the target if
    that is in the slice; both are -inf if there is none. Targets of -1 are in another slice.
    `exclude` does not remove a target. Ids must have been checked.
    """
    operator = torch.ops.rl4rec.rank_log_sums_catalog.default
    sums = query.new_full((len(query), 2), -torch.inf, dtype=torch.float64)
    counts = query.new_zeros((3, len(query)), dtype=torch.int64)
    for rows, (values, valid, *_), *ids, scores in over_slices(
        query, catalog, targets, exclude, target_scores, show_progress=False
    ):
        *found, more = operator(query[rows], values, *ids, valid, temperature, scores)
        counts[:, rows] += torch.stack(found)
        counts[2, rows] -= 1  # each slice counts the target
        sums[rows] = _added([sums[rows], more], temperature)
    return counts, sums


def target_log_probs(target_scores: Tensor, sums: Sequence[Tensor], temperature: float) -> Tensor:
    """Log-probabilities of targets, float32 [B], from the sums of all slices.

    The slices are added in their order in float64.
    """
    largest, log_total = _added(sums, temperature).unbind(1)
    return (_distance(target_scores.double(), largest, temperature) - log_total).float()


def _added(sums: Sequence[Tensor], temperature: float) -> Tensor:
    largest = torch.stack(list(sums))[:, :, 0].amax(0)
    total = torch.zeros_like(largest)
    for part in sums:
        total += (_distance(part[:, 0], largest, temperature) + part[:, 1]).exp()
    return torch.stack([largest, total.log()], 1)


def _distance(scores: Tensor, largest: Tensor, temperature: float) -> Tensor:
    """How far scores are below the largest; equal infinite scores are at a distance of 0."""
    return torch.where(scores == largest, 0.0, (scores - largest) / temperature)


torch.library.register_fake(
    "rl4rec::rank_log_sums_catalog",
    lambda query, *rest: (
        *_backends.empty_counts(query),
        query.new_empty((query.shape[0], 2), dtype=torch.float64),
    ),
)
