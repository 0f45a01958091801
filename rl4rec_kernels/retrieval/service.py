"""Scores and ranks of texts against data sets of items, in the caller's process."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rl4rec_kernels.metrics import RankCounts
from rl4rec_kernels.ops import rank_candidates, score_candidates
from rl4rec_kernels.ragged import RaggedIds
from rl4rec_kernels.retrieval.catalog import rank_catalog
from rl4rec_kernels.retrieval.encoder import Encoder, check_texts
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
        If there is no data set, or an index does not belong to the encoder.
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
            Needed with `neg_items`.
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
        if neg_items is None:
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
        if neg_items is not None:
            candidates = self._candidates(index, texts, targets, neg_items)
            return rank_candidates(self._encode(texts), index.table, candidates)
        items = check_targets(targets, len(texts))
        index.check_items("targets", items)
        seen = None
        if histories is not None:
            seen = as_ragged("histories", histories, len(texts))
            outside = seen.values[seen.values >= index.num_rows]
            if outside.size:
                raise IndexError(f"histories: item {outside[0]} is not in the index, whose ids are "
                                 f"below {index.num_rows}")  # fmt: skip
        query = self._encode(texts)
        return rank_catalog(query, index.table, torch.from_numpy(items), seen, index.valid)

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
        check_texts(texts)
        items = check_targets(targets, len(texts))
        negatives = as_ragged("neg_items", neg_items, len(texts))
        index.check_items("targets", items)
        index.check_items("neg_items", negatives.values)
        values = np.insert(negatives.values, negatives.offsets[:-1], items)
        return RaggedIds(values, negatives.offsets + np.arange(len(items) + 1))


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


def check_targets(targets: Any, rows: int) -> np.ndarray:
    """Turn targets into int64 [rows].

    Raises
    ------
    TypeError, ValueError
        If they are not whole numbers, or not one for each row.
    """
    if targets is None:
        raise ValueError("targets is None: pass the item id that each row is about")
    array = np.asarray(targets)
    if array.dtype.kind not in "iu" and array.size:
        raise TypeError(f"targets must be item ids, got {array.dtype}")
    if array.shape != (rows,):
        raise ValueError(f"targets must have one item id for each of the {rows} texts, "
                         f"got shape {array.shape}")  # fmt: skip
    return array.astype(np.int64)


def as_ragged(name: str, rows: Any, count: int) -> RaggedIds:
    """Turn lists of ids, an array or RaggedIds into int64 RaggedIds of NumPy arrays, without -1.

    Raises
    ------
    TypeError, ValueError
        If they are not whole numbers, not `count` rows, or below -1.
    """
    if not isinstance(rows, RaggedIds):
        if isinstance(rows, str) or not hasattr(rows, "__len__"):
            raise TypeError(f"{name} must be a list of lists of item ids, got {rows!r}")
        try:
            rows = RaggedIds.from_lists(rows)
        except TypeError as error:
            raise TypeError(f"{name}: {error}") from None
    values, offsets = (np.asarray(part, dtype=np.int64) for part in rows)
    if len(offsets) != count + 1:
        raise ValueError(f"{name} must have one list for each of the {count} texts, "
                         f"got {len(offsets) - 1}")  # fmt: skip
    if values.size and values.min() < -1:
        raise IndexError(f"{name}: {values.min()} is no item id (-1 is padding)")
    kept = values != -1
    if kept.all():
        return RaggedIds(values, offsets)
    kept_before = np.concatenate([[0], np.cumsum(kept)])
    return RaggedIds(values[kept], kept_before[offsets])
