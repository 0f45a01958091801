"""A sample's label as one JSON text, for trainers that have a single label column."""

import json
from collections.abc import Mapping, Sequence
from numbers import Integral
from typing import Any, NamedTuple

_REMEDY = "write it with export_dataset, or as write_label(target, history, neg_items)"


class Label(NamedTuple):
    """What a reward needs to know about a sample besides the text.

    Attributes
    ----------
    target : int
        The true next item.
    history : list of int
        The items the user interacted with before.
    neg_items : list of int
        The negatives; if empty, the target is ranked among all items.
    """

    target: int
    history: list[int]
    neg_items: list[int]


def write_label(target: int, history: Sequence[int] = (), neg_items: Sequence[int] = ()) -> str:
    """Return the label of a sample as JSON text."""
    label = Label(int(target), [int(item) for item in history], [int(item) for item in neg_items])
    return json.dumps(label._asdict(), separators=(",", ":"))


def read_label(label: Any) -> Label:
    """Read a label: the text of `write_label`, a mapping with the same keys, or the target alone.

    Raises
    ------
    TypeError, ValueError
        If it is something else; the message shows it.
    """
    if isinstance(label, str):
        try:
            label = json.loads(label)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"label {label[:60]!r} is not JSON ({error}); {_REMEDY}") from None
    if _is_id(label):
        label = {"target": label}
    if not isinstance(label, Mapping):
        raise TypeError(f"label must be JSON text or a mapping, got {label!r}; {_REMEDY}")
    target = label.get("target")
    if target is None:
        given = ", ".join(map(str, label)) or "nothing"
        raise ValueError(f"label has no target, only {given}; {_REMEDY}")
    if not _is_id(target):
        raise TypeError(f"label: target must be an item id, got {target!r}")
    return Label(int(target), _ids("history", label), _ids("neg_items", label))


def _is_id(item: Any) -> bool:
    return isinstance(item, Integral) and not isinstance(item, bool)


def _ids(name: str, label: Mapping[str, Any]) -> list[int]:
    """The ids under a name, which may be missing, None, a list, a tuple or an array."""
    ids = label.get(name)
    if ids is None:
        return []
    if isinstance(ids, str | bytes | Mapping) or not hasattr(ids, "__iter__"):
        raise TypeError(f"label: {name} must be a list of item ids, got {ids!r}")
    ids = list(ids)
    for item in ids:
        if not _is_id(item):
            raise TypeError(f"label: {name} must contain only item ids, got {item!r}")
    return [int(item) for item in ids]
