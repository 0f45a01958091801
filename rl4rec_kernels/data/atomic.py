"""RecBole's atomic files: ``<name>.inter`` and ``<name>.item``, tab separated with typed headers.

If the tokens of all users and items are whole numbers, and those of the items can be rows of a
table (they are from 1 and not sparse), they are the ids. Otherwise tokens get ids from 1, without
gaps, in an order that does not depend on the order of the lines: numerical order if all tokens are
decimal numbers, otherwise by code point; `RawIds` turns them back. Items are numbered over
``.inter`` and ``.item`` together, so the ids of the interactions and of the metadata always agree.

As in RecBole, a data set that is already split has ``<name>.train.inter``, ``<name>.valid.inter``
and ``<name>.test.inter`` instead of ``<name>.inter``, and a column ``item_id_list`` has the items
before the ``item_id`` of its row.
"""

import csv
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
from rl4rec_kernels.data.splits import SPLITS
from rl4rec_kernels.data.times import read_times, to_seconds
from rl4rec_kernels.ids import RaggedIds, is_sparse, to_offsets

CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")

TYPES = ("token", "token_seq", "float", "float_seq")
HISTORY = "item_id_list"


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


def interaction_files(directory: Path, name: str) -> dict[str, Path]:
    """Return the files of interactions by split, or as ``""`` the one file of all interactions.

    Raises ValueError if there are both.
    """
    whole = atomic_file(directory, name, "inter")
    parts: dict[str, Path] = {
        split: path
        for split in SPLITS
        if (path := atomic_file(directory, f"{name}.{split}", "inter"))
    }
    if whole and parts:
        others = ", ".join(path.name for path in parts.values())
        raise ValueError(
            f"{directory} has {whole.name} and the splits {others}; keep one of the two"
        )
    return {"": whole} if whole else parts


def read_atomic(path: Path, required: Iterable[str]) -> AtomicTable:
    """Read an atomic file.

    Raises ValueError if the header or a line is malformed, or a required column is missing or has
    empty cells.
    """
    text = read_text(path)
    lines = numbered_lines(text)
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
    for name in required:
        if types[name].endswith("_seq"):
            raise ValueError(
                f"{path}, line {number}: {name} has the type {types[name]}, but each row must have "
                f"one; use the type token, and {HISTORY}:token_seq for the items before"
            )
    cells, numbers = _cells(path, text, lines[1:], len(heads))
    if not numbers:
        raise ValueError(f"{path} has a header but no rows")
    columns = {
        name: [cell.strip(" ") for cell in cells[i :: len(heads)]] for i, name in enumerate(types)
    }
    table = AtomicTable(path, columns, types, numbers)
    for name in required:
        if "" in columns[name]:
            number = table.lines[columns[name].index("")]
            raise ValueError(f"{path}, line {number}: {name} is empty; fill it or remove the line")
        if CONTROL.search("".join(columns[name])):
            bad = next(i for i, cell in enumerate(columns[name]) if CONTROL.search(cell))
            raise ValueError(
                f"{path}, line {table.lines[bad]}: {name} {shown(columns[name][bad])} contains a "
                "control character; remove it"
            )
    return table


def _cells(
    path: Path, text: str, lines: list[tuple[int, str]], width: int
) -> tuple[list[str], list[int]]:
    """Split rows of `width` cells: one list of all cells, and the number of each row's first line.

    Quotes are those of Python's csv module in strict mode, by which RecBole reads these files
    (pandas with ``engine="python"``, `Dataset._load_feat` of RecBole 1.2): a cell that begins with
    ``"`` ends at the next single ``"``, and ``""`` inside is one.
    """
    if '"' not in text:  # one list, sliced by column: a list per row is several times slower
        wrong = [(number, line) for number, line in lines if line.count("\t") + 1 != width]
        if wrong:
            number, line = wrong[0]
            raise ValueError(_WRONG_WIDTH.format(path, number, line.count("\t") + 1, width))
        return "\t".join(line for _, line in lines).split("\t"), [number for number, _ in lines]
    cells: list[str] = []
    numbers: list[int] = []
    end = lines[0][0] - 1 if lines else 0
    rows = csv.reader((line + "\n" for line in text.split("\n")[end:]), delimiter="\t", strict=True)
    first = end + 1
    try:
        for row in rows:
            if len(row) > 1 or (row and not row[0].isspace() and row[0]):
                if len(row) != width:
                    raise ValueError(_WRONG_WIDTH.format(path, first, len(row), width))
                cells += row
                numbers.append(first)
            first = end + rows.line_num + 1
    except csv.Error as error:
        raise ValueError(
            f'{path}, line {first}: {error}; a cell that begins with " must end with ", and one '
            'inside is written as ""'
        ) from None
    return cells, numbers


_WRONG_WIDTH = (
    "{}, line {}: {} cells, but the header has {} columns; separate them with single tabs"
)


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
) -> tuple[np.ndarray, RaggedIds, Tokens, Tokens, np.ndarray | None, np.ndarray | None]:
    """Read the interactions: what `Interactions` has, in the same order.

    A user's interactions are sorted by ``timestamp`` if the file has that column; otherwise, and
    among equal timestamps, they keep their order in the file. Every row counts as an interaction,
    whatever its rating. Only files that are split give the positions of the targets, see
    `Interactions`.

    Raises ValueError if a row means something else, such as a negative.
    """
    tables, user_of, item_of = _read_tables(directory, name)
    tables.pop("item", None)
    for table in tables.values():
        _check_meaning(table)
    with_history = [HISTORY in table.columns for table in tables.values()]
    if any(with_history) != all(with_history):
        table = list(tables.values())[with_history.index(False)]
        raise ValueError(f"{table.path} has no column {HISTORY}, but the other splits do; add it")
    read = _read_histories if any(with_history) else _read_rows
    row_of = {token: row for row, token in enumerate(user_of)}
    sequences, positions, times = read(tables, row_of, item_of)
    return (
        np.fromiter(user_of.values(), dtype=np.int64, count=len(user_of)),
        sequences,
        as_tokens(user_of),
        as_tokens(item_of),
        None if "" in tables else positions,
        times,
    )


def _check_meaning(table: AtomicTable) -> None:
    """Raise ValueError if a row is not one interaction of its user with its item."""
    where = f"{table.path}, line 1:"
    for column, kind in table.types.items():
        if column == HISTORY and kind != "token_seq":
            raise ValueError(f"{where} {HISTORY} must have the type token_seq, got {kind}")
        if column.startswith("neg_") or (column.endswith("_id_list") and column != HISTORY):
            raise ValueError(
                f"{where} the column {column} is not supported, since it may change what a row "
                f"means; only {HISTORY} may list ids. Remove it, and pass negatives to "
                "RecommendationDataset.with_negatives"
            )
    for row, label in enumerate(table.columns.get("label", ())):
        if _float_or_nan(label) <= 0:
            raise ValueError(
                f"{table.path}, line {table.lines[row]}: label {shown(label)} is not that of an "
                "interaction; remove such lines, or the column"
            )


def _read_rows(
    tables: dict[str, AtomicTable], row_of: dict[str, int], item_of: dict[str, int]
) -> tuple[RaggedIds, np.ndarray, np.ndarray | None]:
    """Read rows of one interaction each: sequences, the last position in each split, times."""
    keys: list[tuple[np.ndarray, ...]] = []
    items: list[int] = []
    last = np.full((len(SPLITS), len(row_of)), -1)
    length = np.zeros(len(row_of), dtype=np.int64)
    for part, (split, table) in enumerate(tables.items()):
        here = np.array([row_of[token] for token in table.columns["user_id"]], dtype=np.int64)
        counts = np.bincount(here, minlength=len(row_of))
        if split in SPLITS[1:] and counts.max() > 1:
            order = np.argsort(here, kind="stable")
            again = order[1:][here[order][1:] == here[order][:-1]].min()
            raise ValueError(
                f"{table.path}, line {table.lines[again]}: user "
                f"{shown(table.columns['user_id'][again])} already has a line; keep one, the "
                "target of this split"
            )
        length += counts
        if split:
            last[SPLITS.index(split)] = np.where(counts > 0, length - 1, -1)
        items += [item_of[token] for token in table.columns["item_id"]]
        times = _times(table) if "timestamp" in table.columns else np.zeros(len(here))
        keys.append((times, np.full(len(here), part), here))
    # lexsort is stable, and its last key is the primary one.
    order = np.lexsort([np.concatenate(key) for key in zip(*keys, strict=True)])
    with_times = all("timestamp" in table.columns for table in tables.values())
    sequences = RaggedIds(np.array(items, dtype=np.int64)[order], to_offsets(length))
    ordered = np.concatenate([key[0] for key in keys])[order] if with_times else None
    return sequences, last, ordered


def _read_histories(
    tables: dict[str, AtomicTable], row_of: dict[str, int], item_of: dict[str, int]
) -> tuple[RaggedIds, np.ndarray, None]:
    """Read rows with the history of their item, as `_read_rows`.

    All rows of a user must belong to one sequence, each being the beginning of the longest.
    """
    last = np.full((len(SPLITS), len(row_of)), -1)
    rows: dict[str, list[tuple[list[int], str, AtomicTable, int]]] = {}
    for split, table in tables.items():
        cells = zip(*(table.columns[n] for n in ("user_id", HISTORY, "item_id")), strict=True)
        for line, (user, history, item) in zip(table.lines, cells, strict=True):
            sequence = [item_of[token] for token in (*history.split(), item)]
            rows.setdefault(user, []).append((sequence, split, table, line))
    sequences = []
    for user, row in row_of.items():
        longest = max((known[0] for known in rows[user]), key=len)
        for sequence, split, table, line in rows[user]:
            position = len(sequence) - 1
            if sequence != longest[: len(sequence)]:
                raise ValueError(
                    f"{table.path}, line {line}: the history of user {shown(user)} is not the "
                    "beginning of that in another line; write all items before item_id, oldest "
                    "first, in each line"
                )
            if not split:
                continue
            index = SPLITS.index(split)
            if index and last[index, row] >= 0:
                raise ValueError(
                    f"{table.path}, line {line}: user {shown(user)} already has a line; keep "
                    "one, with the target of this split"
                )
            last[index, row] = max(position, last[index, row])
        sequences.append(longest)
    return RaggedIds.from_lists(sequences), last, None


def read_atomic_metadata(directory: Path, name: str) -> dict[int, dict[str, Any]]:
    """Read ``<name>.item``: id to fields; ``token`` is the item's own name in the file.

    A ``token_seq`` of categories becomes a list; every other cell stays text.
    """
    tables, _, item_of = _read_tables(directory, name)
    item = tables["item"]
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
    directory: Path, name: str
) -> tuple[dict[str, AtomicTable], dict[str, int], dict[str, int]]:
    """Read the files of interactions by split, and as ``"item"`` that of items, if it exists.

    Also returns the ids of the users and items in all of them, in ascending order.
    """
    tables = {
        split: read_atomic(path, ("user_id", "item_id"))
        for split, path in interaction_files(directory, name).items()
    }
    users = {token for table in tables.values() for token in table.columns["user_id"]}
    if path := atomic_file(directory, name, "item"):
        tables["item"] = read_atomic(path, ("item_id",))
    items: set[str] = set()
    for table in tables.values():
        items.update(table.columns["item_id"])
        for history in table.columns.get(HISTORY, ()):
            items.update(history.split())
    known = len(set(tables["item"].columns["item_id"])) if "item" in tables else len(items)
    return tables, *number_ids(users, items, known)


def number_ids(
    users: set[str], items: set[str], known: int
) -> tuple[dict[str, int], dict[str, int]]:
    """The ids of the tokens of all users and items, in ascending order.

    `known` is the number of items with metadata, from which a table is sparse.
    """
    if all(map(is_number_token, users | items)):
        user_of, item_of = (
            {token: int(token) for token in sorted(t, key=int)} for t in (users, items)
        )
        if min(item_of.values()) > 0 and not is_sparse(max(item_of.values()), known):
            return user_of, item_of
    return number_tokens(users), number_tokens(items)


def as_tokens(ids: dict[str, int]) -> Tokens:
    """The token of each id: a list, unless there are gaps."""
    if list(ids.values()) == list(range(1, len(ids) + 1)):
        return ["", *ids]
    return {item: token for token, item in ids.items()}


def _times(table: AtomicTable) -> np.ndarray:
    def where(row: int) -> str:
        return f"{table.path}, line {table.lines[row]}"

    return to_seconds(read_times(table.columns["timestamp"], where), where)


def _float_or_nan(cell: str) -> float:
    try:
        return float(cell)
    except ValueError:
        return float("nan")
