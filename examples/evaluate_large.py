"""Evaluate users over a catalog that is too large for one machine, or too slow on one.

    python examples/evaluate_large.py --users 100000                     # workers on Ray
    torchrun --nproc-per-node 4 examples/evaluate_large.py --engine torchrun

On Ray, the users are distributed: each worker maps the index file and ranks some users among all
items. Memory holds what is read, so that all workers of a machine share one copy of the table.
Under torchrun, the rows of the table are distributed: each process has a part, in memory or mapped,
and all rank every user. Both count exactly what one process would count.

The catalog here is random; pass the path of your own index as --index. The last lines say how long
the run took, and how long 100,000 users would take with 10 million items at this speed.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

import rl4rec_kernels as rk

METRICS = ("ndcg@10", "hit@10", "mrr")
FLOATS = {"dtype": torch.float32, "device": "cpu"}
LARGE = 10_000_000 * 100_000  # items times users


def random_index(path: Path, num_items: int, dim: int) -> None:
    """Write an index of random embeddings, unless the file exists."""
    if not path.is_file():
        draw = torch.Generator().manual_seed(0)
        table = torch.randn(num_items + 1, dim, generator=draw, **FLOATS)
        table[0] = 0  # padding
        rk.ItemIndex.from_embeddings(table).save(path)


def random_users(index: rk.ItemIndex, num_users: int) -> tuple[Tensor, Tensor]:
    """Users near their targets, so that the ranks differ from chance."""
    draw = torch.Generator().manual_seed(1)
    targets = torch.randint(
        1, index.num_rows, (num_users,), generator=draw, dtype=torch.int64, device="cpu"
    )
    noise = torch.randn(num_users, index.table.shape[1], generator=draw, **FLOATS)
    return index.table[targets] + 3 * noise, targets


def rank_on_ray(
    path: Path, query: Tensor, targets: Tensor, workers: int, users_per_task: int = 2048
) -> rk.RankCounts:
    """Rank users among all items of an index file, which every machine has under this path."""
    import ray

    @ray.remote(num_cpus=1)
    def rank(query: Tensor, targets: Tensor) -> tuple[Tensor, ...]:
        index = rk.ItemIndex.open(path)
        return tuple(rk.rank_catalog(query, index.table, targets, valid=index.valid))

    def tasks() -> Iterator[tuple[int, object]]:
        for start in range(0, len(query), users_per_task):
            part = slice(start, start + users_per_task)
            yield start, rank.remote(query[part], targets[part])

    results: dict[int, tuple[Tensor, ...]] = {}
    running: dict[object, int] = {}
    for start, task in tasks():
        running[task] = start
        if (
            len(running) >= 2 * workers
        ):  # so that no worker waits, and few users are in memory twice
            _collect(ray, running, results)
    while running:
        _collect(ray, running, results)
    parts = zip(*(results[start] for start in sorted(results)), strict=True)
    return rk.RankCounts(*map(torch.cat, parts))


def _collect(ray, running: dict, results: dict) -> None:
    """Wait for a task and keep its result, or raise its error."""
    [done], _ = ray.wait(list(running))
    results[running.pop(done)] = ray.get(done)


def rank_under_torchrun(
    path: Path, query: Tensor, targets: Tensor, users_per_call: int = 2048
) -> rk.RankCounts:
    """Rank users in the processes of torchrun, which have equal parts of the table's rows."""
    table = rk.ShardedTable.open(path)
    parts = [
        table.rank_catalog(
            query[start : start + users_per_call], targets[start : start + users_per_call]
        )
        for start in range(0, len(query), users_per_call)
    ]
    return rk.RankCounts(*map(torch.cat, zip(*parts, strict=True)))


def main(arguments: Sequence[str] | None = None) -> rk.RankCounts:
    """Rank, and print the metrics and the time."""
    parser = argparse.ArgumentParser(
        description=__doc__.partition("\n")[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--engine", choices=["ray", "torchrun"], default="ray")
    parser.add_argument(
        "--workers", type=int, default=os.cpu_count(), help="of Ray, of one CPU each"
    )
    parser.add_argument("--index", type=Path, help="an index file; else random embeddings")
    parser.add_argument("--items", type=int, default=100_000, help="of the random index")
    parser.add_argument("--dim", type=int, default=384, help="of the random index")
    parser.add_argument("--users", type=int, default=10_000)
    options = parser.parse_args(arguments)
    name = f"rl4rec_random_{options.items}x{options.dim}.safetensors"
    path = options.index or Path(tempfile.gettempdir()) / name
    is_first = int(os.environ.get("RANK", "0")) == 0
    if options.engine == "torchrun":
        torch.distributed.init_process_group("gloo")
    if options.index is None and is_first:
        random_index(path, options.items, options.dim)
    if options.engine == "torchrun":
        torch.distributed.barrier()  # until the file is there
    index = rk.ItemIndex.open(path)
    query, targets = random_users(index, options.users)

    start = time.monotonic()
    if options.engine == "ray":
        import ray

        if not ray.is_initialized():
            address = os.environ.get("RAY_ADDRESS", "local")
            cpus = options.workers if address == "local" else None
            ray.init(address=address, num_cpus=cpus, include_dashboard=False, log_to_driver=False)
        counts = rank_on_ray(path, query, targets, options.workers)
    else:
        counts = rank_under_torchrun(path, query, targets)
        torch.distributed.destroy_process_group()
    seconds = time.monotonic() - start

    if is_first:
        values = rk.metrics_from_counts(counts, METRICS).double().mean(0).tolist()
        print(", ".join(f"{name} {value:.4f}" for name, value in zip(METRICS, values, strict=True)))
        pairs = options.users * len(index)
        print(f"{options.users:,} users among {len(index):,} items: {seconds:.1f} s")
        print(f"100,000 among 10 million at this speed: {seconds * LARGE / pairs / 60:.0f} min")
    return counts


if __name__ == "__main__":
    main()
