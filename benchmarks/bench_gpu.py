"""Measures the GPU kernels beside their peers, and writes `results/<device>.md`.

    python benchmarks/bench_gpu.py            # on a GPU, some minutes
    python benchmarks/bench_gpu.py --smoke    # anywhere, tiny: shows that it runs, measures nothing

Times are medians of device events after a warm-up; contestants of a table ran in one process, one
after the other. The roofline is the larger of two times: the bytes that must be read over the
bandwidth of a copy, and the operations over the rate of a large matrix product, both measured in
the same run. Work that does not fit into memory as a whole goes by blocks of queries.
"""

import argparse
import datetime
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

RESULTS = Path(__file__).parent / "results"

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
parser.add_argument("--smoke", action="store_true", help="tiny sizes, on the CPU if need be")
parser.add_argument("--out", type=Path, help="the page to write")
arguments = parser.parse_args()

import torch  # noqa: E402
from torch import Tensor  # noqa: E402

ON_GPU = torch.cuda.is_available()
if not ON_GPU:
    if not arguments.smoke:
        raise SystemExit("this needs a GPU and a torch that can use it (or --smoke)")
    os.environ["TRITON_INTERPRET"] = "1"  # before triton is imported

import triton  # noqa: E402

import rl4rec_kernels as rk  # noqa: E402
from rl4rec_kernels.ops import _backends  # noqa: E402

DEVICE = "cuda" if ON_GPU else "cpu"
SIZES = {"B": 4096, "N": (1_000_000, 10_000_000), "C": (100, 1000), "D": (384, 1024, 4096)}
if arguments.smoke:
    SIZES = {"B": 8, "N": (300, 1500), "C": (10,), "D": (32,)}
B = SIZES["B"]
BLOCK_BYTES = 4 << 30  # of a block of scores that peers write


class Limits(NamedTuple):
    """What the card does at best, as measured."""

    bandwidth: float  # bytes a second, read and written
    operations: float  # of a bfloat16 product, a second

    def seconds(self, read: float, operations: float = 0.0) -> float:
        return max(read / self.bandwidth, operations / self.operations)


def median_seconds(call: Callable[[], Any]) -> float:
    """The median time of a call."""
    if not ON_GPU:
        start = time.perf_counter()
        call()
        return time.perf_counter() - start
    with rk.ops.unchecked_ids():  # the check waits for the device; ids are good here
        return triton.testing.do_bench(call, warmup=50, rep=300, return_mode="median") / 1e3


def peak_mib(call: Callable[[], Any]) -> float | None:
    """Memory that a call takes at its peak, beside its arguments."""
    if not ON_GPU:
        return None
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    call()
    torch.cuda.synchronize()
    return (torch.cuda.max_memory_allocated() - before) / 2**20


def measure_limits() -> Limits:
    size = 1 << 31 if ON_GPU else 1 << 16
    source, side = torch.empty(size, dtype=torch.uint8, device=DEVICE), 8192 if ON_GPU else 64
    target = torch.empty_like(source)
    copy = median_seconds(lambda: target.copy_(source))
    a, b = (torch.randn(side, side, device=DEVICE).bfloat16() for _ in range(2))
    product = median_seconds(lambda: a @ b)
    return Limits(2 * size / copy, 2 * side**3 / product)


def table(
    title: str, limit: float, contestants: dict[str, Callable[[], Any] | None], ours: str
) -> list[str]:
    """Time each contestant; a page's section. Peers that are None could not take part."""
    lines = [
        f"### {title}",
        "",
        "| contestant | median | time / ours | roofline / time | peak MiB |",
    ]
    lines.append("|---|--:|--:|--:|--:|")
    rows = {}
    for name, call in contestants.items():
        try:
            rows[name] = None if call is None else (median_seconds(call), peak_mib(call))
        except torch.cuda.OutOfMemoryError:
            rows[name] = None
        print(title, name, rows[name], flush=True)
    first = rows[ours]
    for name, row in sorted(rows.items(), key=lambda item: item[1] or (float("inf"),)):
        label = f"**{name}**" if name.startswith("rl4rec") else name
        if row is None or first is None:
            lines.append(f"| {label} | not run | | | |")
            continue
        seconds, peak = row
        memory = "" if peak is None else f"{peak:,.1f}"
        lines.append(
            f"| {label} | {seconds * 1e3:.3f} ms | {seconds / first[0]:.2f} "
            f"| {limit / seconds:.0%} | {memory} |"
        )
    return [*lines, ""]


def gather_and_rank(query: Tensor, items: Tensor, ids: Tensor) -> Tensor:
    """What projects write today, without the loop."""
    scores = torch.einsum("bd,bcd->bc", query, items[ids])
    return (scores > scores[:, :1]).sum(1)


def candidates(limits: Limits) -> list[str]:
    lines = ["## rank_candidates", ""]
    compiled = torch.compile(gather_and_rank) if ON_GPU else gather_and_rank
    num_items = SIZES["N"][0]
    for dtype in (torch.bfloat16, torch.float32):
        for dim in SIZES["D"] if dtype == torch.bfloat16 else SIZES["D"][:1]:
            query, items = (torch.randn(n, dim, device=DEVICE).to(dtype) for n in (B, num_items))
            for columns in SIZES["C"]:
                ids = torch.randint(num_items, (B, columns), device=DEVICE)
                read = B * columns * dim * items.element_size()
                contestants = {
                    "rl4rec, Triton": lambda q=query, t=items, i=ids: rk.rank_candidates(
                        q, t, i, backend="triton"
                    ),
                    "rl4rec, CUDA": None,
                    "gather + einsum": lambda q=query, t=items, i=ids: gather_and_rank(q, t, i),
                    "torch.compile of it": lambda q=query, t=items, i=ids: compiled(q, t, i),
                }
                if _backends.has_cuda_library():
                    contestants["rl4rec, CUDA"] = lambda q=query, t=items, i=ids: (
                        rk.rank_candidates(q, t, i, backend="cuda")
                    )
                best = "rl4rec, CUDA" if _backends.has_cuda_library() else "rl4rec, Triton"
                name = f"B={B:,}, C={columns:,}, D={dim:,}, N={num_items:,}, {dtype}"
                lines += table(name, limits.seconds(read), contestants, best)
            del query, items
    return lines


def by_blocks(query: Tensor, items: Tensor, work: Callable[[Tensor, slice], Any]) -> None:
    """Score all items for some queries at a time."""
    step = max(1, BLOCK_BYTES // (items.shape[0] * items.element_size()))
    for first in range(0, len(query), step):
        rows = slice(first, first + step)
        work(query[rows] @ items.T, rows)


def faiss_search(query: Tensor, items: Tensor, k: int) -> Callable[[], Any] | None:
    """FAISS's brute force on the GPU, where it is installed for it."""
    try:
        import faiss
        import faiss.contrib.torch_utils
    except ImportError:
        return None
    if not ON_GPU or not hasattr(faiss, "StandardGpuResources"):
        return None
    resources = faiss.StandardGpuResources()
    return lambda: faiss.knn_gpu(resources, query, items, k, metric=faiss.METRIC_INNER_PRODUCT)


def catalog(limits: Limits) -> list[str]:
    lines = []
    dim = SIZES["D"][0]
    for num_items in SIZES["N"]:
        for dtype in (torch.bfloat16, torch.float32):
            if dtype == torch.float32 and num_items > SIZES["N"][0]:
                continue
            query, items = (torch.randn(n, dim, device=DEVICE).to(dtype) for n in (B, num_items))
            targets = torch.randint(num_items, (B,), device=DEVICE)
            read = num_items * dim * items.element_size()
            limit = limits.seconds(read, 2 * B * num_items * dim)
            where = f"B={B:,}, N={num_items:,}, D={dim}, {dtype}"

            def count(scores: Tensor, rows: slice, targets: Tensor = targets) -> Tensor:
                return (scores > scores.gather(1, targets[rows, None])).sum(1)

            lines += table(
                f"rank_catalog, {where}",
                limit,
                {
                    "rl4rec, Triton": lambda q=query, t=items, g=targets: rk.rank_catalog(q, t, g),
                    "torch.matmul alone": lambda q=query, t=items: by_blocks(
                        q, t, lambda s, r: None
                    ),
                    "matmul + count": lambda q=query, t=items, c=count: by_blocks(q, t, c),
                },
                "rl4rec, Triton",
            )
            for k in (10, 100, 1000):
                if k > num_items:
                    continue
                lines += table(
                    f"topk_catalog, k={k:,}, {where}",
                    limit,
                    {
                        "rl4rec, Triton": lambda q=query, t=items, k=k: rk.topk_catalog(q, t, k),
                        "matmul + torch.topk": lambda q=query, t=items, k=k: by_blocks(
                            q, t, lambda s, r: s.topk(k)
                        ),
                        "FAISS": faiss_search(query, items, k),
                    },
                    "rl4rec, Triton",
                )
    return ["## The whole catalog", "", *lines]


def main() -> None:
    if not ON_GPU:  # so that operators without backend= are those of the GPU
        _backends.resolve_backend = lambda backend, query, cuda=True: "triton"
    device = torch.cuda.get_device_name() if ON_GPU else platform.processor() or "CPU"
    limits = measure_limits()
    page = [
        f"# Measured on {device}",
        "",
        f"{datetime.date.today()}, torch {torch.__version__}, Triton {triton.__version__}, CUDA "
        f"{torch.version.cuda}, rl4rec-kernels {rk.__version__}; CUDA kernels "
        f"{'built' if _backends.has_cuda_library() else 'not built'}.",
        "",
        f"A copy moves {limits.bandwidth / 1e12:.2f} TB/s (read and written); a bfloat16 product "
        f"of 8,192 x 8,192 runs at {limits.operations / 1e12:.0f} TFLOP/s. The roofline counts "
        "each gathered row or item once.",
        "",
        *candidates(limits),
        *catalog(limits),
    ]
    name = device.replace("NVIDIA", "").strip().lower().replace(" ", "-")
    out = arguments.out or RESULTS / f"{name}.md"
    out.write_text("\n".join(page))
    print(f"wrote {out}")


if __name__ == "__main__":
    main()
