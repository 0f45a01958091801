"""What the processes of test_sharded.py do; they import no more than they need."""

import datetime
import itertools
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.distributed as dist

import rl4rec_kernels as rk
from rl4rec_kernels.ops import _blocks, cpu_levels, sharded, use_cpu_level
from tests.ops.cases import BF16, DTYPES, F16, F32
from tests.ops.catalog_cases import CatalogCase, make_catalog_case

SHAPE = (37, 311, 33)
METRICS = ("ndcg@10", "hit@5", "mrr", "auc", "logrank", "rank")


class Work(NamedTuple):
    """A case, and how it is ranked."""

    case: CatalogCase
    copy: torch.dtype | None = None  # of the quantized table
    refine: bool = False
    slice_bytes: int = 1 << 30
    sent_bytes: int = 1 << 30

    @property
    def table(self) -> torch.Tensor | rk.QuantizedTable:
        if self.copy is None:
            return self.case.table
        return rk.quantize_table(self.case.table, self.copy, keep_source=self.refine)

    def ks(self) -> set[int]:
        return {1, min(20, len(self.case.table)), len(self.case.table)}


def real(**options: Any) -> CatalogCase:
    return make_catalog_case(SHAPE, exact=False, exclusions=True, **options)


def dense() -> CatalogCase:
    case = make_catalog_case(SHAPE)
    exclude = torch.randint(-1, SHAPE[1], (SHAPE[0], 90), generator=torch.Generator())
    return case._replace(exclude=exclude)


def non_finite() -> CatalogCase:
    nan, inf = torch.nan, torch.inf
    table = torch.tensor([[1.0], [nan], [inf], [-inf], [0.0], [inf], [-0.0], [1.0], [nan]])
    return CatalogCase(torch.ones(9, 1), table, torch.arange(9), None, None, None)


def constant() -> CatalogCase:
    table = torch.randn(1, 33, generator=torch.Generator()).expand(97, -1).contiguous()
    return CatalogCase(table[:5] * 2, table, torch.tensor([0, 20, 48, 50, 96]), None, None, None)


def alone() -> CatalogCase:
    """One query, in tensors of one row that are contiguous for all strides."""
    case = real()
    query = case.query[:1].T.repeat_interleave(3, 1).T[::3]
    targets = case.targets.repeat_interleave(5).view(-1, 5)[:1, 2]
    assert targets.is_contiguous()
    assert targets.stride() == (5,)
    exclude = torch.arange(9).view(-1, 1).T
    return case._replace(query=query, targets=targets, exclude=exclude, offsets=None)


WORK: dict[str, Work] = {
    "one query": Work(alone()),
    "one query, refined": Work(alone(), torch.int8, refine=True),
    **{f"ties {q} {t}": Work(make_catalog_case(SHAPE, (q, t), exclusions=True)) for q, t in DTYPES},
    **{f"real {q} {t}": Work(real(dtypes=(q, t))) for q, t in DTYPES},
    "int32 ids": Work(real(ids_dtype=torch.int32)),
    "no exclusions": Work(make_catalog_case(SHAPE, exact=False)),
    "dense exclusions": Work(dense()),
    "non-finite": Work(non_finite()),
    "constant": Work(constant()),
    "constant, refined": Work(constant(), torch.int8, refine=True),
    "no queries": Work(make_catalog_case((0, 9, 4))),
    "streamed": Work(real(), slice_bytes=33 * 4 * 40),
    "streamed, refined": Work(real(), BF16, refine=True, slice_bytes=200 * 40),
    "sent in blocks": Work(real(), sent_bytes=5000),
    **{
        f"{copy} of {dtype}, refine={refine}": Work(real(dtypes=(F32, dtype)), copy, refine)
        for copy, dtype, refine in itertools.product((torch.int8, BF16), (F32, F16), (True, False))
    },
}


def bounds(split: str, num_rows: int, world: int) -> list[int]:
    """Where the slices of a table begin and end."""
    if split == "uneven":
        return [
            0,
            *(num_rows * (i * i + 1) // (world * world + 1) for i in range(1, world)),
            num_rows,
        ]
    if split == "none in the first":
        return [0] * world + [num_rows]
    if split == "none in the last":
        return [0, *[num_rows] * world]
    assert split == "one in the first"
    return [0, 1, *[2] * (world - 2), num_rows]


SPLITS = ("uneven", "none in the first", "none in the last", "one in the first")


def take(table: Any, start: int, end: int) -> Any:
    if isinstance(table, rk.QuantizedTable):
        return rk.QuantizedTable(*(None if part is None else part[start:end] for part in table))
    return None if table is None else table[start:end]


def shard(
    table: Any, valid: Any, split: str, rank: int, world: int, group: Any = None
) -> rk.ShardedTable:
    start, end = bounds(split, table.shape[0], world)[rank:][:2]
    return rk.ShardedTable.from_slice(take(table, start, end), take(valid, start, end), group=group)


def results(work: Work, table: rk.ShardedTable) -> dict[str, Any]:
    query, _, targets, exclude = work.case.arguments
    options = {"refine": work.refine}
    return {
        "counts": table.rank_catalog(query, targets, exclude, **options),
        "rewards": table.reward_catalog(query, targets, exclude, METRICS, **options),
        **{f"top {k}": table.topk_catalog(query, k, exclude, **options) for k in work.ks()},
    }


def outcome(call: Callable[[], Any]) -> Any:
    """What a call returns, or its error."""
    try:
        return call()
    except (TypeError, ValueError, IndexError, OSError, RuntimeError, KeyboardInterrupt) as error:
        return type(error).__name__, str(error)


def errors(rank: int, world: int, missing: Path) -> dict[str, Callable[[], Any]]:
    """Calls that fail in all processes, though most have a reason in one only."""
    case = make_catalog_case((3, 9, 4))._replace(targets=torch.tensor([1, 5, 8]))
    query, targets = case.query, case.targets
    valid = torch.ones(9, dtype=torch.bool)
    valid[5] = False
    table = shard(case.table, None, "uneven", rank, world)
    with_valid = shard(case.table, valid, "uneven", rank, world)
    unrefined = shard(rk.quantize_table(case.table, keep_source=False), None, "uneven", rank, world)
    refined = shard(rk.quantize_table(case.table), None, "none in the last", rank, world)
    last = int(rank == world - 1)

    def level() -> Any:
        with use_cpu_level("portable" if last else cpu_levels()[0]):
            return rk.ShardedTable.from_slice(torch.ones(2, 3, dtype=BF16))

    make = rk.ShardedTable.from_slice
    return {
        "a bad target": lambda: table.rank_catalog(query, torch.tensor([0, 9, 1])),
        "a bad exclusion": lambda: table.topk_catalog(query, 2, torch.tensor([[0], [1], [-2]])),
        "a bad metric": lambda: table.reward_catalog(query, targets, None, ("ndcg",)),
        "an invalid target": lambda: with_valid.rank_catalog(query, targets),
        "k": lambda: table.topk_catalog(query, 10),
        "no source": lambda: unrefined.rank_catalog(query, targets, refine=True),
        "refine": lambda: refined.rank_catalog(query, targets, refine="no"),
        "refine of rewards": lambda: refined.reward_catalog(query, targets, refine="no"),
        "refine of the best": lambda: refined.topk_catalog(query, 2, refine="no"),
        "nan": lambda: refined.rank_catalog(query * torch.nan, targets, refine=True),
        "one bad target": lambda: table.rank_catalog(query, targets + 3 * last),
        "one bad k": lambda: table.topk_catalog(query, 0 if last else 3),
        "one bad metric": lambda: table.reward_catalog(
            query, targets, None, ("mrr" if last else "auc@",)
        ),
        "other query": lambda: table.rank_catalog(query + last, targets),
        "other shape": lambda: table.topk_catalog(query[: 2 + last], 3),
        "other targets": lambda: table.rank_catalog(query, targets - last),
        "other exclusions": lambda: table.rank_catalog(
            query, targets, targets[:, None] if last else None
        ),
        "other k": lambda: table.topk_catalog(query, 1 + last),
        "other operator": lambda: (
            table.topk_catalog(query, 1) if last else table.rank_catalog(query, targets)
        ),
        "other dimensions": lambda: make(torch.ones(2, 3 + last)),
        "other dtype": lambda: make(torch.ones(2, 3, dtype=F16 if last else F32)),
        "other source": lambda: make(rk.quantize_table(torch.ones(2, 3), keep_source=not last)),
        "bad table": lambda: make([[1.0]] if last else torch.ones(1, 1)),
        "bad valid": lambda: make(torch.ones(2, 3), torch.ones(2 + last, dtype=torch.bool)),
        "no file": lambda: rk.ShardedTable.open(
            missing if last else missing.with_name("index.safetensors")
        ),
        **({"other level": level} if cpu_levels()[0] in ("amx_fp16", "amx", "avx512_bf16") else {}),
        "nothing wrong": lambda: tuple(table.rank_catalog(query, targets)),
    }


# Steps between two collectives, and the methods that take them.
STEPS = {
    "rank_catalog": ("check_ids", "score_targets", "local_ids", "count_slices", "split_targets"),
    "topk_catalog": ("check_k", "local_ids", "best_of_slices", "global_ids", "merge_best"),
}


def broken(step: str, method: str, rank: int, world: int, kind: type[BaseException]) -> Any:
    """What a method gives if a step of it fails in the last process, then and afterwards."""
    case = make_catalog_case((3, 9, 4))
    table = shard(case.table, None, "uneven", rank, world)
    third = case.targets if method == "rank_catalog" else 2
    call = partial(getattr(table, method), case.query, third, case.targets[:, None])

    def fail(*args: Any, **options: Any) -> Any:
        raise kind("broken")

    was = getattr(sharded, step)
    if rank == world - 1:
        setattr(sharded, step, fail)
    try:
        first = outcome(call)
    finally:
        setattr(sharded, step, was)
    return first, len(call())


def late(rank: int, world: int) -> Any:
    """What the others get if the last process does not call."""
    group = dist.new_group(timeout=datetime.timedelta(seconds=2))
    case = make_catalog_case((3, 9, 4))
    table = shard(case.table, None, "uneven", rank, world, group)
    if rank == world - 1:
        return None
    return outcome(lambda: table.rank_catalog(case.query, case.targets))


def main(rank: int, world: int, folder: Path) -> None:
    """Do all the work as one of several processes; leave the results in a file."""
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder}/store",
        rank=rank,
        world_size=world,
        timeout=datetime.timedelta(seconds=30),
    )
    found: dict[str, Any] = {}

    def do(step: str, call: Callable[[], Any]) -> None:
        (folder / f"step{rank}").write_text(step)  # shows where a process hangs
        found[step] = call()

    for (name, work), split in itertools.product(WORK.items(), SPLITS):
        _blocks.SLICE_BYTES, sharded._SENT_BYTES = work.slice_bytes, work.sent_bytes
        table = shard(work.table, work.case.valid, split, rank, world)
        do(f"{name}, {split}", lambda w=work, t=table: results(w, t))
    for name, call in errors(rank, world, folder / "missing.safetensors").items():
        do(f"error: {name}", lambda call=call: outcome(call))
    for method, steps in STEPS.items():
        for step in steps:
            for kind in (RuntimeError, KeyboardInterrupt):
                name = f"broken: {method} {step} {kind.__name__}"
                do(name, partial(broken, step, method, rank, world, kind))
    index, query = folder / "index.safetensors", WORK["no exclusions"].case.query
    for copy in (None, torch.int8):
        table, refine = rk.ShardedTable.open(index, quantize=copy), copy is not None
        do(f"opened {copy}", lambda t=table, r=refine: t.topk_catalog(query, 9, refine=r))
        do(f"repr {copy}", lambda t=table: repr(t))
    ends = (0, world - 1)
    group = dist.new_group(ends)
    work = WORK["real torch.float32 torch.float32"]

    def in_group() -> Any:
        member = ends.index(rank) if rank in ends else 0
        return results(work, shard(work.table, work.case.valid, "uneven", member, 2, group))

    do("in a group", lambda: outcome(in_group))
    do("late", lambda: late(rank, world))
    torch.save(found, folder / f"found{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()
