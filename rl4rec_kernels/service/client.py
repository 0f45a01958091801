"""The client by which trainers' processes call a service on Ray."""

import asyncio
import itertools
import random
import time
from collections.abc import Sequence
from typing import Any

from rl4rec_kernels._utils.checks import MAX_SECONDS, number, shown, text
from rl4rec_kernels.data.raw_ids import RawIds
from rl4rec_kernels.service.base import RetrievalBackend
from rl4rec_kernels.service.batcher import ServiceOverloadedError
from rl4rec_kernels.service.calls import Call
from rl4rec_kernels.service.connection import (
    NoClusterError,
    check_not_forked,
    connected_ray,
    find_actor,
    original_error,
)
from rl4rec_kernels.service.wire import pack_call, unpack_answer

DEFAULT_TIMEOUT_S = 600.0
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.05, 2.0

_clients: dict[Any, "RetrievalClient"] = {}


class ServiceUnavailableError(ConnectionError):
    """A retrieval service could not be started, or died and did not come back in time."""


class RetrievalClient(RetrievalBackend):
    """Calls a `RetrievalService` that runs on Ray.

    It may be called from several threads and asyncio loops, and can be pickled. Each client cycles
    through the replicas, starting at a random one. Calls have no side effects, so if an actor dies
    during a call, it is sent again: to another replica, or to the same one once Ray has restarted
    it.

    Parameters
    ----------
    name, namespace : str
        Name and namespace of the actor.
    timeout_s : float
        Seconds that a call may take.
    reconnect_s : float
        Seconds that a call waits for a dead actor to come back.

    Raises
    ------
    TypeError, ValueError
        If a number of seconds is invalid.
    LookupError
        If there is no such actor.
    """

    def __init__(
        self,
        name: str,
        namespace: str,
        *,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        reconnect_s: float = 120.0,
    ) -> None:
        self.timeout_s = check_timeout(timeout_s)
        self.reconnect_s = number("reconnect_s", reconnect_s, 0, MAX_SECONDS, strict=True)
        self.name, self.namespace = text("name", name), text("namespace", namespace)
        self._ray = connected_ray()
        self._handles: dict[str, Any] = {name: find_actor(name, namespace)}
        self._names: list[str] = []
        self._raw_items: dict[str, RawIds] = {}
        # Not from 0: all processes would start with the same replica.
        self._turns = itertools.count(random.randrange(1 << 16))

    def __getstate__(self) -> dict[str, Any]:
        return {
            name: getattr(self, name) for name in ("name", "namespace", "timeout_s", "reconnect_s")
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]

    def __repr__(self) -> str:
        return f"RetrievalClient({self.name!r}, {self.namespace!r})"

    def answer(self, call: Call) -> Any:
        """Send a call to a replica and wait for its answer, see `RetrievalBackend`."""
        attempts = _Attempts(self, self._replicas())
        packed = self._get(attempts, "answer_packed", *pack_call(call))
        return unpack_answer(packed, call.temperature is not None)

    async def answer_async(self, call: Call) -> Any:
        """Send a call to a replica and await its answer, see `RetrievalBackend`."""
        packed = pack_call(call)
        attempts = _Attempts(self, self._names or await asyncio.to_thread(self._replicas))
        while True:
            try:
                actor = attempts.known_actor() or await asyncio.to_thread(attempts.actor)
                answer = asyncio.wrap_future(actor.answer_packed.remote(*packed).future())
                # Not wait_for(), which makes a task of it.
                await asyncio.wait([answer], timeout=attempts.left())
                if not answer.done():
                    raise TimeoutError
                return unpack_answer(answer.result(), call.temperature is not None)
            except Exception as error:
                pause = attempts.pause(error)
            await asyncio.sleep(pause)

    def raw_items(self, dataset_name: str) -> RawIds:
        """Return the raw ids of a data set, which are asked for once, see `RetrievalBackend`."""
        if dataset_name not in self._raw_items:
            attempts = _Attempts(self, self._replicas())
            self._raw_items[dataset_name] = self._get(attempts, "raw_items", dataset_name)
        return self._raw_items[dataset_name]

    def datasets(self) -> list[str]:
        """Return the names of the data sets, which any replica tells."""
        return list(self._get(_Attempts(self, self._replicas()), "describe")["datasets"])

    def describe(self) -> list[dict[str, Any]]:
        """Describe each replica: its data sets, where it runs, and its load."""
        first = self._ask(self.name)
        return [first, *(self._ask(name) for name in first["replicas"][1:])]

    def _ask(self, name: str) -> dict[str, Any]:
        return self._get(_Attempts(self, [name]), "describe")

    def _get(self, attempts: "_Attempts", method: str, *arguments: Any) -> Any:
        while True:
            try:
                reference = getattr(attempts.actor(), method).remote(*arguments)
                return self._ray.get(reference, timeout=attempts.left())
            except Exception as error:
                pause = attempts.pause(error)
            time.sleep(pause)

    def _replicas(self) -> list[str]:
        """Names of all replicas, which the first one knows once it is up."""
        if not self._names:
            self._names = self._ask(self.name)["replicas"]
        return self._names


class _Attempts:
    """The attempts of one call: which replica is next, how long to wait, and when to give up."""

    def __init__(self, client: RetrievalClient, names: Sequence[str]) -> None:
        check_not_forked()
        self._client, self._names = client, names
        self._next = next(client._turns) % len(names)
        self._end = time.monotonic() + client.timeout_s
        self._lost_at: float | None = None
        self._pause_s = _FIRST_PAUSE_S

    def left(self) -> float:
        """Seconds left."""
        return max(0.001, self._end - time.monotonic())

    def known_actor(self) -> Any:
        """Handle of the next replica, if it is known without a look-up."""
        return self._client._handles.get(self._names[self._next])

    def actor(self) -> Any:
        """Handle of the next replica."""
        handle, name = self.known_actor(), self._names[self._next]
        if handle is None:
            handle = self._client._handles[name] = find_actor(name, self._client.namespace)
        return handle

    def pause(self, error: Exception) -> float:
        """Seconds to wait after this error before the next attempt, if there is to be one.

        Raises
        ------
        Exception
            Otherwise, what the caller gets: an error of the call itself without Ray's wrapping.
        """
        client, errors = self._client, self._client._ray.exceptions
        who = f"retrieval service {shown(client.name)} in namespace {shown(client.namespace)}"
        now = time.monotonic()
        if getattr(error, "actor_init_failed", False):
            cause = original_error(error)
            why = f"{type(cause).__name__}: {cause}"
            if errors.OwnerDiedError.__name__ in str(error):
                why = (
                    "the process that passed it an index, an encoder or metadata has ended; "
                    "start it again, and pass names or paths, which last"
                )
            raise ServiceUnavailableError(f"{who} could not be started: {why}") from cause
        lost = errors.RayActorError, errors.ObjectLostError, errors.WorkerCrashedError
        if isinstance(error, (NoClusterError, *lost)):
            client._handles.pop(self._names[self._next], None)
            self._next = (self._next + 1) % len(self._names)
            self._lost_at = now if self._lost_at is None else self._lost_at
            if now >= min(self._end, self._lost_at + client.reconnect_s):
                raise ServiceUnavailableError(
                    f"{who} died and did not come back within {now - self._lost_at:.0f} s; "
                    "start it again with `rl4rec serve`"
                ) from error
        elif isinstance(error, errors.RayTaskError):
            cause = error.cause if isinstance(error.cause, Exception) else error
            if not isinstance(cause, ServiceOverloadedError) or now >= self._end:
                raise cause from None
            self._lost_at = None
        elif isinstance(error, TimeoutError):
            raise TimeoutError(
                f"{who} did not answer within {client.timeout_s:g} s; see `rl4rec status`"
            ) from None
        else:
            raise error
        pause = self._pause_s * random.uniform(0.5, 1.0)  # so that callers do not retry in step
        self._pause_s = min(2 * self._pause_s, _LONGEST_PAUSE_S)
        return min(pause, self.left())


def check_timeout(timeout_s: object) -> float:
    """Return the seconds that a call may take, or raise TypeError or ValueError."""
    return number("timeout_s", timeout_s, 0, MAX_SECONDS, strict=True)


def connect(name: str, namespace: str, timeout_s: float = DEFAULT_TIMEOUT_S) -> RetrievalClient:
    """Return this process's client for an actor.

    Raises
    ------
    NoClusterError
        If there is no such actor.
    """
    ray = connected_ray()
    # Handles are a connection's.
    key = (namespace, name, timeout_s, ray.get_runtime_context().get_job_id())
    client = _clients.get(key)
    # Of several threads, all get the client of the first.
    return client or _clients.setdefault(key, RetrievalClient(name, namespace, timeout_s=timeout_s))
