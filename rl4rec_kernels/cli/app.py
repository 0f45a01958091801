"""The command ``rl4rec``: demo, doctor, indexes, negatives, rewards, evaluation from a shell."""

import json
import logging
import sys
from collections.abc import Iterable, Iterator
from io import TextIOWrapper
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

from rl4rec_kernels._utils.imports import require
from rl4rec_kernels.cli.evaluate import evaluate
from rl4rec_kernels.cli.serve import serve, status, stop
from rl4rec_kernels.rewards.rows import reward_rows

typer = require("typer", "cli")
require("rich", "cli")

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Rewards for recommendation: how high the true next item ranks.",
)
index_app = typer.Typer(no_args_is_help=True, help="Build and inspect item indexes.")
app.add_typer(index_app, name="index")
for command in (evaluate, serve, status, stop):
    app.command()(command)

BATCH = 256

DataDir = Annotated[
    Path | None,
    typer.Option(help="Directory that contains the data set's directory (default: $RL4REC_DATA)."),
]
EncoderName = Annotated[
    str, typer.Option("--encoder", help="'minilm', or a sentence-transformers name or path.")
]
Seed = Annotated[int, typer.Option(help="Seed of everything drawn at random.")]


def main() -> None:
    """Run the command line; errors of use are one line, without a traceback."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    for chatty in ("httpx", "sentence_transformers", "transformers"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    try:
        app()
    except (ImportError, LookupError, OSError, RuntimeError, TypeError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


@app.command()
def doctor() -> None:
    """Show what is built and what can run, and check it; exit with 1 if something fails."""
    from rl4rec_kernels.cli import doctor as job

    sys.exit(job.main())


@app.command()
def demo(
    data: Annotated[
        Path | None, typer.Option(help="A data set's directory (default: fetch MovieLens-100k).")
    ] = None,
    out: Annotated[Path, typer.Option(help="Where the histogram is written.")] = Path("demo_out"),
    users: Annotated[int, typer.Option(min=1, help="Rank the targets of this many users.")] = 2000,
    encoder: EncoderName = "minilm",
    seed: Seed = 42,
) -> None:
    """Rank every user's true next item by the text of their recent titles."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from rl4rec_kernels.cli import demo as job
    from rl4rec_kernels.index import Encoder

    if data is not None and not data.is_dir():
        raise FileNotFoundError(
            f"--data {data} is not a directory; pass one that holds "
            "sequential_data.txt and item_metadata.json"
        )
    dataset_dir = job.fetch_ml100k() if data is None else data.resolve()
    result = job.run(dataset_dir, users, seed, Encoder(encoder))

    console = Console()
    for sample in result.examples:
        console.print(
            f"[bold]user {sample.user_id}[/] text: {escape(sample.text)}", highlight=False
        )
        console.print(
            f"  next item: {sample.title}   reward (NDCG@10 among 99 negatives): "
            f"{sample.reward:.3f}",
            highlight=False,
            markup=False,
        )
    table = Table(title=f"{dataset_dir.name}: {result.num_users:,} users")
    table.add_column("competitors")
    table.add_column("ranked by")
    for metric in job.METRICS:
        table.add_column(metric, justify="right")
    for contest in result.contests:
        for ranker in contest.counts:
            values = [f"{value:.4f}" for value in contest.means(ranker).values()]
            table.add_row(contest.competitors, ranker, *values, end_section=ranker == "random")
    console.print(table)
    picture = out / f"{dataset_dir.name}_ranks.png"
    job.draw_ranks(result.contests, picture)
    console.print(f"histogram of the ranks: {picture}")


@index_app.command("build")
def index_build(
    name: Annotated[str, typer.Argument(help="Name of the data set: its directory.")],
    out: Annotated[Path, typer.Option(help="The index file to write (.safetensors).")],
    data_dir: DataDir = None,
    encoder: EncoderName = "minilm",
) -> None:
    """Encode the items of a data set into an index file."""
    from rl4rec_kernels.data import load_item_metadata
    from rl4rec_kernels.index import Encoder, ItemIndex
    from rl4rec_kernels.index.files import check_destination

    check_destination(out)  # encoding may take long
    item_metadata = load_item_metadata(name, data_dir=data_dir)
    index = ItemIndex.build(item_metadata, Encoder(encoder))
    index.save(out)
    print(f"wrote {out}: {len(item_metadata):,} items of {index.table.shape[1]} dimensions")


@index_app.command("info")
def index_info(path: Annotated[Path, typer.Argument(help="An index file.")]) -> None:
    """Print what an index file holds, as JSON."""
    from rl4rec_kernels.index import ItemIndex

    print(json.dumps(ItemIndex.open(path).info(), indent=2))


@app.command()
def sample(
    name: Annotated[str, typer.Argument(help="Name of the data set: its directory.")],
    split: Annotated[str, typer.Option(help="train, valid or test.")] = "train",
    num_negs: Annotated[int, typer.Option(min=0, help="Random negatives a user.")] = 99,
    hard: Annotated[
        int,
        typer.Option(
            min=0,
            help="Hard negatives a user, before the random ones: unseen items that score highest "
            "for the user's latest titles.",
        ),
    ] = 0,
    skip_top: Annotated[
        int, typer.Option(min=0, help="Leave out this many of the hardest, which may be right.")
    ] = 0,
    index: Annotated[
        Path | None, typer.Option(help="An index file for --hard (default: kept in the cache).")
    ] = None,
    encoder: EncoderName = "minilm",
    data_dir: DataDir = None,
    seed: Seed = 42,
) -> None:
    """Print the samples of a split with their negatives, one JSON object a line."""
    from rl4rec_kernels.data import PromptGenerator, RecommendationDataset, load_item_metadata

    if not hard and (index is not None or skip_top):
        raise ValueError(
            "--index and --skip-top are about hard negatives; pass --hard N, or drop them"
        )
    item_metadata = load_item_metadata(name, data_dir=data_dir)
    dataset = RecommendationDataset(
        name,
        item_metadata,
        PromptGenerator(item_metadata),
        split,
        num_negs=0 if hard else num_negs,
        num_items=max(item_metadata) + 1,
        seed=seed,
        data_dir=data_dir,
    )
    if hard:
        mined = _mine(dataset, hard, skip_top, index, encoder)
        dataset = dataset.with_negatives(mined, num_random=num_negs)
    _json_is_utf8()
    for i in range(len(dataset)):
        print(json.dumps(dataset[i], ensure_ascii=False))


def _mine(dataset: Any, num_negs: int, skip_top: int, index: Path | None, encoder: str) -> Any:
    """Hard negatives of a dataset's users by their latest titles."""
    from rl4rec_kernels.data.recent import recent_titles
    from rl4rec_kernels.index import Encoder, ItemIndex
    from rl4rec_kernels.index.cache import cached_index
    from rl4rec_kernels.negatives.mining import mine_hard_negatives

    model, metadata = Encoder(encoder), dataset.item_metadata
    if index is None:
        items = cached_index(dataset.data_name, metadata, model)
    else:
        items = ItemIndex.open(index, encoder=model)
    texts = [recent_titles(metadata, history) for history in dataset.histories.to_lists()]
    return mine_hard_negatives(
        model.encode_queries(texts).cpu(),
        items.table,
        dataset.targets,
        dataset.seen,
        num_negs,
        skip_top,
        valid=items.valid,
        user_ids=dataset.user_ids,
    )


@app.command()
def reward(
    index: Annotated[Path, typer.Option(help="The index file of the items.")],
    input: Annotated[
        Path | None, typer.Argument(help="JSON lines (default: standard input).")
    ] = None,
    reward_type: Annotated[str, typer.Option(help="ndcg, hit, mrr, mixed or a metric.")] = "ndcg",
    k: Annotated[int, typer.Option(help="Cut-off of ndcg, hit, mrr and mixed.")] = 10,
    encoder: EncoderName = "minilm",
) -> None:
    """Compute rewards: JSON lines in, JSON lines out.

    A line in is {"text": …, "target": …, "history": […], "neg_items": […]}; without neg_items, or
    with none in the list, the target is ranked in the whole catalog. A line out is {"reward": …},
    in the same order.
    """
    from rl4rec_kernels.index import Encoder, ItemIndex
    from rl4rec_kernels.rewards.reward import RecReward
    from rl4rec_kernels.service import LocalRetrievalService

    items = ItemIndex.open(index)
    service = LocalRetrievalService({"items": items}, Encoder(encoder))
    reward_fn = RecReward(service=service, dataset_name="items", reward_type=reward_type, k=k)
    _json_is_utf8()
    with input.open(encoding="utf-8-sig") if input else sys.stdin as lines:
        requests = read_requests(lines)  # one by one: they may come from a pipe
        while batch := dict(islice(requests, BATCH)):
            for value in _rewards_of_lines(reward_fn, batch):
                print(json.dumps({"reward": value}))


def _json_is_utf8() -> None:
    """Read and write JSON as UTF-8, whatever the locale says."""
    for stream, encoding in ((sys.stdin, "utf-8-sig"), (sys.stdout, "utf-8")):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(encoding=encoding)


def read_requests(lines: Iterable[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Parse and check JSON lines, with their numbers; a bad one is named by its number."""
    for number, line in enumerate(_decoded(lines), 1):
        if not line.strip():
            continue
        try:
            request = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"line {number} is not JSON: {error}") from error
        if not isinstance(request, dict):
            raise ValueError(f"line {number} must be a JSON object, got {line.strip()[:40]}")
        if not isinstance(request.get("text"), str):
            raise ValueError(f"line {number}: 'text' must be a string")
        if type(request.get("target")) is not int:
            raise ValueError(f"line {number}: 'target' must be an item id")
        for name in ("history", "neg_items"):
            ids = request.get(name)
            if ids is not None and not (
                isinstance(ids, list) and all(type(item) is int for item in ids)
            ):
                raise ValueError(f"line {number}: {name!r} must be a list of item ids")
        yield number, request


def _decoded(lines: Iterable[str]) -> Iterator[str]:
    try:
        yield from lines
    except UnicodeDecodeError as error:
        name = getattr(lines, "name", "the input")
        raise ValueError(f"{name} is not UTF-8 text ({error}); convert it with iconv") from error


def _rewards_of_lines(reward_fn: Any, requests: dict[int, dict[str, Any]]) -> list[float]:
    """Rewards of requests by their line; one that does not fit the index is named by its line."""
    try:
        return reward_rows(reward_fn, list(requests.values()))
    except (IndexError, TypeError, ValueError):
        for number, request in requests.items():
            try:
                reward_rows(reward_fn, [request])
            except (IndexError, TypeError, ValueError) as error:
                raise ValueError(f"line {number}: {error}") from error
        raise
