"""The service of a Ray cluster, as trainers' processes call it."""

import asyncio
import itertools
import os
import random
import time
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from rl4rec_kernels._utils.imports import require
from rl4rec_kernels.metrics import RankCounts
from rl4rec_kernels.service.batcher import ServiceOverloadedError
from rl4rec_kernels.service.requests import check_arguments
from rl4rec_kernels.service.wire import pack_call, unpack_counts, unpack_scores

_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.05, 2.0

_clients: dict[Any, "RetrievalClient"] = {}


class ServiceUnavailableError(ConnectionError):
    """A retrieval service was there, died, and did not come back in time."""


class NoClusterError(LookupError):
    """There is no Ray, no cluster, or no such actor in it."""


class RetrievalClient:
    """Calls a `RetrievalService` that runs on Ray, with the methods of `LocalRetrievalService`.

    It may be called from several threads and asyncio loops, and be pickled. If the actor dies
    during a call, which is answered by a pure function, the call is sent again: to another replica,
    or to the actor once Ray has started it anew.

    Parameters
    ----------
    name, namespace : str
        Those of the actor.
    timeout_s : float
        Seconds that a call may take.
    reconnect_s : float
        Seconds that a call waits for an actor that died to come back.

    Raises
    ------
    LookupError
        If there is no such actor.
    """

    def __init__(
        self, name: str, namespace: str, *, timeout_s: float = 600.0, reconnect_s: float = 120.0
    ) -> None:
        for label, value in (("timeout_s", timeout_s), ("reconnect_s", reconnect_s)):
            if isinstance(value, bool) or not isinstance(value, int | float) or value <= 0:
                raise ValueError(f"{label} must be a positive number of seconds, got {value!r}")
        self.name, self.namespace = name, namespace
        self.timeout_s, self.reconnect_s = timeout_s, reconnect_s
        self._ray = connected_ray()
        self._handles: dict[str, Any] = {name: find_actor(name, namespace)}
        self._names: list[str] = []
        # Not from 0: all processes would begin with the same replica.
        self._turns = itertools.count(random.randrange(1 << 16))

    def __getstate__(self) -> dict[str, Any]:
        return {
            name: getattr(self, name) for name in ("name", "namespace", "timeout_s", "reconnect_s")
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]

    def __repr__(self) -> str:
        return f"RetrievalClient({self.name!r}, {self.namespace!r})"

    def calculate_reward(
        self, texts: Sequence[str], dataset_name: str, targets: Any = None, neg_items: Any = None
    ) -> Tensor:
        """As `LocalRetrievalService.calculate_reward`.

        Raises
        ------
        TypeError, ValueError, IndexError
            As there.
        ServiceOverloadedError
            If the service had no room for the call for too long.
        ServiceUnavailableError
            If the service died and did not come back within `reconnect_s`.
        TimeoutError
            If there was no answer within `timeout_s`.
        """
        arguments = check_arguments(texts, targets, neg_items, None, True)
        return unpack_scores(self._call(pack_call(dataset_name, arguments)))

    def rank(
        self,
        texts: Sequence[str],
        dataset_name: str,
        targets: Any,
        neg_items: Any = None,
        histories: Any = None,
    ) -> RankCounts:
        """As `LocalRetrievalService.rank`; raises what `calculate_reward` does."""
        arguments = check_arguments(texts, targets, neg_items, histories, False)
        return unpack_counts(self._call(pack_call(dataset_name, arguments)))

    async def calculate_reward_async(
        self, texts: Sequence[str], dataset_name: str, targets: Any = None, neg_items: Any = None
    ) -> Tensor:
        """`calculate_reward` for callers on an asyncio loop."""
        arguments = check_arguments(texts, targets, neg_items, None, True)
        return unpack_scores(await self._call_async(pack_call(dataset_name, arguments)))

    async def rank_async(
        self,
        texts: Sequence[str],
        dataset_name: str,
        targets: Any,
        neg_items: Any = None,
        histories: Any = None,
    ) -> RankCounts:
        """`rank` for callers on an asyncio loop."""
        arguments = check_arguments(texts, targets, neg_items, histories, False)
        return unpack_counts(await self._call_async(pack_call(dataset_name, arguments)))

    def describe(self) -> list[dict[str, Any]]:
        """What each replica holds and does, see `RetrievalService.describe`."""
        first = self._ask(self.name)
        return [first, *(self._ask(name) for name in first["replicas"][1:])]

    def _ask(self, name: str) -> dict[str, Any]:
        return self._get(_Attempts(self, [name]), "describe")

    def _call(self, call: list[bytes]) -> Any:
        return self._get(_Attempts(self, self._replicas()), "answer_packed", *call)

    def _get(self, attempts: "_Attempts", method: str, *arguments: Any) -> Any:
        while True:
            try:
                reference = getattr(attempts.actor(), method).remote(*arguments)
                return self._ray.get(reference, timeout=attempts.left())
            except Exception as error:
                pause = attempts.pause(error)
            time.sleep(pause)

    async def _call_async(self, call: list[bytes]) -> Any:
        names = self._names or await asyncio.to_thread(self._replicas)
        attempts = _Attempts(self, names)
        while True:
            try:
                actor = attempts.known_actor() or await asyncio.to_thread(attempts.actor)
                answer = asyncio.wrap_future(actor.answer_packed.remote(*call).future())
                # Not wait_for(), which makes a task of it.
                await asyncio.wait([answer], timeout=attempts.left())
                if not answer.done():
                    raise TimeoutError
                return answer.result()
            except Exception as error:
                pause = attempts.pause(error)
            await asyncio.sleep(pause)

    def _replicas(self) -> list[str]:
        """The names of all replicas; the first tells them, once it is up."""
        if not self._names:
            self._names = self._ask(self.name)["replicas"]
        return self._names


class _Attempts:
    """One call's attempts: at whom the next one goes, when, and when to give up."""

    def __init__(self, client: RetrievalClient, names: Sequence[str]) -> None:
        self._client, self._names = client, names
        self._place = next(client._turns) % len(names)
        self._end = time.monotonic() + client.timeout_s
        self._lost_at: float | None = None
        self._pause_s = _FIRST_PAUSE_S

    def left(self) -> float:
        """Seconds left."""
        return max(0.001, self._end - time.monotonic())

    def known_actor(self) -> Any:
        """The handle of the replica whose turn it is, if it need not be looked up."""
        return self._client._handles.get(self._names[self._place])

    def actor(self) -> Any:
        """The handle of the replica whose turn it is."""
        name = self._names[self._place]
        if (handle := self._client._handles.get(name)) is None:
            handle = find_actor(name, self._client.namespace)
            self._client._handles[name] = handle
        return handle

    def pause(self, error: Exception) -> float:
        """Seconds to wait before the next attempt after this error, if there is to be one.

        Raises
        ------
        Exception
            What the caller gets if not: an error of the call itself without Ray's wrapping.
        """
        client, errors = self._client, self._client._ray.exceptions
        lost = (
            NoClusterError,
            errors.RayActorError,
            errors.ObjectLostError,
            errors.WorkerCrashedError,
        )
        now = time.monotonic()
        if getattr(error, "actor_init_failed", False):
            why = str(error)
            if errors.OwnerDiedError.__name__ in why:
                why = (
                    "the process that gave it an index, an encoder or metadata has ended; "
                    "start it again, and pass names or paths, which stay"
                )
            raise ServiceUnavailableError(f"{self._who} could not be started: {why}") from None
        if isinstance(error, lost):
            client._handles.pop(self._names[self._place], None)
            self._place = (self._place + 1) % len(self._names)
            self._lost_at = now if self._lost_at is None else self._lost_at
            if now >= min(self._end, self._lost_at + client.reconnect_s):
                raise ServiceUnavailableError(
                    f"{self._who} died and did not come back within "
                    f"{now - self._lost_at:.0f} s; start it again with `rl4rec serve`"
                ) from error
        elif isinstance(error, errors.RayTaskError):
            cause = error.cause if isinstance(error.cause, Exception) else error
            if not isinstance(cause, ServiceOverloadedError) or now >= self._end:
                raise cause from None
            self._lost_at = None
        elif isinstance(error, TimeoutError):
            raise TimeoutError(
                f"{self._who} gave no answer within {client.timeout_s:g} s; see `rl4rec status`"
            ) from None
        else:
            raise error
        pause = self._pause_s * random.uniform(0.5, 1.0)  # not all callers at the same moment
        self._pause_s = min(2 * self._pause_s, _LONGEST_PAUSE_S)
        return min(pause, self.left())

    @property
    def _who(self) -> str:
        return f"retrieval service {self._client.name!r} in namespace {self._client.namespace!r}"


def connect(name: str, namespace: str) -> RetrievalClient:
    """Return this process's client of an actor.

    Raises
    ------
    NoClusterError
        If there is no such actor.
    """
    ray = connected_ray()
    # A client's handles are those of one connection; a forked process needs its own.
    key = (namespace, name, os.getpid(), ray.get_runtime_context().get_job_id())
    if key not in _clients:
        _clients[key] = RetrievalClient(name, namespace)
    return _clients[key]


def connected_ray(address: str = "auto") -> Any:
    """Return Ray, connected to the running cluster.

    Raises
    ------
    NoClusterError
        If there is none, or Ray is not installed.
    """
    try:
        ray = require("ray", "ray")
    except ImportError as error:
        raise NoClusterError(f"Ray cannot be used ({error})") from None
    if not ray.is_initialized():
        try:
            ray.init(address=address, log_to_driver=False, logging_level="ERROR")
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise NoClusterError(f"no Ray cluster was found ({_first_line(error)})") from None
    return ray


def find_actor(name: str, namespace: str) -> Any:
    """Return the handle of an actor.

    Raises
    ------
    NoClusterError
        If there is none.
    """
    try:
        return require("ray", "ray").get_actor(name, namespace=namespace)
    except ValueError:
        raise NoClusterError(
            f"the Ray cluster has no actor {name!r} in namespace {namespace!r}"
        ) from None


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]
