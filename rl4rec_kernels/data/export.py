"""Datasets in the columns that trainers read."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rl4rec_kernels._utils.imports import require
from rl4rec_kernels._utils.writing import replacing
from rl4rec_kernels.data.labels import write_label

if TYPE_CHECKING:
    from rl4rec_kernels.data.dataset import RecommendationDataset

Columns = tuple[dict[str, list[Any]], dict[str, Any]]
"""Columns by name, and their types in Hugging Face's terms."""


def to_hf(dataset: "RecommendationDataset", conversational: bool = False) -> Any:
    """Return a dataset as a ``datasets.Dataset``; see `RecommendationDataset.to_hf`."""
    return _build(_trl(dataset, conversational))


def export_dataset(
    dataset: "RecommendationDataset",
    trainer: str,
    path: str | os.PathLike[str] | None = None,
    *,
    conversational: bool | None = None,
) -> Any:
    """Return a dataset in the columns that a trainer reads, and write it to a file.

    ======== ====================================================================================
    trainer  columns
    ======== ====================================================================================
    trl      ``prompt``, ``history``, ``target``, ``user_id``, ``neg_items``
    verl     ``data_source``, ``prompt``, ``ability``, ``reward_model`` (``ground_truth`` is the
             target), ``extra_info`` (``history``, ``neg_items``, ``user_id``, ``split``, ``index``)
    openrlhf ``input``, ``label``, ``datasource``
    nemo_rl  ``input``, ``output`` (the label)
    slime    ``prompt``, ``label``, ``metadata`` (``user_id``)
    areal    ``messages``, ``history``, ``target``, ``user_id``, ``neg_items``
    ======== ====================================================================================

    A label is what `write_label` makes of the target, the history and the negatives.

    Parameters
    ----------
    dataset : RecommendationDataset
        The dataset.
    trainer : str
        One of the table.
    path : path, optional
        The file: ``.parquet`` (for verl, it must be), ``.jsonl`` or ``.json`` (JSON lines).
    conversational : bool, optional
        Whether prompts are chat messages or texts. Default: as the trainer's own data are, texts
        for trl and nemo_rl, messages for the others.

    Returns
    -------
    datasets.Dataset
        The rows.

    Raises
    ------
    ValueError
        If there is no such trainer, its prompts cannot be what `conversational` says, or the
        file's ending is not one of these; before anything is written.
    ImportError
        If ``datasets`` is not installed.
    """
    if trainer not in _LAYOUTS:
        raise ValueError(f"unknown trainer {trainer!r}; known are {', '.join(_LAYOUTS)}")
    layout, choices = _LAYOUTS[trainer]
    if conversational is None:
        conversational = choices[0]
    if conversational not in choices:
        kind = "messages" if choices[0] else "texts"
        raise ValueError(
            f"conversational must be {choices[0]} for {trainer}, which reads prompts "
            f"that are {kind}"
        )
    if path is not None:
        endings = (".parquet",) if trainer == "verl" else (".parquet", ".jsonl", ".json")
        if Path(path).suffix not in endings:
            raise ValueError(
                f"path {os.fspath(path)!r} must end in {' or '.join(endings)} for {trainer}"
            )
    exported = _build(layout(dataset, conversational))
    if path is not None:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        write = exported.to_parquet if Path(path).suffix == ".parquet" else exported.to_json
        with replacing(Path(path)) as part:
            write(part)
    return exported


def _build(columns: Columns) -> Any:
    hf = require("datasets", "datasets")
    values, types = columns
    return hf.Dataset.from_dict(values, features=hf.Features(types))


def _types() -> dict[str, Any]:
    """The types that columns are made of: Hugging Face infers none from an empty list."""
    hf = require("datasets", "datasets")
    text, number = hf.Value("string"), hf.Value("int64")
    return {
        "text": text,
        "messages": [{"role": text, "content": text}],
        "id": number,
        "ids": hf.Sequence(number),
    }


def _prompts(dataset: "RecommendationDataset", conversational: bool) -> list[Any]:
    generator = dataset.prompt_generator
    make = generator.messages if conversational else generator
    return [make(history) for history in dataset.histories.to_lists()]


def _labels(dataset: "RecommendationDataset") -> list[str]:
    rows = zip(
        dataset.targets.tolist(),
        dataset.histories.to_lists(),
        dataset.negatives.tolist(),
        strict=True,
    )
    return [write_label(*row) for row in rows]


def _trl(dataset: "RecommendationDataset", conversational: bool) -> Columns:
    types = _types()
    columns = {
        "prompt": _prompts(dataset, conversational),
        "history": dataset.histories.to_lists(),
        "target": dataset.targets.tolist(),
        "user_id": dataset.user_ids.tolist(),
        "neg_items": dataset.negatives.tolist(),
    }
    kinds = {
        "prompt": types["messages" if conversational else "text"],
        "history": types["ids"],
        "target": types["id"],
        "user_id": types["id"],
        "neg_items": types["ids"],
    }
    return columns, kinds


def _areal(dataset: "RecommendationDataset", conversational: bool) -> Columns:
    columns, kinds = _trl(dataset, conversational)
    for part in (columns, kinds):
        part["messages"] = part.pop("prompt")
    return columns, kinds


def _verl(dataset: "RecommendationDataset", conversational: bool) -> Columns:
    types = _types()
    text, number = types["text"], types["id"]
    columns, _ = _trl(dataset, conversational)
    rows = range(len(dataset))
    extra = {
        "history": types["ids"],
        "neg_items": types["ids"],
        "user_id": number,
        "split": text,
        "index": number,
    }
    values = {
        "data_source": [dataset.data_name for _ in rows],
        "prompt": columns["prompt"],
        "ability": ["recommendation" for _ in rows],
        "reward_model": [{"style": "rule", "ground_truth": item} for item in columns["target"]],
        "extra_info": [
            {name: columns[name][row] for name in ("history", "neg_items", "user_id")}
            | {"split": dataset.split, "index": row}
            for row in rows
        ],
    }
    kinds = {
        "data_source": text,
        "prompt": types["messages"],
        "ability": text,
        "reward_model": {"style": text, "ground_truth": number},
        "extra_info": extra,
    }
    return values, kinds


def _openrlhf(dataset: "RecommendationDataset", conversational: bool) -> Columns:
    types = _types()
    values = {
        "input": _prompts(dataset, conversational),
        "label": _labels(dataset),
        "datasource": [dataset.data_name for _ in range(len(dataset))],
    }
    prompt = types["messages" if conversational else "text"]
    return values, {"input": prompt, "label": types["text"], "datasource": types["text"]}


def _nemo_rl(dataset: "RecommendationDataset", conversational: bool) -> Columns:
    text = _types()["text"]
    values = {"input": _prompts(dataset, conversational), "output": _labels(dataset)}
    return values, {"input": text, "output": text}


def _slime(dataset: "RecommendationDataset", conversational: bool) -> Columns:
    types = _types()
    values = {
        "prompt": _prompts(dataset, conversational),
        "label": _labels(dataset),
        "metadata": [{"user_id": user} for user in dataset.user_ids.tolist()],
    }
    prompt = types["messages" if conversational else "text"]
    return values, {"prompt": prompt, "label": types["text"], "metadata": {"user_id": types["id"]}}


Layout = Callable[["RecommendationDataset", bool], Columns]
# What makes the columns, and which values of `conversational` fit, the default first.
_LAYOUTS: dict[str, tuple[Layout, tuple[bool, ...]]] = {
    "trl": (_trl, (False, True)),
    "verl": (_verl, (True,)),
    "openrlhf": (_openrlhf, (True, False)),
    "nemo_rl": (_nemo_rl, (False,)),
    "slime": (_slime, (True, False)),
    "areal": (_areal, (True,)),
}
