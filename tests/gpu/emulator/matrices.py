"""Products on the tensor cores, and how their operands are loaded.

A sum is exact in float64 and then rounded towards zero, as the tensor cores do.
"""

import re
from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any

import numpy as np

from tests.gpu.emulator.arithmetic import Step
from tests.gpu.emulator.memory import Array, Fault
from tests.gpu.emulator.program import Instruction, split
from tests.gpu.emulator.registers import LANES, Mask, Registers
from tests.gpu.emulator.values import decoded, towards_zero
from tests.gpu.emulator.warps import same

WARPGROUP = 128
_LANE = np.arange(LANES)
_SIZE = {"bf16": 2, "f16": 2, "tf32": 4, "s8": 1, "e4m3": 1}


def matrix_moves(registers: Registers, one: Instruction) -> Step:
    """ldmatrix and stmatrix: 8 x 8 matrices of 16 bits; lane i has the address of row i."""
    count = int(next(part for part in one.options if re.fullmatch(r"x[124]", part))[1])
    flip, loads = "trans" in one.options, one.name == "ldmatrix"
    parts = registers.group(one.operands[not loads], "b32", written=loads)
    address = registers.address(one.operands[loads], "b32")
    everywhere = np.zeros(registers.threads, np.int64)

    def step(mask: Mask) -> None:
        warps = registers.warps(mask, one.name)
        if not len(warps):
            return
        lanes = warps.reshape(-1)
        everywhere[lanes] = address(lanes)
        rows_of_warp = np.repeat(registers.warp_of[warps[:, 0]], 8)
        for i in range(count):
            rows = everywhere[warps[:, 8 * i : 8 * i + 8]].reshape(-1)
            if loads:
                data = registers.shared.load(rows, 16, rows_of_warp, one.name)
                words = np.ascontiguousarray(data).view(np.uint16).reshape(-1, 8, 8)
                words = words.transpose(0, 2, 1) if flip else words
                parts[i][lanes] = np.ascontiguousarray(words).view(np.uint32).reshape(-1)
            else:
                words = parts[i][warps].view(np.uint16).reshape(-1, 8, 8)
                words = words.transpose(0, 2, 1) if flip else words
                data = np.ascontiguousarray(words).reshape(-1, 8).view(np.uint64)
                registers.shared.store(rows, data, rows_of_warp, one.name)

    return step


def accumulated(
    sums: Array, a: Array, b: Array, *, saturates: bool = False, exact: bool = False
) -> Array:
    """sums + a @ b, with a [..., M, K] and b [..., K, N]."""
    if sums.dtype == np.int32:
        found = sums + a @ b
        if saturates:
            return np.clip(found, -(2**31), 2**31 - 1).astype(np.int32)
        return found.astype(np.int32)
    found = sums.astype(np.float64) + a @ b
    return found.astype(np.float32) if exact else towards_zero(found)


def product(registers: Registers, one: Instruction) -> Step:
    """mma.sync of m16n8: each warp its own."""
    shape = next(part for part in one.options if part.startswith("m16n8k"))
    depth = int(shape[6:])
    types = [part for part in one.options if part in _SIZE or part in ("f32", "s32")]
    kind, kind_b, sums = types[-3], types[-2], np.dtype("f4" if types[-1] == "f32" else "i4")
    per = 4 // _SIZE[kind]
    out, a, b, c = (registers.group(part, "b32", written=i == 0) for i, part in
                    enumerate(one.operands))  # fmt: skip
    e = np.arange(per)
    step_of = lambda count, halves: (  # noqa: E731 - the columns of A, or the rows of B
        (_LANE % 4 * per)[None, :, None]
        + 4 * per * (np.arange(count) // halves)[:, None, None] + e
    )  # fmt: skip
    rows_a = (_LANE // 4)[None, :, None] + 8 * (np.arange(len(a)) % 2)[:, None, None] + 0 * e
    columns_a, rows_b = step_of(len(a), 2), step_of(len(b), 1)
    columns_b = (_LANE // 4)[None, :, None] + 0 * rows_b
    slots = np.arange(4)[:, None]
    rows_c, columns_c = _LANE // 4 + 8 * (slots // 2), _LANE % 4 * 2 + slots % 2

    def gathered(parts: list[Any], lanes: Array) -> Array:
        return np.stack([part[lanes] for part in parts], 1)  # [warps, registers, 32]

    def step(mask: Mask) -> None:
        warps = registers.warps(mask, "mma")
        if not len(warps):
            return
        wide = np.int64 if sums == np.int32 else np.float64
        left = np.zeros((len(warps), 16, depth), wide)
        right = np.zeros((len(warps), depth, 8), wide)
        for parts, kind_of, to, rows, columns in (
            (a, kind, left, rows_a, columns_a),
            (b, kind_b, right, rows_b, columns_b),
        ):
            words = gathered(parts, warps)
            values = decoded(words.view(np.uint8), kind_of).reshape(*words.shape, per)
            to[:, rows, columns] = values
        start = np.zeros((len(warps), 16, 8), sums)
        start[:, rows_c, columns_c] = gathered(c, warps).view(sums)
        found = accumulated(start, left, right, saturates="satfinite" in one.options)
        values = found[:, rows_c, columns_c].view(np.uint32)
        for i, part in enumerate(out):
            part[warps] = values[:, i]

    return step


@lru_cache(4096)
def operand_bytes(descriptor: int, rows: int, depth: int, size: int, transposed: bool) -> Array:
    """Where the bytes of an operand [rows, depth] are in shared memory, int64 [rows, depth * size].

    The layouts are those of PTX's matrix descriptors: 8 rows (or, transposed, 8 steps of depth) of
    a swizzled width are an atom, and atoms are at the two byte offsets of the descriptor.
    """
    start, lead, stride = ((descriptor >> at & 0x3FFF) << 4 for at in (0, 16, 32))
    if descriptor >> 49 & 7:
        raise Fault("matrix descriptors with a base offset are not emulated")
    width = {0: 16, 1: 128, 2: 64, 3: 32}[descriptor >> 62 & 3]
    swizzle = {16: 0, 128: 7, 64: 3, 32: 1}[width]
    row, byte = np.arange(rows)[:, None], np.arange(depth * size)[None, :]
    if transposed:  # rows are adjacent
        step, place = byte // size, row * size + byte % size
        chunk = place // 16
        if width == 16:
            at = start + chunk * stride + step % 8 * 16 + step // 8 * lead + place % 16
        else:
            per = width // 16
            at = start + chunk % per * 16 + chunk // per * lead + step % 8 * width
            at = at + step // 8 * stride + place % 16
    elif width == 16:
        at = start + row // 8 * stride + row % 8 * 16 + byte // 16 * lead + byte % 16
    else:
        at = start + row // 8 * stride + row % 8 * width + byte
    return at ^ ((at >> 7 & swizzle) << 4)


def group_product(registers: Registers, one: Instruction) -> Step:
    """wgmma: fences, groups, and products of a warpgroup, which take place when waited for."""
    if "fence" in one.options:
        return lambda mask: registers.products.fence(_warpgroups(registers, mask))
    if "commit_group" in one.options:
        return lambda mask: registers.products.commit(_warpgroups(registers, mask))
    if "wait_group" in one.options:
        left = int(one.operands[0])
        return lambda mask: registers.products.wait(_warpgroups(registers, mask), left)
    return _group_product(registers, one)


def _warpgroups(registers: Registers, mask: Mask) -> Array:
    """The threads of whole warpgroups, [groups, 128]."""
    warps = registers.warps(mask, "wgmma")
    if len(warps) % 4 or (warps[::4, 0] % WARPGROUP).any():
        raise Fault(f"{registers.program.name}: wgmma by a part of a warpgroup")
    return warps.reshape(-1, WARPGROUP)


def _group_product(registers: Registers, one: Instruction) -> Step:
    shape = next(part for part in one.options if part.startswith("m64n"))
    width, depth = (int(part) for part in re.fullmatch(r"m64n(\d+)k(\d+)", shape).groups())
    sums_type, kind_a, kind_b = one.options[-3:]
    sums = np.dtype("f4" if sums_type == "f32" else "i4")
    out = registers.group(one.operands[0], "b32", written=True)
    scale, *flags = one.operands[3:]
    keeps: Callable[[Array], Array] = (
        (lambda lanes, p=registers.registers[scale]: p[lanes])
        if scale in registers.registers
        else (lambda lanes, p=bool(int(scale)): np.full(len(lanes), p))
    )
    in_registers = one.operands[1].startswith("{")
    if [flag for flag in flags[:2] if flag != "1"]:
        raise Fault(f"{one.text}: negated operands are not emulated")
    transposed = [flag == "1" for flag in flags[2:]]
    if in_registers:
        transposed = [False, *transposed]
    flip_a, flip_b = (*transposed, False, False)[:2]
    b_of = registers.source(one.operands[2], "u64")
    a_of = None if in_registers else registers.source(one.operands[1], "u64")
    a_parts = [registers.source(name, "b32") for name in split(one.operands[1].strip("{} "))]
    lane, warp = np.arange(WARPGROUP) % LANES, np.arange(WARPGROUP) // LANES
    slots = np.arange(width // 2)[:, None]
    rows = 16 * warp + lane // 4 + 8 * (slots // 2 % 2)
    columns = 8 * (slots // 4) + lane % 4 * 2 + slots % 2
    per = 4 // _SIZE[kind_a]

    def left_of(lanes: Array) -> Array:
        """A, from registers [64, depth]."""
        values = np.zeros((64, depth), np.int64 if sums == np.int32 else np.float64)
        for q, part in enumerate(a_parts):
            found = decoded(part[lanes].view(np.uint8), kind_a).reshape(WARPGROUP, per)
            at = 16 * warp + lane // 4 + 8 * (q % 2)
            values[at[:, None], (lane % 4 * per + 4 * per * (q // 2))[:, None] + np.arange(per)] = (
                found
            )
        return values

    def step(mask: Mask) -> None:
        for lanes in _warpgroups(registers, mask):
            keep = bool(same(keeps(lanes), "scale-d of wgmma"))
            warps = np.unique(registers.warp_of[lanes])
            places = []
            for source, flip, count, kind in (
                (a_of, flip_a, 64, kind_a),
                (b_of, flip_b, width, kind_b),
            ):
                if source is None:
                    places.append(None)
                    continue
                descriptor = same(source[lanes], "a matrix descriptor")
                places.append(operand_bytes(descriptor, count, depth, _SIZE[kind], flip))
            fixed = left_of(lanes) if places[0] is None else None
            registers.products.start(
                lanes,
                warps,
                [place for place in places if place is not None],
                partial(finish, lanes, keep, places, fixed),
            )

    def finish(lanes: Array, keep: bool, places: list[Any], left: Any) -> None:
        memory = registers.shared.bytes
        if left is None:
            left = decoded(memory[places[0]], kind_a)
        right = decoded(memory[places[1]], kind_b)
        start = np.zeros((64, width), sums)
        if keep:
            start[rows, columns] = np.stack([part[lanes] for part in out]).view(sums)
        values = accumulated(start, left, right.T)[rows, columns].view(np.uint32)
        for part, value in zip(out, values, strict=True):
            part[lanes] = value

    return step


class Products:
    """The products in flight of each warpgroup, by groups."""

    def __init__(self, registers: Registers) -> None:
        self._registers, self.late = registers, True
        self.clear()

    def clear(self) -> None:
        self._open: dict[int, list[Any]] = {}
        self._groups: dict[int, list[list[Any]]] = {}
        self._fenced: set[int] = set()

    def fence(self, groups: Array) -> None:
        self._fenced.update(int(lanes[0]) for lanes in groups)

    def start(self, lanes: Array, warps: Array, places: list[Array], finish: Any) -> None:
        shared, group = self._registers.shared, int(lanes[0])
        if group not in self._fenced:
            raise Fault(f"{self._registers.program.name}: wgmma without wgmma.fence before it")
        for place in places:
            shared.operand(place, warps)
            shared.busy[place] += 1
        if not self.late:
            finish()
        self._open.setdefault(group, []).append((places, finish if self.late else None))

    def commit(self, groups: Array) -> None:
        for lanes in groups:
            group = int(lanes[0])
            self._groups.setdefault(group, []).append(self._open.pop(group, []))

    def wait(self, groups: Array, left: int) -> None:
        for lanes in groups:
            waiting = self._groups.setdefault(int(lanes[0]), [])
            while len(waiting) > left:
                for places, finish in waiting.pop(0):
                    if finish is not None:
                        finish()
                    for place in places:
                        self._registers.shared.busy[place] -= 1
            if not waiting:
                self._fenced.discard(int(lanes[0]))

    @property
    def unfinished(self) -> bool:
        return bool(any(self._open.values()) or any(map(any, self._groups.values())))
