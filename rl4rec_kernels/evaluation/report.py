"""An evaluation as a rich table and as a picture."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rl4rec_kernels._utils.imports import require
from rl4rec_kernels._utils.writing import save_figure
from rl4rec_kernels.evaluation.result import Estimate, Evaluation, Results

if TYPE_CHECKING:
    from rich.table import Table

_SAMPLED = "sampled"
_STYLES = {
    "whole catalog": {"color": "black", "marker": "o"},
    "corrected (bias-variance)": {"color": "C0", "marker": "s"},
    "corrected (unbiased)": {"color": "C1", "marker": "^"},
    _SAMPLED: {"color": "C3", "marker": "x"},
}
_FAMILIES = {"ndcg": "NDCG@k", "hit": "Hit@k"}


def make_table(
    evaluation: Evaluation, group_by: str | None, metrics: Sequence[str] | None, title: str
) -> "Table":
    """See `Evaluation.table`."""
    require("rich", "cli")
    from rich.table import Table

    k = evaluation.main_cutoff
    table = Table(title=title or None, caption=_caption(evaluation))
    if group_by is None:
        metrics = evaluation.check_metrics(evaluation.metrics if metrics is None else metrics)
    else:
        metrics = evaluation.check_metrics(
            (f"ndcg@{k}", f"hit@{k}") if metrics is None else metrics
        )
        _check_grouping(evaluation, group_by)
        table.add_column(group_by, overflow="fold")
        table.add_column("users", justify="right")
    table.add_column("metric")
    for protocol in evaluation.overall.protocols:
        header = protocol.replace(" (", "\n(").replace("-", "-\n")  # fits into 80 columns
        table.add_column(header, justify="right")

    def add(metric: str, results: Results, *first: str, end: bool) -> None:
        cells = [_cell(metric, estimates[metric]) for estimates in results.protocols.values()]
        table.add_row(*first, metric, *cells, end_section=end)

    if group_by is None:
        for metric, following in zip(metrics, [*metrics[1:], ""], strict=True):
            family, at, _ = metric.partition("@")
            add(metric, evaluation.overall, end=bool(at) and family != following.split("@")[0])
        return table
    for label, results in evaluation.groups[group_by].items():
        for i, metric in enumerate(metrics):
            first = ("", "") if i else (label, f"{results.users:,}")
            add(metric, results, *first, end=i == len(metrics) - 1)
    return table


def draw(evaluation: Evaluation, path: Path, title: str) -> None:
    """See `Evaluation.plot`."""
    require("matplotlib", "cli")
    from matplotlib.figure import Figure  # not pyplot: no window system is touched

    groupings = list(evaluation.groups)
    columns = max(2, len(groupings))
    rows = 2 if groupings else 1
    figure = Figure(figsize=(4.6 * columns, 3.6 * rows + 0.9), layout="constrained")
    grid = figure.add_gridspec(rows, 2 * columns)
    width = 2 * columns // len(_FAMILIES)
    for i, family in enumerate(_FAMILIES):
        axes = figure.add_subplot(grid[0, i * width : (i + 1) * width])
        _draw_cutoffs(axes, evaluation, family)
    for i, name in enumerate(groupings):
        width = 2 * columns // len(groupings)
        axes = figure.add_subplot(grid[1, i * width : (i + 1) * width])
        _draw_groups(axes, evaluation, name)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False)
    figure.suptitle(f"{title}: {_subject(evaluation)}" if title else _subject(evaluation), size=11)
    save_figure(figure, path)


def _draw_cutoffs(axes: Any, evaluation: Evaluation, family: str) -> None:
    """A metric over the cut-off, one line a protocol, its interval as a band."""
    ks = evaluation.settings.ks
    for protocol in _in_order(evaluation):
        estimates = [evaluation.overall.protocols[protocol][f"{family}@{k}"] for k in ks]
        mean, low, high = zip(*estimates, strict=True)
        dashed = "-" if protocol == "whole catalog" else "--"
        axes.plot(ks, mean, label=protocol, linestyle=dashed, markersize=5, **_STYLES[protocol])
        axes.fill_between(ks, low, high, color=_STYLES[protocol]["color"], alpha=0.15, linewidth=0)
    axes.set(title=f"{_FAMILIES[family]}, all users", xlabel="k", xscale="log", yscale="log")
    axes.set_xticks(ks, labels=[str(k) for k in ks])
    axes.minorticks_off()
    axes.yaxis.set_major_formatter("{x:g}")
    axes.grid(alpha=0.3)


def _draw_groups(axes: Any, evaluation: Evaluation, name: str) -> None:
    """NDCG by group, one point a protocol; the sampled one has a scale of its own and is left out.

    It is drawn where there is no other.
    """
    metric = f"ndcg@{evaluation.main_cutoff}"
    groups = evaluation.groups[name]
    protocols = [p for p in _in_order(evaluation) if p != _SAMPLED] or [_SAMPLED]
    for i, protocol in enumerate(protocols):
        estimates = [results.protocols[protocol][metric] for results in groups.values()]
        mean, low, high = zip(*estimates, strict=True)
        spread = [
            [m - end for m, end in zip(mean, low, strict=True)],
            [end - m for m, end in zip(mean, high, strict=True)],
        ]
        places = [group + 0.16 * (i - (len(protocols) - 1) / 2) for group in range(len(groups))]
        axes.errorbar(
            places, mean, spread, linestyle="", capsize=3, markersize=5, **_STYLES[protocol]
        )
    labels = [f"{label}\n{results.users:,} users" for label, results in groups.items()]
    axes.set_xticks(range(len(groups)), labels=labels, fontsize="small")
    axes.set(title=f"{metric.upper()} by {name}", xlabel=name)
    axes.set_ylim(bottom=min(0, axes.get_ylim()[0]))
    axes.axhline(0, color="grey", linewidth=0.8)
    axes.grid(axis="y", alpha=0.3)


def _subject(evaluation: Evaluation) -> str:
    """Who was ranked among what, and what the bars are."""
    return f"{_users_and_items(evaluation)}\nbands and bars: {_interval(evaluation)}s over users"


def _caption(evaluation: Evaluation) -> str:
    return f"{_users_and_items(evaluation)}; ± half the {_interval(evaluation)}"


def _users_and_items(evaluation: Evaluation) -> str:
    settings = evaluation.settings
    among = "" if settings.negatives is None else f" or {_span(settings.negatives)} negatives"
    return f"{evaluation.overall.users:,} users, ranked among {_span(settings.items)} items{among}"


def _interval(evaluation: Evaluation) -> str:
    return f"{100 * evaluation.settings.confidence:.4g}% interval"


def _span(ends: tuple[int, int]) -> str:
    low, high = ends
    return f"{low:,}" if low == high else f"{low:,}–{high:,}"


def _cell(metric: str, estimate: Estimate) -> str:
    digits = 1 if metric == "rank" else 4
    half = (estimate.high - estimate.low) / 2
    return f"{estimate.mean:,.{digits}f} ±{half:,.{digits}f}"


def _in_order(evaluation: Evaluation) -> list[str]:
    """The protocols as `_STYLES` has them."""
    return [name for name in _STYLES if name in evaluation.overall.protocols]


def _check_grouping(evaluation: Evaluation, group_by: str) -> None:
    if group_by not in evaluation.groups:
        known = ", ".join(map(repr, evaluation.groups)) or "none"
        raise ValueError(f"there is no grouping {group_by!r}; known are: {known}")
