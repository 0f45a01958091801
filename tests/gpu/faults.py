"""Plants faults in the kernels and shows whether the emulator finds them.

A fault of CUDA is a change of the source, which nvcc compiles to other PTX for the same host code.
A fault of Triton is a change of the PTX: its fences, barriers and copies are the compiler's.
"""

import random
import re
import shutil
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

import rl4rec_kernels as rk
from rl4rec_kernels.ops import _hopper, _hopper_topk, reference
from rl4rec_kernels.ops._arguments import Catalog
from rl4rec_kernels.ops._hopper_sides import operands_of, scales_of_tiles
from tests.cuda.emulated import ROOT, Emulated, architecture_of, flags_of, nvcc, run, write_all
from tests.gpu import compiled
from tests.ops import cases
from tests.ops.catalog_cases import make_catalog_case
from tests.ops.gpu import Backend

_ORDERS = 8  # of the blocks in which a fault is looked for


class Source(NamedTuple):
    """A change of a file of csrc/cuda."""

    file: str
    old: str
    new: str


class Ptx(NamedTuple):
    """A change of the PTX of a Triton kernel: the first match, or all of them."""

    kernel: str
    capability: int
    old: str
    new: str
    count: int = 0


def candidates(raw: Emulated) -> None:
    """Several chunks, rows that are not aligned, and the end of the table."""
    shapes = (5, 300, 40, 37), (5, 300, 39, 37)  # of which one ends inside of 128 bits
    for shape, dtype in (*((s, cases.F32) for s in shapes), ((3, 140, 9, 64), cases.BF16)):
        case = cases.make_case(shape, (dtype, dtype))
        case.ids[:, 3] = len(case.table) - 1
        bad = torch.zeros(1, dtype=torch.int32)
        for _ in range(4):
            counts = raw.raw.rank_candidates(*case, bad)
            want = reference.rank_candidates(*case)
            assert torch.equal(torch.stack(counts), torch.stack(tuple(want)))
        scores = raw.raw.score_candidates(*case, bad)
        assert torch.equal(scores, reference.score_candidates(*case).float())
        weights = torch.randint(-2, 3, (case.ids.numel(),)).float()
        offsets = torch.arange(len(case.ids) + 1) * case.ids.shape[1]
        index = case.ids.reshape(-1)
        sums = raw.raw.weighted_segment_sum(weights, case.table, index, None, offsets, case.query)
        rows = torch.where(index[:, None] >= 0, case.table[index].double(), 0.0)
        want = (weights[:, None].double() * rows).view(*case.ids.shape, -1).sum(1)
        assert torch.equal(sums, want.to(sums.dtype))


def large_table(raw: Emulated) -> None:
    with tempfile.TemporaryDirectory() as folder:
        table, used = cases.huge_table(Path(folder))
        query = torch.ones(1, table.shape[1])
        bad = torch.zeros(1, dtype=torch.int32)
        scores = raw.raw.score_candidates(query, table, used[None], None, bad)
        assert torch.equal(scores, reference.score_candidates(query, table, used[None]).float())


def catalog(capability: int) -> None:
    case = make_catalog_case((33, 401, 128), (cases.BF16, cases.BF16), exclusions=True)
    with compiled.capability(capability):
        counts = Backend("triton").rank_catalog(*case.arguments, valid=case.valid)
    want = reference.rank_catalog(*case)
    assert torch.equal(torch.stack(tuple(counts)), torch.stack(tuple(want)))


def hopper(raw: Emulated) -> None:
    """Catalogs by boxes, in clusters, and by value with several units a block; in slices."""
    for shape in ((130, 700, 72), (130, 700, 13), (3, 600, 400)):
        case = make_catalog_case(shape, (cases.BF16, cases.BF16))
        scores = raw.raw.score_pairs(case.query, case.table, None, case.targets)
        above, tied = raw.raw.count_catalog(case.query, case.table, scores, None)
        want = reference.rank_catalog(*case)
        assert torch.equal(above, want.above)
        assert torch.equal(tied, want.tied + 1)


def hopper_sums(raw: Emulated) -> None:
    """Log-probabilities over several ranges of items, with exclusions of several warps."""
    case = make_catalog_case((20, 700, 72), (cases.BF16, cases.BF16))
    case = case._replace(exclude=torch.arange(60).view(20, 3) * 11)
    bad = torch.zeros(1, dtype=torch.int32)
    found, _ = _hopper.log_prob_catalog(raw.raw, *case, 30.0, bad)
    want = reference.log_prob_catalog(*case, 30.0)
    torch.testing.assert_close(found.double(), want, rtol=1e-6, atol=1e-6)


def hopper_float32(raw: Emulated) -> None:
    """Scores of float32, with queries that do not stay in shared memory."""
    case = make_catalog_case((3, 300, 200), exact=False)
    scores = raw.raw.score_pairs(case.query, case.table, None, case.targets)
    exact = case.query.double() @ case.table.double().T
    want = exact.gather(1, case.targets[:, None])[:, 0]
    torch.testing.assert_close(scores.double(), want, rtol=0, atol=1e-4)
    above, _ = raw.raw.count_catalog(case.query, case.table, scores, None)
    assert torch.equal(above, (exact > want[:, None]).sum(1))


def hopper_quantized(raw: Emulated) -> None:
    """Counts of int8, whose queries and items have scales."""
    case = make_catalog_case((3, 300, 72), exact=False)
    table = rk.quantize_table(case.table)
    catalog = Catalog(table.values, None, table.row_stats, None)
    *sides, query_scale, table_scale = operands_of(case.query, catalog)
    scales = query_scale, scales_of_tiles(table_scale)
    scores = raw.raw.score_pairs(*sides, None, case.targets, *scales)
    above, tied = raw.raw.count_catalog(*sides, scores, None, *scales)
    every = (sides[0].double() @ sides[1].double().T).float()
    a, b = scales[0][:, None], scales[1][:300]
    every = every * a.maximum(b) * a.minimum(b)
    want = every.gather(1, case.targets[:, None])
    assert torch.equal(above, (every > want).sum(1))
    assert torch.equal(tied, (every == want).sum(1))


def hopper_best(raw: Emulated) -> None:
    """The best items, where many more reach the bound of the sample than there is room for."""
    case = make_catalog_case((2, 3000, 16), (cases.BF16, cases.BF16))
    case.query[:, 0], case.table[:, 0] = 1.0, 50.0
    case.table[::5] = 0.0
    spare, _hopper_topk._SPARE = _hopper_topk._SPARE, 30
    try:
        bad = torch.zeros(1, dtype=torch.int32)
        sides = case.query, case.table, 2
        _, ids = _hopper_topk.topk_catalog(raw.raw, *sides, None, None, None, None, None, bad)
    finally:
        _hopper_topk._SPARE = spare
    assert ids.tolist() == reference.topk_catalog(*sides)[1].tolist()


CUDA: dict[str, tuple[Source, Callable[[Emulated], None]]] = {
    "a lost barrier": (
        Source("counts.cuh", "if (slot == 0) target_score = score;\n  __syncthreads();",
               "if (slot == 0) target_score = score;"), candidates),
    "a lost barrier after the query": (
        Source("counts.cuh", "kPack>(queries, chunk.row);\n  __syncthreads();",
               "kPack>(queries, chunk.row);"), candidates),
    "a missing fence": (
        Source("counts.cuh", "__threadfence();  // other blocks", "// other blocks"), candidates),
    "an addition that is not atomic": (
        Source("counts.cuh", "atomicAdd(&all.total, static_cast<unsigned long long>(total))",
               "all.total += total"), candidates),
    "an unmasked tail": (
        Source("rows.cuh", "      if (at + i < dim)\n", "      if (at < dim)\n"), candidates),
    "a 32-bit index": (
        Source("rows.cuh", "return data + i * stride;",
               "return data + static_cast<int>(i * stride);"), large_table),
    "a wrong last chunk": (
        Source("counts.cuh", "column < chunk.length ?", "column <= chunk.length ?"), candidates),
    "a barrier that some threads miss": (
        Source("counts.cuh", "  const bool is_nan =",
               "  if (slot != 0) __syncthreads();\n  const bool is_nan ="), candidates),
    "sums that are read too early": (
        Source("weighted_segment_sum.cu", "kPack + i] = sums[i];\n  __syncthreads();",
               "kPack + i] = sums[i];"), candidates),
}  # fmt: skip

TILES, SUM, PARTS = "sm90/tiles.cuh", "sm90/sum.cuh", "sm90/operands.cuh"
PAIRS, COLLECT, EXCLUDED = "sm90/pairs.cuh", "sm90/collect.cuh", "sm90/excluded.cuh"
HOPPER: dict[str, Source] = {
    "a place that is freed too early": Source(TILES, "          wait_for_products<1>();\n", ""),
    "items that are not waited for": Source(
        TILES, "        Barrier{full.address + 8 * stage}.wait(phase);\n", ""),
    "a place that is not waited for": Source(TILES, "        left.wait(phase ^ 1);\n", ""),
    "queries that are replaced too early": Source(
        TILES, "      left.wait(unit_phase ^ 1);\n", ""),
    "fewer bytes than are copied": Source(
        TILES, "arrive_and_expect(w.slices * kParts * kQueryBytes)",
        "arrive_and_expect(kQueryBytes)"),
    "a missing fence of stored items": Source(
        TILES, "fence_shared();\n              arrived", "arrived"),
    "a wrong swizzle of stored items": Source(
        "sm90/instructions.cuh", "((chunk ^ row % 8) << 4)", "(chunk << 4)"),
    "an unmasked last tile": Source(
        TILES, "if (left >= kTileItems) return true;", "if (left > 0) return true;"),
    "a place that the other block of a cluster still reads": Source(
        TILES, "arrive_in(rank_in_cluster() ^ 1)", "arrive_in(rank_in_cluster())"),
    "copies to one block of a cluster": Source(
        "sm90/instructions.cuh", "static_cast<uint16_t>(0b11)", "static_cast<uint16_t>(0b01)"),
    "a block that begins without the other": Source(
        TILES, "  sync_cluster();\n  // The producer", "  __syncthreads();\n  // The producer"),
    "a block that ends before the other": Source(
        TILES, "  sync_cluster();  // until then", "  // until then"),
    "a part of the queries that is used for all": Source(
        PARTS, "queries + p * step", "queries"),
    "pairs without the scale of their item": Source(
        PAIRS, "scale_at(pairs.scales.item, item)", "1.0f"),
    "a full room that keeps the first items": Source(
        COLLECT, "if (slot >= capacity) slot = static_cast<int>(hash(item) % capacity);",
        "if (slot >= capacity) return;"),
    "items of a tile that have one id": Source(
        COLLECT, "(0x7fffffff - item));", "(0x7fffffff - first));"),
    "exclusions of other warps": Source(
        EXCLUDED, "loaded >> 12 == row % kBlockQueries / 16", "loaded >= 0"),
    "sums that keep their reference": Source(
        SUM, "      s.sum[h] = s.sum[h] * factor(s.largest[h], larger) + other_sum * "
        "factor(other, larger);\n", "      s.sum[h] += other_sum;\n"),
}  # fmt: skip

TRITON: dict[str, Ptx] = {
    "a wrong swizzle": Ptx(
        "_count_catalog", 90, r"\b46116862\d+", str(2 << 62 | 64 << 32 | 1 << 16)),
    "a product that is not waited for": Ptx("_count_catalog", 90, r"wgmma\.wait_group[^;]*;", ""),
    "a missing fence of the copies": Ptx("_count_catalog", 90, r"fence\.proxy\.async[^;]*;", ""),
    "a missing fence of the products": Ptx("_count_catalog", 90, r"wgmma\.fence[^;]*;", ""),
    "a copy that is not waited for": Ptx(
        "_count_catalog", 80, r"cp\.async\.wait_group\s+\d+;", "cp.async.wait_group 7;"),
    "a lost barrier of Triton": Ptx("_count_catalog", 80, r"bar\.sync\s+0;", ""),
    "a store past the end": Ptx("_finish", 90, r"@%p\d+ st\.global", "st.global"),
}  # fmt: skip


def with_source(fault: Source, part: str = "cuda") -> str:
    """The PTX of the changed source, with the names that the host code knows."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "csrc"
        shutil.copytree(ROOT / "csrc", source, ignore=shutil.ignore_patterns("cpu", "sampler"))
        path = source / "cuda" / fault.file
        text = path.read_text()
        assert text.count(fault.old) == 1, f"{fault.file} has changed: {fault.old}"
        path.write_text(text.replace(fault.old, fault.new))
        out = Path(folder) / "all.ptx"
        architecture = f"-arch=compute_{architecture_of(part)}"
        run(nvcc(), *flags_of(source), "--ptx", architecture, "-o", str(out),
            str(write_all(Path(folder), source, part)))  # fmt: skip
        return out.read_text()


def named_as(text: str, other: str) -> str:
    """nvcc puts a number of the file into names: use those of another text."""
    found = [re.search(r"[0-9a-f]{8}_6_all_cu_[0-9a-f]{8}", part)[0] for part in (text, other)]
    return text.replace(*found)


def caught(check: Callable[[], None]) -> str:
    """What a check raises, in one line; empty if nothing, in several orders of the blocks."""
    for seed in range(_ORDERS):
        random.seed(seed)
        np.random.seed(seed)
        try:
            check()
        except Exception as error:
            text = str(error).splitlines()[0] if str(error) else "other results"
            text = re.sub(r"_ZN\w*?([a-z_]+_kernel)\w*", r"\1", text)  # without namespaces
            return f"{type(error).__name__}: {text}"
    return ""


def main() -> int:
    compiled.install()
    emulated = Emulated()
    original, missed, number = emulated.text, 0, 0

    def report(name: str, check: Callable[[], None]) -> None:
        nonlocal missed, number
        what = caught(check)
        number, missed = number + 1, missed + (not what)
        print(f"{name:50s} {what[:100] or 'NOT FOUND'}", flush=True)

    for capability in (80, 90):  # without a fault
        catalog(capability)
    for name, fault in TRITON.items():
        compiled.program_of.cache_clear()
        compiled.change = partial(changed, fault)
        report(f"Triton: {name}", partial(catalog, fault.capability))
    for check in (candidates, large_table):
        check(emulated)
    for name, (source, check) in CUDA.items():
        emulated.use(named_as(with_source(source), original))
        report(f"CUDA: {name}", partial(check, emulated))
    on_hopper = Emulated(part="cuda/sm90")
    hopper(on_hopper)
    hopper_sums(on_hopper)
    hopper_float32(on_hopper)
    hopper_quantized(on_hopper)
    hopper_best(on_hopper)
    original = on_hopper.text
    for name, source in HOPPER.items():
        on_hopper.use(named_as(with_source(source, "cuda/sm90"), original))
        checks = {SUM: hopper_sums, EXCLUDED: hopper_sums, PARTS: hopper_float32}
        checks |= {PAIRS: hopper_quantized, COLLECT: hopper_best}
        check = checks.get(source.file, hopper)
        report(f"CUDA on Hopper: {name}", partial(check, on_hopper))
    print(f"{number - missed} of {number} faults found")
    return missed


def changed(fault: Ptx, kernel: str, text: str) -> str:
    """The PTX of a kernel, with the fault if it is its kernel."""
    if kernel != fault.kernel:
        return text
    result, count = re.subn(fault.old, fault.new, text, count=fault.count)
    if not count:
        raise SystemExit(f"{kernel} has no {fault.old}: it cannot be planted")
    return result


if __name__ == "__main__":
    sys.exit(main())
