"""Interactions as rows of a table, and the filters that run before they become sequences."""

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

import numpy as np

from rl4rec_kernels._utils.checks import (
    amount,
    choice,
    number,
    shown,
)
from rl4rec_kernels._utils.values import as_list, is_missing, plain
from rl4rec_kernels.data.atomic import CONTROL, as_tokens, number_ids
from rl4rec_kernels.data.interactions import Interactions
from rl4rec_kernels.data.item_fields import normalize_item
from rl4rec_kernels.data.raw_ids import token_of
from rl4rec_kernels.data.text_tables import Table
from rl4rec_kernels.data.times import read_times, to_seconds
from rl4rec_kernels.ids import RaggedIds, rows_of, to_offsets

logger = logging.getLogger("rl4rec_kernels.data")

Duplicates = Literal["keep", "first", "last"]
DUPLICATES: tuple[Duplicates, ...] = get_args(Duplicates)


class Codes(dict[Any, int]):
    """Numbers tokens from 0 in the order in which they come; keys are values as a file has them.

    A whole number and its text are the same token.
    """

    def __init__(self) -> None:
        super().__init__()
        self.tokens: list[str] = []

    def __missing__(self, value: Any) -> int:
        token = read_id(value)
        if token is value:
            self[value] = len(self.tokens)
            self.tokens.append(token)
        else:
            self[value] = self[token]
        return self[value]

    def encode(
        self, column: str, values: Sequence[object], where: Callable[[int], str]
    ) -> np.ndarray:
        """The numbers of values, int32; ValueError names the first that is not an id."""
        try:
            return np.fromiter(map(self.__getitem__, values), np.int32, len(values))
        except (TypeError, ValueError):
            for row, value in enumerate(values):
                try:
                    read_id(value)
                except (TypeError, ValueError) as error:
                    raise ValueError(f"{where(row)}: {column} {error}") from None
            raise


def read_id(value: object) -> str:
    """Return the token of a user or an item: a text, or a whole number in digits.

    Raises TypeError or ValueError, whose message follows the name of the column.
    """
    if not isinstance(value, str):
        value = plain(value)
    if isinstance(value, str):
        token = value.strip(" ")
        if not token:
            raise ValueError("is empty; fill it or remove the row")
        if CONTROL.search(token):
            raise ValueError(f"{shown(value)} contains a control character; remove it")
        return value if token == value else token
    if is_missing(value):
        raise ValueError("is missing; fill it or remove the row")
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"must be a text or a whole number, got {shown(value)}")
    return str(value)


@dataclass(frozen=True, eq=False)
class Log:
    """Interactions, n of them.

    Attributes
    ----------
    users, items : int32, shape [n]
        Positions in the lists of tokens.
    user_tokens, item_tokens : list of str
        The ids as the file has them.
    times : float64, shape [n], optional
        In seconds since 1970. Without times, rows keep their order.
    notes : list of str
        What was removed.
    """

    users: np.ndarray
    items: np.ndarray
    user_tokens: Sequence[str]
    item_tokens: Sequence[str]
    times: np.ndarray | None = None
    notes: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.users)

    def keep(self, kept: np.ndarray, why: str) -> "Log":
        """Keep the rows of a mask, and note how many were removed."""
        gone = len(self) - int(kept.sum())
        if not gone:
            return self
        if gone == len(self):
            raise ValueError(f"no interaction is left: all {gone:,} were removed, {why}")
        times = None if self.times is None else self.times[kept]
        notes = [*self.notes, f"{gone:,} interactions removed: {why}"]
        rows = {"users": self.users[kept], "items": self.items[kept], "times": times}
        return replace(self, **rows, notes=notes)

    def sorted(self) -> "Log":
        """Order rows by user, then by time, then as they are."""
        keys = [self.users] if self.times is None else [self.times, self.users]
        order = np.lexsort(keys)
        times = None if self.times is None else self.times[order]
        return replace(self, users=self.users[order], items=self.items[order], times=times)

    def without_duplicates(self, duplicates: Duplicates) -> "Log":
        """Keep the first or last of equal items of a user; rows must be sorted."""
        if duplicates == "keep":
            return self
        pairs = self.users.astype(np.int64) * len(self.item_tokens) + self.items
        if duplicates == "last":
            pairs = pairs[::-1]
        kept = np.zeros(len(self), dtype=bool)
        kept[np.unique(pairs, return_index=True)[1]] = True
        if duplicates == "last":
            kept = kept[::-1]
        return self.keep(kept, f"a user's repeats of an item (duplicates={duplicates!r})")

    def core(self, per_user: int, per_item: int) -> "Log":
        """Remove users and items with fewer interactions until none is left."""
        kept = np.ones(len(self), dtype=bool)
        while True:
            users = np.bincount(self.users[kept], minlength=len(self.user_tokens))
            items = np.bincount(self.items[kept], minlength=len(self.item_tokens))
            more = kept & (users[self.users] >= per_user) & (items[self.items] >= per_item)
            if more.sum() == kept.sum():
                break
            kept = more
        why = f"of users with fewer than {per_user} or items with fewer than {per_item}"
        return self.keep(kept, f"{why} (k_core)")

    def to_interactions(
        self, name: str, metadata: Mapping[str, Mapping[str, object]] | None, all_items: bool
    ) -> Interactions:
        """Make sequences of sorted rows, with ids as those of RecBole's files are made."""
        used = np.unique(self.items)
        users = np.unique(self.users)
        tokens = {self.item_tokens[item] for item in used.tolist()}
        if all_items and metadata is not None:
            tokens |= metadata.keys()
        user_of, item_of = number_ids(
            {self.user_tokens[user] for user in users.tolist()}, tokens, len(tokens)
        )
        user_ids = np.zeros(len(self.user_tokens), dtype=np.int64)
        user_ids[users] = [user_of[self.user_tokens[user]] for user in users.tolist()]
        item_ids = np.zeros(len(self.item_tokens), dtype=np.int64)
        item_ids[used] = [item_of[self.item_tokens[item]] for item in used.tolist()]
        ids = user_ids[self.users]
        order = np.argsort(ids, kind="stable")  # users in ascending order
        present, counts = np.unique(ids, return_counts=True)
        if metadata is None:
            metadata = {token: {"title": token} for token in item_of}
        items = {
            item: {"token": token, **normalize_item(metadata.get(token, {}))}
            for token, item in item_of.items()
        }
        return Interactions(
            present,
            RaggedIds(item_ids[self.items[order]], to_offsets(counts)),
            as_tokens(user_of),
            as_tokens(item_of),
            times=None if self.times is None else self.times[order],
            name=name,
            item_metadata=dict(sorted(items.items())),
            notes=tuple(self.notes),
        )


def collect(
    table: Table,
    user: str,
    item: str,
    time: str | None,
    rating: str | None,
    *,
    min_rating: float | None,
    time_format: str | None,
    show: bool,
) -> Log:
    """Read the interactions of a table, dropping low ratings as it goes."""
    names = list(dict.fromkeys(n for n in (user, item, time, rating) if n is not None))
    user_codes, item_codes = Codes(), Codes()
    parts: list[list[np.ndarray]] = [[], [], [], []]
    low = 0
    for columns, lines in table.pieces(names, show):

        def where(row: int, lines: Sequence[int] = lines) -> str:
            return table.where(lines[row])

        arrays = [
            user_codes.encode(user, columns[user], where),
            item_codes.encode(item, columns[item], where),
        ]
        if time is not None:
            arrays += [read_times(columns[time], where, time_format), np.array(lines, np.uint32)]
        if min_rating is not None and rating is not None:
            kept = _ratings(rating, columns[rating], where) >= min_rating
            low += int((~kept).sum())
            arrays = [array[kept] for array in arrays]
        for part, array in zip(parts, arrays, strict=False):
            part.append(array)
    if not sum(map(len, parts[0])):
        why = (
            f"all {low:,} have a rating below min_rating={min_rating}" if low else "it has no rows"
        )
        raise ValueError(f"{table.name} has no interactions: {why}")
    users, items = np.concatenate(parts[0]), np.concatenate(parts[1])
    times = None
    if time is not None:
        lines_of = np.concatenate(parts[3])
        times = to_seconds(np.concatenate(parts[2]), lambda row: table.where(lines_of[row]))
    notes = [f"{low:,} interactions removed: {rating} below {min_rating:g}"] if low else []
    return Log(users, items, user_codes.tokens, item_codes.tokens, times, notes)


def log_of(interactions: Interactions) -> Log:
    """Turn sequences back into rows."""
    sequences = interactions.sequences
    if interactions.target_positions is not None or interactions.given is not None:
        raise ValueError(
            "the files of this data set are split already, so no interactions can be removed; "
            "leave out k_core, duplicates and min_rating"
        )
    item_ids, items = np.unique(sequences.values, return_inverse=True)
    user_tokens, item_tokens = interactions.user_tokens, interactions.item_tokens
    return Log(
        rows_of(sequences).astype(np.int32),
        items.astype(np.int32),
        [token_of(user_tokens, user) for user in interactions.user_ids.tolist()],
        [token_of(item_tokens, item) for item in item_ids.tolist()],
        interactions.times,
    )


def _ratings(column: str, values: Sequence[object], where: Callable[[int], str]) -> np.ndarray:
    try:
        ratings = np.array(values, dtype=np.float64)
    except (TypeError, ValueError):
        ratings = np.array([_rating(value) for value in values])
    bad = np.flatnonzero(np.isnan(ratings))
    if bad.size:
        raise ValueError(
            f"{where(bad[0])}: {column} {shown(values[bad[0]])} is not a number, which min_rating "
            "needs; remove the row"
        )
    return ratings


def _rating(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        return float("nan")


def check_filters(duplicates: object, k_core: object, min_rating: object) -> tuple[int, int]:
    """Check the options of the filters; returns the least interactions per user and per item."""
    choice("duplicates", duplicates, DUPLICATES)
    if min_rating is not None:
        number("min_rating", min_rating, -np.inf, np.inf)
    pair = as_list(k_core)
    if pair is None:
        pair = [k_core, k_core]
    if len(pair) != 2:
        raise ValueError(
            "k_core must be a number, or two, of interactions per user and per item, got "
            f"{shown(k_core)}"
        )
    return amount("k_core", pair[0], 0), amount("k_core", pair[1], 0)


def keep_known(log: Log, known: Collection[str], items_name: str) -> Log:
    """Remove interactions with items that the metadata does not have."""
    mask = np.array([token in known for token in log.item_tokens], dtype=bool)
    unknown = len(mask) - int(mask.sum())
    if mask.size and not mask.any():
        raise ValueError(
            f"no item of the interactions, such as {shown(log.item_tokens[0])}, is in "
            f"{items_name}; pass item_id=, its column with the same ids"
        )
    return log.keep(mask[log.items], f"{unknown:,} items are not in {items_name}")
