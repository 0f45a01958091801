"""Evaluation of a data set's users by texts about them."""

import json
import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from rl4rec_kernels.data import PromptGenerator, RecommendationDataset, load_item_metadata
from rl4rec_kernels.data.recent import choose_rows, recent_titles
from rl4rec_kernels.evaluation.groups import history_lengths
from rl4rec_kernels.evaluation.protocols import evaluate
from rl4rec_kernels.evaluation.result import Evaluation
from rl4rec_kernels.ids import target_popularity
from rl4rec_kernels.index import Encoder, ItemIndex
from rl4rec_kernels.index.cache import cached_index
from rl4rec_kernels.rewards.completions import extract_query

logger = logging.getLogger("rl4rec_kernels.evaluation")

GROUPINGS = ("history", "popularity")


def evaluate_dataset(
    name: str,
    encoder: Encoder,
    *,
    data_dir: str | os.PathLike[str] | None = None,
    split: str = "test",
    texts: Mapping[int, str] | None = None,
    index: ItemIndex | None = None,
    num_negs: int = 99,
    num_users: int | None = None,
    group_by: Sequence[str] = GROUPINGS,
    seed: int = 42,
    **options: Any,
) -> Evaluation:
    """Rank every user's target by a text about the user.

    Parameters
    ----------
    name : str
        The data set.
    encoder : Encoder
        Encodes texts, and items where there is no index.
    data_dir : path, optional
        See `load_item_metadata`.
    split : str
        ``"train"``, ``"valid"`` or ``"test"``.
    texts : mapping of int to str, optional
        User id to what a model said, of which the query is taken as `RecReward` does; other users
        are left out. By default each user's latest titles.
    index : ItemIndex, optional
        The items; by default encoded here, and kept in the cache.
    num_negs : int
        Negatives a user; 0 ranks among all items only.
    num_users : int, optional
        Evaluate this many users, drawn at random; None all.
    group_by : sequence of {"history", "popularity"}
        Group by the length of the history, by the popularity of the target.
    seed : int
        Of the users, the negatives and the bootstrap.
    **options
        Passed to `evaluate`.

    Notes
    -----
    No negative is an item of the user in any split, while only the history does not compete in the
    whole catalog: for train and valid, the user's few later items are among the latter only.

    Raises
    ------
    FileNotFoundError
        If there is no such data set.
    TypeError, ValueError, IndexError
        If an argument does not fit; a text of a user who is not in the split, among others.
    """
    unknown = [grouping for grouping in group_by if grouping not in GROUPINGS]
    if unknown:
        raise ValueError(f"unknown grouping {unknown[0]!r}; known are {', '.join(GROUPINGS)}")
    item_metadata = load_item_metadata(name, data_dir=data_dir)
    dataset = RecommendationDataset(
        name,
        item_metadata,
        PromptGenerator(item_metadata),
        split,
        num_negs=num_negs,
        num_items=max(item_metadata) + 1,
        seed=seed,
        data_dir=data_dir,
    )
    having_text = np.arange(len(dataset)) if texts is None else _rows_of_users(dataset, texts)
    rows = having_text[choose_rows(len(having_text), num_users, seed)]
    histories = [dataset.history(int(row)) for row in rows]
    if texts is None:
        queries = [recent_titles(item_metadata, history) for history in histories]
    else:
        queries = [extract_query(texts[user]) for user in dataset.user_ids[rows].tolist()]
        if len(rows) < len(dataset):
            logger.info("evaluating %d of the %d users of %s", len(rows), len(dataset), split)
    if index is None:
        index = cached_index(name, item_metadata, encoder)
    targets = dataset.targets[rows]
    groups = {}
    if "history" in group_by:
        groups["history length"] = history_lengths(histories)
    if "popularity" in group_by:
        groups["target popularity"] = target_popularity(targets, dataset.item_counts)
    return evaluate(
        encoder.encode_queries(queries).cpu(),
        index.table,
        targets,
        negatives=dataset.negatives[rows] if num_negs else None,
        exclude=histories,
        valid=index.valid,
        groups=groups,
        seed=seed,
        **options,
    )


def read_texts(lines: Iterable[str]) -> dict[int, str]:
    """Read texts by user from JSON lines ``{"user_id": …, "text": …}``.

    Raises
    ------
    ValueError
        If a line is malformed or a user has a text already, or there is no text; the message names
        the line.
    """
    texts: dict[int, str] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError) as error:  # also numbers too long, brackets too deep
            raise ValueError(f"line {number} is not JSON: {error}") from error
        user, text = (
            (entry.get("user_id"), entry.get("text")) if isinstance(entry, dict) else (None, None)
        )
        if type(user) is not int or not isinstance(text, str):
            raise ValueError(
                f'line {number} must be {{"user_id": number, "text": string}}, got '
                f"{line.strip()[:60]}"
            )
        if user in texts:
            raise ValueError(f"line {number}: user {user} has a text already; keep one")
        texts[user] = text
    if not texts:
        raise ValueError('there are no texts; a line is {"user_id": number, "text": string}')
    return texts


def _rows_of_users(dataset: RecommendationDataset, texts: Mapping[int, str]) -> np.ndarray:
    """The rows of the users that have a text, ascending."""
    users = np.fromiter(texts, dtype=np.int64, count=len(texts))
    unknown = users[~np.isin(users, dataset.user_ids)]
    if unknown.size:
        raise ValueError(
            f"user {unknown[0]} has a text but no sample in the split "
            f"{dataset.split!r}; check that both are of one data set"
        )
    return np.flatnonzero(np.isin(dataset.user_ids, users))
