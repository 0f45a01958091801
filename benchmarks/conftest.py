"""How every benchmark here is written.

A test measures one contestant and names, in this order: the group it competes in, what it is called
in the report, and its role: ``ours``, a ``peer``, or a ``limit`` (what the memory or the arithmetic
of this machine allows). Where a contestant is measured at several sizes, `x` is the size, and the
report draws a curve. `note` is called after the measurement; its text stands beside the name.
benchmarks/report.py turns pytest-benchmark's JSON into ratios.
"""

import os
from collections.abc import Callable
from typing import Any

import pytest
import torch

THREADS = len(os.sched_getaffinity(0))


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
        note: Callable[[], str] | None = None,
    ) -> Any:
        assert role in ("ours", "peer", "limit")
        benchmark.group = group
        benchmark.extra_info.update(name=name, role=role)
        result = benchmark.pedantic(function, rounds=rounds, warmup_rounds=min(3, rounds - 1))
        if x is not None:
            benchmark.extra_info["x"] = x
        if note is not None:
            benchmark.extra_info["note"] = note()
        return result

    return run
