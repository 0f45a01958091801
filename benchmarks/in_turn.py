"""Contestants that are measured in turn, so that what slows the machine down slows all of them.

In every round each contestant runs for about a millisecond, or once if it takes longer. It is
`behind` a peer that took less time in at least three of four rounds: that is not noise.

Only for contestants that use torch's threads: those of OpenBLAS and oneDNN wait busily after a call
and slow down the next contestant, so bench_catalog.py measures one contestant after the other.
"""

import statistics
import time
from collections.abc import Callable, Collection
from typing import Any

ROUND_SECONDS = 1e-3  # of each contestant
CELL_SECONDS = 0.4  # of all of them and all rounds, but for the least number of rounds
ROUNDS = (4, 40)


def seconds_of(function: Callable[[], Any], calls: int) -> float:
    """Time a call, on average over some."""
    start = time.perf_counter()
    for _ in range(calls):
        function()
    return (time.perf_counter() - start) / calls


def measure_in_turn(
    contestants: dict[str, Callable[[], Any]],
    limits: Collection[str] = (),
    cell_seconds: float = CELL_SECONDS,
) -> list[dict[str, Any]]:
    """Measure functions without arguments: the first is ours, the others are peers or limits.

    Returns what benchmarks/report.py takes for each: name, role, median and iqr, and of ours
    whether it is behind.
    """
    calls = {}
    for name, function in contestants.items():
        seconds = seconds_of(function, 1)
        if seconds < 100 * ROUND_SECONDS:  # the first call may take longer
            seconds = seconds_of(function, 1)
        calls[name] = max(1, round(ROUND_SECONDS / seconds))
    times: dict[str, list[float]] = {name: [] for name in contestants}
    start, (least, most) = time.perf_counter(), ROUNDS
    for done in range(most):
        if done >= least and time.perf_counter() - start > cell_seconds:
            break
        names = list(contestants)
        for name in names if done % 2 == 0 else reversed(names):
            if calls[name] > 1:  # the caches hold what another contestant left there
                contestants[name]()
            times[name].append(seconds_of(contestants[name], calls[name]))
    ours, *others = times
    result = []
    for name, measured in times.items():
        low, median, high = statistics.quantiles(measured, n=4)
        role = "ours" if name == ours else "limit" if name in limits else "peer"
        result.append({"name": name, "role": role, "median": median, "iqr": high - low})
    peers = [times[name] for name in others if name not in limits]
    result[0]["behind"] = any(_is_behind(times[ours], peer) for peer in peers)
    return result


def _is_behind(ours: list[float], peer: list[float]) -> bool:
    lost = sum(a > b for a, b in zip(ours, peer, strict=True))
    return lost >= 0.75 * len(ours)
