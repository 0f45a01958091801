"""Whether the service's memory stays where it is: calls of all kinds for some minutes.

A program, not a test: ``python -m tests.service.soak 10`` calls a service on a Ray of its own for
ten minutes and prints, twenty times, how much memory each of its processes holds. It fails if one
that has passed the first third grows by more than 5 % and 20 MiB until the end.
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
        # So little memory for encodings that it is full, and forgets, soon.
        client = rk.start_service(
            {"toys": path}, name="soak", namespace="tests", shards=2, limits={"cache_mib": 8}
        )
        call_for(client, 60 * minutes)
    ray.shutdown()


def call_for(client: rk.RetrievalClient, seconds: float) -> None:
    """Call from several threads, and look at the memory meanwhile."""
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
    """Calls with texts that were never said before, and now and then one that is refused."""
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
    """MiB of memory of its own that each actor of this machine's Ray holds, by name and process."""
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
        except (OSError, KeyError):  # it has ended meanwhile
            continue
    return found


def is_mine(process: int) -> bool:
    """Whether a process descends from this one."""
    while process > 1 and process != os.getpid():
        process = int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])
    return process == os.getpid()


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit("say for how many minutes: python -m tests.service.soak 10")
    main(float(sys.argv[1]))
