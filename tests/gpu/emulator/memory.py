"""The memory of the kernels: buffers of the host, and shared memory of a block."""

import ctypes
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
WORDS = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}
_ANY_WARP = 64  # in place of a warp: more than one has read
_TURN = 2 * _ANY_WARP
_UNORDERED = "without a barrier between them"


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


Parts = list[tuple[_Range, Array]]


class Memory:
    """Global memory: only the ranges that were added may be accessed."""

    def __init__(self) -> None:
        self._ranges: list[_Range] = []

    def add(self, address: int, size: int, name: str = "") -> None:
        """Allow accesses to `size` bytes."""
        if size:
            self._ranges.append(_Range(address, address + size, name, {}))

    def _find(self, addresses: Array, size: int, what: str) -> Parts:
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
        parts = self.check(addresses, size, what)
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
        self.write(self.check(addresses, size, what), addresses, values, size)

    def write(self, parts: Parts, addresses: Array, values: Array, size: int) -> None:
        """Store where `check` has found that it is allowed."""
        for found, here in parts:
            first, view = found.words(size)
            where, what_here = (addresses, values) if here is np.True_ else (
                addresses[here], values[here]
            )  # fmt: skip
            view[(where - first) // size] = what_here

    def check(self, addresses: Array, size: int, what: str) -> Parts:
        """Check an access; return the ranges, and which addresses are in each."""
        if np.bitwise_or.reduce(addresses) & (size - 1):
            raise Fault(f"misaligned {what} of {size} bytes at {int(addresses[0]):#x}")
        return self._find(addresses, size, what)


class Shared:
    """Shared memory. Its units of `grain` bytes have the state that the checks need.

    `written`: not since the block started, or by a copy in flight: may not be read.
    `writer`, `reader`: the last warp and its turn; turns are counted by barriers of all threads.
    `fenced`: visible to the tensor cores and the copy engine.
    `busy`: by how many products in flight it is read.
    """

    def __init__(self, size: int, name: str, checks_races: bool, grain: int) -> None:
        size = -(-size // 16) * 16
        self.name, self.size, self.checks_races, self.grain = name, size, checks_races, grain
        self.bytes = np.empty(size, np.uint8)
        self.written, self.fenced = (np.empty(size // grain, bool) for _ in range(2))
        self.busy = np.empty(size // grain, np.uint8)
        self.writer, self.reader = (np.empty(size // grain, np.int32) for _ in range(2))
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
        self.turn += _TURN

    def words(self, size: int) -> tuple[Array, ...]:
        """The bytes as words, then `written`, `writer`, `reader`, `fenced` and `busy` of each."""
        if size not in self._views:
            word = min(size, 8)
            values = self.bytes.view(WORDS[word])
            states = (self.written, self.writer, self.reader, self.fenced, self.busy)
            if size > word:
                values = values.reshape(-1, size // word)
            if size > self.grain:
                states = tuple(state.reshape(-1, size // self.grain) for state in states)
            self._views[size] = (values, *states)
        return self._views[size]

    def index(self, addresses: Array, size: int, what: str) -> Array:
        if (together := np.bitwise_or.reduce(addresses)) & (size - 1):
            raise Fault(f"{self.name}: misaligned {what} of {size} bytes in shared memory")
        if together < 0 or addresses.max() + size > self.size:
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
            me = self._now(warps, size)
            if self._others(writer[at], me).any():
                raise Fault(f"{self.name}: {what} of what another warp wrote, {_UNORDERED}")
            me = np.where(self._others(reader[at], me), self.turn + _ANY_WARP, me)
            reader[at] = me
            if (lost := reader[at] != me).any():  # several warps read here
                reader[at[lost.reshape(len(at), -1).any(1)]] = self.turn + _ANY_WARP
        return values[at]

    def store(self, addresses: Array, data: Array, warps: Array, what: str = "store") -> None:
        size = data.dtype.itemsize * (data.shape[1] if data.ndim == 2 else 1)
        values, written, writer, reader, *_ = self.words(size)
        at = self.index(addresses, size, what)
        if self.checks_races:
            me = self._now(warps, size)
            raced = self._others(writer[at], me) | self._others(reader[at], me)
            if raced.any():  # warps may write what is there already
                wrote = written[at].reshape(len(at), -1).all(1)
                other = ~((values[at] == data).reshape(len(at), -1).all(1) & wrote)
                at, warps, data, addresses = at[other], warps[other], data[other], addresses[other]
                if not len(at):
                    return
        self.claim(addresses, size, warps, what)
        values[at] = data
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
            me = self._now(warps, size)
            for before, did in ((writer, "wrote"), (reader, "read")):
                if self._others(before[at], me).any():
                    raise Fault(f"{self.name}: {what} over what another warp {did}, {_UNORDERED}")
            writer[at] = me
        written[at] = False
        fenced[at] = False
        return at

    def arrive(self, at: Array, size: int, warps: Array) -> None:
        """A copy was waited for: its bytes may be read by the warps that waited."""
        _, written, writer, *_ = self.words(size)
        written[at] = True
        if self.checks_races:
            writer[at] = self._now(warps, size)

    def _now(self, warps: Array, size: int) -> Array:
        """Warps in this turn, as `writer` has them for words of `size` bytes."""
        now = (self.turn + warps).astype(np.int32)
        return now[:, None] if size > self.grain else now

    def _others(self, before: Array, me: Array) -> Array:
        """Whether it was another warp, in this turn."""
        if before.max(initial=-1) < self.turn:
            return np.False_
        return (before >= self.turn) & (before != me)

    def operand(self, units: Array, warps: Array) -> None:
        """Check units that the tensor cores read from now on for adjacent warps."""
        if units[-1] >= len(self.written):
            raise Fault(f"{self.name}: out of bounds: a product's operand in shared memory")
        if not self.written[units].all():
            raise Fault(f"{self.name}: a product of shared memory that nothing wrote, or not yet")
        if not self.fenced[units].all():
            raise Fault(f"{self.name}: a product of shared memory without fence.proxy.async")
        if self.checks_races:
            before, first, last = self.writer[units], self.turn + warps[0], self.turn + warps[-1]
            if ((before >= self.turn) & ((before < first) | (before > last))).any():
                raise Fault(f"{self.name}: a product of what another warp wrote, {_UNORDERED}")
        self.busy[units] += 1
