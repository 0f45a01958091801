"""Folders that other projects publish: OpenP5, LC-Rec, MiniOneRec, P5."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from rl4rec_kernels._utils.checks import shown
from rl4rec_kernels.data.atomic import as_tokens, number_ids
from rl4rec_kernels.data.files import first_file, with_gz
from rl4rec_kernels.data.interactions import GivenSamples, Interactions
from rl4rec_kernels.data.item_fields import normalize_item
from rl4rec_kernels.data.lines import read_lines
from rl4rec_kernels.data.log import Codes, Log, read_id
from rl4rec_kernels.data.splits import SPLITS
from rl4rec_kernels.data.text_tables import ObjectTable, SeparatedTable, read_json_object
from rl4rec_kernels.ids import RaggedIds

Items = dict[str, dict[str, Any]]


def folder_layout(directory: Path) -> str | None:
    """Which of these layouts a folder has, by the names of its files."""
    if first_file(directory, with_gz("user_sequence.txt")):
        return "openp5"
    if any(directory.glob("*.inter.json")):
        return "lc-rec"
    if all((directory / split).is_dir() for split in SPLITS):
        return "minionerec"
    return None


def read_openp5(directory: Path) -> tuple[Log, Items | None]:
    """Read ``user_sequence.txt`` and, if it exists, ``item_plain_text.txt``.

    A line of the first is ``user item item …``, oldest first (agiresearch/OpenP5,
    src/src_t5/utils/indexing.py). A line of the second is ``item title: …; brand: …``, as in the
    data of GRAM, which has the same layout.
    """
    path = first_file(directory, with_gz("user_sequence.txt"))
    if path is None:
        raise FileNotFoundError(f"{directory} has no user_sequence.txt")
    log = _log_of_rows((f"{path}, line {n}", line.split()) for n, line in read_lines(path))
    texts = first_file(directory, with_gz("item_plain_text.txt"))
    if texts is None:
        return log, None
    items: Items = {}
    for _, line in read_lines(texts):
        token, _, text = line.strip().partition(" ")
        parts = re.split(r"(?:^|; )([a-z][a-z _]*): ", text)
        fields = dict(zip(parts[1::2], parts[2::2], strict=True)) if len(parts) > 1 else {}
        items.setdefault(token, fields or {"title": text})
    return log, items


def _log_of_rows(rows: Iterator[tuple[str, list[Any]]]) -> Log:
    """Rows ``user item item …``."""
    user_codes, item_codes = Codes(), Codes()
    users: list[np.ndarray] = []
    items: list[np.ndarray] = []
    for where, row in rows:
        if not row:
            continue
        user, *sequence = row
        if not sequence:
            raise ValueError(f"{where}: user {shown(user)} has no items; remove the line")
        code = user_codes.encode("the user", [user], lambda _, where=where: where)  # type: ignore[misc]
        if len(users) > int(code[0]):
            raise ValueError(f"{where}: user {shown(user)} already has a line; join the two")
        users.append(np.full(len(sequence), code[0], np.int32))
        items.append(item_codes.encode("an item", sequence, lambda _, where=where: where))  # type: ignore[misc]
    if not users:
        raise ValueError("the file of sequences is empty")
    return Log(np.concatenate(users), np.concatenate(items), user_codes.tokens, item_codes.tokens)


def read_lc_rec(directory: Path) -> tuple[Log, Items | None]:
    """Read ``<name>.inter.json`` and ``<name>.item.json``.

    The first is an object of users with the list of their items, oldest first, the second of items
    with their fields (zhengbw0324/LC-Rec, data.py and data_process/amazon18_data_process.py). The
    splits that are beside them are the leave-one-out split, with histories of at most 50 items.
    """
    path = _only(directory, "*.inter.json")
    content = read_json_object(path)
    for user, sequence in content.items():
        if not isinstance(sequence, list):
            raise ValueError(f"{path}: user {shown(user)} must have a list of items")
    rows = ((f"{path}, user {user}", [user, *row]) for user, row in content.items() if row)
    log = _log_of_rows(rows)
    meta = path.with_name(path.name.removesuffix(".inter.json") + ".item.json")
    return log, _objects(meta) if meta.is_file() else None


def _objects(path: Path) -> Items:
    content = read_json_object(path)
    for key, fields in content.items():
        if not isinstance(fields, dict):
            raise ValueError(f"{path}: item {shown(key)} must be an object of fields")
    return content


def read_minionerec(directory: Path, name: str) -> Interactions:
    """Read ``train/*.csv``, ``valid/*.csv``, ``test/*.csv``, and ``index/*.item.json``.

    Each row is a sample: ``user_id``, ``item_id`` and ``history_item_id``, a list in Python's
    notation of at most ten items (AkaliKong/MiniOneRec, data.py and convert_dataset.py). Titles
    are those of ``index/<name>.item.json`` or, without it, of ``info/*.txt``.
    """
    user_codes, item_codes = Codes(), Codes()
    read: dict[str, tuple[np.ndarray, RaggedIds, np.ndarray]] = {}
    for split in SPLITS:
        table = SeparatedTable(_only(directory / split, "*.csv", name))
        wanted = ["user_id", "history_item_id", "item_id"]
        missing = [column for column in wanted if column not in table.columns]
        if missing:
            raise ValueError(
                f"{table.name} has no column {missing[0]}; its columns are "
                f"{', '.join(table.columns)}"
            )
        users, targets, histories = [], [], []
        for columns, lines in table.pieces(wanted, False):

            def where(row: int, lines: Any = lines, table: SeparatedTable = table) -> str:
                return table.where(lines[row])

            users.append(user_codes.encode("user_id", columns["user_id"], where))
            targets.append(item_codes.encode("item_id", columns["item_id"], where))
            for row, cell in enumerate(columns["history_item_id"]):
                at = where(row)
                items = _python_list(cell, at)
                histories.append(
                    item_codes.encode("history_item_id", items, lambda _, at=at: at)  # type: ignore[misc]
                )
        if not users:
            raise ValueError(f"{table.name} has no rows")
        ragged = RaggedIds.from_lists(histories)
        read[split] = np.concatenate(users), ragged, np.concatenate(targets)
    user_of, item_of = number_ids(
        set(user_codes.tokens), set(item_codes.tokens), len(item_codes.tokens)
    )
    items_by_code = np.array([item_of[token] for token in item_codes.tokens])
    position = {token: i for i, token in enumerate(user_of)}
    rows_by_code = np.array([position[token] for token in user_codes.tokens])
    given: dict[str, GivenSamples] = {}
    for part, (codes, ragged, codes_of_targets) in read.items():
        rows = rows_by_code[codes]
        order = np.argsort(rows, kind="stable")
        lists = [ragged.values[ragged.offsets[i] : ragged.offsets[i + 1]] for i in order.tolist()]
        histories_of = RaggedIds.from_lists([items_by_code[row] for row in lists])
        given[part] = GivenSamples(
            rows[order], histories_of, items_by_code[codes_of_targets][order]
        )
    seen: list[dict[int, None]] = [{} for _ in user_of]
    for samples in given.values():
        starts = samples.histories.offsets.tolist()
        values = samples.histories.values.tolist()
        for i, (row, target) in enumerate(
            zip(samples.rows.tolist(), samples.targets.tolist(), strict=True)
        ):
            seen[row].update(dict.fromkeys([*values[starts[i] : starts[i + 1]], target]))
    titles = _minionerec_items(directory, name)
    return Interactions(
        np.fromiter(user_of.values(), np.int64),
        RaggedIds.from_lists([list(row) for row in seen]),
        as_tokens(user_of),
        as_tokens(item_of),
        given=given,
        name=name,
        item_metadata={
            item: {"token": token, **normalize_item(titles.get(token, {}))}
            for token, item in item_of.items()
        },
    )


def _minionerec_items(directory: Path, name: str) -> Items:
    if (directory / "index").is_dir() and any((directory / "index").glob("*.item.json")):
        return _objects(_only(directory / "index", "*.item.json", name))
    if not (directory / "info").is_dir():
        return {}
    items: Items = {}
    path = _only(directory / "info", "*.txt", name)
    for number, line in read_lines(path):  # semantic id, title, item id
        cells = line.rstrip("\r\n").split("\t")
        if len(cells) != 3:
            raise ValueError(f"{path}, line {number}: {len(cells)} cells, but there must be 3")
        items[cells[2]] = {"title": cells[1]}
    return items


def _python_list(cell: Any, where: str) -> list[Any]:
    try:
        items = ast.literal_eval(cell)
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        items = None
    if not isinstance(items, list):
        raise ValueError(f"{where}: history_item_id {shown(cell)} is not a list of items")
    return items


def _only(directory: Path, pattern: str, name: str = "") -> Path:
    """The only file of a pattern; of several, the one that begins with the data set's name."""
    found = sorted(directory.glob(pattern))
    if len(found) > 1:
        found = [path for path in found if name and path.name.startswith(name)] or found
    if len(found) != 1:
        names = ", ".join(path.name for path in found) or "no such file"
        raise ValueError(
            f"{directory} must have one file {pattern}, got {names}; pass name=, with which one "
            "of them begins"
        )
    return found[0]


def read_p5_items(directory: Path) -> Items | None:
    """Read the items of P5, by the ids of ``sequential_data.txt``; None if it is not P5's folder.

    ``meta.json.gz`` has Python's dicts by ``asin``, and ``datamaps.json`` the ids of these as
    ``item2id`` (jeykigung/P5, src/pretrain_data.py).
    """
    maps, meta = directory / "datamaps.json", first_file(directory, with_gz("meta.json"))
    if not maps.is_file() or meta is None:
        return None
    ids = read_json_object(maps).get("item2id")
    if not isinstance(ids, dict):
        raise ValueError(f"{maps} has no object item2id")
    items: Items = {}
    table = ObjectTable(meta)
    for line, row in table.rows(False):
        try:
            token = ids.get(read_id(row.get("asin")))
        except (TypeError, ValueError) as error:
            raise ValueError(f"{table.where(line)}: asin {error}") from None
        if token is not None:
            items.setdefault(read_id(token), dict(row))
    return items
