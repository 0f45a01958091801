"""The command ``rl4rec demo``: from histories to texts, vectors, ranks and rewards."""

import logging
import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import torch

from rl4rec_kernels._utils.imports import require
from rl4rec_kernels._utils.paths import file_name
from rl4rec_kernels._utils.unpacking import check_unpacked
from rl4rec_kernels._utils.writing import replacing, save_figure
from rl4rec_kernels.cli.common import (
    EncoderBackend,
    EncoderName,
    Seed,
    existing_directory,
    typer,
)
from rl4rec_kernels.data import RecommendationDataset
from rl4rec_kernels.data.item_fields import as_text
from rl4rec_kernels.data.loading import load_data
from rl4rec_kernels.data.prompts import recent_titles
from rl4rec_kernels.data.splits import choose_rows
from rl4rec_kernels.ids import RaggedIds
from rl4rec_kernels.index import Encoder
from rl4rec_kernels.index.cache import cache_dir, cached_index
from rl4rec_kernels.metrics import RankCounts
from rl4rec_kernels.ops import metrics_from_counts, rank_candidates, rank_catalog
from rl4rec_kernels.rewards.reward import RecReward
from rl4rec_kernels.service import LocalRetrievalService

logger = logging.getLogger(__name__)

METRICS = ("ndcg@10", "hit@10", "mrr")
NUM_NEGATIVES = (5, 99)
NUM_EXAMPLES = 3
RECBOLE = "recbole==1.2.1"
ML100K_VARIABLE = "RL4REC_ML100K"


@dataclass(frozen=True)
class Contest:
    """Targets ranked among one set of competitors, by three rankers.

    Attributes
    ----------
    competitors : str
        For example ``"99 negatives"``.
    counts : dict of str to RankCounts
        By ranker: ``text``, ``popularity`` and ``random``, for the same users.
    """

    competitors: str
    counts: dict[str, RankCounts]

    def means(self, ranker: str) -> dict[str, float]:
        """Mean of each metric over the users."""
        values = metrics_from_counts(self.counts[ranker], METRICS).double().mean(0).tolist()
        return dict(zip(METRICS, values, strict=True))


@dataclass(frozen=True)
class Example:
    """A user of the demo: the text about them, their next item, and the reward."""

    user_id: int | str
    text: str
    title: str
    reward: float


@dataclass(frozen=True)
class Result:
    """The results of `run`."""

    num_users: int
    contests: list[Contest]
    examples: list[Example]


def demo(
    data: Annotated[
        Path | None, typer.Option(help="A data set's directory (default: fetch MovieLens-100k).")
    ] = None,
    out: Annotated[Path, typer.Option(help="Directory of the histogram.")] = Path("demo_out"),
    users: Annotated[int, typer.Option(min=1, help="Number of users to rank.")] = 2000,
    encoder: EncoderName = "minilm",
    backend: EncoderBackend = "torch",
    seed: Seed = 42,
) -> None:
    """Rank the true next item of users by the text of their recent titles."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    dataset_dir = fetch_ml100k() if data is None else existing_directory(data)
    result = run(dataset_dir, users, seed, Encoder(encoder, backend=backend))
    console = Console(highlight=False)
    for sample in result.examples:
        console.print(f"[bold]user {sample.user_id}[/] text: {escape(sample.text)}")
        console.print(
            f"  next item: {sample.title}   reward (NDCG@10 among 99 negatives): "
            f"{sample.reward:.3f}",
            markup=False,
        )
    table = Table(title=f"{dataset_dir.name}: {result.num_users:,} users")
    table.add_column("competitors")
    table.add_column("ranked by")
    for metric in METRICS:
        table.add_column(metric, justify="right")
    for contest in result.contests:
        for ranker in contest.counts:
            values = [f"{value:.4f}" for value in contest.means(ranker).values()]
            table.add_row(contest.competitors, ranker, *values, end_section=ranker == "random")
    console.print(table)
    figure = out / file_name(f"{dataset_dir.name}_ranks", ".png")
    draw_ranks(result.contests, figure)
    console.print(f"histogram of the ranks: {figure}")


def fetch_ml100k() -> Path:
    """Return the directory of MovieLens-100k, downloading RecBole's wheel on the first call.

    The wheel contains the data set as atomic files. It is not installed, and its code is not run.

    Raises
    ------
    RuntimeError
        If pip cannot download the wheel.
    """
    given = os.environ.get(ML100K_VARIABLE)
    try:
        target = (Path(given) if given else cache_dir()) / "ml-100k"
        if (target / "ml-100k.inter").is_file():
            return target
        target.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        target = Path(tempfile.mkdtemp()) / "ml-100k"
        target.mkdir()
        logger.warning("MovieLens-100k is fetched into %s and not cached (%s)", target, error)
    logger.info("fetching MovieLens-100k from the wheel %s", RECBOLE)
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        run = subprocess.run(
            [*command, "--dest", folder, RECBOLE], capture_output=True, text=True, check=False
        )
        if run.returncode != 0:
            raise RuntimeError(
                f"could not download {RECBOLE}, which contains MovieLens-100k; check the "
                f"connection to the package index, or pass --data. pip said:\n{run.stderr.strip()}"
            )
        wheel = zipfile.ZipFile(next(Path(folder).glob("recbole-*.whl")))
        for suffix in ("item", "inter"):  # the interactions last, as a mark of a complete copy
            name = f"ml-100k.{suffix}"
            member = f"recbole/dataset_example/ml-100k/{name}"
            check_unpacked(target / name, wheel.getinfo(member).file_size)
            with replacing(target / name) as part:
                Path(part).write_bytes(wheel.read(member))
    return target


def run(dataset_dir: Path, num_users: int | None, seed: int, encoder: Encoder) -> Result:
    """Rank the test targets of a data set's users by their recent titles.

    The directory's name is the data set's name. `num_users` users are drawn at random; None ranks
    all. `seed` is for the users and the negatives.

    Raises
    ------
    FileNotFoundError, ValueError
        If the directory does not contain a data set, or an invalid one.
    """
    name, parent = dataset_dir.name, dataset_dir.parent
    data = load_data(name, parent)
    splits = [
        RecommendationDataset.from_interactions(data, "test", num_negs=num_negs, seed=seed)
        for num_negs in NUM_NEGATIVES
    ]
    test = splits[-1]
    item_metadata = test.item_metadata
    rows = choose_rows(len(test), num_users, seed)
    histories = [test.history(int(row)) for row in rows]
    texts = [recent_titles(item_metadata, history) for history in histories]
    index = cached_index(name, item_metadata, encoder)
    popularity = torch.from_numpy(test.item_counts).float()[:, None]
    rankers = {  # queries and items whose dot products are the scores
        "text": (encoder.encode_queries(texts), index.table),
        "popularity": (torch.ones(len(rows), 1, dtype=torch.float32, device="cpu"), popularity),
    }
    targets = torch.from_numpy(test.targets[rows])
    contests = []
    for split in splits:
        candidates = torch.cat([targets[:, None], torch.from_numpy(split.negatives[rows])], 1)
        counts = {
            ranker: rank_candidates(*vectors, candidates) for ranker, vectors in rankers.items()
        }
        contests.append(Contest(f"{split.num_negs} negatives", counts))
    seen = RaggedIds.from_lists(histories)
    counts = {
        ranker: rank_catalog(*vectors, targets, exclude=seen, valid=index.valid)
        for ranker, vectors in rankers.items()
    }
    contests.append(Contest("whole catalog", counts))
    for contest in contests:  # a constant model, whose expected metrics are those of a random order
        total = contest.counts["text"].total
        contest.counts["random"] = RankCounts(torch.zeros_like(total), total - 1, total)

    service = LocalRetrievalService({name: index}, encoder)
    reward_fn = RecReward(service=service, dataset_name=name, reward_type="ndcg", k=10)
    samples = [test[row] for row in rows[:NUM_EXAMPLES]]
    rewards = reward_fn(
        generated_texts=texts[:NUM_EXAMPLES],
        targets=[sample["target"] for sample in samples],
        histories=[sample["history"] for sample in samples],
        neg_items=[sample["neg_items"] for sample in samples],
    )
    examples = [
        Example(
            test.raw_users.of([s["user_id"]])[0],
            text,
            as_text(item_metadata[target].get("title")) or "untitled",
            reward,
        )
        for s, target, text, reward in zip(samples, targets.tolist(), texts, rewards, strict=False)
    ]
    return Result(len(rows), contests, examples)


def draw_ranks(contests: Sequence[Contest], path: Path) -> None:
    """Draw histograms of the ranks of the targets, one panel per contest."""
    require("matplotlib", "cli")
    from matplotlib.figure import Figure  # not pyplot, which may need a display

    figure = Figure(figsize=(4 * len(contests), 3.2), layout="constrained")
    for axes, contest in zip(figure.subplots(1, len(contests)), contests, strict=True):
        total = int(contest.counts["text"].total.max())
        bins = np.linspace(0, 1, min(total, 20) + 1)
        for ranker, color in (("text", "C0"), ("popularity", "C1")):
            counts = contest.counts[ranker]
            rank = counts.above + counts.tied / 2  # 0 is best
            share = (rank / (counts.total - 1).clamp(min=1)).numpy()
            weights = np.full(len(share), 1 / len(share))
            axes.hist(share, bins, weights=weights, histtype="step", color=color, label=ranker)
        axes.axhline(1 / (len(bins) - 1), color="grey", linestyle=":", label="random")
        axes.set(title=contest.competitors, xlabel="share of competitors above the target")
        axes.set_xlim(0, 1)
    figure.axes[0].set_ylabel("share of users")
    figure.axes[0].legend()
    save_figure(figure, path)
