"""The command ``rl4rec evaluate``."""

import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from torch import Tensor

from rl4rec_kernels import evaluation
from rl4rec_kernels._utils.checks import shown
from rl4rec_kernels._utils.paths import file_name
from rl4rec_kernels.cli.common import (
    DataDir,
    EncoderBackend,
    EncoderName,
    KCore,
    MinRating,
    Seed,
    Split,
    existing_directory,
    json_lines,
    open_index,
    typer,
)
from rl4rec_kernels.data import RecommendationDataset
from rl4rec_kernels.data.files import read_text
from rl4rec_kernels.data.loading import load_data
from rl4rec_kernels.data.prompts import recent_titles
from rl4rec_kernels.data.raw_ids import is_number_token
from rl4rec_kernels.data.splits import SplitName, choose_rows
from rl4rec_kernels.index import Encoder, ItemIndex
from rl4rec_kernels.index.files import existing_file, read_embeddings
from rl4rec_kernels.rewards.completions import extract_query

logger = logging.getLogger(__name__)

GROUPINGS = ("history", "popularity")


def evaluate(
    name: Annotated[
        str | None, typer.Argument(help="Name of the data set: its directory in --data-dir.")
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="The data set's directory, instead of its name.")
    ] = None,
    data_dir: DataDir = None,
    k_core: KCore = 0,
    min_rating: MinRating = None,
    texts: Annotated[
        Path | None,
        typer.Option(
            help='Output of a model: JSON lines {"user_id": …, "text": …}, with the ids of the '
            "data set's file "
            "(default: the latest titles of each user)."
        ),
    ] = None,
    embeddings: Annotated[
        tuple[Path, Path] | None,
        typer.Option(
            help="Your own embeddings instead of texts, two .npy, .pt or .safetensors files: one "
            "row per user of the split, in the order of `rl4rec sample`, and one row per item id "
            "(row 0 is padding).",
            metavar="USERS ITEMS",
        ),
    ] = None,
    split: Split = "test",
    num_negs: Annotated[
        int, typer.Option(min=0, help="Negatives per user; 0: only the whole catalog.")
    ] = 99,
    whole_catalog: Annotated[
        bool, typer.Option("--catalog/--no-catalog", help="Whether to rank among all items.")
    ] = True,
    ks: Annotated[str, typer.Option(help="Cut-offs.")] = "1,5,10,20,50,100",
    groups: Annotated[
        str, typer.Option(help="history, popularity, both with a comma between, or ''.")
    ] = ",".join(GROUPINGS),
    gamma: Annotated[
        float, typer.Option(help="Weight of the variance in the bias-variance estimator.")
    ] = 0.1,
    users: Annotated[
        int | None, typer.Option(min=1, help="Evaluate this many users (default: all).")
    ] = None,
    index: Annotated[
        Path | None, typer.Option(help="An index file (default: the cached index).")
    ] = None,
    encoder: EncoderName = "minilm",
    backend: EncoderBackend = "torch",
    num_bootstrap: Annotated[int, typer.Option(min=2, help="Bootstrap replicates.")] = 1000,
    seed: Seed = 42,
    out: Annotated[Path, typer.Option(help="Directory of the JSON and PNG files.")] = Path(
        "evaluation_out"
    ),
) -> None:
    """Evaluate texts about users: sampled, whole-catalog and corrected metrics with intervals."""
    from rich.console import Console

    if (name is None) == (data is None):
        raise ValueError("pass either the name of a data set, or its directory as --data")
    if data is not None:
        data = existing_directory(data)
        name, data_dir = data.name, data.parent
    try:
        cutoffs = [int(k) for k in ks.split(",")]
    except ValueError:
        raise ValueError(
            f"--ks must be whole numbers separated by commas, such as 1,10,100, got {shown(ks)}"
        ) from None
    if embeddings is not None and not (texts is None and index is None):
        raise ValueError("--embeddings replaces --texts and --index: drop these")
    outputs = None
    if texts is not None:
        try:
            outputs = read_texts(read_text(texts).split("\n"))
        except ValueError as error:
            raise ValueError(f"{texts}: {error}") from error
    result = evaluate_dataset(
        str(name),
        Encoder(encoder, backend=backend) if embeddings is None else None,
        data_dir=data_dir,
        k_core=k_core,
        min_rating=min_rating,
        split=split,
        texts=outputs,
        embeddings=embeddings,
        index=index,
        num_negs=num_negs,
        num_users=users,
        group_by=[part.strip() for part in groups.split(",") if part.strip()],
        seed=seed,
        whole_catalog=whole_catalog,
        ks=cutoffs,
        gamma=gamma,
        num_bootstrap=num_bootstrap,
    )
    numbers, figure = (out / file_name(f"{name}_{split}", end) for end in (".json", ".png"))
    result.save(numbers)
    result.plot(figure, f"{name}, {split}")
    console = Console()
    for grouping in result.groups:
        console.print(result.table(grouping, title=f"{name}, {split}, by {grouping}"))
    console.print(result.table(title=f"{name}, {split}"))  # last, where it is seen
    print(f"wrote {numbers} and {figure}")


def evaluate_dataset(
    name: str,
    encoder: Encoder | None,
    *,
    data_dir: Path | None = None,
    k_core: int = 0,
    min_rating: float | None = None,
    split: SplitName = "test",
    texts: Mapping[int | str, str] | None = None,
    embeddings: tuple[Path, Path] | None = None,
    index: Path | None = None,
    num_negs: int = 99,
    num_users: int | None = None,
    group_by: Sequence[str] = GROUPINGS,
    seed: int = 42,
    **options: Any,
) -> evaluation.Evaluation:
    """Rank each user's target by a text about the user.

    `texts` are a model's outputs by user id (that of the data set's file), from which queries are
    extracted as `RecReward` does; other users are left out. By default, queries are the latest
    titles of each user. Without an encoder, `embeddings` are the files of the users' and the items'
    vectors. `options` are passed to `evaluate`, and the other parameters are those of
    the command.

    Negatives are items that the user never interacted with, while the whole catalog leaves out only
    the history: for train and valid, it includes the user's few later items.

    Raises
    ------
    FileNotFoundError
        If the data set does not exist.
    TypeError, ValueError, IndexError
        If an argument is invalid, or a text is about a user who is not in the split.
    """
    for grouping in group_by:
        if grouping not in GROUPINGS:
            raise ValueError(
                f"unknown grouping {shown(grouping)}; known are: {', '.join(GROUPINGS)}"
            )
    data = load_data(name, data_dir, k_core=k_core, min_rating=min_rating)
    dataset = RecommendationDataset.from_interactions(data, split, num_negs=num_negs, seed=seed)
    item_metadata = dataset.item_metadata
    said = None if texts is None else texts_by_user(dataset, texts)
    with_text = np.arange(len(dataset))
    if said is not None:
        with_text = with_text[np.isin(dataset.user_ids, list(said))]
    rows = with_text[choose_rows(len(with_text), num_users, seed)]
    histories = [dataset.history(int(row)) for row in rows]
    if encoder is None:
        assert embeddings is not None
        vectors, items = read_vectors(*embeddings, len(dataset))
        vectors = vectors[torch.from_numpy(rows)]
    else:
        if said is None:
            queries = [recent_titles(item_metadata, history) for history in histories]
        else:
            queries = [extract_query(said[user]) for user in dataset.user_ids[rows].tolist()]
            if len(rows) < len(dataset):
                logger.info("evaluating %d of the %d users of %s", len(rows), len(dataset), split)
        items = open_index(index, name, item_metadata, encoder)
        vectors = encoder.encode_queries(queries).cpu()
    targets = dataset.targets[rows]
    groups = {}
    if "history" in group_by:
        groups["history length"] = evaluation.history_lengths(histories)
    if "popularity" in group_by:
        groups["target popularity"] = evaluation.target_popularity(targets, dataset.item_counts)
    return evaluation.evaluate(
        vectors,
        items.table,
        targets,
        negatives=dataset.negatives[rows] if num_negs else None,
        exclude=histories,
        valid=items.valid,
        groups=groups,
        seed=seed,
        about={
            "data set": name,
            "split": split,
            "k_core": k_core or None,
            "min_rating": min_rating,
            "encoder": None if encoder is None else encoder.fingerprint,
            "index": None if index is None else str(index),
            "embeddings": None if embeddings is None else list(map(str, embeddings)),
            "seed": seed,
        },
        **options,
    )


def read_vectors(users: Path, items: Path, num_users: int) -> tuple[Tensor, ItemIndex]:
    """Read the embeddings of the users of a split, and of all items.

    Raises
    ------
    FileNotFoundError, ValueError
        If a file does not exist or has no embeddings, or there is not one row per user.
    """
    index = ItemIndex.import_file(items)
    users = existing_file(users)
    vectors, _ = read_embeddings(users)
    if vectors.dim() != 2 or len(vectors) != num_users:
        raise ValueError(
            f"{users} must have one row for each of the {num_users} users of the split, in the "
            f"order of `rl4rec sample`, got shape {tuple(vectors.shape)}"
        )
    return vectors, index


def read_texts(lines: Iterable[str]) -> dict[int | str, str]:
    """Read texts by user id from JSON lines ``{"user_id": …, "text": …}``.

    Ids are those of the data set's file, as `rl4rec sample` prints them: numbers, or names.

    Raises
    ------
    ValueError
        If a line is malformed or repeats a user, or there are no lines.
    """
    texts: dict[int | str, str] = {}
    for number, line, entry in json_lines(lines):
        fields: dict[str, Any] = entry if isinstance(entry, dict) else {}
        user, text = fields.get("user_id"), fields.get("text")
        is_name = isinstance(user, str) and not is_number_token(user)
        if not (type(user) is int or is_name) or not isinstance(text, str):
            raise ValueError(
                f'line {number} must be {{"user_id": number, "text": string}}, got {line[:60]}'
            )
        if user in texts:
            raise ValueError(f"line {number}: user {user} already has a text; keep one")
        texts[user] = text  # type: ignore[index]
    if not texts:
        raise ValueError('there are no texts; a line is {"user_id": number, "text": string}')
    return texts


def texts_by_user(dataset: RecommendationDataset, texts: Mapping[int | str, str]) -> dict[int, str]:
    """Return the texts by the users' ids in the data set, not in its file.

    Raises
    ------
    ValueError
        If a user is not in the split.
    """
    known = set(dataset.user_ids.tolist())
    found: dict[int, str] = {}
    for raw, text in texts.items():
        user = dataset.raw_users.find(raw)
        if user is None or user not in known:
            raise ValueError(
                f"user {raw} has a text but is not in the split {shown(dataset.split)}; check that "
                "both are of the same data set, and that users have the ids of its file"
            )
        found[user] = text
    return found
