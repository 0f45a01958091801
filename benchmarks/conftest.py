"""The fixture that all benchmarks use.

A test measures one contestant. It passes the group of the contestant, its name in the report, and
its role: ``ours``, a ``peer``, or a ``limit`` (of the machine's memory or arithmetic). If a
contestant is measured at several sizes, `x` is the size and `axis` its name, and the report draws a
curve, or with ``plot=False`` a table only. With `memory`, the function is called once and returns
MiB, which are compared instead of times. benchmarks/report.py turns pytest-benchmark's JSON into
ratios.
"""

import os
from collections.abc import Callable, Collection
from typing import Any

import pytest
import torch

from benchmarks.in_turn import CELL_SECONDS, measure_in_turn

THREADS = len(os.sched_getaffinity(0))


def pytest_benchmark_update_machine_info(config: pytest.Config, machine_info: dict) -> None:
    """Record how busy the machine was before the run."""
    machine_info.update(load=os.getloadavg()[0], cores=THREADS)


@pytest.fixture(autouse=True, scope="session")
def _threads() -> None:
    torch.set_num_threads(THREADS)


@pytest.fixture
def contest(benchmark: Any) -> Callable[..., Any]:
    """Measure a function without arguments, as ``contest(group, name, role, function)``."""

    def run(
        group: str,
        name: str,
        role: str,
        function: Callable[[], Any],
        rounds: int = 30,
        x: int | None = None,
        axis: str = "items",
        memory: bool = False,
        plot: bool = True,
    ) -> Any:
        assert role in ("ours", "peer", "limit")
        rounds = 1 if memory else rounds
        benchmark.group = group
        benchmark.extra_info.update(name=name, role=role)
        result = benchmark.pedantic(function, rounds=rounds, warmup_rounds=min(3, rounds - 1))
        if x is not None:
            benchmark.extra_info.update(x=x, axis=axis, plot=plot)
        if memory:
            benchmark.extra_info["mebibytes"] = result
        return result

    return run


@pytest.fixture
def contest_in_turn(benchmark: Any) -> Callable[..., Any]:
    """Measure functions in turn, as ``contest_in_turn(group, {name: function, ...})``.

    The first is ours; the others are peers unless they are `limits`. With `x` the group is measured
    at several sizes. Without functions the page has the `note` why this was not measured.
    """

    def run(
        group: str,
        contestants: dict[str, Callable[[], Any]],
        x: int | None = None,
        axis: str = "items",
        note: str | None = None,
        limits: Collection[str] = (),
        cell_seconds: float = CELL_SECONDS,
    ) -> None:
        benchmark.group = group
        measured: list[dict[str, Any]] = []
        if contestants:
            arguments = (contestants, limits, cell_seconds)
            measured = benchmark.pedantic(measure_in_turn, args=arguments, rounds=1)
        else:
            benchmark.pedantic(lambda: None, rounds=1)
        size = {} if x is None else {"x": x, "axis": axis, "plot": False}
        benchmark.extra_info["in_turn"] = [{**found, **size} for found in measured]
        if note is not None:
            benchmark.extra_info["note"] = note

    return run
