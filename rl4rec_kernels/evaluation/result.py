"""What an evaluation found."""

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from torch import Tensor

from rl4rec_kernels._utils.writing import replacing
from rl4rec_kernels.metrics import RankCounts

if TYPE_CHECKING:
    from rich.table import Table


class Estimate(NamedTuple):
    """A mean over users with its bootstrap interval."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Results:
    """Metrics of some users.

    Attributes
    ----------
    users : int
        How many.
    protocols : dict of str to dict of str to Estimate
        By protocol (``"sampled"``, ``"whole catalog"``, ``"corrected (unbiased)"``,
        ``"corrected (bias-variance)"``), then by metric (``"ndcg@10"``).
    """

    users: int
    protocols: dict[str, dict[str, Estimate]]


@dataclass(frozen=True)
class Settings:
    """How an evaluation was made, and of what.

    Attributes
    ----------
    items, negatives : tuple of int, or None
        The least and the most items that competed for a user's target (the target included), and
        negatives.
    """

    ks: tuple[int, ...]
    ties: str
    gamma: float
    num_bootstrap: int
    confidence: float
    seed: int
    items: tuple[int, int]
    negatives: tuple[int, int] | None


@dataclass(frozen=True, eq=False)
class Evaluation:
    """All metrics of all protocols, for all users and by groups.

    Attributes
    ----------
    overall : Results
        For all users: ``overall.protocols["whole catalog"]["ndcg@10"].mean``.
    groups : dict of str to dict of str to Results
        By the name of a grouping, then by the label of a group.
    metrics : tuple of str
        The metrics, in the order of the columns of `per_user`.
    per_user : dict of str to Tensor, float32 [B, M]
        Every user's metrics by protocol. Corrected ones are of use as means only.
    counts : dict of str to RankCounts
        What they were computed from: ``"sampled"`` and ``"whole catalog"``, where they were made.
    settings : Settings
        How it was made.
    """

    overall: Results
    groups: dict[str, dict[str, Results]]
    metrics: tuple[str, ...]
    per_user: dict[str, Tensor]
    counts: dict[str, RankCounts]
    settings: Settings

    def to_dict(self) -> dict[str, Any]:
        """Settings and estimates as plain dicts and lists, for JSON."""
        return {
            "settings": asdict(self.settings),
            "overall": _plain(self.overall),
            "groups": {
                name: [{"label": label, **_plain(results)} for label, results in group.items()]
                for name, group in self.groups.items()
            },
        }

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write `to_dict` as JSON; directories are made."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps(self.to_dict(), indent=2, ensure_ascii=False) + "\n"
        with replacing(path) as part:
            Path(part).write_text(text, "utf-8")

    def table(
        self, group_by: str | None = None, metrics: Sequence[str] | None = None, title: str = ""
    ) -> "Table":
        """Draw up a rich table, to be printed by ``rich.print``.

        Parameters
        ----------
        group_by : str, optional
            A grouping: one line a group and metric. By default one line a metric, for all users.
        metrics : sequence of str, optional
            Which metrics; by default all, or NDCG and Hit at one cut-off for groups.
        title : str
            Stands above the table.

        Raises
        ------
        ValueError
            If there is no such grouping or metric.
        ImportError
            If rich is not installed.
        """
        from rl4rec_kernels.evaluation.report import make_table

        return make_table(self, group_by, metrics, title)

    def plot(self, path: str | os.PathLike[str], title: str = "") -> None:
        """Write a PNG: metrics over the cut-off, and by group; directories are made.

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        """
        from rl4rec_kernels.evaluation.report import draw

        draw(self, Path(path), title)

    @property
    def main_cutoff(self) -> int:
        """The cut-off shown where there is room for one: 10, or the one nearest to it."""
        return min(self.settings.ks, key=lambda k: (abs(k - 10), k))

    def check_metrics(self, metrics: Sequence[str]) -> tuple[str, ...]:
        """Return metrics as a tuple.

        Raises
        ------
        ValueError
            If one was not computed.
        """
        unknown = [metric for metric in metrics if metric not in self.metrics]
        if unknown:
            raise ValueError(
                f"metric {unknown[0]!r} was not computed; there are "
                f"{', '.join(self.metrics)}; others come with ks="
            )
        return tuple(metrics)

    def __repr__(self) -> str:
        metric = f"ndcg@{self.main_cutoff}"
        means = ", ".join(
            f"{name} {estimates[metric].mean:.4f}"
            for name, estimates in self.overall.protocols.items()
        )
        return f"Evaluation({self.overall.users} users, {metric}: {means})"


def _plain(results: Results) -> dict[str, Any]:
    protocols = {
        name: {metric: estimate._asdict() for metric, estimate in estimates.items()}
        for name, estimates in results.protocols.items()
    }
    return {"users": results.users, "protocols": protocols}
