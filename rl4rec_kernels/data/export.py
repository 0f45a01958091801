"""Datasets in the columns that trainers read, and the registry of these columns."""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import numpy as np

from rl4rec_kernels._utils.checks import as_path, choice, flag, optional_flag, shown
from rl4rec_kernels._utils.imports import require
from rl4rec_kernels._utils.writing import replacing
from rl4rec_kernels.data.labels import write_label
from rl4rec_kernels.data.raw_ids import RawIds
from rl4rec_kernels.data.splits import SplitName
from rl4rec_kernels.ids import RaggedIds

if TYPE_CHECKING:
    from datasets import Dataset

SAMPLE_COLUMNS: dict[str, "Column"] = {
    name: name for name in ("prompt", "history", "target", "user_id", "neg_items")
}
"""The columns of `RecommendationDataset.to_hf`: those of a sample."""


class Samples(Protocol):
    """The attributes of a `RecommendationDataset` that an export reads."""

    data_name: str
    split: SplitName
    prompt_generator: Any  # with ``messages`` for conversational exports
    user_ids: np.ndarray
    raw_users: RawIds
    raw_items: RawIds
    targets: np.ndarray | RaggedIds
    negatives: np.ndarray

    @property
    def histories(self) -> RaggedIds: ...

    def __len__(self) -> int: ...


class Constant(str):
    """In a layout: a text that is the same in every row."""


Column: TypeAlias = "str | Mapping[str, Column]"
"""What a column contains; see `register_layout`."""


_LAYOUTS: dict[str, tuple[Mapping[str, Column], tuple[bool, ...], tuple[str, ...]]] = {}


def register_layout(
    trainer: str,
    columns: Mapping[str, Column],
    *,
    conversational: tuple[bool, ...] = (True, False),
    endings: tuple[str, ...] = (".parquet", ".jsonl", ".json"),
) -> None:
    """Make the columns of a trainer known to `export_dataset`.

    Parameters
    ----------
    trainer : str
        The trainer's name.
    columns : mapping of str to str, Constant or mapping
        What each column contains: ``prompt``, ``history``, ``target``, ``user_id``, ``neg_items``,
        ``label`` (see `write_label`), ``data_name``, ``split`` or ``index``, a `Constant`, or a
        mapping of these for a column of records.
    conversational : tuple of bool
        Whether prompts can be chat messages (True) or texts (False), the default first.
    endings : tuple of str
        File endings that the trainer can read.
    """
    _LAYOUTS[trainer] = columns, conversational, endings


def export_dataset(
    dataset: Samples,
    trainer: str,
    path: str | os.PathLike[str] | None = None,
    *,
    conversational: bool | None = None,
    raw_ids: bool = False,
) -> "Dataset":
    """Return a dataset in the columns that a trainer reads, and write it to a file.

    The columns are those at the top of each module of `rl4rec_kernels.adapters`. Users have the ids
    of the data set's file, as texts if it has names. Items have the ids of this dataset, which are
    those of the file unless it has names (see `RecommendationDataset.raw_items`), because the
    service that computes rewards from them has these too. With `raw_ids`, items of a file with
    names have its own ids, as texts. Rewards take a text as such an id and a number as a row of
    the service's table, so raw ids stay right if the data set is filtered or numbered again.

    Parameters
    ----------
    dataset : RecommendationDataset
        The dataset.
    trainer : str
        The name of a module of `rl4rec_kernels.adapters`, such as ``"verl"``.
    path : path, optional
        The file: ``.parquet`` (required for verl), ``.jsonl`` or ``.json`` (both JSON lines).
    conversational : bool, optional
        Whether prompts are chat messages or texts. Default: the trainer's own convention, which is
        texts for trl, nemo_rl, easyr1, rllm and verifiers, messages for the others.
    raw_ids : bool
        Write the items' ids of the data set's own file, as texts, if it has names.

    Returns
    -------
    datasets.Dataset
        The rows.

    Raises
    ------
    ValueError
        If the trainer is unknown, does not support this `conversational`, or cannot read files with
        this ending. Nothing has been written then.
    ImportError
        If ``datasets`` is not installed.
    """
    choice("trainer", trainer, _LAYOUTS)
    conversational = optional_flag("conversational", conversational)
    raw_ids = flag("raw_ids", raw_ids)
    if path is not None:
        path = as_path("path", path)
    columns, choices, endings = _LAYOUTS[trainer]
    if conversational is None:
        conversational = choices[0]
    if conversational not in choices:
        raise ValueError(
            f"conversational must be {choices[0]} for {trainer}, got {conversational}: its prompts "
            f"are {'chat messages' if choices[0] else 'texts'}"
        )
    if path is not None and Path(path).suffix not in endings:
        raise ValueError(
            f"path must end in {' or '.join(endings)} for {trainer}, got {shown(os.fspath(path))}"
        )
    if not hasattr(dataset, "prompt_generator") or not hasattr(dataset, "targets"):
        raise TypeError(f"dataset must be a RecommendationDataset, got {shown(dataset)}")
    exported = to_hf(dataset, conversational, columns, raw_ids=raw_ids)
    if path is not None:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        write = exported.to_parquet if Path(path).suffix == ".parquet" else exported.to_json
        with replacing(Path(path)) as part:
            write(part)
    return exported


def to_hf(
    dataset: Samples,
    conversational: bool = False,
    columns: Mapping[str, Column] = SAMPLE_COLUMNS,
    *,
    raw_ids: bool = False,
) -> "Dataset":
    """Return a dataset as a ``datasets.Dataset`` with these columns; see `register_layout`."""
    conversational = flag("conversational", conversational)
    raw_ids = flag("raw_ids", raw_ids)
    hf = require("datasets", "datasets")
    # The types are given because Hugging Face infers none from an empty list.
    text, number = hf.Value("string"), hf.Value("int64")
    prompt = [{"role": text, "content": text}] if conversational else text
    generator = dataset.prompt_generator
    make_prompt = generator.messages if conversational else generator
    rows, histories = range(len(dataset)), dataset.histories.to_lists()
    negatives = dataset.negatives.tolist()
    several = isinstance(dataset.targets, RaggedIds)
    targets: list[Any] = (
        dataset.targets.to_lists()
        if isinstance(dataset.targets, RaggedIds)
        else dataset.targets.tolist()
    )
    is_raw = raw_ids and dataset.raw_items.has_names

    def items_of(row: Any) -> Any:
        """The ids of one item or several as they are written."""
        if not is_raw:
            return row
        if isinstance(row, list):
            return [str(item) for item in dataset.raw_items.of(row)]
        return str(dataset.raw_items.of([row])[0])

    item = text if is_raw else number
    items = hf.Sequence(item)

    def labels() -> list[str]:
        parts = (map(items_of, part) for part in (targets, histories, negatives))
        return [write_label(*row, raw_ids=True) for row in zip(*parts, strict=True)]

    users: list[Any] = dataset.raw_users.of(dataset.user_ids.tolist())
    user_type = number
    if not all(isinstance(user, int) for user in users):
        users, user_type = list(map(str, users)), text
    fields: dict[str, tuple[Callable[[], list[Any]], Any]] = {
        "prompt": (lambda: [make_prompt(history) for history in histories], prompt),
        "history": (lambda: list(map(items_of, histories)), items),
        "target": (lambda: list(map(items_of, targets)), items if several else item),
        "user_id": (lambda: users, user_type),
        "neg_items": (lambda: list(map(items_of, negatives)), items),
        "label": (labels, text),
        "data_name": (lambda: [dataset.data_name for _ in rows], text),
        "split": (lambda: [dataset.split for _ in rows], text),
        "index": (lambda: list(rows), number),
    }

    def column(name: str, source: Column) -> tuple[list[Any], Any]:
        """The values of a column and their type."""
        if isinstance(source, Constant):
            return [str(source) for _ in rows], text
        if isinstance(source, str):
            if is_raw and source == "target" and name == "ground_truth":
                source = "label"  # verl makes a text of it, so an id of digits would be a number
            values, kind = fields[source]
            return values(), kind
        parts = {name: column(name, part) for name, part in source.items()}
        records = zip(*(values for values, _ in parts.values()), strict=True)
        types = {name: kind for name, (_, kind) in parts.items()}
        return [dict(zip(parts, record, strict=True)) for record in records], types

    built = {name: column(name, source) for name, source in columns.items()}
    types = hf.Features({name: kind for name, (_, kind) in built.items()})
    return hf.Dataset.from_dict({name: values for name, (values, _) in built.items()}, types)
