"""The command ``rl4rec evaluate``."""

from pathlib import Path
from typing import Annotated

from rl4rec_kernels._utils.imports import require

typer = require("typer", "cli")


def evaluate(
    name: Annotated[
        str | None, typer.Argument(help="Name of the data set: its directory in --data-dir.")
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="The data set's directory, instead of its name.")
    ] = None,
    data_dir: Annotated[
        Path | None,
        typer.Option(help="Directory that contains the data set's (default: $RL4REC_DATA)."),
    ] = None,
    texts: Annotated[
        Path | None,
        typer.Option(
            help='What a model said: JSON lines {"user_id": …, "text": …}. '
            "Without, each user's latest titles."
        ),
    ] = None,
    split: Annotated[str, typer.Option(help="train, valid or test.")] = "test",
    num_negs: Annotated[
        int, typer.Option(min=0, help="Negatives a user; 0: the whole catalog only.")
    ] = 99,
    whole_catalog: Annotated[
        bool, typer.Option("--catalog/--no-catalog", help="Whether to rank among all items.")
    ] = True,
    ks: Annotated[str, typer.Option(help="Cut-offs.")] = "1,5,10,20,50,100",
    groups: Annotated[
        str, typer.Option(help="Of history and popularity, separated by commas; '' for none.")
    ] = "history,popularity",
    gamma: Annotated[
        float, typer.Option(help="Weight of the variance in the bias-variance estimator.")
    ] = 0.1,
    users: Annotated[
        int | None, typer.Option(min=1, help="Evaluate this many users (default: all).")
    ] = None,
    index: Annotated[
        Path | None, typer.Option(help="An index file (default: kept in the cache).")
    ] = None,
    encoder: Annotated[
        str, typer.Option("--encoder", help="'minilm', or a sentence-transformers name or path.")
    ] = "minilm",
    num_bootstrap: Annotated[int, typer.Option(min=2, help="Replicates of the bootstrap.")] = 1000,
    seed: Annotated[int, typer.Option(help="Seed of everything drawn at random.")] = 42,
    out: Annotated[Path, typer.Option(help="Where the JSON and the PNG are written.")] = Path(
        "evaluation_out"
    ),
) -> None:
    """Evaluate texts about users: sampled, whole catalog and corrected metrics with intervals."""
    from rich.console import Console

    from rl4rec_kernels.cli.evaluation_job import evaluate_dataset, read_texts
    from rl4rec_kernels.data.files import read_text
    from rl4rec_kernels.index import Encoder, ItemIndex

    if (name is None) == (data is None):
        raise ValueError("pass the name of a data set, or its directory as --data, and not both")
    if data is not None:
        if not data.is_dir():
            raise FileNotFoundError(
                f"--data {data} is not a directory; pass one that holds "
                "sequential_data.txt and item_metadata.json"
            )
        name, data_dir = data.resolve().name, data.resolve().parent
    cutoffs = _whole_numbers("--ks", ks)
    said = None
    if texts is not None:
        try:
            said = read_texts(read_text(texts).split("\n"))
        except ValueError as error:
            raise ValueError(f"{texts}: {error}") from error
    model = Encoder(encoder)
    result = evaluate_dataset(
        str(name),
        model,
        data_dir=data_dir,
        split=split,
        texts=said,
        index=None if index is None else ItemIndex.open(index, encoder=model),
        num_negs=num_negs,
        num_users=users,
        group_by=[part.strip() for part in groups.split(",") if part.strip()],
        seed=seed,
        whole_catalog=whole_catalog,
        ks=cutoffs,
        gamma=gamma,
        num_bootstrap=num_bootstrap,
    )
    numbers, picture = (out / f"{name}_{split}.{kind}" for kind in ("json", "png"))
    result.save(numbers)
    result.plot(picture, f"{name}, {split}")
    console = Console()
    console.print(result.table(title=f"{name}, {split}"))
    for grouping in result.groups:
        console.print(result.table(grouping, title=f"{name}, {split}, by {grouping}"))
    print(f"wrote {numbers} and {picture}")


def _whole_numbers(option: str, text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise ValueError(
            f"{option} must be whole numbers separated by commas, such as 1,10,100, got {text!r}"
        ) from None
