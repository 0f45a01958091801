"""The retrieval service in the caller's process, and how services are found by name."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from rl4rec_kernels._utils.checks import amount, shown, text
from rl4rec_kernels._utils.mapped import check_finite
from rl4rec_kernels.data.raw_ids import RawIds
from rl4rec_kernels.index.encoder import Encoder
from rl4rec_kernels.index.item_index import ItemIndex
from rl4rec_kernels.service.base import RetrievalBackend
from rl4rec_kernels.service.calls import Call
from rl4rec_kernels.service.client import DEFAULT_TIMEOUT_S, check_timeout, connect
from rl4rec_kernels.service.connection import NoClusterError
from rl4rec_kernels.service.encoding_memory import EncodingMemory
from rl4rec_kernels.service.items import Items, LocalItems, answer_calls, find_items
from rl4rec_kernels.service.parts import cut, join

DEFAULT_NAME = "RetrievalService"
DEFAULT_NAMESPACE = "rl4rec"

_PART = 4096  # texts whose encodings are held at a time

_registry: dict[tuple[str, str], "LocalRetrievalService"] = {}


class LocalRetrievalService(RetrievalBackend):
    """Scores generated texts against the items of one or more data sets.

    It may be called from several threads.

    Parameters
    ----------
    datasets : mapping of str to ItemIndex
        The data sets by name.
    encoder : Encoder
        Encodes the texts; must be the one that the indexes were built with. The tables are kept on
        its device.
    cache_mib : int
        Memory for the encodings of the latest texts, in MiB; 0 encodes every text of every call.

    Attributes
    ----------
    items : dict of str to Items
        The items of each data set, on the encoder's device.

    Raises
    ------
    TypeError, ValueError
        If there is no data set, or an index was built with another encoder or is not finite; the
        message names the data set and the row.

    Notes
    -----
    A service keeps what the encoder made: after changing the encoder (its weights, its prompts),
    build the indexes again, and make another service.
    """

    def __init__(
        self, datasets: Mapping[str, ItemIndex], encoder: Encoder, *, cache_mib: int = 256
    ) -> None:
        if not isinstance(datasets, Mapping) or not datasets:
            raise ValueError(
                f"datasets must be a dict of at least one ItemIndex by name, got {shown(datasets)}"
            )
        for name, index in datasets.items():
            if not isinstance(index, ItemIndex):
                raise TypeError(f"datasets[{shown(name)}] must be an ItemIndex, got {shown(index)}")
            try:
                index.check_encoder(encoder)
            except ValueError as error:
                raise ValueError(f"datasets[{shown(name)}]: {error}") from None
            check_finite(f"datasets[{shown(name)}]", index.table)  # a file may be damaged
        self.items: dict[str, Items] = {
            name: LocalItems(index, encoder.device) for name, index in datasets.items()
        }
        self._encoder = encoder
        self._memory = EncodingMemory(amount("cache_mib", cache_mib, 0) << 20)

    def register(
        self, name: str = DEFAULT_NAME, namespace: str = DEFAULT_NAMESPACE
    ) -> "LocalRetrievalService":
        """Let `RecReward` find the service by name in this process; returns the service."""
        _registry[text("namespace", namespace), text("name", name)] = self
        return self

    def raw_items(self, dataset_name: str) -> RawIds:
        """Return the raw ids of a data set, see `RetrievalBackend`."""
        return find_items(self.items, dataset_name).raw_items

    def answer(self, call: Call) -> Any:
        """Encode the texts of a call and answer it, see `RetrievalBackend`."""
        find_items(self.items, call.dataset).check_ids(call)
        # Scores of all items take more memory than encodings, and cannot be joined without a copy.
        if len(call.texts) <= _PART or (call.wants_scores and call.candidates is None):
            return self._answer_part(call)
        return join([self._answer_part(part) for part in cut(call, _PART)])

    def _answer_part(self, call: Call) -> Any:
        return answer_calls(self.items, [call], self._encode(call.texts))[0]

    def _encode(self, texts: Sequence[str]) -> Tensor:
        """Encode the texts that are not remembered, each once."""
        vectors, places = self._memory.recall(texts)
        if vectors is not None and not places:
            return vectors
        rows: dict[str, int] = {}
        order = [rows.setdefault(texts[i], len(rows)) for i in places]
        new = encode_finite(self._encoder, list(rows))
        self._memory.remember(list(rows), new)
        new = new if len(rows) == len(order) else new[order]
        if vectors is None:
            return new
        vectors[places] = new
        return vectors


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


def registered(name: str, namespace: str) -> LocalRetrievalService | None:
    """Return the service that was registered in this process, without looking for others."""
    return _registry.get((namespace, name))


def find_service(
    name: str = DEFAULT_NAME,
    namespace: str = DEFAULT_NAMESPACE,
    timeout_s: float = DEFAULT_TIMEOUT_S,
) -> RetrievalBackend:
    """Return the service with this name in this process, or else on the Ray cluster.

    If Ray is not initialized in this process, connects to the cluster at ``RAY_ADDRESS``, or else
    to the one that runs on this machine.

    Parameters
    ----------
    name, namespace : str
        As in `LocalRetrievalService.register`, or the name and namespace of the Ray actor.
    timeout_s : float
        Seconds that a call of a service on Ray may take.

    Returns
    -------
    RetrievalBackend
        A `LocalRetrievalService` or a `RetrievalClient`.

    Raises
    ------
    TypeError, ValueError
        If `timeout_s` is invalid.
    LookupError
        If there is none; the message says how to start one.
    """
    check_timeout(timeout_s)
    if (service := registered(text("name", name), text("namespace", namespace))) is not None:
        return service
    try:
        return connect(name, namespace, timeout_s)
    except NoClusterError as error:
        raise LookupError(
            f"no retrieval service {shown(name)} in namespace {shown(namespace)} of this process, "
            f"and {error}, or make one by LocalRetrievalService({{name: index}}, encoder).register("
            f"{shown(name)}, {shown(namespace)}), or pass service="
        ) from None
