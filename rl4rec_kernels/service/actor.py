"""The Ray actor: a `BatchingService` with its encoder and data sets."""

import asyncio
import os
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch

from rl4rec_kernels._utils.checks import MAX_THREADS, amount, named_options, shown
from rl4rec_kernels._utils.imports import require
from rl4rec_kernels.data.loading import load_item_metadata
from rl4rec_kernels.data.raw_ids import RawIds
from rl4rec_kernels.index.cache import cached_index
from rl4rec_kernels.index.encoder import PACKAGED_MODEL, Encoder
from rl4rec_kernels.index.item_index import ItemIndex
from rl4rec_kernels.service.base import AsyncRetrievalBackend
from rl4rec_kernels.service.batching import BatchingService, Limits
from rl4rec_kernels.service.calls import Call
from rl4rec_kernels.service.items import Items, find_items
from rl4rec_kernels.service.local import LocalRetrievalService, encode_finite
from rl4rec_kernels.service.options import Datasets, as_sources
from rl4rec_kernels.service.parent import end_with_ray
from rl4rec_kernels.service.prometheus import PrometheusMetrics
from rl4rec_kernels.service.shards import ShardedItems
from rl4rec_kernels.service.wire import pack_answer, unpack_call

_OPTIONS = {"max_restarts": -1, "max_concurrency": 1000}


class RetrievalService:
    """Scores and ranks texts for the processes of a Ray cluster; an actor, to be started by Ray.

    Concurrent calls are encoded and ranked in batches. Arguments and results are those of
    `RetrievalBackend`::

        service = RetrievalService.options(
            name="RetrievalService", namespace="rl4rec", lifetime="detached", get_if_exists=True
        ).remote("beauty")
        scores = ray.get(service.calculate_reward.remote(texts, dataset_name="beauty"))

    If its process dies, Ray restarts it with the same arguments (``max_restarts``).

    Parameters
    ----------
    datasets : str, sequence of str, or mapping of str to path, ItemIndex or metadata
        Names of data sets, whose items are encoded (and cached on the actor's machine), or the
        source of each by name: an index file, an index, or items' metadata to encode.
    encoder : str, mapping of str to object, or Encoder
        Encodes the texts: a model's name or path, or arguments of `Encoder`, from which the actor
        makes one, on its GPU if it has one; or an encoder, which is sent to the actor.
    data_dir : path, optional
        As in `load_item_metadata`.
    limits : mapping of str to number, optional
        See `Limits`.
    num_threads : int, optional
        Threads for encoding and ranking. Default: the actor's ``num_cpus`` if it is given, else all
        of the machine.
    replicas : sequence of str, optional
        Names of all actors of the service, this one included; see `start_service`.
    shards : sequence of actor handles, optional
        The actors that hold the rows of the tables; see `start_service`.
    args : argparse.Namespace, optional
        Has ``datasets`` and, if `encoder` is not given, ``emb_model_name`` as attributes.

    Raises
    ------
    TypeError, ValueError, FileNotFoundError
        If an argument is invalid; raised by the first call of the actor.
    """

    def __new__(cls, *args: Any, **kwargs: Any) -> "RetrievalService":
        """Say how to start it."""
        raise TypeError(
            "RetrievalService is a Ray actor: start it with RetrievalService.options(name=…, "
            "namespace=…).remote(datasets), or use LocalRetrievalService in this process"
        )

    @staticmethod
    def options(**options: Any) -> Any:
        """Set Ray's options for the actor; ``.remote(...)`` of the result starts it."""
        return require("ray", "ray").remote(RetrievalActor).options(**{**_OPTIONS, **options})

    @staticmethod
    def remote(*args: Any, **kwargs: Any) -> Any:
        """Start an actor without a name."""
        return RetrievalService.options().remote(*args, **kwargs)


class RetrievalActor(BatchingService):
    """The class that Ray runs in the actor's process, see `RetrievalService`."""

    def __init__(
        self,
        datasets: Datasets | None = None,
        encoder: str | Mapping[str, object] | Encoder | None = None,
        *,
        data_dir: str | os.PathLike[str] | None = None,
        limits: Mapping[str, float] | None = None,
        num_threads: int | None = None,
        replicas: Sequence[str] = (),
        shards: Sequence[Any] = (),
        args: object = None,
    ) -> None:
        end_with_ray()
        settings = Limits(**named_options("limits", limits, Limits))
        torch.set_num_threads(_threads(num_threads))  # Ray sets one
        if datasets is None:
            datasets = getattr(args, "datasets", None)
        if encoder is None:
            encoder = getattr(args, "emb_model_name", PACKAGED_MODEL)
        options = encoder if isinstance(encoder, Mapping) else {"model": encoder}
        model = encoder if isinstance(encoder, Encoder) else Encoder(**options)
        indexes = load_datasets(datasets, model, data_dir)
        items: Mapping[str, Items]
        if shards:
            for index in indexes.values():
                index.check_encoder(model)
            items = {name: ShardedItems(name, index, shards) for name, index in indexes.items()}
        else:
            items = LocalRetrievalService(indexes, model).items
        super().__init__(items, partial(encode_finite, model), settings)
        self._datasets = {name: index.info() for name, index in indexes.items()}
        self._replicas = list(replicas)
        self._num_shards = len(shards)
        self._publishing: asyncio.Task[None] | None = None

    # A remote call does not block anyway, so the coroutines get the plain names.
    calculate_reward = AsyncRetrievalBackend.calculate_reward_async
    rank = AsyncRetrievalBackend.rank_async
    rank_with_log_prob = AsyncRetrievalBackend.rank_with_log_prob_async

    async def answer_packed(self, *packed: bytes) -> bytes | np.ndarray:
        """Answer a call of `RetrievalClient`."""
        return pack_answer(await self.answer_async(unpack_call(packed)))

    async def answer_async(self, call: Call) -> Any:
        """Answer a call, and start to publish metrics with the first."""
        if self._publishing is None:  # there is no loop yet when the actor is made
            name = require("ray", "ray").get_runtime_context().get_actor_name() or "unnamed"
            self._publishing = asyncio.create_task(PrometheusMetrics(self.load, name).run())
        return await super().answer_async(call)

    async def raw_items(self, dataset_name: str) -> RawIds:
        """Answer `RetrievalClient.raw_items`."""
        return find_items(self._items, dataset_name).raw_items

    async def describe(self) -> dict[str, Any]:
        """Describe the actor's data sets, where it runs, and its load."""
        context = require("ray", "ray").get_runtime_context()
        return {
            "name": context.get_actor_name(),
            "replicas": self._replicas or [context.get_actor_name()],
            "shards": self._num_shards,
            "node": context.get_node_id(),
            "pid": os.getpid(),
            "threads": torch.get_num_threads(),
            "datasets": self._datasets,
            "load": self.load(),
        }


def load_datasets(
    datasets: object, encoder: Encoder, data_dir: str | os.PathLike[str] | None
) -> dict[str, ItemIndex]:
    """Open or encode the data sets of a service, see `RetrievalService`.

    Raises
    ------
    TypeError, ValueError, FileNotFoundError
        If there is no data set, or one has an unknown name or type.
    """
    indexes = {}
    for name, source in as_sources(datasets).items():
        if source is None:  # a name alone
            source = cached_index(name, load_item_metadata(name, data_dir=data_dir), encoder)
        elif isinstance(source, str | os.PathLike):
            source = ItemIndex.open(source)
        elif isinstance(source, Mapping):
            source = ItemIndex.build(source, encoder)
        elif not isinstance(source, ItemIndex):
            raise TypeError(
                f"datasets[{shown(name)}] must be the path of an index file, an ItemIndex or "
                f"items' metadata, got {type(source).__name__}"
            )
        indexes[name] = source
    return indexes


def _threads(num_threads: int | None) -> int:
    if num_threads is not None:
        return amount("num_threads", num_threads, 1, MAX_THREADS)
    given = require("ray", "ray").get_runtime_context().get_assigned_resources().get("CPU", 0)
    return int(given) if given >= 1 else len(os.sched_getaffinity(0))
