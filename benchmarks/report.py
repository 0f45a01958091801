"""Turns the JSON of benchmark runs into a page of ratios: `report.py PAGE.md RUN.json [...]`.

Each row is a contestant, all in one run on one machine. Times are medians; they are compared with
the first of ours in the group, and with the fastest limit. Groups that are measured at several
sizes become a table and a plot; times of ours that a peer beats at the same size are bold. The page
shows the first run. Unless the machine was busy, the ratios of the peers are written next to it, as
JSON that benchmarks/compare.py reads: the lowest of all runs, since some peers take 1.5 times as
long in one run as in the next. Contestants that were measured in turn are in one entry of the run,
see benchmarks/in_turn.py.
"""

import json
import platform
import re
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure

import rl4rec_kernels as rk
from rl4rec_kernels.ops import cpu_levels

Ratios = dict[str, dict[str, float]]  # by group, then by peer


def groups_of(run: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """Contestants by group, in the order in which they ran."""
    groups = defaultdict(list)
    for entry in run["benchmarks"]:
        info = entry["extra_info"]
        groups[entry["group"]] += info.get("in_turn", [{**info, **entry["stats"]}])
    return {group: contestants for group, contestants in groups.items() if contestants}


def notes_of(run: dict[str, Any]) -> list[str]:
    """What the page says before its tables: what is bold, and what was not measured."""
    infos = [entry["extra_info"] for entry in run["benchmarks"]]
    notes = [info["note"] for info in infos if "note" in info]
    in_turn = [found for info in infos for found in info.get("in_turn", ())]
    if in_turn:
        text = "Contestants were measured in turn, in 4 to 40 rounds."
        if any("x" in found for found in in_turn):
            text += " A time of ours is bold if a peer took less in at least three of four rounds."
        notes.insert(0, text)
    return list(dict.fromkeys(notes))


def ratios_of(run: dict[str, Any]) -> Ratios:
    """The ratio of each peer's time (or memory) to ours, by group."""
    ratios: Ratios = {}
    for group, contestants in groups_of(run).items():
        measured = "mebibytes" if "mebibytes" in contestants[0] else "median"
        ours: dict[int | None, float] = {}
        for c in contestants:
            if c["role"] == "ours":
                ours.setdefault(c.get("x"), c[measured])
        for c in contestants:
            size = c.get("x")
            if c["role"] == "peer" and size in ours:
                name = c["name"] if size is None else f"{c['name']}, {size:,} {c['axis']}"
                ratio = c[measured] / max(ours[size], 1e-9)
                ratios.setdefault(group, {})[name] = float(f"{ratio:.3g}")
    return ratios


def combine(ratios: Iterable[Ratios], choose: Callable[[Iterable[float]], float]) -> Ratios:
    """Combine the ratios of several runs, by min or max."""
    seen: dict[str, dict[str, list[float]]] = {}
    for run in ratios:
        for group, peers in run.items():
            for peer, ratio in peers.items():
                seen.setdefault(group, {}).setdefault(peer, []).append(ratio)
    return {
        group: {peer: choose(found) for peer, found in peers.items()}
        for group, peers in seen.items()
    }


def busy(run: dict[str, Any]) -> str | None:
    """Return a warning if the machine was busy, so that times and ratios are inaccurate."""
    machine = run["machine_info"]
    load, cores = machine.get("load", 0.0), machine.get("cores", 1)
    if load <= 2 * cores:
        return None
    return (
        f"The machine was busy (load {load:.1f} on {cores} cores): times and ratios are inaccurate."
    )


def table_of(contestants: list[dict[str, Any]]) -> list[str]:
    """One group as a Markdown table, fastest first."""
    ours = next((c["median"] for c in contestants if c["role"] == "ours"), None)
    limit = min((c["median"] for c in contestants if c["role"] == "limit"), default=None)
    lines = [
        "| contestant | median | spread (IQR) | time / ours | time / limit |",
        "|---|--:|--:|--:|--:|",
    ]
    for c in sorted(contestants, key=lambda c: c["median"]):
        to_ours = f"{c['median'] / ours:.2f}" if ours else ""
        to_limit = f"{c['median'] / limit:.2f}" if limit else ""
        lines.append(
            f"| {_name(c)} | {c['median'] * 1e3:.2f} ms | {c['iqr'] * 1e3:.2f} ms "
            f"| {to_ours} | {to_limit} |"
        )
    return lines


def memory_of(contestants: list[dict[str, Any]]) -> list[str]:
    """One group that measures memory, as a Markdown table, least first."""
    lines = ["| contestant | peak memory |", "|---|--:|"]
    for c in sorted(contestants, key=lambda c: c["mebibytes"]):
        lines.append(f"| {_name(c)} | {c['mebibytes']:.1f} MiB |")
    return lines


def _name(contestant: dict[str, Any]) -> str:
    name = contestant["name"]
    name = f"**{name}**" if contestant["role"] == "ours" else name
    return f"{name} (limit)" if contestant["role"] == "limit" else name


def curves_of(group: str, contestants: list[dict[str, Any]], picture: Path) -> list[str]:
    """One group at several sizes, as a table and a plot with logarithmic axes."""
    curves: dict[str, dict[int, float]] = defaultdict(dict)
    peers: dict[int, float] = {}  # the fastest, by size
    for c in contestants:
        curves[_name(c)][c["x"]] = c["median"]
        if c["role"] == "peer":
            peers[c["x"]] = min(peers.get(c["x"], c["median"]), c["median"])
    behind = {
        (_name(c), c["x"])
        for c in contestants
        if c["role"] == "ours" and c.get("behind", c["median"] > peers.get(c["x"], float("inf")))
    }

    def cell(name: str, x: int) -> str:
        if x not in curves[name]:
            return ""
        time = f"{curves[name][x] * 1e3:.2f} ms"
        return f"**{time}**" if (name, x) in behind else time

    sizes = sorted({x for curve in curves.values() for x in curve})
    lines = [f"| {' | '.join([contestants[0]['axis'], *(f'{x:,}' for x in sizes)])} |"]
    lines.append(f"|---|{'--:|' * len(sizes)}")
    lines += [f"| {name} | {' | '.join(cell(name, x) for x in sizes)} |" for name in curves]
    if not contestants[0].get("plot", True):
        return lines
    figure = Figure(figsize=(5, 3.5), layout="constrained")
    axes = figure.subplots()
    for name, curve in curves.items():
        axes.loglog(list(curve), list(curve.values()), marker="o", label=name.strip("*"))
    first = min(curve[sizes[0]] for curve in curves.values() if sizes[0] in curve)
    straight = [first * x / sizes[0] for x in sizes]
    axes.loglog(sizes, straight, color="grey", linestyle=":", label="proportional")
    axes.set(title=group, xlabel=contestants[0]["axis"], ylabel="seconds")
    axes.legend()
    figure.savefig(picture, dpi=150)
    return [*lines, "", f"![{group}]({picture.name})"]


def page_of(run: dict[str, Any], page: Path) -> str:
    """The whole page in Markdown; plots are written next to it, as `<page>_<group>.png`."""
    cpu = run["machine_info"]["cpu"]
    amx = "with" if "amx" in cpu_levels() else "without"
    which = "" if page.stem == "cpu" else f": {page.stem.replace('_', ' ')}"
    lines = [
        f"# Measured on the CPU{which}",
        "",
        f"{run['datetime'][:10]}, {cpu['brand_raw']}, {torch.get_num_threads()} threads, CPU level "
        f"{rk.cpu_level()} ({amx} AMX), Python {platform.python_version()}, "
        f"torch {torch.__version__}. "
        "All rows of a table were measured in the same run; compare ratios, not times.",
    ]
    if note := busy(run):
        lines += ["", f"**{note}**"]
    for note in notes_of(run):
        lines += ["", note]
    for group, contestants in groups_of(run).items():
        if "x" in contestants[0]:
            picture = page.with_name(f"{page.stem}_{re.sub('[^a-z0-9]+', '_', group.lower())}.png")
            body = curves_of(group, contestants, picture)
        elif "mebibytes" in contestants[0]:
            body = memory_of(contestants)
        else:
            body = table_of(contestants)
        lines += ["", f"## {group[0].upper()}{group[1:]}", "", *body]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Write the page and its ratios."""
    target, *paths = map(Path, sys.argv[1:])
    runs = [json.loads(path.read_text()) for path in paths]
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(page_of(runs[0], target))
    print(f"wrote {target}")
    if notes := list(filter(None, map(busy, runs))):
        print(f"wrote no ratios to compare with. {notes[0]}")
        return
    ratios = target.with_suffix(".json")
    lowest = combine(map(ratios_of, runs), min)
    ratios.write_text(json.dumps(lowest, indent=2, ensure_ascii=False) + "\n")
    print(f"wrote {ratios}")


if __name__ == "__main__":
    main()
