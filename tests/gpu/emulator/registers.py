"""The state of a block that runs: registers of all its threads, shared memory, what is in flight.

Registers are arrays with a value per thread. Instructions get views of them, so that one call of
NumPy executes an instruction for all threads at once. A block is prepared once and then used again.
"""

import re
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np

from tests.gpu.emulator.memory import Array, Fault, Memory, Shared
from tests.gpu.emulator.program import Program, bits_of

LANES = 32
SHARED_WINDOW, LOCAL_WINDOW = 1 << 62, 1 << 61  # where generic addresses of them begin
TENSOR_MAP = 1 << 60
_UNSIGNED = {1: np.bool_, 16: np.uint16, 32: np.uint32, 64: np.uint64}
_KINDS = {"u": "u", "b": "u", "s": "i", "f": "f"}
Mask = Any  # np.True_, or a bool of each thread


@cache
def type_of(name: str) -> np.dtype:
    """The NumPy type of a type such as u32; bf16 is kept as its bits."""
    if name == "pred":
        return np.dtype(bool)
    if "x" in name or name == "bf16":
        return np.dtype(f"u{bits_of(name) // 8}")
    return np.dtype(f"{_KINDS[name[0]]}{bits_of(name) // 8}")


class Registers:
    """Registers and special registers of a block, and its shared memory."""

    def __init__(self, program: Program, threads: int, shared: int) -> None:
        self.program, self.threads = program, threads
        self.registers: dict[str, Array] = {}
        self._files: list[Array] = []
        self._rows: dict[str, int] = {}  # in the file of its size
        self._constants: dict[tuple[str, np.dtype], Any] = {}
        for bits in (1, 16, 32, 64):
            names = [
                n for n, b in program.registers.items() if (max(b, 16) if b > 1 else 1) == bits
            ]
            self._files.append(np.zeros((len(names), threads), _UNSIGNED[bits]))
            self.registers.update(zip(names, self._files[-1], strict=True))
            self._rows.update((name, row) for row, name in enumerate(names))
        lane = np.arange(threads, dtype=np.uint32)
        self.lanes, self.warp_of = np.arange(threads), np.arange(threads) // LANES
        self.special = {"%laneid": lane % 32, "%warpid": lane // 32, "%tid.x": lane}
        for name in ("%tid.y", "%tid.z", "%cluster_ctarank", "%cluster_nctarank"):
            self.special[name] = lane * 0
        for name in ("%ntid.x", "%ntid.y", "%ntid.z"):
            self.special[name] = lane * 0 + (threads if name == "%ntid.x" else 1)
        for name in (
            "ctaid",
            "nctaid",
            "clusterid",
            "nclusterid",
            "cluster_ctaid",
            "cluster_nctaid",
        ):
            for axis in "xyz":
                self.special[f"%{name}.{axis}"] = lane * 0
        bytes_ = program.shared_bytes + shared
        self.shared = Shared(bytes_, program.name, not program.has_units, program.grain)
        self.local = np.zeros((threads, max(program.local_bytes, 1)), np.uint8)
        self.parameters: dict[str, bytes] = {}
        self.memory, self.cluster = Memory(), None

    def start(
        self, memory: Memory, parameters: dict[str, bytes], block: Any, grid: Any, cluster: Any
    ) -> None:
        """Begin a block of the grid, in its cluster."""
        self.memory, self.parameters, self.cluster = memory, parameters, cluster
        for axis, at, size in zip("xyz", block, grid, strict=True):
            together = len(cluster) if axis == "x" else 1
            for name, value in (
                ("ctaid", at), ("nctaid", size), ("clusterid", at // together),
                ("nclusterid", size // together), ("cluster_ctaid", at % together),
                ("cluster_nctaid", together),
            ):  # fmt: skip
                self.special[f"%{name}.{axis}"][:] = value
        self.special["%cluster_ctarank"][:] = block[0] % len(cluster)
        self.special["%cluster_nctarank"][:] = len(cluster)
        self.shared.clear()
        for file in self._files:  # what is read before it is written shows
            file.fill(True if file.dtype == bool else 0x5A5A)

    def source(self, operand: str, kind: str) -> Any:
        """An operand to read: a view of its register, or a constant."""
        wanted = type_of(kind)
        register = self.registers.get(operand, self.special.get(operand))
        if register is not None:
            if register.dtype == wanted or register.dtype.itemsize == wanted.itemsize:
                return register.view(wanted)
            if register.dtype.itemsize < wanted.itemsize:
                raise Fault(f"{self.program.name}: {operand} is read as {kind}")
            return register.view(wanted)[:: register.dtype.itemsize // wanted.itemsize]
        if (operand, wanted) not in self._constants:
            self._constants[operand, wanted] = self._constant(operand, wanted)
        return self._constants[operand, wanted]

    def _constant(self, operand: str, wanted: np.dtype) -> Any:
        program = self.program
        if operand in program.shared:
            return wanted.type(program.shared[operand])
        if operand in program.local:
            return wanted.type(program.local[operand])
        names = [parameter.name for parameter in program.parameters]
        if operand in names:
            return wanted.type(TENSOR_MAP | names.index(operand) << 16)
        if wanted.kind == "b":
            return np.bool_(int(operand, 0))
        exact = re.fullmatch(r"0[fFdD]([0-9a-fA-F]+)", operand)
        if exact:
            number = np.dtype(f"u{len(exact[1]) // 2}").type(int(exact[1], 16))
            number = number.view(f"f{len(exact[1]) // 2}")
            return number.astype(wanted) if wanted.kind == "f" else number.view(wanted)
        bits = 8 * wanted.itemsize
        value = int(operand.rstrip("U"), 0) & ((1 << bits) - 1)
        return np.dtype(f"u{wanted.itemsize}").type(value).view(wanted)

    def target(self, operand: str, kind: str) -> Array:
        """A view of a register to write; wider than the type if the register is."""
        if operand == "_":
            return np.empty(self.threads, type_of(kind))
        register = self.registers[operand]
        if register.dtype == bool:
            return register
        wanted = type_of(kind)
        width = max(wanted.itemsize, register.dtype.itemsize)
        if wanted.itemsize > register.dtype.itemsize:
            raise Fault(f"{self.program.name}: {operand} is written as {kind}")
        if wanted.itemsize < width and wanted.kind == "f":
            return register.view(wanted)[:: width // wanted.itemsize]
        return register.view(f"{wanted.kind}{width}")

    def group(self, operand: str, kind: str, written: bool = False) -> list[Any]:
        """The registers of a vector operand {a, b, ...}, or one register."""
        names = [name.strip() for name in operand.strip("{} ").split(",")]
        return [(self.target if written else self.source)(name, kind) for name in names]

    def rows(self, operand: str) -> tuple[Array, Any]:
        """The registers of a vector operand of 32 bits: all such registers, and which they are."""
        found = [self._rows[name.strip()] for name in operand.strip("{} ").split(",")]
        adjacent = found == list(range(found[0], found[0] + len(found)))
        return self._files[2], slice(found[0], found[-1] + 1) if adjacent else np.array(found)

    def address(self, operand: str, kind: str = "u64") -> Callable[[Array], Array]:
        """A function from thread numbers to the addresses [register + offset], int64."""
        match = re.fullmatch(r"\[\s*([%\w$.@]+)\s*(?:\+\s*(-?\w+))?\s*\]", operand)
        offset = int(match[2] or "0", 0)
        register = self.registers.get(match[1])
        if register is not None:
            view = register.view(f"i{register.dtype.itemsize}" if kind == "u64" else register.dtype)
            return lambda lanes: view[lanes].astype(np.int64) + offset
        base = int(self.source(match[1], "u64")) + offset
        return lambda lanes: np.full(len(lanes), base, np.int64)

    def active(self, mask: Mask) -> Array:
        """The numbers of the threads that execute an instruction."""
        return self.lanes if mask is np.True_ else np.flatnonzero(mask)

    def warps(self, mask: Mask, what: str) -> Array:
        """The threads of whole warps, [warps, 32]."""
        if mask is np.True_:
            return self.lanes.reshape(-1, LANES)
        whole = mask.reshape(-1, LANES)
        if (whole.any(1) != whole.all(1)).any():
            raise Fault(f"{self.program.name}: {what} by a part of a warp")
        return np.flatnonzero(mask).reshape(-1, LANES)
