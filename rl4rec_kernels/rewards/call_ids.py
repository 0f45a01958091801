"""The ids of a call: rows of the table, or texts, which exports with ``raw_ids=True`` have."""

from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, NamedTuple

from rl4rec_kernels._utils.checks import shown
from rl4rec_kernels._utils.values import as_list
from rl4rec_kernels.data.labels import read_rows, read_targets
from rl4rec_kernels.data.raw_ids import RawIds
from rl4rec_kernels.ids import RaggedIds
from rl4rec_kernels.rewards.negatives import NegativesReport, clean_negatives
from rl4rec_kernels.rewards.targets import Targets
from rl4rec_kernels.service.base import RetrievalBackend


class CallIds(NamedTuple):
    """The checked ids of a call, and what was removed from the negatives."""

    targets: Targets
    histories: RaggedIds | None
    negatives: RaggedIds | None
    removed: NegativesReport


def read_ids(
    find: Callable[[], RetrievalBackend],
    dataset_name: str,
    arguments: Mapping[str, Any],
    num_rows: int,
    required: bool | None,
) -> CallIds:
    """Read ``targets``, ``histories`` and ``neg_items`` of a call.

    `required` is `RecReward.use_negatives_only`.
    """
    with suppress(TypeError):  # most calls have no texts, and looking for them takes time
        return _read_rows(num_rows, required, **arguments)

    def raw_items() -> RawIds:
        return find().raw_items(dataset_name)

    rows = {name: _rows_of(raw_items, name, values) for name, values in arguments.items()}
    return _read_rows(num_rows, required, **rows)


def _read_rows(
    num_rows: int, required: bool | None, targets: Any, histories: Any, neg_items: Any
) -> CallIds:
    items = read_targets(targets, num_rows)
    seen = None if histories is None else read_rows("histories", histories, num_rows)
    return CallIds(items, seen, *clean_negatives(neg_items, items, num_rows, required))


def _rows_of(find: Callable[[], RawIds], name: str, values: Any) -> Any:
    """Return `values` with rows of the table instead of texts, or as they are without texts.

    Parameters
    ----------
    find : callable
        Asks the service for the raw ids of the data set; only called if there is a text.
    name : str
        What messages call `values`.
    values : ids, or lists of ids
        One entry per row.

    Raises
    ------
    TypeError, IndexError
        If a text is not the id of an item.
    """
    if not isinstance(values, list | tuple):  # arrays of texts are objects
        if getattr(getattr(values, "dtype", None), "kind", "O") in "iufb":
            return values
        values = as_list(values) or values
    if not isinstance(values, list | tuple) or not any(map(_has_text, values)):
        return values
    raw = find()

    def row_of(where: str, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        if not raw.has_names:
            raise TypeError(
                f"{where} must be an item id (a whole number), got {shown(value)}: the items of "
                "this data set have no names"
            )
        row = raw.find(value)
        if row is None:
            raise IndexError(f"{where}: the data set has no item {shown(value)}")
        return row

    return [
        row_of(f"{name}[{i}]", value)
        if as_list(value) is None
        else [row_of(f"{name}[{i}]", item) for item in as_list(value) or ()]
        for i, value in enumerate(values)
    ]


def _has_text(value: Any) -> bool:
    if isinstance(value, str):
        return True
    if isinstance(value, int) or getattr(getattr(value, "dtype", None), "kind", "O") in "iufb":
        return False
    items = as_list(value) or ()
    kinds = set(map(type, items))  # most lists hold int alone
    return any(issubclass(kind, str) for kind in kinds)
