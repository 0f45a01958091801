"""Runs the threads of a block.

Threads at the same instruction execute it together. Where they part, those that are behind go on
first, so that they join again. If a kernel has no barrier but those of all threads, all run in step
and the checks of shared memory find what is missing; otherwise each warpgroup runs for itself, in
a random order.
"""

import random
from collections.abc import Iterator
from typing import Any

import numpy as np

from tests.gpu.emulator import accesses, arithmetic, bits, clusters, copies, matrices, warps
from tests.gpu.emulator.copies import Copies
from tests.gpu.emulator.matrices import WARPGROUP, Products
from tests.gpu.emulator.memory import Array, Fault, Memory
from tests.gpu.emulator.program import Instruction, Program
from tests.gpu.emulator.registers import LANES, Mask, Registers


def _nothing(registers: Registers, one: Instruction) -> arithmetic.Step:
    return lambda mask: None


_PREPARE: dict[str, Any] = {
    **dict.fromkeys(
        ("add", "sub", "mul", "mad", "fma", "div", "rem", "min", "max", "neg", "abs", "and", "or",
         "xor", "not", "rcp", "sqrt", "rsqrt", "ex2", "lg2", "copysign"),
        arithmetic.arithmetic,
    ),
    **dict.fromkeys(("shl", "shr"), arithmetic.shift),
    **dict.fromkeys(("setp",), arithmetic.compare),
    **dict.fromkeys(("popc", "clz", "brev", "prmt", "lop3", "shf", "bfe", "bfi"), bits.bits),
    **dict.fromkeys(("ldmatrix", "stmatrix"), matrices.matrix_moves),
    **dict.fromkeys(("fence", "membar"), copies.fence),
    **dict.fromkeys(("atom", "red"), accesses.atomic),
    **dict.fromkeys(("griddepcontrol", "prefetch", "nanosleep", "setmaxnreg"), _nothing),
    "selp": arithmetic.select, "mov": arithmetic.move, "cvt": arithmetic.convert,
    "ld": accesses.load, "ldu": accesses.load, "st": accesses.store, "cvta": accesses.to_generic,
    "shfl": warps.shuffle, "vote": warps.vote, "redux": warps.reduce, "elect": warps.elect,
    "activemask": warps.active, "mma": matrices.product, "wgmma": matrices.group_product,
    "cp": copies.copy, "mbarrier": copies.memory_barrier, "mapa": clusters.map_address,
}  # fmt: skip


# What happens besides an instruction's step: a warp executes it as a whole, or its threads part or
# wait, or other threads may go on after it.
_PLAIN, _WHOLE, _BRANCH, _END, _BARRIER, _OF_CLUSTER, _PAUSE, _MBARRIER = range(8)
_KINDS = {
    **dict.fromkeys(
        ("shfl", "vote", "redux", "elect", "mma", "wgmma", "ldmatrix", "stmatrix"), _WHOLE
    ),
    **dict.fromkeys(("ret", "exit"), _END),
    **dict.fromkeys(("bar", "barrier"), _BARRIER),
    **dict.fromkeys(("atom", "fence", "membar"), _PAUSE),
    "bra": _BRANCH,
    "mbarrier": _MBARRIER,
}


def _kind_of(one: Instruction) -> int:
    kind = _KINDS.get(one.name, _PLAIN)
    return _OF_CLUSTER if kind == _BARRIER and "cluster" in one.options else kind


class _Unit:
    """Threads that run in step, by the instruction that they are at."""

    def __init__(self, members: Array) -> None:
        self.groups: dict[int, Array] = {0: members.copy()}
        self.parts: set[int] = set()  # where parts of a warp wait for the rest

        self.least: int | None = 0  # where those are that are furthest behind and need not wait

    def put(self, at: int, mask: Array, *, waits: bool = False) -> None:
        if mask.any():
            self.groups[at] = self.groups[at] | mask if at in self.groups else mask.copy()
            if waits:
                self.parts.add(at)
            elif at not in self.parts and (self.least is None or at < self.least):
                self.least = at

    def pop(self, at: int) -> Array:
        self.parts.discard(at)
        found = self.groups.pop(at)
        self.least = min(self.groups.keys() - self.parts, default=None)
        return found


class Block(Registers):
    """A block that is prepared once and runs as often as it is started."""

    def __init__(self, program: Program, threads: int, shared: int, late: Any) -> None:
        super().__init__(program, threads, shared)
        self.products, self.copies = Products(self), Copies(self)
        self.copies.late, self.products.late, self.late_writes = late
        self.deferred: list[Any] = []
        self._steps: list[Any] = [None] * len(program.instructions)
        self._guards = [
            None if one.guard is None else self.registers[one.guard] for one in program.instructions
        ]
        self._every = np.ones(threads, bool)
        self._kinds = [_kind_of(one) for one in program.instructions]

    def start(
        self, memory: Memory, parameters: dict[str, bytes], block: Any, grid: Any, cluster: Any
    ) -> None:
        super().start(memory, parameters, block, grid, cluster)
        self.products.clear()
        self.copies.clear()
        self.alive = np.ones(self.threads, bool)
        self.turns, self.ended = np.zeros(self.threads, np.int64), False  # at the cluster's barrier

    # What other blocks see of this one's writes.

    def defer(self, at: Array, size: int, apply: Any) -> None:
        """Write to global memory, as late as the program allows."""
        if self.late_writes:
            self.deferred.append((int(at.min()), int(at.max()) + size, apply))
        else:
            apply()

    def flush(self, at: Array | None = None, size: int = 0) -> None:
        """Let writes take place: all, or those where this block is about to read or write."""
        if not self.deferred:
            return
        low, high = (None, None) if at is None else (int(at.min()), int(at.max()) + size)
        waiting, self.deferred = self.deferred, []
        for begin, end, apply in waiting:
            if at is None or (begin < high and low < end):
                apply()
            else:
                self.deferred.append((begin, end, apply))

    # The threads.

    def run(self) -> Iterator[None]:
        """Run to the end; other blocks may run where this yields."""
        size = WARPGROUP if self.program.has_units else self.threads
        self.waiting: dict[int, list[tuple[_Unit, int, Array]]] = {}
        self.units = [
            _Unit((self.lanes >= i) & (self.lanes < i + size)) for i in range(0, self.threads, size)
        ]
        idle = seen = 0
        while any(unit.groups for unit in self.units):
            moved = False
            for unit in random.sample(self.units, len(self.units)):
                if unit.groups:
                    moved |= self._advance(unit)
                    yield
                moved |= self.copies.progress()
            self.cluster.moves += moved
            idle = idle + 1 if self.cluster.moves == seen else 0
            seen = self.cluster.moves
            if idle > 400:
                raise Fault(f"{self.program.name}: the threads of a block wait for ever")
        if any(self.waiting.values()):
            raise Fault(f"{self.program.name}: not all threads reach a barrier")
        if self.products.unfinished or self.copies.unfinished:
            raise Fault(f"{self.program.name}: ends while a copy or a product is in flight")
        self.flush()
        self.ended = True

    def _step(self, at: int) -> Any:
        step = self._steps[at]
        if step is None:
            one = self.program.instructions[at]
            if one.name not in _PREPARE:
                raise Fault(f"{self.program.name}: not emulated: {one.text}")
            step = self._steps[at] = _PREPARE[one.name](self, one)
        return step

    def _advance(self, unit: _Unit) -> bool:
        """Run the threads that are furthest behind until they must wait; return if they moved."""
        instructions, guards = self.program.instructions, self._guards
        steps, kinds, end = self._steps, self._kinds, len(self._steps)
        at = self._next(unit)
        mask = self._full(unit.pop(at))
        while True:
            if unit.groups:
                if (least := unit.least) is not None and at > least:
                    unit.put(at, self._each(mask))
                    at = least
                    mask = self._full(unit.pop(at))
                if at in unit.groups:
                    mask = self._full(mask | unit.pop(at))
            if at == end:
                self._end(mask)
                return True
            here, guard, kind = mask, guards[at], kinds[at]
            if guard is not None:
                here = (~guard if instructions[at].negated else guard) & mask
            if kind == _PLAIN:
                if guard is None or here.any():
                    (steps[at] or self._step(at))(here)
                at += 1
                continue
            one = instructions[at]
            if kind in (_WHOLE, _BARRIER) and self._is_part(here):
                unit.put(at, self._each(mask), waits=True)
                at = self._next(unit)
                mask = self._full(unit.pop(at))
            elif kind == _BRANCH:
                target = self.program.labels[one.operands[0]]
                if guard is None or here.all() or not (mask & ~here).any():
                    at = target
                elif not here.any():
                    at += 1
                else:
                    unit.put(target, here)
                    unit.put(at + 1, mask & ~here)
                    at = self._next(unit)
                    mask = self._full(unit.pop(at))
            elif kind == _END:
                self._end(here)
                rest = mask & ~here if guard is not None else None
                if rest is None or not rest.any():
                    return True
                mask, at = rest, at + 1
            elif kind == _OF_CLUSTER:
                if not clusters.pass_barrier(self, one, here):
                    unit.put(at, self._each(mask))
                    return False
                at += 1
            elif kind == _BARRIER:
                if "warp" not in one.options and not self._barrier(unit, at, here):
                    return True
                at += 1
            else:
                self._step(at)(here)
                at += 1
                if kind != _WHOLE:
                    unit.put(at, self._each(mask))
                    return kind == _PAUSE or self._went_on(one, here)

    def _each(self, mask: Mask) -> Array:
        return self._every if mask is np.True_ else mask

    def _next(self, unit: _Unit) -> int:
        if (least := unit.least) is None:
            text = self.program.instructions[min(unit.groups)].text
            raise Fault(f"{self.program.name}: a part of a warp reaches {text}")
        return least

    def _is_part(self, mask: Mask) -> bool:
        """Whether some warp is not there with all of its threads."""
        if mask is np.True_:
            return False
        some = (mask & self.alive).reshape(-1, LANES).any(1)
        return bool((some & ~(mask | ~self.alive).reshape(-1, LANES).all(1)).any())

    def _went_on(self, one: Instruction, here: Mask) -> bool:
        if "try_wait" not in one.options:
            return True
        return bool(self.registers[one.operands[0]][self.active(here)].any())

    def _full(self, mask: Mask) -> Mask:
        return np.True_ if mask is np.True_ or mask.all() else mask

    def _end(self, mask: Mask) -> None:
        self.alive &= ~np.broadcast_to(mask, self.threads)
        self.cluster.settle()

    def _barrier(self, unit: _Unit, at: int, mask: Mask) -> bool:
        """Let threads arrive at a barrier; return whether they may go on at once."""
        one = self.program.instructions[at]
        arrived = np.broadcast_to(mask, self.threads)
        reduces = "red" in one.options
        number = one.operands[reduces]
        number = int(number) if number.isdigit() else warps.same(
            self.source(number, "u32")[self.active(mask)], "a barrier's number"
        )  # fmt: skip
        counted = not reduces and len(one.operands) == 2
        size = int(one.operands[1]) if counted else int(self.alive.sum())
        waiting = self.waiting.setdefault(number, [])
        here = sum(int(group.sum()) for *_, group in waiting) + int(arrived.sum())
        if here < size:
            waiting.append((unit, at, arrived.copy()))
            return False
        if here > size:
            raise Fault(f"{self.program.name}: {here} threads reach {one.text} of {size}")
        together = arrived.copy()
        for other, place, group in waiting:
            if reduces and place != at:
                raise Fault(f"{self.program.name}: {one.text} in two places")
            other.put(place + 1, group)
            together |= group
        waiting.clear()
        if size == self.alive.sum():
            self.shared.barrier()
        if reduces:
            self._reduce(one, together)
        if "arrive" in one.options:
            raise Fault(f"{self.program.name}: not emulated: {one.text}")
        return True

    def _reduce(self, one: Instruction, mask: Array) -> None:
        """bar.red of a predicate over all threads."""
        votes = arithmetic.predicate(self, one.operands[-1])()[mask]
        kind = "b32" if "popc" in one.options else "pred"
        found = {"popc": np.sum, "and": np.all, "or": np.any}
        value = next(f(votes) for name, f in found.items() if name in one.options)
        np.copyto(self.target(one.operands[0], kind), value, where=mask, casting="unsafe")
