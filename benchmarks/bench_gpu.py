"""Measures the GPU kernels and their peers, and writes `results/<device>.md`.

    python -m benchmarks.bench_gpu    # on a GPU, some minutes

The page, and a JSON beside it, are written after each table: a run that is cut leaves its tables.

Times are medians of device events after a warm-up. The contestants of a table run in one process,
one after the other. The roofline is the larger of two times: the bytes that must be read divided by
the bandwidth of a copy, and the operations divided by the rate of a large matrix product of their
dtype, all measured in the same run. A float32 product is three of TF32, at a third of their rate.
Scores that do not fit into memory are computed in blocks of queries.
"""

import argparse
import datetime
import json
import os
import platform
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

RESULTS = Path(__file__).parent / "results"

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
parser.add_argument(
    "--emulated", action="store_true", help="tiny sizes; for tests, which replace launches"
)
parser.add_argument("--seconds", type=float, default=1e9, help="begin no table after that time")
parser.add_argument("--out", type=Path, help="the page to write")
arguments = parser.parse_args()

import torch  # noqa: E402
from torch import Tensor  # noqa: E402

ON_GPU = torch.cuda.is_available() and not arguments.emulated
if not ON_GPU and not arguments.emulated:
    raise SystemExit("this needs a GPU and a torch that can use it")

import triton  # noqa: E402

import rl4rec_kernels as rk  # noqa: E402
from benchmarks.baselines import count_items, einsum  # noqa: E402
from rl4rec_kernels.ops import _backends  # noqa: E402
from rl4rec_kernels.ops.triton.rank_catalog import _count_all as count_catalog  # noqa: E402
from rl4rec_kernels.ops.triton.tile import operands  # noqa: E402

DEVICE = "cuda" if ON_GPU else "cpu"
SIZES = {"B": 4096, "N": (1_000_000, 10_000_000), "C": (100, 1000), "D": (384, 1024, 4096)}
BATCHES, KS = (1, 16, 64, 256, 1024, 4096), (10, 100, 1000)
DTYPES = (torch.bfloat16, torch.float32)
if arguments.emulated:
    SIZES, BATCHES, KS = {"B": 4, "N": (300, 300), "C": (10,), "D": (72,)}, (2,), (10,)
    DTYPES = (torch.bfloat16,)
B = SIZES["B"]
START = time.monotonic()
RECORDS: list[dict[str, Any]] = []
BLOCK_BYTES = 4 << 30  # of a block of scores of the peers
CUDA = _backends.has_cuda_library()
HOPPER = CUDA and torch.cuda.get_device_capability() == (9, 0)


class Limits(NamedTuple):
    """The measured limits of the device, per second."""

    bandwidth: float  # bytes, read and written
    bfloat16: float  # operations of a product
    tf32: float

    def seconds(
        self, read: float, operations: float = 0.0, dtype: torch.dtype = torch.bfloat16
    ) -> float:
        rate = self.tf32 / 3 if dtype == torch.float32 else self.bfloat16
        return max(read / self.bandwidth, operations / rate)


def median_seconds(call: Callable[[], Any]) -> float:
    """The median time of a call."""
    if not ON_GPU:
        start = time.perf_counter()
        call()
        return time.perf_counter() - start
    with rk.ops.unchecked_ids():  # the check waits for the device; the ids are valid
        return triton.testing.do_bench(call, warmup=50, rep=300, return_mode="median") / 1e3


def peak_mib(call: Callable[[], Any]) -> float | None:
    """Peak memory of a call, besides its arguments."""
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
    a, b = (torch.randn(side, side, device=DEVICE) for _ in range(2))
    before = torch.backends.cuda.matmul.fp32_precision
    torch.backends.cuda.matmul.fp32_precision = "tf32"
    tf32 = median_seconds(lambda: a @ b)
    torch.backends.cuda.matmul.fp32_precision = before
    a, b = a.bfloat16(), b.bfloat16()
    bfloat16 = median_seconds(lambda: a @ b)
    return Limits(2 * size / copy, *(2 * side**3 / seconds for seconds in (bfloat16, tf32)))


def table(title: str, limit: float, contestants: dict[str, Callable[[], Any] | None]) -> list[str]:
    """Time each contestant and return a section of the page; the first is compared with the others.

    A contestant that is None cannot run here.
    """
    if time.monotonic() - START > arguments.seconds:
        return [f"### {title}", "", "Not run: the time was up.", ""]
    rows: dict[str, tuple[float, float | None] | None] = {}
    for name, call in contestants.items():
        try:
            rows[name] = None if call is None else (median_seconds(call), peak_mib(call))
        except (torch.cuda.OutOfMemoryError, triton.runtime.errors.OutOfResources):
            rows[name] = None
        seconds, peak = rows[name] or (None, None)
        RECORDS.append(
            {"table": title, "contestant": name, "seconds": seconds, "limit": limit, "MiB": peak}
        )
        print(title, name, rows[name], flush=True)
    ours = next(iter(rows.values()))
    lines = [
        f"### {title}",
        "",
        "| contestant | median | time / ours | roofline / time | peak MiB |",
        "|---|--:|--:|--:|--:|",
    ]
    for name, row in sorted(rows.items(), key=lambda item: item[1] or (float("inf"),)):
        label = f"**{name}**" if name.startswith("rl4rec") else name
        if row is None or ours is None:
            lines.append(f"| {label} | not run | | | |")
            continue
        seconds, peak = row
        memory = "" if peak is None else f"{peak:,.1f}"
        lines.append(
            f"| {label} | {seconds * 1e3:.3f} ms | {seconds / ours[0]:.2f} "
            f"| {limit / seconds:.0%} | {memory} |"
        )
    return [*lines, ""]


def candidates(limits: Limits) -> Iterator[list[str]]:
    yield ["## rank_candidates", ""]
    compiled = torch.compile(einsum) if ON_GPU else einsum
    num_items = SIZES["N"][0]
    for dtype in DTYPES:
        for dim in SIZES["D"] if dtype == torch.bfloat16 else SIZES["D"][:1]:
            query, items = (torch.randn(n, dim, device=DEVICE).to(dtype) for n in (B, num_items))
            for columns in SIZES["C"]:
                ids = torch.randint(num_items, (B, columns), device=DEVICE)
                rank = partial(rk.rank_candidates, query, items, ids)
                contestants = {
                    "rl4rec, Triton": partial(rank, backend="triton"),
                    "gather + einsum": partial(einsum, query, items, ids),
                    "torch.compile of it": partial(compiled, query, items, ids),
                }
                if CUDA:
                    contestants = {"rl4rec, CUDA": partial(rank, backend="cuda"), **contestants}
                name = f"B={B:,}, C={columns:,}, D={dim:,}, N={num_items:,}, {dtype}"
                read = B * columns * dim * items.element_size()
                yield table(name, limits.seconds(read), contestants)


def by_blocks(query: Tensor, items: Tensor, work: Callable[[Tensor, slice], Any]) -> None:
    """Score all items for a block of queries at a time."""
    step = max(1, BLOCK_BYTES // (items.shape[0] * items.element_size()))
    for first in range(0, len(query), step):
        rows = slice(first, first + step)
        work(query[rows] @ items.T, rows)


def faiss_search(query: Tensor, items: Tensor, k: int) -> Callable[[], Any] | None:
    """FAISS's exact search on the GPU, if FAISS is installed with support for it."""
    try:
        import faiss
        import faiss.contrib.torch_utils
    except ImportError:
        return None
    if not ON_GPU or not hasattr(faiss, "StandardGpuResources"):
        return None
    resources = faiss.StandardGpuResources()
    return lambda: faiss.knn_gpu(resources, query, items, k, metric=faiss.METRIC_INNER_PRODUCT)


def catalog(limits: Limits) -> Iterator[list[str]]:
    yield ["## The whole catalog", ""]
    dim = SIZES["D"][0]
    small, large = SIZES["N"]
    for num_items, dtype in [*((small, dtype) for dtype in DTYPES), (large, torch.bfloat16)]:
        query, items = (torch.randn(n, dim, device=DEVICE).to(dtype) for n in (B, num_items))
        targets = torch.randint(num_items, (B,), device=DEVICE)
        read = num_items * dim * items.element_size()
        limit = limits.seconds(read, 2 * B * num_items * dim, dtype)
        where = f"B={B:,}, N={num_items:,}, D={dim}, {dtype}"
        score = partial(by_blocks, query, items)
        contestants = {
            "rl4rec, Triton": partial(rk.rank_catalog, query, items, targets),
            "torch.matmul alone": partial(score, lambda scores, rows: None),
            "matmul + count": partial(
                score, lambda scores, rows, targets=targets: count_items(scores, targets[rows])
            ),
        }
        if HOPPER and dtype == torch.bfloat16:
            contestants["rl4rec, CUDA"] = partial(contestants["rl4rec, Triton"], backend="cuda")
        yield table(f"rank_catalog, {where}", limit, contestants)
        for k in KS:
            if k > num_items:
                continue
            contestants = {
                "rl4rec, Triton": partial(rk.topk_catalog, query, items, k),
                "matmul + torch.topk": partial(score, lambda scores, rows, k=k: scores.topk(k)),
                "FAISS": faiss_search(query, items, k),
            }
            if HOPPER and dtype == torch.bfloat16:
                contestants["rl4rec, CUDA"] = partial(contestants["rl4rec, Triton"], backend="cuda")
            yield table(f"topk_catalog, k={k:,}, {where}", limit, contestants)


def crossover(limits: Limits) -> Iterator[list[str]]:
    """From which batch on which backend is faster: what `auto` should know."""
    yield ["## CUDA or Triton", ""]
    num_items, dim, columns = SIZES["N"][0], SIZES["D"][0], SIZES["C"][0]
    items = torch.randn(num_items, dim, device=DEVICE).bfloat16()
    for batch in BATCHES:
        query = torch.randn(batch, dim, device=DEVICE).bfloat16()
        ids = torch.randint(num_items, (batch, columns), device=DEVICE)
        rank = partial(rk.rank_candidates, query, items, ids)
        contestants = {
            "rl4rec, CUDA": partial(rank, backend="cuda") if CUDA else None,
            "rl4rec, Triton": partial(rank, backend="triton"),
        }
        limit = limits.seconds(batch * columns * dim * 2)
        yield table(f"rank_candidates, B={batch:,}, C={columns:,}", limit, contestants)


def in_clusters(blocks: int, query: Tensor, items: Tensor, scores: Tensor) -> None:
    """Count by the kernel for Hopper, in clusters of so many blocks."""
    os.environ["RL4REC_CLUSTER"] = str(blocks)
    try:
        _backends.kernels("cuda").count_catalog(query, items, scores, None)
    finally:
        del os.environ["RL4REC_CLUSTER"]


def variants(limits: Limits) -> Iterator[list[str]]:
    """The kernel that counts, with other numbers of stages, warps, columns and registers."""
    yield ["## Variants of a tile", ""]
    num_items, dim = SIZES["N"][0], SIZES["D"][0]
    changes: dict[str, dict[str, Any]] = {
        "2 stages": {"num_stages": 2},
        "4 stages": {"num_stages": 4},
        "4 warps": {"num_warps": 4},
        "half the columns": {"block_dim": 0.5},
        "twice the columns": {"block_dim": 2},
        "as many registers as it likes": {"maxnreg": None},
    }
    if not ON_GPU:
        changes = {"2 stages": changes["2 stages"]}
    for dtype in DTYPES:
        query, items = (torch.randn(n, dim, device=DEVICE).to(dtype) for n in (B, num_items))
        both = operands(query, items, None)
        scores = torch.zeros(B, dtype=torch.float32, device=DEVICE)
        counts = torch.zeros(3, B, dtype=torch.int64, device=DEVICE)
        contestants = {"rl4rec, as it is": partial(count_catalog, both, counts, scores, None)}
        for name, change in changes.items():
            columns = int(both.tile.block_dim * change.get("block_dim", 1))
            other = both._replace(
                tile=both.tile._replace(block_dim=columns),
                options={**both.options, **{k: v for k, v in change.items() if k != "block_dim"}},
            )
            contestants[name] = partial(count_catalog, other, counts, scores, None)
        for blocks in (1, 2) if HOPPER else ():
            name = f"CUDA, {blocks} blocks share items" if blocks > 1 else "CUDA, each block alone"
            contestants[name] = partial(in_clusters, blocks, query, items, scores)
        limit = limits.seconds(items.numel() * items.element_size(), 2 * B * items.numel(), dtype)
        yield table(f"B={B:,}, N={num_items:,}, D={dim}, {dtype}", limit, contestants)


def encoder_of(dim: int) -> Callable[[Tensor], Tensor]:
    """An encoder of the size of MiniLM, with random weights: token ids [B, L] to [B, dim]."""
    layer = torch.nn.TransformerEncoderLayer(
        dim, 12, 4 * dim, batch_first=True, device=DEVICE, dtype=torch.bfloat16
    )
    model = torch.nn.TransformerEncoder(layer, 6, enable_nested_tensor=False).eval()
    words = torch.randn(30_522, dim, device=DEVICE).bfloat16()
    return lambda tokens: torch.nn.functional.normalize(model(words[tokens]).mean(1), dim=1)


def end_to_end(limits: Limits) -> Iterator[list[str]]:
    """A call of a service: tokens to the device, encode, rank, one copy of the counts back."""
    yield ["## A call of a service", ""]
    num_items, dim, length = SIZES["N"][0], SIZES["D"][0], 64 if ON_GPU else 4
    items = torch.randn(num_items, dim, device=DEVICE).bfloat16()
    encode = encoder_of(dim)
    for batch in BATCHES:
        tokens = torch.randint(30_522, (batch, length))
        query = torch.randn(batch, dim, device=DEVICE).bfloat16()
        targets = torch.randint(num_items, (batch,), device=DEVICE)

        def rank(query: Tensor = query, targets: Tensor = targets) -> Tensor:
            return torch.stack(tuple(rk.rank_catalog(query, items, targets))).cpu()

        def call(tokens: Tensor = tokens, rank: Callable[[Tensor], Tensor] = rank) -> Tensor:
            with torch.inference_mode():
                return rank(encode(tokens.to(DEVICE, non_blocking=True)))

        contestants = {
            "rl4rec: encode, rank, copy": call,
            "encode alone": lambda tokens=tokens: encode(tokens.to(DEVICE)).sum().item(),
            "rank and copy": rank,
        }
        limit = limits.seconds(num_items * dim * 2, 2 * batch * num_items * dim)
        title = f"counts on the host, B={batch:,}, {length} tokens each, N={num_items:,}"
        yield table(title, limit, contestants)


def main() -> None:
    if not ON_GPU:  # so that operators run on the GPU backend by default
        _backends.resolve_backend = lambda backend, query, cuda=True: "triton"
    device = torch.cuda.get_device_name() if ON_GPU else platform.processor() or "CPU"
    limits = measure_limits()
    RECORDS.append({"device": device, **limits._asdict()})
    page = [
        f"# Measured on {device}" if ON_GPU else "# Emulated: the times mean nothing",
        "",
        f"{datetime.date.today()}, torch {torch.__version__}, Triton {triton.__version__}, CUDA "
        f"{torch.version.cuda}, rl4rec-kernels {rk.__version__}; CUDA kernels "
        f"{'built' if CUDA else 'not built'}.",
        "",
        f"A copy moves {limits.bandwidth / 1e12:.2f} TB/s (read and written); a product of 8,192 x "
        f"8,192 runs at {limits.bfloat16 / 1e12:.0f} TFLOP/s in bfloat16 and at "
        f"{limits.tf32 / 1e12:.0f} in TF32, of which a float32 product takes three. The roofline "
        "counts each gathered row or item once.",
        "",
    ]
    name = device.replace("NVIDIA", "").strip().lower().replace(" ", "-")
    out = arguments.out or RESULTS / f"{name}.md"
    for section in (catalog, candidates, crossover, end_to_end, variants):
        for lines in section(limits):
            page += lines
            out.write_text("\n".join(page))
            out.with_suffix(".json").write_text(json.dumps(RECORDS, indent=1))
    print(f"wrote {out}")


if __name__ == "__main__":
    main()
