"""Products on the tensor cores, and how their operands are loaded.

A sum is exact in float64 and then rounded towards zero, as the tensor cores do.
"""

import re
from collections.abc import Callable
from functools import cache, lru_cache, partial
from typing import Any, NamedTuple

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
        rows = everywhere[warps[:, : 8 * count]].reshape(-1)
        rows_of_warp = np.repeat(registers.warp_of[warps[:, 0]], 8 * count)
        if loads:
            data = registers.shared.load(rows, 16, rows_of_warp, one.name)
            words = data.view(np.uint16).reshape(-1, count, 8, 8)
            words = words.swapaxes(2, 3) if flip else words
            words = np.ascontiguousarray(words).view(np.uint32).reshape(-1, count, LANES)
            for i, part in enumerate(parts):
                part[warps] = words[:, i]
        else:
            words = np.stack([part[warps] for part in parts], 1).view(np.uint16)
            words = words.reshape(-1, count, 8, 8)
            words = words.swapaxes(2, 3) if flip else words
            data = np.ascontiguousarray(words).reshape(-1, 8).view(np.uint64)
            registers.shared.store(rows, data, rows_of_warp, one.name)

    return step


def added(sums: Array, products: Array, *, saturates: bool = False) -> Array:
    """Sums, and products that are added to them, as float64 or int64."""
    if sums.dtype == np.int32:
        found = sums + products
        return (np.clip(found, -(2**31), 2**31 - 1) if saturates else found).astype(np.int32)
    return towards_zero(sums.astype(np.float64) + products)


def product(registers: Registers, one: Instruction) -> Step:
    """mma.sync of m16n8: each warp its own."""
    shape = next(part for part in one.options if part.startswith("m16n8k"))
    depth = int(shape[6:])
    types = [part for part in one.options if part in _SIZE or part in ("f32", "s32")]
    kind, kind_b, sums = types[-3], types[-2], np.dtype("f4" if types[-1] == "f32" else "i4")
    per = 4 // _SIZE[kind]
    out = registers.group(one.operands[0], "b32", written=True)
    a, b, c = (registers.group(part, "b32") for part in one.operands[1:])
    e = np.arange(per)
    step_of = lambda count, halves: (  # noqa: E731 - the columns of A, or the rows of B
        (_LANE % 4 * per)[None, :, None]
        + 4 * per * (np.arange(count) // halves)[:, None, None] + e
    )  # fmt: skip
    rows_a = (_LANE // 4)[None, :, None] + 8 * (np.arange(len(a)) % 2)[:, None, None] + 0 * e
    rows_b = step_of(len(b), 1)
    from_a = _inverse(rows_a * depth + step_of(len(a), 2)).reshape(16, depth)
    from_b = _inverse(rows_b * 8 + (_LANE // 4)[None, :, None]).reshape(depth, 8)
    slots = np.arange(4)[:, None]
    to_c = (_LANE // 4 + 8 * (slots // 2)) * 8 + _LANE % 4 * 2 + slots % 2
    saturates = "satfinite" in one.options

    def gathered(parts: list[Any], lanes: Array) -> Array:
        return np.stack([part[lanes] for part in parts], 1)  # [warps, registers, 32]

    def step(mask: Mask) -> None:
        warps = registers.warps(mask, "mma")
        if not len(warps):
            return
        left = decoded(gathered(a, warps), kind).reshape(len(warps), -1)[:, from_a]
        right = decoded(gathered(b, warps), kind_b).reshape(len(warps), -1)[:, from_b]
        found = (left @ right).reshape(len(warps), -1)[:, to_c]
        values = added(gathered(c, warps).view(sums), found, saturates=saturates)
        values = values.view(np.uint32)
        for i, part in enumerate(out):
            part[warps] = values[:, i]

    return step


def _inverse(places: Array) -> Array:
    """The number of the value that each place gets."""
    numbers = np.empty(places.size, np.int64)
    numbers[places.reshape(-1)] = np.arange(places.size)
    return numbers


class Operand(NamedTuple):
    """Where an operand in shared memory is."""

    units: Array  # of the states of shared memory, in order
    words: Array  # [rows, words of a row]
    size: int  # bytes of a word


@lru_cache(1024)
def operand(
    descriptor: int, rows: int, depth: int, size: int, transposed: bool, grain: int
) -> Operand:
    """Read in words of 16 bytes, which rows consist of; value by value where it is transposed."""
    at = operand_bytes(descriptor, rows, depth, size, transposed)
    word = size if transposed else 16
    return Operand(np.unique(at // grain), at[:, ::word] // word, word)


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
    file, out = registers.rows(one.operands[0])
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
    fragment, from_a = _fragment(width), _left(depth, 4 // _SIZE[kind_a])
    shared, grain = registers.shared, registers.program.grain

    def placed(source: Any, flip: bool, lanes: Array, count: int, kind: str) -> Operand:
        descriptor = same(source[lanes], "a matrix descriptor")
        return operand(descriptor, count, depth, _SIZE[kind], flip, grain)

    def step(mask: Mask) -> None:
        for lanes in _warpgroups(registers, mask):
            keep = bool(same(keeps(lanes), "scale-d of wgmma"))
            warps = registers.warp_of[lanes[::LANES]]
            right = placed(b_of, flip_b, lanes, width, kind_b)
            if a_of is None:
                given = np.stack([part[lanes] for part in a_parts])
                left, places = decoded(given, kind_a).reshape(-1)[from_a], [right]
            else:
                left = placed(a_of, flip_a, lanes, 64, kind_a)
                places = [left, right]
            finishes = partial(finish, lanes, keep, left, right)
            registers.products.start(lanes, warps, places, finishes)

    def finish(lanes: Array, keep: bool, left: Any, right: Operand) -> None:
        if isinstance(left, Operand):
            left = decoded(shared.words(left.size)[0][left.words], kind_a).reshape(64, depth)
        items = decoded(shared.words(right.size)[0][right.words], kind_b).reshape(width, depth)
        products = (left @ items.T).reshape(-1)[fragment]
        here = slice(lanes[0], lanes[-1] + 1)
        before = file[out, here].view(sums) if keep else np.zeros(fragment.shape, sums)
        file[out, here] = added(before, products).view(np.uint32)

    return step


@cache
def _fragment(width: int) -> Array:
    """The place in [64, width] of each sum, [registers, threads]."""
    lane, warp = np.arange(WARPGROUP) % LANES, np.arange(WARPGROUP) // LANES
    slots = np.arange(width // 2)[:, None]
    rows = 16 * warp + lane // 4 + 8 * (slots // 2 % 2)
    return rows * width + 8 * (slots // 4) + lane % 4 * 2 + slots % 2


@cache
def _left(depth: int, per: int) -> Array:
    """Of an operand in registers [4, threads, per]: the number of each value of [64, depth]."""
    lane, warp = np.arange(WARPGROUP) % LANES, np.arange(WARPGROUP) // LANES
    part = np.arange(4)[:, None, None]
    rows = (16 * warp + lane // 4)[:, None] + 8 * (part % 2)
    columns = (lane % 4 * per)[:, None] + 4 * per * (part // 2) + np.arange(per)
    return _inverse(rows * depth + columns).reshape(64, depth)


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

    def start(self, lanes: Array, warps: Array, places: list[Operand], finish: Any) -> None:
        shared, group = self._registers.shared, int(lanes[0])
        if group not in self._fenced:
            raise Fault(f"{self._registers.program.name}: wgmma without wgmma.fence before it")
        for place in places:
            shared.operand(place.units, warps)
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
                        self._registers.shared.busy[place.units] -= 1
            if not waiting:
                self._fenced.discard(int(lanes[0]))

    @property
    def unfinished(self) -> bool:
        return bool(any(self._open.values()) or any(map(any, self._groups.values())))
