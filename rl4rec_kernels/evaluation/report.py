"""An evaluation as numbers, as a rich table and as a figure."""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from rl4rec_kernels._utils.checks import shown
from rl4rec_kernels._utils.imports import require
from rl4rec_kernels._utils.writing import replacing, save_figure
from rl4rec_kernels.evaluation.result import (
    CATALOG,
    CORRECTED,
    SAMPLED,
    Estimate,
    Results,
    Settings,
)
from rl4rec_kernels.metrics import RankCounts

if TYPE_CHECKING:
    from pandas import DataFrame
    from rich.table import Table

_STYLES = {
    CATALOG: {"color": "black", "marker": "o"},
    CORRECTED["bias-variance"]: {"color": "C0", "marker": "s"},
    CORRECTED["unbiased"]: {"color": "C1", "marker": "^"},
    SAMPLED: {"color": "C3", "marker": "x"},
}
_LABEL_WIDTH = 16  # of groups whose labels are longer, in 80 columns
_FAMILIES = {"ndcg": "NDCG@k", "hit": "Hit@k"}


@dataclass(frozen=True, eq=False)
class Evaluation:
    """All metrics of all protocols, for all users and by group.

    Attributes
    ----------
    overall : Results
        For all users: ``overall.protocols["whole catalog"]["ndcg@10"].mean``.
    groups : dict of str to dict of str to Results
        By the name of a grouping, then by the label of a group.
    metrics : tuple of str
        The metrics, in the order of the columns of `per_user`.
    per_user : dict of str to Tensor, float32 [B, M]
        The metrics of each user, by protocol. Use corrected ones only as means.
    counts : dict of str to RankCounts
        The rank counts that the metrics were computed from, for ``"sampled"`` and ``"whole
        catalog"`` if they were evaluated.
    settings : Settings
        Options, sizes, the library's version and what was evaluated.
    offsets : Tensor, optional
        With several targets per user, of which counts are whose.
    beyond_accuracy : dict of str to float
        Metrics of the lists of items, if they were asked for.
    """

    overall: Results
    groups: dict[str, dict[str, Results]]
    metrics: tuple[str, ...]
    per_user: dict[str, Tensor]
    counts: dict[str, RankCounts]
    settings: Settings
    offsets: Tensor | None = None
    beyond_accuracy: dict[str, float] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Settings and estimates as plain dicts and lists, for JSON."""
        return {
            "settings": asdict(self.settings),
            "overall": _plain(self.overall),
            "groups": {
                name: [{"label": label, **_plain(results)} for label, results in group.items()]
                for name, group in self.groups.items()
            },
            "beyond_accuracy": self.beyond_accuracy,
        }

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write `to_dict` as JSON; missing directories are created."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps(self.to_dict(), indent=2, ensure_ascii=False) + "\n"
        with replacing(path) as part:
            Path(part).write_text(text, "utf-8")

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "Evaluation":
        """Read what `save` wrote: all estimates and settings, without the values of each user.

        Raises
        ------
        FileNotFoundError, ValueError
            If there is no such file, or it is not an evaluation.
        """
        try:
            saved = json.loads(Path(path).read_text("utf-8"))
            settings = saved["settings"]
            for name in ("ks", "items", "negatives"):
                settings[name] = settings[name] and tuple(settings[name])
            overall = _results(saved["overall"])
            groups = {
                name: {group["label"]: _results(group) for group in members}
                for name, members in saved["groups"].items()
            }
            metrics = tuple(next(iter(overall.protocols.values())))
            beyond = saved.get("beyond_accuracy", {})
            return cls(overall, groups, metrics, {}, {}, Settings(**settings), None, beyond)
        except (UnicodeDecodeError, LookupError, TypeError, AttributeError, ValueError) as error:
            raise ValueError(
                f"{path} is not a saved evaluation ({type(error).__name__}: {error}); pass a file "
                "that Evaluation.save wrote"
            ) from error

    def to_pandas(self) -> "DataFrame":
        """Return the estimates as a table with a row for each group, protocol and metric.

        Columns are ``grouping`` and ``group`` (empty for all users), ``users``, ``protocol``,
        ``metric``, ``mean``, ``low`` and ``high``.

        Raises
        ------
        ImportError
            If pandas is not installed.
        """
        pandas = require("pandas", "datasets")
        named = [("", "", self.overall)]
        named += [(name, label, r) for name, g in self.groups.items() for label, r in g.items()]
        rows = [
            (grouping, label, results.users, protocol, metric, *estimate)
            for grouping, label, results in named
            for protocol, estimates in results.protocols.items()
            for metric, estimate in estimates.items()
        ]
        columns = ["grouping", "group", "users", "protocol", "metric", "mean", "low", "high"]
        return pandas.DataFrame(rows, columns=columns)

    def table(
        self, group_by: str | None = None, metrics: Sequence[str] | None = None, title: str = ""
    ) -> "Table":
        """Return a rich table, to be printed by ``rich.print``.

        Parameters
        ----------
        group_by : str, optional
            A grouping, for one line per group and metric. By default there is one line per
            metric, for all users.
        metrics : sequence of str, optional
            Metrics to show. Default: all, or NDCG and Hit at one cut-off with `group_by`.
        title : str
            Title of the table.

        Raises
        ------
        ValueError
            If the grouping or a metric does not exist.
        ImportError
            If rich is not installed.
        """
        require("rich", "evaluate")
        from rich.table import Table

        if group_by is None:
            groups = {"": self.overall}
            columns = self.check_metrics(self.metrics if metrics is None else metrics)
        elif group_by in self.groups:
            k = self.main_cutoff
            groups = self.groups[group_by]
            columns = self.check_metrics((f"ndcg@{k}", f"hit@{k}") if metrics is None else metrics)
        else:
            known = ", ".join(map(repr, self.groups)) or "none"
            raise ValueError(f"there is no grouping {shown(group_by)}; known are: {known}")
        caption = f"{self._users_and_items()}; ± half the {self._interval()}"
        estimates = [name for name in CORRECTED.values() if name in self.overall.protocols]
        truth_is_known = CATALOG in self.overall.protocols
        if estimates and truth_is_known:
            caption += "\nbias: the estimate from negatives minus the whole catalog"
        elif estimates:
            caption += "\nestimates from negatives are biased, most at small k"
        if self.settings.about:
            caption += f"\n{self._about()}"
        table = Table(title=title or None, caption=caption)
        if group_by is not None:
            words = [word for label in (group_by, *groups) for word in label.split()]
            width = min(_LABEL_WIDTH, max(map(len, words)))
            table.add_column(group_by, overflow="fold", min_width=width)
            table.add_column("users", justify="right")
        table.add_column("metric")
        for protocol in self.overall.protocols:
            header = _header(protocol).replace(" ", "\n").replace("-", "-\n")  # for 80 columns
            if protocol in estimates and truth_is_known:
                header += "\nand bias"
            # A number and its interval may be in two lines, but no word is broken.
            width = max(map(len, header.split()))
            table.add_column(header, justify="right", min_width=width)
        for label, results in groups.items():
            for i, (metric, following) in enumerate(zip(columns, [*columns[1:], ""], strict=True)):
                truth = results.protocols[CATALOG][metric].mean if truth_is_known else None
                cells = [
                    _cell(metric, found[metric], truth if name in estimates else None)
                    for name, found in results.protocols.items()
                ]
                if group_by is None:
                    family, at, _ = metric.partition("@")
                    end = bool(at) and family != following.partition("@")[0]
                    table.add_row(metric, *cells, end_section=end)
                else:
                    first = ("", "") if i else (label, f"{results.users:,}")
                    table.add_row(*first, metric, *cells, end_section=not following)
        return table

    def plot(self, path: str | os.PathLike[str], title: str = "") -> None:
        """Write a PNG of the metrics by cut-off and by group; missing directories are created.

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        """
        require("matplotlib", "evaluate")
        from matplotlib.figure import Figure  # not pyplot, which may need a display

        columns = max(2, len(self.groups))
        rows = 2 if self.groups else 1
        figure = Figure(figsize=(4.6 * columns, 3.6 * rows + 0.9), layout="constrained")
        grid = figure.add_gridspec(rows, 2 * columns)
        for i, family in enumerate(_FAMILIES):
            axes = figure.add_subplot(grid[0, i * columns : (i + 1) * columns])
            _plot_cutoffs(axes, self.overall, self.settings.ks, family)
        for i, (name, groups) in enumerate(self.groups.items()):
            width = 2 * columns // len(self.groups)
            axes = figure.add_subplot(grid[1, i * width : (i + 1) * width])
            _plot_groups(axes, groups, name, f"ndcg@{self.main_cutoff}")
        handles, labels = figure.axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False)
        subject = f"{title}: {self._users_and_items()}" if title else self._users_and_items()
        subject += f"\nbands and bars: {self._interval()}s over users"
        figure.suptitle(subject, size=11)
        save_figure(figure, Path(path))

    @property
    def main_cutoff(self) -> int:
        """The cut-off to show if there is room for one: the one nearest to 10."""
        return min(self.settings.ks, key=lambda k: (abs(k - 10), k))

    def check_metrics(self, metrics: Sequence[str]) -> tuple[str, ...]:
        """Return metrics as a tuple.

        Raises
        ------
        ValueError
            If one was not computed.
        """
        for metric in metrics:
            if metric not in self.metrics:
                known = ", ".join(self.metrics)
                raise ValueError(
                    f"metric {shown(metric)} was not computed (see ks); known are: {known}"
                )
        return tuple(metrics)

    def _users_and_items(self) -> str:
        negatives, items = self.settings.negatives, self.settings.items
        among = "" if negatives is None else f" or {_span(negatives)} negatives"
        return f"{self.overall.users:,} users, ranked among {_span(items)} items{among}"

    def _about(self) -> str:
        """What was evaluated; a fingerprint by its first digits."""
        known = {name: str(v) for name, v in self.settings.about.items() if v is not None}
        return ", ".join(f"{name} {v if len(v) < 40 else v[:12]}" for name, v in known.items())

    def _interval(self) -> str:
        return f"{100 * self.settings.confidence:.4g}% interval"

    def __repr__(self) -> str:
        metric = f"ndcg@{self.main_cutoff}"
        means = ", ".join(
            f"{name} {estimates[metric].mean:.4f}"
            for name, estimates in self.overall.protocols.items()
        )
        return f"Evaluation({self.overall.users} users, {metric}: {means})"


def _header(protocol: str) -> str:
    """What a table and a figure call a protocol: what is computed from negatives is an estimate."""
    return protocol.replace("corrected (", "estimate (")


def _results(saved: Any) -> Results:
    protocols = {
        protocol: {metric: Estimate(**estimate) for metric, estimate in estimates.items()}
        for protocol, estimates in saved["protocols"].items()
    }
    return Results(saved["users"], protocols)


def _plain(results: Results) -> dict[str, Any]:
    protocols = {
        name: {metric: estimate._asdict() for metric, estimate in estimates.items()}
        for name, estimates in results.protocols.items()
    }
    return {"users": results.users, "protocols": protocols}


def _cell(metric: str, estimate: Estimate, truth: float | None) -> str:
    """A mean and half its interval, or, if the truth is known, its bias."""
    digits = 1 if metric == "rank" else 4
    if truth is not None:
        return f"{estimate.mean:,.{digits}f} {estimate.mean - truth:+,.{digits}f}"
    half = (estimate.high - estimate.low) / 2
    return f"{estimate.mean:,.{digits}f} ±{half:,.{digits}f}"


def _span(ends: tuple[int, int]) -> str:
    low, high = ends
    return f"{low:,}" if low == high else f"{low:,}–{high:,}"


def _plot_cutoffs(axes: Any, overall: Results, ks: Sequence[int], family: str) -> None:
    """Plot a metric by cut-off, one line per protocol, with its interval as a band."""
    for protocol in _in_order(overall):
        estimates = [overall.protocols[protocol][f"{family}@{k}"] for k in ks]
        mean, low, high = zip(*estimates, strict=True)
        line = "-" if protocol == CATALOG else "--"
        axes.plot(
            ks, mean, label=_header(protocol), linestyle=line, markersize=5, **_STYLES[protocol]
        )
        axes.fill_between(ks, low, high, color=_STYLES[protocol]["color"], alpha=0.15, linewidth=0)
    axes.set(title=f"{_FAMILIES[family]}, all users", xlabel="k", xscale="log", yscale="log")
    axes.set_xticks(ks, labels=[str(k) for k in ks])
    axes.minorticks_off()
    axes.yaxis.set_major_formatter("{x:g}")
    axes.grid(alpha=0.3)


def _plot_groups(axes: Any, groups: Mapping[str, Results], name: str, metric: str) -> None:
    """Plot a metric by group, one point per protocol.

    The sampled protocol has another scale: it is shown only if there is no other.
    """
    order = _in_order(next(iter(groups.values())))
    protocols = [protocol for protocol in order if protocol != SAMPLED] or order
    for i, protocol in enumerate(protocols):
        estimates = [results.protocols[protocol][metric] for results in groups.values()]
        mean, low, high = np.array(estimates).T
        x = np.arange(len(groups)) + 0.16 * (i - (len(protocols) - 1) / 2)
        style = {"linestyle": "", "capsize": 3, "markersize": 5, **_STYLES[protocol]}
        axes.errorbar(x, mean, [mean - low, high - mean], **style)
    labels = [f"{label}\n{results.users:,} users" for label, results in groups.items()]
    axes.set_xticks(range(len(groups)), labels=labels, fontsize="small")
    axes.set(title=f"{metric.upper()} by {name}", xlabel=name)
    axes.set_ylim(bottom=min(0, axes.get_ylim()[0]))
    axes.axhline(0, color="grey", linewidth=0.8)
    axes.grid(axis="y", alpha=0.3)


def _in_order(results: Results) -> list[str]:
    """The protocols, in the order of `_STYLES`."""
    return [name for name in _STYLES if name in results.protocols]
