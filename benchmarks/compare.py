"""Compares the ratios of runs with committed ones: `compare.py RATIOS.json RUN.json [...]`.

A ratio is a peer's time (or memory) divided by ours, so it falls if ours became slower. The exit
status is 1 if a ratio falls by more than `ALLOWED` in all runs. Peers that were measured only on
one side are listed, but do not count.
"""

import json
import sys
from pathlib import Path
from typing import NamedTuple

from benchmarks.report import Ratios, busy, combine, ratios_of

ALLOWED = 0.15


class Comparison(NamedTuple):
    """Ratios that fell too far, as sentences, and those that could not be compared."""

    fallen: list[str]
    unmatched: list[str]


def compare(now: Ratios, committed: Ratios, allowed: float = ALLOWED) -> Comparison:
    """Compare the ratios of two runs."""
    before = {(group, peer): r for group, peers in committed.items() for peer, r in peers.items()}
    after = {(group, peer): r for group, peers in now.items() for peer, r in peers.items()}
    fallen = [
        f"{group}, against {peer}: {after[group, peer]:g}, was {ratio:g}"
        for (group, peer), ratio in before.items()
        if (group, peer) in after and not after[group, peer] >= ratio * (1 - allowed)
    ]
    unmatched = [f"{group}: {peer}" for group, peer in sorted(before.keys() ^ after.keys())]
    return Comparison(fallen, unmatched)


def main() -> int:
    """Print what fell; return the exit status."""
    committed, *runs = (json.loads(Path(path).read_text()) for path in sys.argv[1:])
    result = compare(combine(map(ratios_of, runs), max), committed)
    for note in filter(None, map(busy, runs)):
        print(note)
    for name in result.unmatched:
        print(f"not compared (measured on one side only): {name}")
    for sentence in result.fallen:
        print(f"FELL by more than {ALLOWED:.0%}: {sentence}")
    if not result.fallen:
        print(f"no ratio fell by more than {ALLOWED:.0%}")
    return 1 if result.fallen else 0


if __name__ == "__main__":
    sys.exit(main())
