"""Means of rank metrics over batches, in the protocol of torchmetrics."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from rl4rec_kernels._utils.arrays import Array
from rl4rec_kernels.evaluation.protocols import rank_sampled
from rl4rec_kernels.ids import IdLists, RaggedIds, TargetIds, as_ragged, check_some_targets
from rl4rec_kernels.metrics import TieRule, parse_metrics, parse_ties
from rl4rec_kernels.ops import metrics_from_counts, rank_catalog
from rl4rec_kernels.ops._arguments import as_embeddings

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup


class Evaluator:
    """Accumulates the means of rank metrics over batches of queries.

    The methods are those of a metric of torchmetrics. Only sums are kept, in float64, so users may
    come in any number of batches. In a ``torch.distributed`` group `compute` adds up the sums of
    all processes; each user should be in one of them.

    Parameters
    ----------
    table : Tensor or array, shape [N, D]
        Embeddings of all items.
    metrics : sequence of str
        See `metrics_from_counts`.
    ties : str
        See `metrics_from_counts`.
    valid : Tensor, bool, shape [N], optional
        Rows that are items. Default: all.
    group : torch.distributed.ProcessGroup, optional
        The processes that share the users. Default: all, if torch.distributed is initialised.

    Raises
    ------
    TypeError, ValueError
        If a metric or the tie rule is unknown.

    Examples
    --------
    >>> evaluator = Evaluator(torch.eye(4), ("hit@1", "mrr"))
    >>> evaluator.update(torch.eye(4)[:2], [0, 1])
    >>> evaluator.compute()
    {'hit@1': 1.0, 'mrr': 1.0}
    """

    def __init__(
        self,
        table: Array,
        metrics: Sequence[str] = ("ndcg@10", "hit@10"),
        *,
        ties: TieRule = "expected",
        valid: Tensor | None = None,
        group: "ProcessGroup | None" = None,
    ) -> None:
        parse_metrics(metrics)
        parse_ties(ties)
        self.table, self.metrics, self.ties, self.valid = table, tuple(metrics), ties, valid
        self._group = group
        self.reset()

    def reset(self) -> None:
        """Forget all users."""
        self._sums = torch.zeros(len(self.metrics) + 1, dtype=torch.float64, device="cpu")

    def update(
        self,
        query: Array,
        targets: TargetIds,
        *,
        negatives: IdLists | None = None,
        exclude: IdLists | None = None,
    ) -> None:
        """Add users.

        Parameters
        ----------
        query, targets, negatives, exclude
            As in `evaluate`: with `negatives` the targets are ranked among these, else among all
            items.

        Raises
        ------
        TypeError, ValueError, IndexError
            As `rank_catalog` and `rank_candidates`; nothing is added then.
        """
        query, table = as_embeddings(query, self.table)
        items = check_some_targets(targets, query.shape[0])
        if negatives is None:
            counts = rank_catalog(query, table, items, exclude, valid=self.valid)
        else:
            sampled = as_ragged("negatives", negatives, query.shape[0])
            counts = rank_sampled(query, table, items, sampled)
        offsets = None
        if isinstance(items, RaggedIds):
            offsets = torch.from_numpy(items.offsets).to(query.device)
        values = metrics_from_counts(counts, self.metrics, self.ties, offsets=offsets)
        added = values.double().sum(0).cpu()
        self._sums += torch.cat([added, added.new_tensor([query.shape[0]])])

    def compute(self) -> dict[str, float]:
        """Return the mean of each metric over all users so far, of all processes.

        Raises
        ------
        ValueError
            If there are none.
        """
        sums, dist = self._sums, torch.distributed
        if dist.is_available() and dist.is_initialized():
            device = "cuda" if dist.get_backend(self._group) == "nccl" else "cpu"
            sums = sums.to(device, copy=True)
            dist.all_reduce(sums, group=self._group)
        *totals, users = sums.tolist()
        if not users:
            raise ValueError("there is nothing to compute: update has not been called with a user")
        return {name: total / users for name, total in zip(self.metrics, totals, strict=True)}
