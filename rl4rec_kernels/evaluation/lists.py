"""Metrics of what is recommended, beside whether it is right: from one list of items per user.

The definitions are those of RecBole 1.2 (Zhao et al., CIKM 2021; `recbole/evaluator/metrics.py`),
and so are the names; `intralistsimilarity` is the mean cosine of the pairs of items of a list
(Ziegler et al., WWW 2005).
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from rl4rec_kernels._utils.progress import progress
from rl4rec_kernels.ids import RaggedIds
from rl4rec_kernels.ops import topk_catalog

TAIL = 0.1
"""Share of the items with interactions, those with the fewest, that are the long tail."""

_BLOCK_VALUES = 1 << 24  # of the embeddings of lists at once


def list_metrics(
    query: Tensor,
    table: Tensor,
    exclude: RaggedIds | None,
    valid: Tensor | None,
    ks: Sequence[int],
    item_counts: np.ndarray | None,
) -> dict[str, float]:
    """Metrics of the k best items of each user, by name, for all `ks` that all lists are long for.

    Those of popularity need `item_counts`.
    """
    num_items = len(table) if valid is None else int(valid.sum())
    ids = topk_catalog(query, table, min(max(ks), num_items), exclude, valid=valid)[1].cpu()
    cutoffs = [k for k in ks if k <= ids.shape[1] and bool((ids[:, k - 1] >= 0).all())]
    found: dict[str, float] = {}
    for k in cutoffs:
        counts = np.sort(np.unique(ids[:, :k].numpy(), return_counts=True)[1])
        shares = counts / counts.sum()
        places = np.arange(num_items - len(counts) + 1, num_items + 1)
        found[f"itemcoverage@{k}"] = len(counts) / num_items
        found[f"giniindex@{k}"] = float(((2 * places - num_items - 1) * shares).sum() / num_items)
        found[f"shannonentropy@{k}"] = float(-(shares * np.log(shares)).sum() / len(counts))
    if item_counts is not None and cutoffs:
        listed = ids[:, : max(cutoffs)].numpy()
        is_tail = np.zeros(len(item_counts), dtype=bool)
        known = np.flatnonzero(item_counts > 0)
        order = known[np.argsort(item_counts[known], kind="stable")]
        is_tail[order[: max(int(len(order) * TAIL), 1)]] = True
        for name, values in (("averagepopularity", item_counts), ("tailpercentage", is_tail)):
            for k in cutoffs:
                found[f"{name}@{k}"] = float(values[listed[:, :k]].mean())
    for k, value in zip(cutoffs, _similarities(table, ids, cutoffs), strict=True):
        if k > 1:
            found[f"intralistsimilarity@{k}"] = value
    return found


def _similarities(table: Tensor, ids: Tensor, ks: Sequence[int]) -> list[float]:
    """The mean cosine of two items of a list, over users, for each k; 0 for an item of zeros.

    The sum over all pairs of k unit vectors is half of the squared length of their sum less k.
    """
    if not ks:
        return []
    sums = np.zeros(len(ks))
    step = max(1, _BLOCK_VALUES // (max(ks) * max(1, table.shape[1])))
    starts = range(0, len(ids), step)
    for start in progress(starts, "comparing lists", show=ids.numel() * table.shape[1] > 1 << 30):
        rows = ids[start : start + step, : max(ks)].to(table.device)
        units = torch.nn.functional.normalize(table[rows].float(), dim=2)
        lengths = units.cumsum(1).square().sum(2).double()
        own = units.square().sum(2).cumsum(1).double()
        for i, k in enumerate(ks):
            pairs = max(1, k * (k - 1))
            sums[i] += float(((lengths[:, k - 1] - own[:, k - 1]) / pairs).sum())
    return (sums / len(ids)).tolist()
