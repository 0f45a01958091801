"""Whether the service's memory stays constant under calls of all kinds.

A program, not a test: ``python -m tests.service.soak 10`` calls a service on its own Ray for ten
minutes and prints the memory of each of its processes twenty times. It fails if a process grows by
more than 5 % and 20 MiB after the first third.
"""

import os
import random
import sys
import tempfile
import threading
import time
from pathlib import Path

import ray

import rl4rec_kernels as rk
from tests.service.cases import METADATA, Call, make_calls

CALLERS = 6
LINES = 20


def main(minutes: float) -> None:
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "toys.safetensors")
        rk.ItemIndex.build(METADATA, rk.Encoder()).save(path)
        # A small cache of encodings, so that it is soon full.
        client = rk.start_service(
            {"toys": path}, name="soak", namespace="tests", shards=2, limits={"cache_mib": 8}
        )
        call_for(client, 60 * minutes)
    ray.shutdown()


def call_for(client: rk.RetrievalClient, seconds: float) -> None:
    """Call from several threads, and measure the memory meanwhile."""
    end, counts, broken = time.monotonic() + seconds, [0] * CALLERS, []
    callers = [
        threading.Thread(target=call_until, args=(client, end, number, counts, broken))
        for number in range(CALLERS)
    ]
    for caller in callers:
        caller.start()
    seen: list[dict[str, float]] = []
    for line in range(1, LINES + 1):
        time.sleep(max(0, end - seconds * (1 - line / LINES) - time.monotonic()))
        seen.append(memory_of_actors())
        state = ", ".join(f"{name} {size:.0f}" for name, size in sorted(seen[-1].items()))
        print(f"{seconds * line / LINES:6.0f} s {sum(counts):8,} calls   MiB: {state}", flush=True)
    for caller in callers:
        caller.join()
    if broken:
        raise broken[0]
    for name, last in seen[-1].items():
        first = seen[LINES // 3].get(name, last)
        if last > first * 1.05 and last > first + 20:
            raise SystemExit(f"{name} grew from {first:.0f} to {last:.0f} MiB")


def call_until(
    client: rk.RetrievalClient, end: float, number: int, counts: list[int], broken: list[Exception]
) -> None:
    """Call with new texts, and now and then with an invalid argument."""
    draw = random.Random(number)
    try:
        while time.monotonic() < end and not broken:
            for call in make_calls(20, seed=draw.getrandbits(32)):
                texts = [f"{text} {draw.getrandbits(64):x}" for text in call.arguments[0]]
                make(client, call, texts)
                counts[number] += 1
            try:
                client.rank(["soap"], "toys", [10**6], [[1]], None)
            except IndexError:
                counts[number] += 1
    except Exception as error:
        broken.append(error)


def make(client: rk.RetrievalClient, call: Call, texts: list[str]) -> None:
    getattr(client, call.method)(texts, *call.arguments[1:])


def memory_of_actors() -> dict[str, float]:
    """Private memory of each actor that this process started, in MiB by name and process id."""
    found = {}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            name = (process / "cmdline").read_bytes().partition(b"\0")[0].decode()
            status = dict(
                line.split(":", 1) for line in (process / "status").read_text().splitlines()
            )
            if is_mine(int(process.name)) and name.startswith(("ray::Retrieval", "ray::Shard")):
                title = name.removeprefix("ray::").split(".")[0]
                found[f"{title}[{process.name}]"] = int(status["RssAnon"].split()[0]) / 1024
        except (OSError, KeyError):  # the process has ended
            continue
    return found


def is_mine(process: int) -> bool:
    """Whether a process descends from this one."""
    while process > 1 and process != os.getpid():
        process = int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])
    return process == os.getpid()


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit("usage: python -m tests.service.soak MINUTES")
    main(float(sys.argv[1]))
