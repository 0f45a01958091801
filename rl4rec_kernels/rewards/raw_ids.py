"""Items named by the ids of the data set's own file, as exports with ``raw_ids=True`` name them."""

from collections.abc import Callable, Mapping
from typing import Any

from rl4rec_kernels._utils.checks import shown
from rl4rec_kernels._utils.values import as_list
from rl4rec_kernels.data.raw_ids import RawIds
from rl4rec_kernels.service.base import RetrievalBackend


def rows_of_raw_ids(
    find: Callable[[], RetrievalBackend], dataset_name: str, arguments: Mapping[str, Any]
) -> dict[str, Any]:
    """Turn the texts in several arguments into rows of the table, which the service knows."""

    def raw_items() -> RawIds:
        return find().raw_items(dataset_name)

    return {name: _rows_of(raw_items, name, values) for name, values in arguments.items()}


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
