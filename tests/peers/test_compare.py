"""The page and ratios of `make bench`, and the comparison of `make bench-compare`."""

import json
import math
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("matplotlib")

from benchmarks import compare as module
from benchmarks import in_turn, report
from benchmarks.compare import compare
from benchmarks.report import busy, combine, page_of, ratios_of

GROUP = "best 10 items"


def entry(name: str, role: str, median: float, group: str = GROUP, **info: Any) -> dict[str, Any]:
    stats = {"median": median, "iqr": 0.0}
    return {"group": group, "extra_info": {"name": name, "role": role, **info}, "stats": stats}


def run_of(*entries: dict[str, Any]) -> dict[str, Any]:
    machine = {"cpu": {"brand_raw": "a CPU"}}
    return {"benchmarks": list(entries), "machine_info": machine, "datetime": "2026-01-01T00"}


RUN = run_of(
    entry("ours, first", "ours", 0.010),
    entry("ours, second", "ours", 0.002),
    entry("a limit", "limit", 0.009),
    entry("a peer", "peer", 0.025),
    entry("ours", "ours", 0.1, "growth", x=10, axis="items"),
    entry("ours", "ours", 0.4, "growth", x=1000, axis="items"),
    entry("a peer", "peer", 0.8, "growth", x=1000, axis="items"),
    entry("ours", "ours", 9.0, "memory", mebibytes=2.0),
    entry("a peer", "peer", 1.0, "memory", mebibytes=50.0),
)
RATIOS = {
    GROUP: {"a peer": 2.5},
    "growth": {"a peer, 1,000 items": 2.0},
    "memory": {"a peer": 25.0},
}


def test_ratios() -> None:
    assert ratios_of(RUN) == RATIOS


def test_page(tmp_path: Path) -> None:
    page = page_of(RUN, tmp_path / "page.md")
    assert "| a peer | 25.00 ms | 0.00 ms | 2.50 | 2.78 |" in page
    assert "| a peer | 50.0 MiB |" in page
    assert "| a peer |  | 800.00 ms |" in page
    assert (tmp_path / "page_growth.png").stat().st_size > 0


@pytest.mark.parametrize(("load", "says"), [(0.5, False), (4.0, False), (9.1, True)])
def test_a_busy_machine_is_reported(tmp_path: Path, load: float, says: bool) -> None:
    machine = {**RUN["machine_info"], "load": load, "cores": 2}
    run = {**RUN, "machine_info": machine}
    assert (busy(run) is not None) is says
    assert (
        "The machine was busy (load 9.1 on 2 cores)" in page_of(run, tmp_path / "page.md")
    ) is says


@pytest.mark.parametrize(("ratio", "falls"), [(3.0, False), (2.13, False), (2.12, True)])
def test_a_ratio_that_falls_by_more_than_15_percent_is_reported(ratio: float, falls: bool) -> None:
    result = compare({GROUP: {"a peer": ratio}}, {GROUP: {"a peer": 2.5}})
    assert bool(result.fallen) is falls
    assert not result.unmatched
    if falls:
        assert result.fallen == [f"{GROUP}, against a peer: 2.12, was 2.5"]


def test_nan_counts_as_fallen() -> None:
    assert compare({GROUP: {"a peer": math.nan}}, {GROUP: {"a peer": 2.5}}).fallen


def test_peers_on_one_side_do_not_count() -> None:
    result = compare({GROUP: {"new": 1.0}}, {GROUP: {"old": 2.5}})
    assert result == ([], [f"{GROUP}: new", f"{GROUP}: old"])


def test_runs_are_combined() -> None:
    runs = [{"a": {"x": 2.0, "y": 5.0}}, {"a": {"x": 3.0}, "b": {"z": 1.0}}]
    assert combine(runs, min) == {"a": {"x": 2.0, "y": 5.0}, "b": {"z": 1.0}}
    assert combine(runs, max) == {"a": {"x": 3.0, "y": 5.0}, "b": {"z": 1.0}}


def write_runs(folder: Path, *peers: float) -> list[str]:
    """Write runs in which the peer takes the given times, and ours 10 ms."""
    paths = []
    for i, median in enumerate(peers):
        path = folder / f"run-{i}.json"
        run = run_of(entry("ours", "ours", 0.010), entry("a peer", "peer", median))
        path.write_text(json.dumps(run))
        paths.append(str(path))
    return paths


def test_the_page_shows_the_first_run_and_the_ratios_are_the_lowest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = tmp_path / "results" / "cpu.md"
    runs = write_runs(tmp_path, 0.025, 0.021, 0.030)
    monkeypatch.setattr(sys, "argv", ["report.py", str(page), *runs])
    report.main()
    assert "| a peer | 25.00 ms |" in page.read_text()
    assert json.loads(page.with_suffix(".json").read_text()) == {GROUP: {"a peer": 2.1}}


@pytest.mark.parametrize(
    ("peers", "committed", "status"),
    [((0.025,), 2.5, 0), ((0.025,), 3.0, 1), ((0.025, 0.029), 3.0, 0), ((0.025, 0.024), 3.0, 1)],
)
def test_exit_status(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    peers: tuple[float, ...],
    committed: float,
    status: int,
) -> None:
    ratios = tmp_path / "ratios.json"
    ratios.write_text(json.dumps({GROUP: {"a peer": committed}}))
    runs = write_runs(tmp_path, *peers)
    monkeypatch.setattr(sys, "argv", ["compare.py", str(ratios), *runs])
    assert module.main() == status


def test_contestants_in_turn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slow, fast = iter([3, 3, 3, 1, 3] * 9), iter([2] * 45)
    monkeypatch.setattr(in_turn, "ROUNDS", (4, 4))
    monkeypatch.setattr(in_turn, "seconds_of", lambda function, calls: function())
    found = in_turn.measure_in_turn({"ours": lambda: next(slow), "a peer": lambda: next(fast)})
    assert [(c["name"], c["role"], c["median"]) for c in found] == [
        ("ours", "ours", 3),
        ("a peer", "peer", 2),
    ]
    assert found[0]["behind"]  # in three of four rounds

    times = [{**c, "x": 8, "axis": "queries", "plot": False} for c in found]
    cells = {"group": "grid", "extra_info": {"in_turn": times}, "stats": {}}
    left_out = {"group": "more", "extra_info": {"in_turn": [], "note": "Not enough."}, "stats": {}}
    page = page_of(run_of(cells, left_out), tmp_path / "page.md")
    assert "| **ours** | **3000.00 ms** |" in page
    assert "at least three of four rounds" in page
    assert "Not enough." in page
    times[0]["behind"] = False  # though its median is higher
    assert "| **ours** | 3000.00 ms |" in page_of(run_of(cells), tmp_path / "page.md")
