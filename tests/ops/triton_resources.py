"""Compiles all Triton kernels for a GPU, which is not needed; prints what resources they use.

Run as a program, with the compute capability (80 or 90), and with `few` for those kernels alone in
which most time is spent: Triton decides when it is imported whether it compiles or interprets. The
kernels are those that calls of the operators would launch; each is printed as a line of JSON.
"""

import bisect
import itertools
import json
import re
import struct
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.runtime.driver import driver
from triton.runtime.jit import JITFunction

import rl4rec_kernels as rk
from rl4rec_kernels.ops import _gradients
from rl4rec_kernels.ops import triton as triton_kernels

BIN = Path(triton.__file__).parent / "backends/nvidia/bin"


class NoGpu:
    """Replaces Triton's driver: it names the GPU to compile for."""

    def __init__(self, capability: int) -> None:
        self.target = GPUTarget("cuda", capability, 32)

    def get_current_target(self) -> GPUTarget:
        return self.target

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0


def code_of(cubin: bytes) -> bytes:
    """The machine code of a file with one kernel: the sections of ELF named .text."""
    (headers,) = struct.unpack_from("<Q", cubin, 0x28)
    size, count, names = struct.unpack_from("<HHH", cubin, 0x3A)
    sections = []
    for i in range(count):
        name, _, _, _, start, length = struct.unpack_from("<IIQQQQ", cubin, headers + i * size)
        sections.append((name, cubin[start : start + length]))
    table = sections[names][1]
    return b"".join(data for name, data in sections if table[name:].startswith(b".text."))


def instructions(capability: int, codes: list[bytes]) -> list[str]:
    """The disassembly of each code. The tool is called once: it takes half a second to start."""
    with tempfile.NamedTemporaryFile(suffix=".bin") as file:
        file.write(b"".join(codes))
        file.flush()
        name = "SM90a" if capability == 90 else f"SM{capability}"
        command = [BIN / "nvdisasm", "--no-dataflow", "--binary", name, file.name]
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    lines = re.findall(r"/\*([0-9a-f]{4,})\*/\s+(.*)", text)
    addresses = [int(address, 16) for address, _ in lines]
    ends = [bisect.bisect_left(addresses, end) for end in itertools.accumulate(map(len, codes))]
    assert ends[-1] == len(lines) > 0, "nvdisasm and the sections differ in length"
    return [
        "\n".join(line for _, line in lines[start:end])
        for start, end in itertools.pairwise([0, *ends])
    ]


def describe(kernel: Any, case: str) -> dict[str, Any]:
    """Registers, shared memory and bytes spilled."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(kernel.asm["cubin"])
        file.flush()
        command = [BIN / "cuobjdump", "--dump-resource-usage", file.name]
        usage = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    numbers = {key: int(value) for key, value in re.findall(r"(REG|STACK|LOCAL):(\d+)", usage)}
    return {
        "kernel": kernel.metadata.name,
        "case": case,
        "registers": numbers["REG"],
        "spilled": numbers["STACK"] + numbers["LOCAL"],
        "shared": kernel.metadata.shared,
    }


def main(capability: int, few: bool) -> None:
    driver.set_active(NoGpu(capability))
    triton.knobs.compilation.disable_line_info = True  # it takes time, and is not looked at
    compile_only, kernels = JITFunction.run, {}
    case = ""

    def run(self: JITFunction, *args: Any, grid: Any, warmup: bool, **options: Any) -> Any:
        kernel = compile_only(self, *args, grid=grid, warmup=True, **options)
        if kernel.hash not in kernels:
            kernels[kernel.hash] = describe(kernel, case), code_of(kernel.asm["cubin"])
        return kernel

    def print_all() -> None:
        codes = [code for _, code in kernels.values()]
        texts = instructions(capability, codes)
        for (kernel, _), code in zip(kernels.values(), texts, strict=True):
            kernel["wide_loads"] = len(re.findall(r"LDG\S*\.128|LDGSTS\S*\.128", code))
            kernel["tensor_cores"] = sorted(set(re.findall(r"[HIQ]G?MMA", code)))
            print(json.dumps(kernel))

    JITFunction.run = run
    rows, columns, items, dim = 256, 200, 64_000, 384
    ids = torch.zeros(rows, columns, dtype=torch.int64)
    ragged = ids.view(-1), torch.zeros(rows + 1, dtype=torch.int64)
    metrics = [0, 1, 2, 3, 4, 5], [10, 10, 10, 1, 1, 1], 3
    several = [*range(9)], [10] * 9, 3
    valid = torch.ones(items, dtype=torch.bool)
    if few:
        case, dtype = "bfloat16", torch.bfloat16
        query, table = torch.zeros(rows, dim, dtype=dtype), torch.zeros(items, dim, dtype=dtype)
        bad = torch.zeros(1, dtype=torch.int32)
        rest = (ids[:, :9], None, valid, None, None)
        triton_kernels.rank_candidates(query, table, ids, None, bad)
        triton_kernels.rank_catalog(query, table, ids[:, 0], *rest, None, bad)
        triton_kernels.topk_catalog(query, table, 10, *rest, bad)
        triton_kernels.log_prob_catalog(query, table, ids[:, 0], *rest[:3], 0.5, bad)
        return print_all()
    # Options are combined in pairs, each pair with one of the dtypes: a kernel takes a second.
    for dtype in (torch.float32, torch.bfloat16):
        case = str(dtype).removeprefix("torch.")
        query, table = torch.zeros(rows, dim, dtype=dtype), torch.zeros(items, dim, dtype=dtype)
        bad = torch.zeros(1, dtype=torch.int32)
        ways = [(ids, None), ragged]
        first, second = ways if dtype == torch.float32 else reversed(ways)
        for candidates in ways:
            triton_kernels.score_candidates(query, table, *candidates, bad)
        triton_kernels.rank_candidates(query, table, *first, bad)
        triton_kernels.reward_candidates(query, table, *second, *metrics, bad)
        triton_kernels.log_prob_candidates(query, table, *first, torch.zeros(items), 0.5, bad)
        triton_kernels.log_prob_candidates(query, table, *second, None, 0.5, bad)
        triton_kernels.metrics_from_counts(*[ids[:, 0]] * 3, *metrics)
        grad = torch.zeros(rows, columns)
        for gradient in (_gradients.grad_query, _gradients.grad_table):
            gradient(triton_kernels, grad, query, table, ids, None)
        is_half = dtype == torch.bfloat16
        for is_item in (None, valid):
            rest = (ids[:, :9], None, is_item, None, None)
            if is_item is not None or is_half:
                triton_kernels.rank_catalog(query, table, ids[:, 0], *rest, None, bad)
            triton_kernels.topk_catalog(query, table, 10, *rest, bad)
        triton_kernels.reward_catalog(query, table, ids[:, 0], *rest, *metrics, bad)
        excluded = ids[:, :9]
        for exclude, is_item in (
            ((excluded, None), (None, valid)) if is_half else ((excluded, valid),)
        ):
            log_probs = (query, table, ids[:, 0], exclude, None, is_item, 0.5)
            found = triton_kernels.log_prob_catalog(*log_probs, bad)
            triton_kernels.log_prob_catalog_grad(grad[:, 0], *found, *log_probs, True, True)
        triton_kernels.topk_catalog(query, table[:100], 10, *[None] * 5, bad)
        targets, rest = (ids[:, 0], torch.arange(rows + 1)), (ids[:, :9], None, valid, None, None)
        counts = triton_kernels.rank_catalog_targets(query, table, *targets, *rest, bad)
        triton_kernels.metrics_of_targets(*counts, targets[1], *several)
    # Triton makes constants of arguments that are 1, for every GPU alike.
    if capability == 90:
        case = "ones"
        query, table = torch.zeros(1, 1), torch.zeros(1, 1)
        one, bounds = torch.zeros(1, 1, dtype=torch.int64), torch.tensor([0, 1])
        for candidates in ((one, None), (one[0], bounds)):
            triton_kernels.score_candidates(query, table, *candidates, bad)
        triton_kernels.rank_candidates(query, table, one[0], bounds, bad)
        triton_kernels.reward_candidates(query, table, one, None, *metrics, bad)
        _gradients.grad_table(triton_kernels, query, query, table, one, None)
        triton_kernels.rank_catalog(query, table, one[0], one, None, *[None] * 4, bad)
        for size in (1, 2_000):
            table = torch.zeros(size, 1)
            triton_kernels.topk_catalog(query, table, 1, one, None, *[None] * 3, bad)
    query, table = torch.zeros(rows, dim), torch.zeros(items, dim)
    for dtype in (torch.bfloat16, torch.int8, torch.float8_e4m3fn):
        case = f"quantized {str(dtype).removeprefix('torch.')}"
        values, row_stats, _ = rk.quantize_table(table, dtype)
        rest = (None, None, None, row_stats, None)
        triton_kernels.rank_catalog(query, values, ids[:, 0], *rest, None, bad)
        triton_kernels.topk_catalog(query, values, 10, *rest, bad)
    return print_all()


if __name__ == "__main__":
    main(int(sys.argv[1]), "few" in sys.argv)
