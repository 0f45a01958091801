"""The interactions of a dataset: one sequence of items per user, in time order."""

import re
from array import array
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from rl4rec_kernels._utils.checks import shown
from rl4rec_kernels.data.atomic import interaction_files, read_atomic_interactions
from rl4rec_kernels.data.files import (
    first_file,
    is_whole_number,
    line_at,
    numbered_lines,
    read_text,
    with_gz,
)
from rl4rec_kernels.data.raw_ids import Tokens
from rl4rec_kernels.ids import RaggedIds, most_rows, to_offsets

SEQUENCE_FILES = with_gz("sequential_data.txt")
_ODD_SPACE = re.compile(r"[^\S \t\n]")


class GivenSamples(NamedTuple):
    """Samples that a file has, S of them.

    Attributes
    ----------
    rows : int64, shape [S]
        The position of each sample's user in `Interactions.user_ids`, in ascending order.
    histories : RaggedIds, S rows
        The items before the target, oldest first, perhaps only the latest.
    targets : int64, shape [S]
        The next items.
    """

    rows: np.ndarray
    histories: RaggedIds
    targets: np.ndarray


@dataclass(frozen=True, eq=False)
class Interactions:
    """All interactions of a dataset.

    Attributes
    ----------
    user_ids : int64, shape [U]
        The users' ids, in the order of the file.
    sequences : RaggedIds, U rows
        The items of every user in time order, int64, ids from 1.
    user_tokens, item_tokens : list of str, or dict of int to str, optional
        The token of every id in RecBole's files: a list if ids are numbered (index 0 is padding), a
        dict if they are the file's own numbers, with gaps.
    target_positions : int64, shape [3, U], optional
        If the files are split: where in a user's sequence the targets of train, valid and test are,
        −1 if there is none. Otherwise they are a user's last items.
    times : float64, shape [nnz], optional
        When each interaction was, in seconds since 1970, or in another unit if it is not a time.
    given : mapping of str to GivenSamples, optional
        The samples of each split, if the files have them instead of sequences.
    name : str
        The data set's name.
    item_metadata : dict of int to dict, optional
        Item id to its fields, if they were read together with the interactions.
    notes : tuple of str
        What `read_interactions` removed.
    """

    user_ids: np.ndarray
    sequences: RaggedIds
    user_tokens: Tokens | None = None
    item_tokens: Tokens | None = None
    target_positions: np.ndarray | None = None
    times: np.ndarray | None = None
    given: Mapping[str, GivenSamples] | None = None
    name: str = ""
    item_metadata: dict[int, dict[str, Any]] | None = None
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        users, items = len(self.user_ids), np.unique(self.sequences.values).size
        head = f"{self.name or 'interactions'}: {users:,} users, {items:,} items"
        lines = [f"{head}, {self.sequences.values.size:,} interactions", *self.notes]
        return "\n  - ".join(lines)


def read_prepared(directory: Path, name: str) -> Interactions | None:
    """Read ``sequential_data.txt`` or RecBole's ``<name>.inter`` in a folder; None without them.

    Raises ValueError if a line is malformed; the message names the file and the line.
    """
    if path := first_file(directory, SEQUENCE_FILES):
        found = read_sequences(path)
        items = found.sequences.values
        if items.max() >= most_rows(len(items)):
            raise ValueError(
                f"{path} has item {items.max()}, but the ids of {len(items)} interactions must be "
                f"less than {most_rows(len(items))}; number the items from 1, here and in the "
                "metadata"
            )
        return found
    if interaction_files(directory, name):
        return Interactions(*read_atomic_interactions(directory, name))
    return None


def read_sequences(path: Path) -> Interactions:
    """Read a file of lines ``user item item …``; ids are whole numbers, items start at 1.

    Raises ValueError if a line is malformed; the message names the file and the line.
    """
    users, items, lengths = array("q"), array("q"), array("q")
    line_of: dict[int, int] = {}
    text = read_text(path)
    if odd := _ODD_SPACE.search(text):  # which str.split takes for a separator
        raise ValueError(
            f"{line_at(path, text, odd.start())} {shown(odd[0])} is not a separator; separate "
            "ids with spaces and users with line ends"
        )
    for number, line in numbered_lines(text):
        where = f"{path}, line {number}"
        user, *sequence = _parse_ids(line.split(), where)
        if user in line_of:
            raise ValueError(
                f"{where}: user {user} is already in line {line_of[user]}; join the two lines in "
                "time order"
            )
        if not sequence:
            raise ValueError(f"{where}: user {user} has no items; remove the line")
        if 0 in sequence:
            raise ValueError(
                f"{where}: item id 0 is reserved for padding; add 1 to every item id, here and in "
                "the metadata"
            )
        line_of[user] = number
        users.append(user)
        items.extend(sequence)
        lengths.append(len(sequence))
    if not users:
        raise ValueError(f"{path} is empty; it must have one line per user: user item item …")
    sequences = RaggedIds(np.array(items, dtype=np.int64), to_offsets(lengths))
    return Interactions(np.array(users, dtype=np.int64), sequences)


def _parse_ids(fields: list[str], where: str) -> list[int]:
    bad = next((field for field in fields if not is_whole_number(field)), None)
    if bad is None:
        return list(map(int, fields))
    raise ValueError(
        f"{where}: {shown(bad[:40])} is not an id; ids are whole numbers from 0 to 10^18, "
        "separated by spaces. Number the users and items, or use RecBole's atomic files, which may "
        "contain names"
    )
