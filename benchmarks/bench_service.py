"""The service on Ray against a bare actor, and the encoder's backends against each other.

Unlike the other files here, this one does not use pytest-benchmark, because it measures tails, the
rates of many callers, and ratios of measurements that must alternate on one machine. Run it as a
script, with $RL4REC_DATA; it prints a page of Markdown and writes it to the file that is its
argument. Each ratio is the median of several rounds in which the contestants take turns, with the
range over the rounds.
"""

import asyncio
import datetime
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import ray
import torch

import rl4rec_kernels as rk
from rl4rec_kernels.data.prompts import recent_titles
from rl4rec_kernels.index.cache import cache_dir, cached_index
from rl4rec_kernels.service.calls import check_call
from rl4rec_kernels.service.wire import pack_call, unpack_answer

ROUNDS = 3
CALLERS = 64
THREADS = len(os.sched_getaffinity(0))

INTRODUCTION = """# Service benchmarks

{date}, {cpu}, {threads} cores, level `{level}`, Python {python}, torch {torch}, Ray {ray}; the
load was {load:.1f} before the run. Ratios are medians of three rounds in which the contestants took
turns, with their range in parentheses, then the medians of both. `make bench-service` runs it
again (2 minutes)."""

OVERHEAD = """All encodings are cached. The bare echo is an actor that receives the same bytes as
the service, as the client packs them from the same Python lists, and returns as many bytes as the
service's answer, which are unpacked in the same way. "Then ranking" ranks in the caller's process
after each echo. "Plain lists" is the echo with lists as arguments, which Ray pickles and nobody
checks."""

_page: list[str] = []
# What is aimed at: the ratio to the echo, or microseconds.
_goals = {
    "1 sample, 99 negatives, p50: time of a call / echo": 1.2,
    "256 samples, 99 negatives, p50: time of a call / echo": 1.6,
    "256 samples, 99 negatives, p99: time of a call / echo": 2.5,
}
_IN_PROCESS = "`RecReward` in process, 1 sample, 99 negatives, µs"
_IN_PROCESS_GOAL = 100.0
_found: dict[str, float] = {}


class BareEcho:
    """What Ray alone costs: takes a call, returns as many bytes as the answer has."""

    async def answer(self, size: int, *call: Any) -> bytes:
        return bytes(size)


Echo = ray.remote(num_cpus=0)(BareEcho)


def main() -> None:
    """Measure everything, print it, and write it to a file."""
    torch.set_num_threads(THREADS)
    metadata = rk.load_item_metadata("beauty")
    prompts = rk.PromptGenerator(metadata)
    test = rk.RecommendationDataset(
        "beauty", metadata, prompts, "test", num_negs=99, num_items=max(metadata) + 1
    )
    texts = [recent_titles(metadata, history[-1:]) for history in test.histories.to_lists()]
    texts = list(dict.fromkeys(text for text in texts if text))
    encoder = rk.Encoder(device="cpu")
    index = cached_index("beauty", metadata, encoder)
    path = str(cache_dir() / "index" / "beauty.safetensors")
    local = rk.LocalRetrievalService({"beauty": index}, encoder)

    write(introduction())
    write("\n## Encoding\n")
    compare_backends(encoder, index, texts[:512])
    write("\n## In process\n")
    break_down(local, test, texts[0])
    ray.init(address="local", num_cpus=THREADS, include_dashboard=False, log_to_driver=False)
    start = partial(rk.start_service, {"beauty": path})
    write("\n## Many callers of one sample\n")
    uncached = rk.LocalRetrievalService({"beauty": index}, encoder, cache_mib=0)
    compare_callers(uncached, start, test, texts[512 : 512 + 3 * CALLERS])
    client = start()
    write(f"\n## Overhead besides encoding\n\n{OVERHEAD}\n")
    compare_calls(client, local, test, texts)
    write("\n## Replicas\n")
    compare_handles()
    ray.shutdown()
    write(goals())
    if len(sys.argv) > 1:
        Path(sys.argv[1]).write_text("\n".join(_page) + "\n")


def write(text: str) -> None:
    """Print a part of the page, and keep it."""
    print(text, flush=True)
    _page.append(text)


def introduction() -> str:
    """What was measured where."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    cpu = next((line.partition(": ")[2] for line in lines if "model name" in line), "unknown CPU")
    return INTRODUCTION.format(
        date=datetime.date.today(),
        cpu=cpu,
        threads=THREADS,
        level=rk.ops.cpu_level(),
        python=platform.python_version(),
        torch=torch.__version__,
        ray=ray.__version__,
        load=os.getloadavg()[0],
    )


def goals() -> str:
    """A table of what is aimed at and what was found."""
    rows = ["\n## Goals\n", "| | goal | found |", "|---|--:|--:|"]
    for name, goal in {**_goals, _IN_PROCESS: _IN_PROCESS_GOAL}.items():
        found = f"{_found[name]:.3g}"
        rows.append(f"| {name} | {goal:g} | {found if _found[name] <= goal else f'**{found}**'} |")
    return "\n".join(rows)


def break_down(local: rk.LocalRetrievalService, test: Any, text: str) -> None:
    """Measure a reward of one text, whose encoding is remembered, and the parts of that call."""
    sample = test[0]
    reward = rk.RecReward(service=local, dataset_name="beauty")
    arguments = [text], [sample["target"]], [sample["history"]], [sample["neg_items"]]
    reward(*arguments)
    request = reward._check(*arguments)
    call = reward._call(request)
    items = local.items["beauty"]
    query, answer = local._encode([text]), local.answer(call)
    parts = {
        _IN_PROCESS: lambda: reward(*arguments),
        "check the arguments": lambda: reward._check(*arguments),
        "put the ids of the call together": lambda: reward._call(request),
        "check the ids": lambda: items.check_ids(call),
        "recall the encoding": lambda: local._encode([text]),
        "rank": lambda: items.answer([call], query),
        "metrics and reward": lambda: reward._rewards(request, answer),
    }
    found: dict[str, list[float]] = {name: [] for name in parts}
    for _ in range(2000):
        for name, part in parts.items():
            start = time.perf_counter()
            part()
            found[name].append(1e6 * (time.perf_counter() - start))
    rows = ["| part | median, µs | least, µs |", "|---|--:|--:|"]
    for name, times_of in found.items():
        rows.append(f"| {name} | {np.median(times_of):.1f} | {min(times_of):.1f} |")
    write("\n".join(rows))
    _found[_IN_PROCESS] = float(np.median(found[_IN_PROCESS]))


def compare_backends(encoder: rk.Encoder, index: rk.ItemIndex, texts: Sequence[str]) -> None:
    """Compare torch with batches of 64, torch by default and OpenVINO: speed and results."""
    plain, fast = rk.Encoder(encoder.model, batch_size=64), rk.Encoder(backend="openvino")
    query, other = encoder.encode_queries(texts), fast.encode_queries(texts)
    best, same = (rk.topk_catalog(q, index.table, 10, valid=index.valid)[1] for q in (query, other))
    cosine = torch.nn.functional.cosine_similarity(query, other).min()
    write(
        f"- smallest cosine {cosine:.7f}; the best 10 items of Beauty are equal for "
        f"{(best == same).all(1).float().mean():.1%} of {len(texts)} texts"
    )
    for name, count in (("a text alone", 1), ("64 texts", 64)):
        rounds = alternate([partial(encode_in, e, texts, count) for e in (plain, encoder, fast)])
        report(
            f"{name}, plain torch (batches of 64) / torch by default",
            rounds[0],
            rounds[1],
            "ms per text",
        )
        report(f"{name}, plain torch / OpenVINO", rounds[0], rounds[2], "ms per text")


def encode_in(encoder: rk.Encoder, texts: Sequence[str], count: int) -> float:
    """Milliseconds per text."""
    chosen = texts[: 16 if count == 1 else 128]
    start = time.perf_counter()
    for first in range(0, len(chosen), count):
        encoder.encode_queries(chosen[first : first + count])
    return 1000 * (time.perf_counter() - start) / len(chosen)


def compare_callers(
    local: rk.LocalRetrievalService, start: Callable[..., Any], test: Any, texts: Sequence[str]
) -> None:
    """Compare 64 callers of one sample each, batched and not batched, with batches without Ray.

    All encode the same texts, again in every round: nothing is cached.
    """
    batched = start(name="batched", limits={"cache_mib": 0})
    alone = {
        "max_batch_size": 1,
        "max_rank_batch_size": 1,
        "batch_wait_timeout_s": 0,
        "cache_mib": 0,
    }
    single = start(name="single", limits=alone)
    samples = [
        ([text], "beauty", [test[i]["target"]], [test[i]["neg_items"]])
        for i, text in enumerate(texts)
    ]

    def batches() -> float:
        start = time.perf_counter()
        for first in range(0, len(samples), CALLERS):
            parts = list(zip(*samples[first : first + CALLERS], strict=True))
            query, targets, negatives = (
                [row for part in parts[i] for row in part] for i in (0, 2, 3)
            )
            local.rank(query, "beauty", targets, negatives)
        return len(samples) / (time.perf_counter() - start)

    def callers(client: Any) -> float:
        left = iter(samples)

        async def caller() -> None:
            for sample in left:  # the next sample that no caller has taken
                await client.rank_async(*sample)

        async def everybody() -> None:
            await asyncio.gather(*(caller() for _ in range(CALLERS)))

        start = time.perf_counter()
        asyncio.run(everybody())
        return len(samples) / (time.perf_counter() - start)

    rates = alternate([batches, partial(callers, batched), partial(callers, single)])
    report("batched, of the rate without Ray", rates[1], rates[0], "samples/s")
    report("batched against not batched", rates[1], rates[2], "samples/s")
    rk.stop_service("batched")
    rk.stop_service("single")


def compare_calls(client: Any, local: Any, test: Any, texts: Sequence[str]) -> None:
    """Compare calls whose encodings are cached with an echo of the same bytes.

    Both start from Python lists: the echo's calls are packed as the client packs its own, and its
    answers, which have as many bytes, are unpacked like the client's. A third contestant ranks
    after each echo, so that the CPU's caches are as cold as for the service. A fourth sends the
    lists unchanged, which is what a call costs without the client.
    """
    echo = Echo.remote()
    cases = (
        ("1 sample, 99 negatives", 1, True),
        ("256 samples, 99 negatives", 256, True),
        ("256 samples, whole catalog", 256, False),
    )
    for name, rows, sampled in cases:
        samples = [test[i] for i in range(rows)]
        negatives = [s["neg_items"] for s in samples] if sampled else None
        histories = None if sampled else [s["history"] for s in samples]
        arguments = (
            list(texts[:rows]),
            "beauty",
            [s["target"] for s in samples],
            negatives,
            histories,
        )
        client.rank(*arguments)  # encodings are cached from here on
        query = local._encoder.encode_queries(arguments[0])
        call = check_call(*arguments, False)
        rounds = alternate(
            [
                partial(times, partial(call_echo, echo, arguments)),
                partial(times, partial(client.rank, *arguments)),
                partial(times, partial(echo_and_rank, echo, arguments, local, call, query)),
                partial(times, lambda: ray.get(echo.answer.remote(24 * rows, arguments))),  # noqa: B023
            ]
        )
        for quantile in (0.5, 0.99):
            bare, ours, ranked, lists = (
                [float(np.quantile(t, quantile)) for t in rounds_of] for rounds_of in rounds
            )
            report(f"{name}, p{100 * quantile:.0f}: time of a call / echo", ours, bare, "ms")
            report(
                f"{name}, p{100 * quantile:.0f}: time of a call / echo, then ranking by itself",
                ours,
                ranked,
                "ms",
            )
            report(
                f"{name}, p{100 * quantile:.0f}: time of a call / echo of plain lists",
                ours,
                lists,
                "ms",
            )


def compare_handles() -> None:
    """Compare a call by Ray Serve's handle with one by an actor's."""
    from ray import serve

    serve.start(http_options={"location": "NoServer"})
    served = serve.deployment(name="echo", ray_actor_options={"num_cpus": 0})(BareEcho)
    handle = serve.run(served.bind(), name="echo", route_prefix=None)
    echo = Echo.remote()
    rounds = alternate(
        [
            partial(times, lambda: ray.get(echo.answer.remote(24, b""))),
            partial(times, lambda: handle.answer.remote(24, b"").result()),
        ]
    )
    medians = [[float(np.median(t)) for t in part] for part in rounds]
    report("a call by Ray Serve's handle / of an actor", medians[1], medians[0], "ms")
    serve.shutdown()


def call_echo(echo: Any, arguments: tuple[Any, ...]) -> Any:
    """A bare call of an actor, packed and unpacked as the client does."""
    packed = pack_call(check_call(*arguments, False))
    return unpack_answer(ray.get(echo.answer.remote(24 * len(arguments[0]), *packed)))


def echo_and_rank(
    echo: Any, arguments: tuple[Any, ...], local: Any, call: Any, query: torch.Tensor
) -> None:
    """The same, followed by the service's ranking in this process."""
    call_echo(echo, arguments)
    local.items["beauty"].answer([call], query)


def times(call: Callable[[], Any], count: int = 100) -> np.ndarray:
    """Milliseconds of each of several calls."""
    found = []
    for _ in range(count):
        start = time.perf_counter()
        call()
        found.append(1000 * (time.perf_counter() - start))
    return np.array(found)


def alternate(contestants: Sequence[Callable[[], Any]]) -> list[list[Any]]:
    """Results of several rounds, in each of which all take a turn, after one to warm up."""
    rounds = [[contestant() for contestant in contestants] for _ in range(ROUNDS + 1)][1:]
    return [list(results) for results in zip(*rounds, strict=True)]


def report(title: str, ours: Sequence[float], others: Sequence[float], unit: str) -> None:
    """Write a ratio with its range over the rounds."""
    ratios = sorted(a / b for a, b in zip(ours, others, strict=True))
    _found[title] = statistics.median(ratios)
    write(
        f"- {title}: **{_found[title]:.2f}** ({ratios[0]:.2f} to {ratios[-1]:.2f}); "
        f"{statistics.median(ours):.2f} and {statistics.median(others):.2f} {unit}"
    )


if __name__ == "__main__":
    main()
