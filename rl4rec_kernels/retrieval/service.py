"""Scores and ranks of texts against data sets of items, in the caller's process."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rl4rec_kernels.metrics import RankCounts
from rl4rec_kernels.ops import rank_candidates, rank_catalog, score_candidates
from rl4rec_kernels.ragged import RaggedIds
from rl4rec_kernels.retrieval.encoder import Encoder, check_texts
from rl4rec_kernels.retrieval.ids import as_ragged, check_inside, check_targets, with_targets
from rl4rec_kernels.retrieval.item_index import ItemIndex, check_finite

DEFAULT_NAME = "RetrievalService"
DEFAULT_NAMESPACE = "rl4rec"

_registry: dict[tuple[str, str], "LocalRetrievalService"] = {}


class LocalRetrievalService:
    """Scores generated texts against the items of one or more data sets.

    It may be called from several threads.

    Parameters
    ----------
    datasets : mapping of str to ItemIndex
        The data sets by name.
    encoder : Encoder
        Encodes the texts; must be the one that the indexes were built with.

    Raises
    ------
    TypeError, ValueError
        If there is no data set, or an index does not belong to the encoder or is not finite; the
        message names the data set and the row.
    """

    def __init__(self, datasets: Mapping[str, ItemIndex], encoder: Encoder) -> None:
        if not isinstance(datasets, Mapping) or not datasets:
            raise ValueError("datasets must be a dict of at least one ItemIndex by name, "
                             f"got {datasets!r}")  # fmt: skip
        for name, index in datasets.items():
            if not isinstance(index, ItemIndex):
                raise TypeError(f"datasets[{name!r}] must be an ItemIndex, got {index!r}")
            try:
                index.check_encoder(encoder)
            except ValueError as error:
                raise ValueError(f"datasets[{name!r}]: {error}") from None
            check_finite(f"datasets[{name!r}]", index.table)  # a file may be damaged
        self._datasets = dict(datasets)
        self._encoder = encoder

    def register(
        self, name: str = DEFAULT_NAME, namespace: str = DEFAULT_NAMESPACE
    ) -> "LocalRetrievalService":
        """Make the service known by name to `RecReward` in this process; returns itself."""
        _registry[namespace, name] = self
        return self

    def calculate_reward(
        self,
        texts: Sequence[str],
        dataset_name: str,
        targets: Any = None,
        neg_items: Any = None,
    ) -> Tensor:
        """Score texts against items.

        Parameters
        ----------
        texts : sequence of str
            B texts.
        dataset_name : str
            The data set.
        targets : B item ids, optional
            Needed with `neg_items`; without, only checked.
        neg_items : B lists of item ids, a [B, num_negs] array, or RaggedIds, optional
            Negatives, of any number a row; -1 is padding.

        Returns
        -------
        Tensor
            float32. With negatives [B, 1 + num_negs], column 0 the target's score; rows with
            fewer negatives than others end with -inf. Without, [B, N], the score of every row of
            the table, -inf for rows that are no items.

        Raises
        ------
        TypeError, ValueError, IndexError
            If an argument does not fit; the message names it.
        """
        index = self._index(dataset_name)
        check_texts(texts)
        if neg_items is None:
            if targets is not None:
                index.check_items("targets", check_targets(targets, len(texts)))
            query = self._encode(texts)
            everything = torch.arange(index.num_rows).expand(len(texts), -1)
            scores = score_candidates(query, index.table, everything)
            return scores.masked_fill_(~index.valid, -torch.inf)
        if targets is None:
            raise ValueError("neg_items needs targets: pass the item id that each row is about")
        candidates = self._candidates(index, texts, targets, neg_items)
        scores = score_candidates(self._encode(texts), index.table, candidates)
        rows = scores.split(np.diff(candidates.offsets).tolist())
        return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=-torch.inf)

    def rank(
        self,
        texts: Sequence[str],
        dataset_name: str,
        targets: Any,
        neg_items: Any = None,
        histories: Any = None,
    ) -> RankCounts:
        """Count how the competitors of each target score; no matrix of scores is made.

        Parameters
        ----------
        texts, dataset_name, targets, neg_items
            As in `calculate_reward`. Without negatives, all items compete.
        histories : B lists of item ids, optional
            Items that do not compete when all items do. A target is never left out.

        Returns
        -------
        RankCounts
            int64, shape [B] each.
        """
        index = self._index(dataset_name)
        check_texts(texts)
        if neg_items is not None:
            candidates = self._candidates(index, texts, targets, neg_items)
            return rank_candidates(self._encode(texts), index.table, candidates)
        items = check_targets(targets, len(texts))
        index.check_items("targets", items)
        seen = None
        if histories is not None:
            seen = as_ragged("histories", histories, len(texts))
            check_inside("histories", seen.values, index.num_rows)
        query = self._encode(texts)
        return rank_catalog(query, index.table, torch.from_numpy(items), seen, valid=index.valid)

    def _index(self, dataset_name: str) -> ItemIndex:
        if dataset_name not in self._datasets:
            raise ValueError(f"unknown data set {dataset_name!r}; this service has "
                             f"{', '.join(map(repr, self._datasets))}")  # fmt: skip
        return self._datasets[dataset_name]

    def _encode(self, texts: Sequence[str]) -> Tensor:
        query = self._encoder.encode_queries(texts).cpu()
        check_finite("the encoder's output", query)
        return query

    def _candidates(
        self, index: ItemIndex, texts: Sequence[str], targets: Any, neg_items: Any
    ) -> RaggedIds:
        """Each row's target, then its negatives."""
        items = check_targets(targets, len(texts))
        negatives = as_ragged("neg_items", neg_items, len(texts))
        index.check_items("targets", items)
        index.check_items("neg_items", negatives.values)
        return with_targets(items, negatives)


def find_service(name: str = DEFAULT_NAME, namespace: str = DEFAULT_NAMESPACE) -> Any:
    """Return the service of that name in this process.

    Raises
    ------
    LookupError
        If there is none; the message says how to start one.
    """
    try:
        return _registry[namespace, name]
    except KeyError:
        raise LookupError(
            f"no retrieval service {name!r} in namespace {namespace!r}; start one with "
            f"LocalRetrievalService({{name: index}}, encoder).register({name!r}, {namespace!r}), "
            "or pass service="
        ) from None
