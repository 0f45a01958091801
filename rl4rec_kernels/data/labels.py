"""The label of a sample, and the one strict reader of item ids, which all adapters share."""

import json
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any, NamedTuple

import numpy as np

from rl4rec_kernels._utils.arrays import SupportsArray
from rl4rec_kernels._utils.checks import flag, shown, text
from rl4rec_kernels._utils.values import as_list, is_missing, plain
from rl4rec_kernels.ids import (
    IdList,
    IdLists,
    RaggedIds,
    TargetIds,
    as_ragged,
    check_some_targets,
    check_targets,
    has_several,
)

_REMEDY = "write it with export_dataset, or as write_label(target, history, neg_items)"

Id = int | str
"""A row of the table, or, as a text, the id of an item in the data set's own file."""

RawRow = IdList | Sequence[Id] | None
RawRows = IdLists | Sequence[RawRow] | SupportsArray
RawTargets = TargetIds | Sequence[Id | RawRow]
"""Ids as rewards take them; None is an empty row."""


class Label(NamedTuple):
    """What a reward needs to know about a sample besides the text.

    Attributes
    ----------
    target : int or list of int
        The true next item, or several, as after a ratio split. In all fields, a text is the id of
        an item in the data set's own file.
    history : list of int
        The items the user interacted with before.
    neg_items : list of int
        The negatives; if empty, the target is ranked among all items.
    """

    target: Id | list[Id]
    history: list[Id]
    neg_items: list[Id]


def write_label(
    target: Id | Sequence[Id],
    history: Sequence[Id] = (),
    neg_items: Sequence[Id] = (),
    *,
    raw_ids: bool = False,
) -> str:
    """Return the label of a sample as JSON text; `target` may be several items.

    With `raw_ids`, ids may be texts, those of the data set's own file.

    Raises
    ------
    TypeError
        If an id is not a whole number; see `item_id`.
    """
    raw_ids = flag("raw_ids", raw_ids)
    ids = (
        _target("target", target, raw_ids),
        _ids("history", history, raw_ids),
        _ids("neg_items", neg_items, raw_ids),
    )
    return json.dumps(Label(*ids)._asdict(), separators=(",", ":"))


def read_label(label: object, name: str = "label", *, raw_ids: bool = False) -> Label:
    """Read a label: the text of `write_label`, a mapping with the same keys, or the target alone.

    Ids are read by `item_id` and `item_ids`; with `raw_ids` they may also be texts, those of the
    data set's own file. `name` is what errors call the label.

    Raises
    ------
    TypeError, ValueError
        If it is something else; the message shows it.
    """
    raw_ids = flag("raw_ids", raw_ids)
    text("name", name)
    label = label if isinstance(label, Mapping) else plain(label)
    if isinstance(label, str):
        written = label
        try:
            label = json.loads(written)
        except (ValueError, RecursionError) as error:
            raise ValueError(
                f"{name} {shown(written[:60])} is not JSON ({error}); {_REMEDY}"
            ) from None
    if isinstance(label, int | float) and not isinstance(label, bool):
        label = {"target": label}
    if not isinstance(label, Mapping):
        raise TypeError(f"{name} must be JSON text or a mapping, got {shown(label)}; {_REMEDY}")
    target = label.get("target")
    if is_missing_id(target):
        given = ", ".join(f"{key}={shown(label[key])}" for key in label) or "nothing"
        raise ValueError(f"{name} has no target, only {given}; {_REMEDY}")
    return Label(
        _target(f"{name}: target", target, raw_ids),
        _ids(f"{name}: history", label.get("history"), raw_ids),
        _ids(f"{name}: neg_items", label.get("neg_items"), raw_ids),
    )


def item_id(name: str, value: object) -> int:
    """Read the id of an item.

    Whole numbers of any library, also as a float (3.0, which tables with gaps contain), and arrays
    of one. Bools, texts and other floats are refused.

    Raises
    ------
    TypeError
        If it is not one; the message shows it.
    """
    item = _item_id(value)
    if item is None:
        raise TypeError(f"{name} must be an item id (a whole number), got {shown(value)}")
    return item


def item_ids(name: str, values: object) -> list[int]:
    """Read the ids of several items: a list, an array or a column, without missing values.

    None and NaN, alone or between ids, are left out: a table is padded with them.

    Raises
    ------
    TypeError
        If a value is not an id (see `item_id`); the message shows it.
    """
    ids: list[int] = _ids(name, values, False)
    return ids


def raw_item_id(name: str, value: object) -> Id:
    """As `item_id`, but also a text, the id of an item in the data set's own file."""
    return str(value) if isinstance(value, str) and value else item_id(name, value)


def raw_item_ids(name: str, values: object) -> list[Id]:
    """As `item_ids`, but also texts; see `raw_item_id`."""
    ids: list[Id] = _ids(name, values, True)
    return ids


def item_or_items(name: str, value: object) -> int | list[int]:
    """Read a target: the id of an item, or a list of several ids.

    A list of one is read as that one by `item_id`, as it is in a column that is an array.
    """
    found: int | list[int] = _target(name, value, False)
    return found


def raw_item_or_items(name: str, value: object) -> Id | list[Id]:
    """As `item_or_items`, but also texts; see `raw_item_id`."""
    found: Id | list[Id] = _target(name, value, True)
    return found


def _ids(name: str, values: Any, raw_ids: bool) -> list[Any]:
    rows = as_list(values)
    if rows is None:
        if is_missing_id(values):
            return []
        raise TypeError(f"{name} must be a list of item ids, got {shown(values)}")
    ids: list[Any] = []
    for i, value in enumerate(rows):
        is_raw = raw_ids and isinstance(value, str) and bool(value)
        item = str(value) if is_raw else _item_id(value)
        if item is not None:
            ids.append(item)
        elif not is_missing_id(value):
            raise TypeError(f"{name} must be a list of item ids, got {shown(value)} at {i}")
    return ids


def _target(name: str, value: Any, raw_ids: bool) -> Any:
    rows = as_list(value)
    if rows is not None and len(rows) == 1 and raw_ids:
        value = rows[0]
    if rows is None or len(rows) == 1:
        return raw_item_id(name, value) if raw_ids else item_id(name, value)
    ids = _ids(name, rows, raw_ids)
    if not ids:
        raise ValueError(f"{name} is empty: pass at least one item id")
    return ids


def is_missing_id(value: object) -> bool:
    """Whether a target or a list of ids is None, NaN or NA."""
    value = plain(value)
    return not isinstance(value, list) and is_missing(value)


def read_targets(targets: object, num_rows: int) -> np.ndarray | RaggedIds:
    """Read one id for each row, int64 [num_rows], or some lists of ids; see `item_or_items`."""
    if isinstance(targets, RaggedIds):
        return check_some_targets(targets, num_rows)
    try:
        if not has_several(targets):
            return check_targets(targets, num_rows)  # fast
        rows = as_list(targets)
    except TypeError:
        rows = as_list(targets)
        if rows is None:
            raise
    ids = [item_or_items(f"targets[{i}]", target) for i, target in enumerate(rows or ())]
    return check_some_targets(ids, num_rows)


def read_rows(name: str, rows: object, num_rows: int) -> RaggedIds:
    """Read a list of ids for each row, without padding (-1 or missing); see `item_ids`."""
    try:
        return as_ragged(name, rows, num_rows)  # fast
    except TypeError:
        lists = None if isinstance(rows, RaggedIds) else as_list(rows)
        if lists is None:
            raise
    ids = [item_ids(f"{name}[{i}]", row) for i, row in enumerate(lists)]
    return as_ragged(name, ids, num_rows)


def _item_id(value: object) -> int | None:
    """Return the id, or None if it is not one."""
    if type(value) is int:
        return value
    value = plain(value)
    if isinstance(value, list) and len(value) == 1:
        value = plain(value[0])
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        return value
    if not isinstance(value, float | Decimal) or is_missing(value):
        return None
    # Larger floats are not exact: they may have been another number.
    return int(value) if -(2**53) < value < 2**53 and value == int(value) else None
