"""Options and inputs that several commands share."""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any

from rl4rec_kernels._utils.contents import HEAD_BYTES, kind_of
from rl4rec_kernels._utils.imports import require
from rl4rec_kernels._utils.paths import absolute
from rl4rec_kernels.data.files import lone_surrogate
from rl4rec_kernels.data.item_fields import ItemMetadata
from rl4rec_kernels.data.splits import SplitName
from rl4rec_kernels.index import Encoder, ItemIndex
from rl4rec_kernels.index.cache import cached_index
from rl4rec_kernels.index.encoder import EncoderEngine

typer = require("typer", "cli")

DatasetName = Annotated[str, typer.Argument(help="Name of the data set (its directory's name).")]
DataDir = Annotated[
    Path | None,
    typer.Option(help="Directory that contains the data sets (default: $RL4REC_DATA)."),
]
EncoderName = Annotated[
    str, typer.Option("--encoder", help="'minilm', or a sentence-transformers name or path.")
]
EncoderBackend = Annotated[
    EncoderEngine, typer.Option("--backend", help="Library that runs the encoder.")
]
Split = Annotated[SplitName, typer.Option(help="Which part of the data set.")]
KCore = Annotated[
    int,
    typer.Option("--k-core", min=0, help="Remove users and items with fewer interactions."),
]
MinRating = Annotated[
    float | None, typer.Option(help="Remove interactions with a lower rating, before --k-core.")
]
Seed = Annotated[int, typer.Option(help="Random seed.")]


def existing_directory(data: Path) -> Path:
    """Return the absolute path of the directory given as ``--data``."""
    if not data.is_dir():
        raise FileNotFoundError(
            f"--data {data} is not a directory; pass one that contains sequential_data.txt and "
            "item_metadata.json"
        )
    return absolute(data)


def open_index(
    path: Path | None,
    name: str,
    item_metadata: ItemMetadata,
    encoder: Encoder,
) -> ItemIndex:
    """Open the given index file, or the cached index of a data set."""
    if path is None:
        return cached_index(name, item_metadata, encoder)
    return ItemIndex.open(path, encoder=encoder)


def json_lines(lines: Iterable[str]) -> Iterator[tuple[int, str, Any]]:
    """Yield the number, the text and the value of each line that is not blank.

    Raises
    ------
    ValueError
        If a line is not JSON; the message has its number.
    """
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:  # also long numbers and deep brackets
            kind = kind_of(line[:HEAD_BYTES].encode(errors="replace"))
            why = f"it is the start of {kind}" if kind else error
            raise ValueError(f"line {number} is not JSON: {why}") from error
        if (at := lone_surrogate(line)) is not None:
            raise ValueError(
                f"line {number} contains {line[at : at + 6]}, half of a character; write the whole "
                "character or remove it"
            )
        yield number, line.strip(), value
