"""The memory of the kernels: buffers of the host, and shared memory of a block."""

import ctypes
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
WORDS = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}
_ANY_WARP = 1 << 20  # in place of a warp: more than one has read


class Fault(Exception):
    """What a program must not do."""


class _Range(NamedTuple):
    low: int
    high: int
    name: str
    views: dict[int, tuple[int, Array]]  # by bytes of a word: the first address, and the words

    def words(self, size: int) -> tuple[int, Array]:
        if size not in self.views:
            first = self.low // size * size
            count = -(-(self.high - first) // size)
            kind = (ctypes.c_uint8 * (count * size)).from_address(first)
            word = min(size, 8)
            view = np.frombuffer(kind, WORDS[word])
            self.views[size] = first, view if size == word else view.reshape(-1, size // word)
        return self.views[size]


class Memory:
    """Global memory: only the ranges that were added may be accessed."""

    def __init__(self) -> None:
        self._ranges: list[_Range] = []

    def add(self, address: int, size: int, name: str = "") -> None:
        """Allow accesses to `size` bytes."""
        if size:
            self._ranges.append(_Range(address, address + size, name, {}))

    def _find(self, addresses: Array, size: int, what: str) -> list[tuple[_Range, Array]]:
        low, high = int(addresses.min()), int(addresses.max()) + size
        for found in self._ranges:
            if found.low <= low and high <= found.high:
                return [(found, np.True_)]
        result, left = [], np.ones(len(addresses), bool)
        for found in self._ranges:
            here = left & (addresses >= found.low) & (addresses + size <= found.high)
            if here.any():
                result.append((found, here))
                left &= ~here
        if left.any():
            ranges = ", ".join(f"{r.low:#x} to {r.high:#x} {r.name}" for r in self._ranges)
            raise Fault(
                f"out of bounds: {what} of {size} at {int(addresses[left][0]):#x}: {ranges}"
            )
        return result

    def load(self, addresses: Array, size: int, what: str) -> Array:
        """Words of `size` bytes: unsigned numbers [n], or [n, 2] of 8 bytes."""
        self._aligned(addresses, size, what)
        parts = self._find(addresses, size, what)
        if len(parts) == 1:
            first, view = parts[0][0].words(size)
            return view[(addresses - first) // size]
        out = None
        for found, here in parts:
            first, view = found.words(size)
            if out is None:
                out = np.empty((len(addresses), *view.shape[1:]), view.dtype)
            out[here] = view[(addresses[here] - first) // size]
        return out

    def store(self, addresses: Array, values: Array, what: str) -> None:
        size = values.dtype.itemsize * (values.shape[1] if values.ndim == 2 else 1)
        self._aligned(addresses, size, what)
        for found, here in self._find(addresses, size, what):
            first, view = found.words(size)
            where, what_here = (addresses, values) if here is np.True_ else (
                addresses[here], values[here]
            )  # fmt: skip
            view[(where - first) // size] = what_here

    def check(self, addresses: Array, size: int, what: str) -> None:
        """Check an access that takes place later."""
        self._aligned(addresses, size, what)
        self._find(addresses, size, what)

    def _aligned(self, addresses: Array, size: int, what: str) -> None:
        if (addresses & (size - 1)).any():
            raise Fault(f"misaligned {what} of {size} bytes at {int(addresses[0]):#x}")


class Shared:
    """Shared memory. Its bytes have a value, and the state that the checks need.

    `written`: not since the block started, or by a copy in flight: may not be read.
    `writer`, `reader`: the last warp and its turn; turns are counted by barriers of all threads.
    `fenced`: visible to the tensor cores and the copy engine.
    `busy`: by how many products in flight it is read.
    """

    def __init__(self, size: int, name: str, checks_races: bool) -> None:
        size = -(-size // 16) * 16
        self.name, self.size, self.checks_races = name, size, checks_races
        self.bytes = np.empty(size, np.uint8)
        self.written = np.empty(size, bool)
        self.fenced = np.empty(size, bool)
        self.busy = np.empty(size, np.uint8)
        self.writer, self.reader = (np.empty(size, np.int64) for _ in range(2))
        self._views: dict[int, tuple[Array, ...]] = {}
        self.clear()

    def clear(self) -> None:
        self.bytes.fill(0xFF)  # NaN
        self.written.fill(False)
        self.fenced.fill(True)
        self.busy.fill(0)
        self.writer.fill(-1)
        self.reader.fill(-1)
        self.turn = 0

    def barrier(self) -> None:
        """All threads have arrived."""
        self.turn += 1

    def words(self, size: int) -> tuple[Array, ...]:
        """The bytes as words, then `written`, `writer`, `reader`, `fenced` and `busy` of each."""
        if size not in self._views:
            word = min(size, 8)
            values = self.bytes.view(WORDS[word]).reshape(-1, size // word)
            states = (self.written, self.writer, self.reader, self.fenced, self.busy)
            flat = values[:, 0] if size == word else values
            self._views[size] = (flat, *(state.reshape(-1, size) for state in states))
        return self._views[size]

    def index(self, addresses: Array, size: int, what: str) -> Array:
        if (addresses & (size - 1)).any():
            raise Fault(f"{self.name}: misaligned {what} of {size} bytes in shared memory")
        if addresses.min() < 0 or addresses.max() + size > self.size:
            raise Fault(
                f"{self.name}: out of bounds: {what} at {int(addresses.max())} of {self.size} "
                "bytes of shared memory"
            )
        return addresses // size

    def load(self, addresses: Array, size: int, warps: Array, what: str = "load") -> Array:
        at = self.index(addresses, size, what)
        values, written, writer, reader, *_ = self.words(size)
        if not written[at].all():
            raise Fault(f"{self.name}: {what} of shared memory that nothing wrote, or not yet")
        if self.checks_races:
            me = (self.turn * (2 * _ANY_WARP) + warps)[:, None]
            self._ordered(writer[at], me, f"{what} of what another warp wrote")
            before = reader[at]
            other = (before // (2 * _ANY_WARP) == self.turn) & (before != me)
            reader[at] = np.where(other, self.turn * (2 * _ANY_WARP) + _ANY_WARP, me)
        return values[at]

    def store(self, addresses: Array, data: Array, warps: Array, what: str = "store") -> None:
        size = data.dtype.itemsize * (data.shape[1] if data.ndim == 2 else 1)
        values, written, *_ = self.words(size)
        at = self.index(addresses, size, what)
        same = (values[at] == data).reshape(len(at), -1).all(1) & written[at].all(1)
        values[at] = data
        if self.checks_races and same.any():  # warps may write what is there already
            at, warps, data = at[~same], warps[~same], data[~same]
            addresses = addresses[~same]
        if len(at):
            self.claim(addresses, size, warps, what)
            written[at] = True
        if (values[at] != data).any():
            raise Fault(f"{self.name}: {what} of different values in one place")

    def claim(self, addresses: Array, size: int, warps: Array, what: str) -> Array:
        """Check that the bytes may be overwritten by these warps now; return which words."""
        at = self.index(addresses, size, what)
        _, written, writer, reader, fenced, busy = self.words(size)
        if busy[at].any():
            raise Fault(f"{self.name}: {what} where a product still reads")
        if self.checks_races:
            me = (self.turn * (2 * _ANY_WARP) + warps)[:, None]
            self._ordered(writer[at], me, f"{what} over what another warp wrote")
            self._ordered(reader[at], me, f"{what} over what another warp read")
            writer[at] = me
        written[at] = False
        fenced[at] = False
        return at

    def arrive(self, at: Array, size: int, warps: Array) -> None:
        """A copy was waited for: its bytes may be read by the warps that waited."""
        _, written, writer, *_ = self.words(size)
        written[at] = True
        if self.checks_races:
            writer[at] = (self.turn * (2 * _ANY_WARP) + warps)[:, None]

    def _ordered(self, before: Array, me: Array, what: str) -> None:
        if ((before // (2 * _ANY_WARP) == self.turn) & (before >= 0) & (before != me)).any():
            raise Fault(f"{self.name}: {what}, without a barrier between them")

    def operand(self, at: Array, warps: Array) -> None:
        """Check bytes that the tensor cores read from now on."""
        if at.max() >= self.size:
            raise Fault(f"{self.name}: out of bounds: a product's operand in shared memory")
        if not self.written[at].all():
            raise Fault(f"{self.name}: a product of shared memory that nothing wrote, or not yet")
        if not self.fenced[at].all():
            raise Fault(f"{self.name}: a product of shared memory without fence.proxy.async")
        if self.checks_races:
            before = self.writer[at]
            turns, writers = before // (2 * _ANY_WARP), before % (2 * _ANY_WARP)
            other = (turns == self.turn) & (before >= 0) & ~np.isin(writers, warps)
            if other.any():
                raise Fault(f"{self.name}: a product of what another warp wrote, without a barrier")
