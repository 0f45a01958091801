"""The interactions of a dataset: one sequence of items for each user, in time order."""

import os
from array import array
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rl4rec_kernels.data.atomic import atomic_file, read_atomic_interactions
from rl4rec_kernels.data.files import dataset_dir, first_file, numbered_lines, read_text, with_gz
from rl4rec_kernels.ids import RaggedIds, to_offsets

SEQUENCE_FILES = with_gz("sequential_data.txt")


@dataclass(frozen=True, eq=False)
class Interactions:
    """All interactions of a dataset.

    Attributes
    ----------
    user_ids : int64, shape [U]
        The users' ids, in the order of the file.
    sequences : RaggedIds, U rows
        The items of every user in time order, int64, ids from 1.
    user_tokens, item_tokens : list of str, optional
        Original token of every id, for files whose tokens had to be numbered (position 0 is
        padding). None where the file has ids of its own.
    """

    user_ids: np.ndarray
    sequences: RaggedIds
    user_tokens: list[str] | None = None
    item_tokens: list[str] | None = None


def load_interactions(name: str, data_dir: str | os.PathLike[str] | None = None) -> Interactions:
    """Load a dataset's interactions.

    Reads ``sequential_data.txt[.gz]`` (one user a line: ``user item item …`` in time order) or,
    where there is none, RecBole's ``<name>.inter[.gz]``.

    Parameters
    ----------
    name, data_dir
        See `rl4rec_kernels.data.files.dataset_dir`.

    Raises
    ------
    FileNotFoundError
        If the directory or the file is missing.
    ValueError
        If a line is malformed; the message names the file and the line.
    """
    directory = dataset_dir(name, data_dir)
    path = first_file(directory, SEQUENCE_FILES)
    if path is not None:
        return read_sequences(path)
    path = atomic_file(directory, name, "inter")
    if path is not None:
        return Interactions(*read_atomic_interactions(directory, name))
    raise FileNotFoundError(
        f"{directory} has no interactions: put there sequential_data.txt (one user a line: "
        f"user item item …, in time order) or RecBole's {name}.inter, plain or with .gz"
    )


def read_sequences(path: Path) -> Interactions:
    """Read a file of lines ``user item item …``; ids are whole numbers, items start at 1.

    Raises
    ------
    ValueError
        If a line is malformed; the message names the file and the line.
    """
    users, values, lengths = array("q"), array("q"), array("q")
    line_of: dict[int, int] = {}
    for number, line in numbered_lines(read_text(path)):
        where = f"{path}, line {number}"
        user, *items = _ids(line.split(), where)
        if user in line_of:
            raise ValueError(
                f"{where}: user {user} already stands in line {line_of[user]}; "
                "join the two lines in time order"
            )
        if not items:
            raise ValueError(f"{where}: user {user} has no items; remove the line")
        if 0 in items:
            raise ValueError(
                f"{where}: item id 0 is kept for padding; items start at 1, so add 1 "
                "to every item id here and in the metadata"
            )
        line_of[user] = number
        users.append(user)
        values.extend(items)
        lengths.append(len(items))
    if not users:
        raise ValueError(f"{path} is empty; it must have one line a user: user item item …")
    sequences = RaggedIds(np.array(values, dtype=np.int64), to_offsets(lengths))
    return Interactions(np.array(users, dtype=np.int64), sequences)


def _ids(fields: list[str], where: str) -> list[int]:
    """Convert the fields of one line to ids, or name the field that is none."""
    # isdigit also takes digits of other scripts and superscripts, so ASCII is asked for as well.
    joined = "".join(fields)
    if joined.isascii() and joined.isdigit() and all(len(field) < 19 for field in fields):
        return list(map(int, fields))
    bad = next(f for f in fields if not (f.isascii() and f.isdigit() and len(f) < 19))
    raise ValueError(
        f"{where}: {bad[:40]!r} is no id; ids are whole numbers from 0 to 10^18, separated by "
        "spaces. Number the users and items from 1, or use RecBole's atomic files, which take names"
    )
