"""A sample's label as one JSON text, for trainers that carry a single label column."""

import json
from collections.abc import Mapping, Sequence
from numbers import Integral
from typing import Any, NamedTuple

_REMEDY = "write it with export_dataset, or as write_label(target, history, neg_items)"


class Label(NamedTuple):
    """What a reward needs to know of a sample beside the text.

    Attributes
    ----------
    target : int
        The true next item.
    history : list of int
        What the user had before.
    neg_items : list of int
        The negatives; empty ranks the target among all items.
    """

    target: int
    history: list[int]
    neg_items: list[int]


def write_label(target: int, history: Sequence[int] = (), neg_items: Sequence[int] = ()) -> str:
    """Return the label of a sample as JSON text."""
    content = {
        "target": int(target),
        "history": [int(item) for item in history],
        "neg_items": [int(item) for item in neg_items],
    }
    return json.dumps(content, separators=(",", ":"))


def read_label(label: Any) -> Label:
    """Read a label: the text of `write_label`, a mapping of the same keys, or the target alone.

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
    if isinstance(label, Integral) and not isinstance(label, bool):
        label = {"target": label}
    if not isinstance(label, Mapping):
        raise TypeError(f"label must be JSON text or a mapping, got {label!r}; {_REMEDY}")
    if label.get("target") is None:
        raise ValueError(
            f"label has no target, only {', '.join(map(str, label)) or 'nothing'}; {_REMEDY}"
        )
    target = label["target"]
    if isinstance(target, bool) or not isinstance(target, Integral):
        raise TypeError(f"label: target must be an item id, got {target!r}")
    return Label(int(target), *(_ids(name, label.get(name)) for name in ("history", "neg_items")))


def _ids(name: str, ids: Any) -> list[int]:
    """Turn a list, a tuple, an array or None into a list of ids."""
    if ids is None:
        return []
    if isinstance(ids, str | bytes | Mapping) or not hasattr(ids, "__iter__"):
        raise TypeError(f"label: {name} must be a list of item ids, got {ids!r}")
    ids = list(ids)
    for item in ids:
        if isinstance(item, bool) or not isinstance(item, Integral):
            raise TypeError(f"label: {name} must hold item ids only, got {item!r}")
    return [int(item) for item in ids]
