"""Scores and ranks of texts against data sets of items, in the caller's process."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from rl4rec_kernels._utils.mapped import check_finite
from rl4rec_kernels.index.encoder import Encoder
from rl4rec_kernels.index.item_index import ItemIndex
from rl4rec_kernels.metrics import RankCounts
from rl4rec_kernels.service.requests import (
    Items,
    LocalItems,
    answer_together,
    check_arguments,
    make_request,
)

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
        Encodes the texts; must be the one that the indexes were built with. The tables are kept on
        its device.

    Attributes
    ----------
    items : dict of str to Items
        The items of each data set, where the encoder is.

    Raises
    ------
    TypeError, ValueError
        If there is no data set, or an index does not belong to the encoder or is not finite; the
        message names the data set and the row.
    """

    def __init__(self, datasets: Mapping[str, ItemIndex], encoder: Encoder) -> None:
        if not isinstance(datasets, Mapping) or not datasets:
            raise ValueError(
                f"datasets must be a dict of at least one ItemIndex by name, got {datasets!r}"
            )
        for name, index in datasets.items():
            if not isinstance(index, ItemIndex):
                raise TypeError(f"datasets[{name!r}] must be an ItemIndex, got {index!r}")
            try:
                index.check_encoder(encoder)
            except ValueError as error:
                raise ValueError(f"datasets[{name!r}]: {error}") from None
            check_finite(f"datasets[{name!r}]", index.table)  # a file may be damaged
        self.items: dict[str, Items] = {
            name: LocalItems(index, encoder.device) for name, index in datasets.items()
        }
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
        return self._answer(dataset_name, texts, targets, neg_items, None, True)

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
        return self._answer(dataset_name, texts, targets, neg_items, histories, False)

    async def calculate_reward_async(
        self, texts: Sequence[str], dataset_name: str, targets: Any = None, neg_items: Any = None
    ) -> Tensor:
        """`calculate_reward`, in a thread, for callers on an asyncio loop."""
        return await asyncio.to_thread(
            self.calculate_reward, texts, dataset_name, targets, neg_items
        )

    async def rank_async(
        self,
        texts: Sequence[str],
        dataset_name: str,
        targets: Any,
        neg_items: Any = None,
        histories: Any = None,
    ) -> RankCounts:
        """`rank`, in a thread, for callers on an asyncio loop."""
        return await asyncio.to_thread(
            self.rank, texts, dataset_name, targets, neg_items, histories
        )

    def _answer(self, dataset_name: str, *arguments: Any) -> Any:
        """Check, encode and answer one call."""
        items = find_items(self.items, dataset_name)
        request = make_request(items, dataset_name, check_arguments(*arguments))
        query = encode_finite(self._encoder, request.texts)
        return answer_together(self.items, [request], query)[0]


def encode_finite(encoder: Encoder, texts: Sequence[str]) -> Tensor:
    """Encode texts, float32 [len(texts), D], on the encoder's device.

    Raises
    ------
    ValueError
        If an encoding is not finite.
    """
    query = encoder.encode_queries(texts)
    check_finite("the encoder's output", query)
    return query


def find_items(items: Mapping[str, Items], dataset_name: str) -> Items:
    """Return the items of a data set.

    Raises
    ------
    ValueError
        If there is no such data set; the message names those there are.
    """
    if not isinstance(dataset_name, str) or dataset_name not in items:
        raise ValueError(
            f"unknown data set {dataset_name!r}; this service has {', '.join(map(repr, items))}"
        )
    return items[dataset_name]


def find_service(name: str = DEFAULT_NAME, namespace: str = DEFAULT_NAMESPACE) -> Any:
    """Return the service of that name: of this process, or of the Ray cluster.

    If Ray is not initialised in this process, it is connected to the cluster of ``RAY_ADDRESS``, or
    else to the one that runs on this machine.

    Parameters
    ----------
    name, namespace : str
        As in `LocalRetrievalService.register`, and as the Ray actor was named.

    Returns
    -------
    LocalRetrievalService or RetrievalClient
        Both have ``rank``, ``calculate_reward`` and their coroutines ``rank_async`` and
        ``calculate_reward_async``.

    Raises
    ------
    LookupError
        If there is none; the message says how to start one.
    """
    if (namespace, name) in _registry:
        return _registry[namespace, name]
    from rl4rec_kernels.service.client import NoClusterError, connect

    try:
        return connect(name, namespace)
    except NoClusterError as error:
        raise LookupError(
            f"no retrieval service {name!r} in namespace {namespace!r}: there is none in this "
            f"process, and {error}; start one with `rl4rec serve`, or with "
            f"LocalRetrievalService({{name: index}}, encoder).register({name!r}, {namespace!r}), "
            "or pass service="
        ) from None
