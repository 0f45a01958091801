"""Bodies of HTTP requests, read within limits of time, of size and of memory."""

import asyncio
import ctypes
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any

from rl4rec_kernels._utils.checks import MAX_SECONDS, amount, number
from rl4rec_kernels._utils.imports import require

_SMALL = 1 << 16  # bytes of a body that do not count, so that large ones never stop small ones
_TRIM_BYTES = 64 << 20  # of large bodies, after which freed memory is given back
_TRIM_DELAY_S = 1.0


@dataclass(frozen=True)
class HttpLimits:
    """Limits of what clients can send to the HTTP endpoint.

    Attributes
    ----------
    read_timeout_s : float
        Seconds within which a body must be complete, or the answer is 408.
    max_body_mib : int
        MiB of one body, or the answer is 413.
    max_total_mib : int
        MiB of all bodies larger than 64 KiB that are being read or answered, or the answer is 503.
    max_reads_per_client : int
        Bodies of one client address that are being read, or the answer is 429.

    Raises
    ------
    TypeError, ValueError
        If a limit is not a number, or out of range.
    """

    read_timeout_s: float = 30.0
    max_body_mib: int = 32
    max_total_mib: int = 256
    max_reads_per_client: int = 1024

    def __post_init__(self) -> None:
        number("read_timeout_s", self.read_timeout_s, 0, MAX_SECONDS)
        for name in ("max_body_mib", "max_total_mib", "max_reads_per_client"):
            amount(name, getattr(self, name), 1)


class RefusedError(Exception):
    """A request that is not answered, with its HTTP status."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Bodies:
    """Reads the bodies of requests; used from one asyncio loop.

    Parameters
    ----------
    limits : HttpLimits
        What is refused.
    """

    def __init__(self, limits: HttpLimits) -> None:
        self._limits = limits
        self._reads: Counter[str] = Counter()  # by the address of the client
        self._total = self._peak = 0  # bytes of large bodies

    @asynccontextmanager
    async def read(self, request: Any) -> AsyncIterator[bytearray]:
        """Read the body of a Starlette request; its bytes count until the block ends.

        Raises
        ------
        RefusedError
            If a limit is exceeded, or the client closes the connection.
        """
        body = bytearray()
        try:
            await self._fill(body, request)
            yield body
        finally:
            self._total -= _counted(len(body))
            if self._total == 0 and self._peak > _TRIM_BYTES:
                self._peak = 0
                asyncio.get_running_loop().call_later(_TRIM_DELAY_S, _give_back_memory)

    async def _fill(self, body: bytearray, request: Any) -> None:
        """Read a body within the time, and so many bodies of a client at once."""
        client = request.client.host if request.client else ""
        if self._reads[client] >= self._limits.max_reads_per_client:
            raise RefusedError(
                429,
                f"this client sends {self._reads[client]} requests at once, which is the limit; "
                "wait for the answers of some",
            )
        self._reads[client] += 1
        try:
            async with asyncio.timeout(self._limits.read_timeout_s):
                async for part in request.stream():
                    self._check(len(body), len(part))
                    body += part
        except TimeoutError:
            raise RefusedError(
                408, f"the request was not complete after {self._limits.read_timeout_s:g} s"
            ) from None
        except require("starlette.requests", "serve").ClientDisconnect:
            raise RefusedError(400, "the client has closed the connection") from None
        finally:
            self._reads[client] -= 1
            if not self._reads[client]:
                del self._reads[client]

    def _check(self, size: int, more: int) -> None:
        """Count more bytes of a body, or raise RefusedError."""
        if size + more > self._limits.max_body_mib << 20:
            limit = f"{self._limits.max_body_mib} MiB"
            raise RefusedError(413, f"the request is larger than {limit}; send fewer texts")
        counted = _counted(size + more) - _counted(size)
        if counted and self._total + counted > self._limits.max_total_mib << 20:
            raise RefusedError(
                503,
                f"requests take {self._limits.max_total_mib} MiB together, which is the limit; try "
                "again later, or send fewer texts",
            )
        self._total += counted
        self._peak = max(self._peak, self._total)


def _counted(size: int) -> int:
    """How many bytes of a body count in the total."""
    return size if size > _SMALL else 0


def _give_back_memory() -> None:
    """Give freed memory back to the system, which glibc keeps if it lies between other blocks."""
    with suppress(AttributeError, OSError):  # another C library
        ctypes.CDLL(None).malloc_trim(0)
