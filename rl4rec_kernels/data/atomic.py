"""RecBole's atomic files: ``<name>.inter`` and ``<name>.item``, tab separated, header typed.

Tokens become ids from 1, without gaps, in an order that does not depend on the order of the lines:
tokens that are all decimal numbers in numerical order, others in the order of their code points.
Items are numbered over ``.inter`` and ``.item`` together, so the ids of the interactions and of the
metadata always agree.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rl4rec_kernels.data.files import first_file, numbered_lines, read_text, with_gz
from rl4rec_kernels.data.item_fields import canonical_name
from rl4rec_kernels.ids import RaggedIds, to_offsets


@dataclass(frozen=True)
class AtomicTable:
    """An atomic file, column by column.

    Attributes
    ----------
    path : Path
        The file.
    columns : dict of str to list of str
        Every column's text, by name.
    types : dict of str to str
        Every column's type: token, token_seq, float or float_seq.
    lines : list of int
        The line number of every row.
    """

    path: Path
    columns: dict[str, list[str]]
    types: dict[str, str]
    lines: list[int]


def atomic_file(directory: Path, name: str, suffix: str) -> Path | None:
    """Return ``<name>.<suffix>`` or ``<name>.<suffix>.gz`` in `directory`, if one is there."""
    return first_file(directory, with_gz(f"{name}.{suffix}"))


def read_atomic(path: Path, required: Iterable[str]) -> AtomicTable:
    """Read an atomic file.

    Raises
    ------
    ValueError
        If the header or a line is malformed, or a required column is missing or has empty cells.
    """
    lines = numbered_lines(read_text(path))
    if not lines:
        raise ValueError(
            f"{path} is empty; its first line must name and type the columns, "
            "as user_id:token<tab>item_id:token<tab>timestamp:float"
        )
    number, header = lines[0]
    heads = [head.strip().partition(":") for head in header.split("\t")]
    types = {name: kind for name, _, kind in heads}
    known = ("token", "token_seq", "float", "float_seq")
    bad = [name for name, _, kind in heads if not name or kind not in known]
    if bad or len(types) < len(heads):
        raise ValueError(
            f"{path}, line {number}: the header must be different name:type pairs separated by "
            f"tabs, type one of {', '.join(known)}; got {header[:80]!r}"
        )
    missing = [name for name in required if name not in types]
    if missing:
        raise ValueError(f"{path} has no column {missing[0]}; it has {', '.join(types)}")
    for number, line in lines[1:]:
        found = line.count("\t") + 1
        if found != len(heads):
            raise ValueError(
                f"{path}, line {number}: {found} cells, but the header has "
                f"{len(heads)} columns; separate them with single tabs"
            )
    if not lines[1:]:
        raise ValueError(f"{path} has a header but no rows")
    # One list of all cells, cut by columns: a list for every row is several times slower.
    cells = "\t".join(line for _, line in lines[1:]).split("\t")
    columns = {
        name: [cell.strip() for cell in cells[i :: len(heads)]] for i, name in enumerate(types)
    }
    table = AtomicTable(path, columns, types, [number for number, _ in lines[1:]])
    for name in required:
        if "" in columns[name]:
            row = columns[name].index("")
            raise ValueError(
                f"{path}, line {table.lines[row]}: {name} is empty; fill it or remove the line"
            )
    return table


def number_tokens(tokens: Iterable[str]) -> dict[str, int]:
    """Number tokens from 1: numerically if all are decimal numbers, else by code point."""
    distinct = set(tokens)
    if all(token.isascii() and token.isdigit() and len(token) < 19 for token in distinct):
        # "7" and "07" are two tokens, so the text decides between equal numbers.
        ordered = sorted(distinct, key=lambda token: (int(token), token))
    else:
        ordered = sorted(distinct)
    return {token: i for i, token in enumerate(ordered, 1)}


def read_atomic_interactions(
    directory: Path, name: str
) -> tuple[np.ndarray, RaggedIds, list[str], list[str]]:
    """Read ``<name>.inter``: user ids, sequences, user tokens and item tokens.

    A user's interactions are sorted by ``timestamp`` where the file has that column, and keep
    their order in the file otherwise and among equal timestamps. Ratings are not looked at: every
    row counts as an interaction.

    Raises
    ------
    ValueError
        If a line is malformed; the message names the file and the line.
    """
    inter, item = _tables(directory, name)
    assert inter is not None  # the caller found the file
    user_of = number_tokens(inter.columns["user_id"])
    item_of = _item_ids(inter, item)
    users = np.array([user_of[token] for token in inter.columns["user_id"]], dtype=np.int64)
    items = np.array([item_of[token] for token in inter.columns["item_id"]], dtype=np.int64)
    keys = [users]
    if "timestamp" in inter.columns:
        keys.insert(0, _times(inter))
    order = np.lexsort(keys)  # stable; the last key is the first to decide
    counts = np.bincount(users, minlength=len(user_of) + 1)[1:]
    sequences = RaggedIds(items[order], to_offsets(counts))
    user_ids = np.arange(1, len(user_of) + 1, dtype=np.int64)
    return user_ids, sequences, ["", *user_of], ["", *item_of]


def read_atomic_metadata(directory: Path, name: str) -> dict[int, dict[str, Any]]:
    """Read ``<name>.item``: id to fields; ``token`` is the item's own name in the file.

    A ``token_seq`` of categories becomes a list; every other cell stays text.

    Raises
    ------
    ValueError
        If a line is malformed or an item has two lines.
    """
    inter, item = _tables(directory, name)
    assert item is not None  # the caller found the file
    item_of = _item_ids(inter, item)
    metadata: dict[int, dict[str, Any]] = {}
    cells = {name: cells for name, cells in item.columns.items() if name != "item_id"}
    # A token_seq is separated by spaces, in a title as in a list of genres; only the latter is
    # a list of things.
    lists = {n for n in cells if canonical_name(n) == "category" and item.types[n] == "token_seq"}
    for row, token in enumerate(item.columns["item_id"]):
        if item_of[token] in metadata:
            raise ValueError(
                f"{item.path}, line {item.lines[row]}: item {token!r} already has a "
                "line; remove one of them"
            )
        fields = {
            n: column[row].split() if n in lists else column[row] for n, column in cells.items()
        }
        metadata[item_of[token]] = {"token": token, **fields}
    return dict(sorted(metadata.items()))


def _tables(directory: Path, name: str) -> tuple[AtomicTable | None, AtomicTable | None]:
    inter, item = atomic_file(directory, name, "inter"), atomic_file(directory, name, "item")
    return (
        read_atomic(inter, ("user_id", "item_id")) if inter else None,
        read_atomic(item, ("item_id",)) if item else None,
    )


def _item_ids(*tables: AtomicTable | None) -> dict[str, int]:
    return number_tokens(token for table in tables if table for token in table.columns["item_id"])


def _times(table: AtomicTable) -> np.ndarray:
    try:
        times = np.array(table.columns["timestamp"], dtype=np.float64)
    except ValueError:
        times = np.array([_number(cell) for cell in table.columns["timestamp"]])
    bad = np.flatnonzero(~np.isfinite(times))
    if bad.size:
        cell = table.columns["timestamp"][bad[0]]
        raise ValueError(
            f"{table.path}, line {table.lines[bad[0]]}: timestamp {cell!r} is no "
            "number; write seconds, or leave the whole column out"
        )
    return times


def _number(cell: str) -> float:
    try:
        return float(cell)
    except ValueError:
        return float("nan")
