"""RecBole's atomic files: ``<name>.inter`` and ``<name>.item``, tab separated with typed headers.

If the tokens of all users and items are whole numbers, and those of the items can be rows of a
table (they are from 1 and not sparse), they are the ids. Otherwise tokens get ids from 1, without
gaps, in an order that does not depend on the order of the lines: numerical order if all tokens are
decimal numbers, otherwise by code point; `RawIds` turns them back. Items are numbered over
``.inter`` and ``.item`` together, so the ids of the interactions and of the metadata always agree.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rl4rec_kernels._utils.checks import shown
from rl4rec_kernels.data.files import (
    first_file,
    is_whole_number,
    numbered_lines,
    read_text,
    with_gz,
)
from rl4rec_kernels.data.item_fields import canonical_name
from rl4rec_kernels.data.raw_ids import Tokens, is_number_token
from rl4rec_kernels.ids import RaggedIds, is_sparse, to_offsets

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")

TYPES = ("token", "token_seq", "float", "float_seq")


@dataclass(frozen=True)
class AtomicTable:
    """An atomic file: the text and the type of its columns by name, and its rows' line numbers."""

    path: Path
    columns: dict[str, list[str]]
    types: dict[str, str]
    lines: list[int]


def atomic_file(directory: Path, name: str, suffix: str) -> Path | None:
    """Return ``<name>.<suffix>`` or ``<name>.<suffix>.gz`` in `directory`, if one exists."""
    return first_file(directory, with_gz(f"{name}.{suffix}"))


def read_atomic(path: Path, required: Iterable[str]) -> AtomicTable:
    """Read an atomic file.

    Raises ValueError if the header or a line is malformed, or a required column is missing or has
    empty cells.
    """
    lines = numbered_lines(read_text(path))
    if not lines:
        raise ValueError(
            f"{path} is empty; its first line must name and type the columns, such as "
            "user_id:token<tab>item_id:token<tab>timestamp:float"
        )
    number, header = lines[0]
    heads = [head.strip().partition(":") for head in header.split("\t")]
    types = {name: kind for name, _, kind in heads}
    if len(types) < len(heads) or not all(name and kind in TYPES for name, _, kind in heads):
        raise ValueError(
            f"{path}, line {number}: the header must be different name:type pairs separated by "
            f"tabs, type one of {', '.join(TYPES)}; got {shown(header[:80])}"
        )
    missing = [name for name in required if name not in types]
    if missing:
        raise ValueError(f"{path} has no column {missing[0]}; it has {', '.join(types)}")
    for number, line in lines[1:]:
        found = line.count("\t") + 1
        if found != len(heads):
            raise ValueError(
                f"{path}, line {number}: {found} cells, but the header has {len(heads)} columns; "
                "separate them with single tabs"
            )
    if not lines[1:]:
        raise ValueError(f"{path} has a header but no rows")
    # One list of all cells, sliced by column: a list per row is several times slower.
    cells = "\t".join(line for _, line in lines[1:]).split("\t")
    columns = {
        name: [cell.strip(" ") for cell in cells[i :: len(heads)]] for i, name in enumerate(types)
    }
    table = AtomicTable(path, columns, types, [number for number, _ in lines[1:]])
    for name in required:
        if "" in columns[name]:
            number = table.lines[columns[name].index("")]
            raise ValueError(f"{path}, line {number}: {name} is empty; fill it or remove the line")
        if _CONTROL.search("".join(columns[name])):
            bad = next(i for i, cell in enumerate(columns[name]) if _CONTROL.search(cell))
            raise ValueError(
                f"{path}, line {table.lines[bad]}: {name} {shown(columns[name][bad])} contains a "
                "control character; remove it"
            )
    return table


def number_tokens(tokens: Iterable[str]) -> dict[str, int]:
    """Number tokens from 1: numerically if all are decimal numbers, else by code point."""
    distinct = set(tokens)
    if all(map(is_whole_number, distinct)):
        # "7" and "07" are two tokens, so the text breaks ties between equal numbers.
        ordered = sorted(distinct, key=lambda token: (int(token), token))
    else:
        ordered = sorted(distinct)
    return {token: i for i, token in enumerate(ordered, 1)}


def read_atomic_interactions(
    directory: Path, name: str
) -> tuple[np.ndarray, RaggedIds, Tokens, Tokens]:
    """Read ``<name>.inter``: user ids, sequences, user tokens and item tokens.

    A user's interactions are sorted by ``timestamp`` if the file has that column; otherwise, and
    among equal timestamps, they keep their order in the file. Every row counts as an interaction,
    whatever its rating.
    """
    inter, user_of, item_of = _read_tables(directory, name, "inter")
    users = np.array([user_of[token] for token in inter.columns["user_id"]], dtype=np.int64)
    items = np.array([item_of[token] for token in inter.columns["item_id"]], dtype=np.int64)
    # lexsort is stable, and its last key is the primary one.
    order = np.lexsort((_times(inter), users) if "timestamp" in inter.columns else (users,))
    user_ids, counts = np.unique(users, return_counts=True)
    sequences = RaggedIds(items[order], to_offsets(counts))
    return user_ids, sequences, _tokens(user_of), _tokens(item_of)


def read_atomic_metadata(directory: Path, name: str) -> dict[int, dict[str, Any]]:
    """Read ``<name>.item``: id to fields; ``token`` is the item's own name in the file.

    A ``token_seq`` of categories becomes a list; every other cell stays text.
    """
    item, _, item_of = _read_tables(directory, name, "item")
    metadata: dict[int, dict[str, Any]] = {}
    columns = {name: cells for name, cells in item.columns.items() if name != "item_id"}
    # A token_seq is separated by spaces, be it a title or a list of genres. Only split the latter.
    lists = {n for n in columns if canonical_name(n) == "category" and item.types[n] == "token_seq"}
    for row, token in enumerate(item.columns["item_id"]):
        if item_of[token] in metadata:
            raise ValueError(
                f"{item.path}, line {item.lines[row]}: item {shown(token)} already has a line; "
                "remove one of them"
            )
        fields = {n: c[row].split() if n in lists else c[row] for n, c in columns.items()}
        metadata[item_of[token]] = {"token": token, **fields}
    return dict(sorted(metadata.items()))


def _read_tables(
    directory: Path, name: str, suffix: str
) -> tuple[AtomicTable, dict[str, int], dict[str, int]]:
    """Read the file of this suffix, and the ids of the users and items in both files."""
    tables = {
        kind: read_atomic(path, required)
        for kind, required in (("inter", ("user_id", "item_id")), ("item", ("item_id",)))
        if (path := atomic_file(directory, name, kind))
    }
    users = set(tables["inter"].columns["user_id"]) if "inter" in tables else set()
    items = {token for table in tables.values() for token in table.columns["item_id"]}
    known = len(set(tables["item"].columns["item_id"])) if "item" in tables else len(items)
    if all(map(is_number_token, users | items)):
        user_of, item_of = (
            {token: int(token) for token in sorted(t, key=int)} for t in (users, items)
        )
        if min(item_of.values()) > 0 and not is_sparse(max(item_of.values()), known):
            return tables[suffix], user_of, item_of
    return tables[suffix], number_tokens(users), number_tokens(items)


def _tokens(ids: dict[str, int]) -> Tokens:
    """The token of each id: a list, unless there are gaps."""
    if list(ids.values()) == list(range(1, len(ids) + 1)):
        return ["", *ids]
    return {item: token for token, item in ids.items()}


def _times(table: AtomicTable) -> np.ndarray:
    cells = table.columns["timestamp"]
    try:
        times = np.array(cells, dtype=np.float64)
    except ValueError:
        times = np.array([_float_or_nan(cell) for cell in cells])
    bad = np.flatnonzero(~np.isfinite(times))
    if bad.size:
        raise ValueError(
            f"{table.path}, line {table.lines[bad[0]]}: timestamp {shown(cells[bad[0]])} is not a "
            "number; write seconds, or leave out the whole column"
        )
    return times


def _float_or_nan(cell: str) -> float:
    try:
        return float(cell)
    except ValueError:
        return float("nan")
