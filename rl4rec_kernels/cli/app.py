"""The command ``rl4rec``: indexes, negatives, rewards, evaluation, the service and the demo."""

import json
import logging
import sys
from codecs import getincrementaldecoder
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from io import TextIOWrapper
from itertools import islice
from pathlib import Path
from select import select
from typing import Annotated, Any, BinaryIO

from rl4rec_kernels._utils.checks import shown
from rl4rec_kernels._utils.contents import HEAD_BYTES, kind_of
from rl4rec_kernels._utils.imports import require
from rl4rec_kernels._utils.version import VERSION
from rl4rec_kernels.cli.common import (
    DataDir,
    DatasetName,
    EncoderBackend,
    EncoderName,
    KCore,
    MinRating,
    Seed,
    Split,
    json_lines,
    open_index,
    typer,
)
from rl4rec_kernels.cli.demo import demo
from rl4rec_kernels.cli.doctor import main as check_installation
from rl4rec_kernels.cli.evaluate import evaluate
from rl4rec_kernels.cli.serve import serve, status, stop
from rl4rec_kernels.data import RecommendationDataset
from rl4rec_kernels.data.dataset import Sample
from rl4rec_kernels.data.labels import item_ids, item_or_items
from rl4rec_kernels.data.loading import load_data, load_item_metadata
from rl4rec_kernels.data.prompts import recent_titles
from rl4rec_kernels.data.raw_ids import RawIds
from rl4rec_kernels.index import Encoder, ItemIndex
from rl4rec_kernels.index.files import check_destination
from rl4rec_kernels.negatives.mining import mine_hard_negatives
from rl4rec_kernels.rewards.reward import RecReward
from rl4rec_kernels.rewards.rows import reward_rows
from rl4rec_kernels.service import LocalRetrievalService
from rl4rec_kernels.service.connection import original_error

require("rich", "cli")

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
index_app = typer.Typer(no_args_is_help=True, help="Build and inspect item indexes.")
app.add_typer(index_app, name="index")
for command in (demo, evaluate, serve, status, stop):
    app.command()(command)

BATCH_SIZE = 256
_CHUNK = 1 << 20  # bytes that are read at once, if they are there


def main() -> None:
    """Run the command line; `rl4rec_kernels.cli.main` reports errors."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    for verbose in ("httpx", "sentence_transformers", "transformers"):
        logging.getLogger(verbose).setLevel(logging.WARNING)
    try:
        app()
    except Exception as error:
        if type(error).__module__.partition(".")[0] != "ray":
            raise
        raise RuntimeError(original_error(error)) from error


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"rl4rec-kernels {VERSION}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", help="Print the version.", callback=_print_version, is_eager=True
        ),
    ] = False,
) -> None:
    """Rewards for recommendation: how high the true next item ranks."""


@app.command()
def doctor() -> None:
    """Show what is built and what can run, and check it; exit with 1 if something fails."""
    sys.exit(check_installation())


@index_app.command("build")
def index_build(
    name: DatasetName,
    out: Annotated[Path, typer.Option(help="The index file to write (.safetensors).")],
    data_dir: DataDir = None,
    k_core: KCore = 0,
    min_rating: MinRating = None,
    encoder: EncoderName = "minilm",
    backend: EncoderBackend = "torch",
) -> None:
    """Encode the items of a data set into an index file."""
    check_destination(out)  # encoding may take long
    items = load_item_metadata(name, data_dir, k_core=k_core, min_rating=min_rating)
    index = ItemIndex.build(items, Encoder(encoder, backend=backend))
    index.save(out)
    print(f"wrote {out}: {len(items):,} items of {index.table.shape[1]} dimensions")


@index_app.command("info")
def index_info(path: Annotated[Path, typer.Argument(help="An index file.")]) -> None:
    """Print a summary of an index file, as JSON."""
    print(json.dumps(ItemIndex.open(path).info(), indent=2))


@app.command()
def sample(
    name: DatasetName,
    split: Split = "train",
    num_negs: Annotated[int, typer.Option(min=0, help="Random negatives per user.")] = 99,
    hard: Annotated[
        int,
        typer.Option(
            min=0,
            help="Hard negatives per user, before the random ones: the unseen items with the "
            "highest scores for the latest titles of the user.",
        ),
    ] = 0,
    skip_top: Annotated[
        int, typer.Option(min=0, help="Skip this many of the hardest, which may be relevant.")
    ] = 0,
    index: Annotated[
        Path | None, typer.Option(help="An index file for --hard (default: the cached index).")
    ] = None,
    encoder: EncoderName = "minilm",
    backend: EncoderBackend = "torch",
    data_dir: DataDir = None,
    k_core: KCore = 0,
    min_rating: MinRating = None,
    seed: Seed = 42,
) -> None:
    """Print the samples of a split with their negatives, one JSON object per line.

    Users and items have the ids of the data set's file.
    """
    if not hard and (index is not None or skip_top):
        raise ValueError("--index and --skip-top need --hard N: pass it, or drop them")
    data = load_data(name, data_dir, k_core=k_core, min_rating=min_rating)
    dataset = RecommendationDataset.from_interactions(
        data, split, num_negs=0 if hard else num_negs, seed=seed
    )
    if hard:
        mined = _mine(dataset, hard, skip_top, index, Encoder(encoder, backend=backend))
        dataset = dataset.with_negatives(mined, num_random=num_negs)
    _json_is_utf8()
    for i in range(len(dataset)):
        print(json.dumps(_with_raw_ids(dataset, dataset[i]), ensure_ascii=False))


def _with_raw_ids(dataset: RecommendationDataset, sample: Sample) -> dict[str, Any]:
    """A sample with the ids of the data set's file."""
    items = dataset.raw_items
    return {
        **sample,
        "history": items.of(sample["history"]),
        "target": items.of_target(sample["target"]),
        "user_id": dataset.raw_users.of([sample["user_id"]])[0],
        "neg_items": items.of(sample["neg_items"]),
    }


def _mine(
    dataset: RecommendationDataset,
    num_negs: int,
    skip_top: int,
    index: Path | None,
    encoder: Encoder,
) -> Any:
    """Mine hard negatives of the users of a data set, by their latest titles."""
    metadata = dataset.item_metadata
    items = open_index(index, dataset.data_name, metadata, encoder)
    texts = [recent_titles(metadata, history) for history in dataset.histories.to_lists()]
    return mine_hard_negatives(
        encoder.encode_queries(texts).cpu(),
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
    backend: EncoderBackend = "torch",
    max_line_mib: Annotated[
        int, typer.Option(min=1, max=1 << 20, help="A longer line is an error.")
    ] = 32,
) -> None:
    """Compute rewards: JSON lines in, JSON lines out.

    An input line is {"text": …, "target": …, "history": […], "neg_items": […]}. If neg_items is
    missing or empty, the target is ranked in the whole catalog. An output line is {"reward": …},
    in the order of the input. Lines are answered as they come, those that come together in batches.
    Items have the ids of the data set's file.
    """
    if input is None and sys.stdin is None:
        raise OSError("standard input is closed; pass a file, or lines")
    items = ItemIndex.open(index)
    service = LocalRetrievalService({"items": items}, Encoder(encoder, backend=backend))
    reward_fn = RecReward(service=service, dataset_name="items", reward_type=reward_type, k=k)
    _json_is_utf8()
    with input.open("rb") if input else sys.stdin.buffer as stream:
        lines = ArrivingLines(stream, max_line_mib)
        requests = read_requests(lines, items.raw_items)
        while batch := dict(_available(requests, lines)):
            for value in _rewards_of_lines(reward_fn, batch):
                print(json.dumps({"reward": value}))
            sys.stdout.flush()  # another process may wait for it before it sends the next line


def _json_is_utf8() -> None:
    """Read and write JSON as UTF-8 in any locale."""
    for stream, encoding in ((sys.stdin, "utf-8-sig"), (sys.stdout, "utf-8")):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(encoding=encoding)


class ArrivingLines:
    """The lines of a stream, each as soon as it is complete.

    Parameters
    ----------
    stream : binary file
        A file or a pipe.
    max_line_mib : int
        MiB of a line, so that a stream without line ends does not fill the memory.
    """

    def __init__(self, stream: BinaryIO, max_line_mib: int = 32) -> None:
        self._limit_mib, self._waiting, self._complete = max_line_mib, 0, 0
        self.name = getattr(stream, "name", "the input")
        self._stream = stream
        self._decoder = getincrementaldecoder("utf-8-sig")()  # "\r" does not end a line
        self._lines: deque[str] = deque()
        self._parts: list[str] = []  # of a line that is not complete
        self._at_end = False

    def __iter__(self) -> Iterator[str]:
        while self._lines or not self._at_end:
            if self._lines:
                yield self._lines.popleft()
            else:
                self._read()

    def has_more(self) -> bool:
        """Whether another line, not a blank one, is there already."""
        while not any(map(str.strip, self._lines)):
            if self._at_end or not self._is_readable():
                return False
            self._read()
        return True

    def _read(self) -> None:
        """Read what is there, or wait for more."""
        chunk = self._stream.read1(_CHUNK)  # type: ignore[attr-defined]
        self._at_end = not chunk
        rest = len(chunk) - 1 - chunk.rfind(b"\n")
        self._waiting = rest + (self._waiting if rest == len(chunk) else 0)
        self._complete += chunk.count(b"\n")
        if self._waiting > self._limit_mib << 20:
            raise ValueError(
                f"{self.name}, line {self._complete + 1} is longer than {self._limit_mib} MiB; end "
                "lines with a line feed, or raise --max-line-mib"
            )
        text = self._decoder.decode(chunk, final=self._at_end)
        self._parts.append(text)
        if "\n" in text or self._at_end:
            *lines, rest = "".join(self._parts).split("\n")
            self._parts = [rest]
            self._lines += [*lines, rest] if self._at_end else lines

    def _is_readable(self) -> bool:
        try:
            return bool(select([self._stream], [], [], 0)[0])
        except (OSError, ValueError):  # not a file of the system, which never has to be waited for
            return True


def _available(requests: Iterator[Any], lines: ArrivingLines) -> Iterator[Any]:
    """Wait for a request, and yield it with those that are there already."""
    for request in islice(requests, BATCH_SIZE):
        yield request
        if not lines.has_more():
            return


def read_requests(
    lines: Iterable[str], raw_items: RawIds | None = None
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Parse and check JSON lines, and yield each with its line number, and with the index's ids.

    Raises
    ------
    ValueError
        If a line is invalid; the message has its number.
    """
    for number, line, request in json_lines(_decoded(lines)):
        if not isinstance(request, dict):
            raise ValueError(f"line {number} must be a JSON object, got {line[:40]}")
        if not isinstance(request.get("text"), str):
            raise ValueError(f"line {number}: 'text' must be a string")
        if raw_items is not None and raw_items.has_names:
            request |= _index_ids(request, raw_items, f"line {number}")
        try:
            ids: dict[str, Any] = {
                "target": item_or_items(f"line {number}: 'target'", request.get("target"))
            }
            for name in ("history", "neg_items"):
                ids[name] = item_ids(f"line {number}: {name!r}", request.get(name))
        except TypeError as error:
            raise ValueError(str(error)) from None
        yield number, request | ids


def _index_ids(request: Mapping[str, Any], raw_items: RawIds, line: str) -> dict[str, Any]:
    """The ids of a request as those of the index; those of the wrong type stay as they are."""

    def find(name: str, raw: Any) -> Any:
        item = raw_items.find(raw) if type(raw) in (int, str) else raw
        if item is None:
            raise ValueError(
                f"{line}: {name!r}: {shown(raw)} is not the name of an item of the index"
            )
        return item

    raw = request.get("target", ())
    several = isinstance(raw, list)
    ids = {"target": [find("target", one) for one in raw] if several else find("target", raw)}
    for name in ("history", "neg_items"):
        raw = request.get(name)
        ids[name] = [find(name, one) for one in raw] if isinstance(raw, list) else raw
    return ids


def _decoded(lines: Iterable[str]) -> Iterator[str]:
    try:
        yield from lines
    except UnicodeDecodeError as error:
        name = getattr(lines, "name", "the input")
        kind = kind_of(error.object[:HEAD_BYTES])
        why = f"it is {kind}" if kind else f"{error}; convert it with iconv"
        raise ValueError(f"{name} is not UTF-8 text: {why}") from error


def _rewards_of_lines(
    reward_fn: RecReward, requests: Mapping[int, Mapping[str, Any]]
) -> list[float]:
    """Return the rewards of requests by line number; an error names the line that causes it."""
    try:
        return reward_rows(reward_fn, list(requests.values()))
    except (IndexError, TypeError, ValueError) as together:
        for number, request in requests.items():
            try:
                reward_rows(reward_fn, [request])
            except (IndexError, TypeError, ValueError) as error:
                raise ValueError(f"line {number}: {error}") from error
        raise ValueError(f"lines {min(requests)} to {max(requests)}: {together}") from together
