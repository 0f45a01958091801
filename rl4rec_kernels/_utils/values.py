"""Values of other libraries (NumPy, pandas, torch, pyarrow, datasets) as those of Python."""

import sys
from collections.abc import Collection, Mapping, Set
from contextlib import suppress
from typing import Any


def plain(value: object) -> Any:
    """Turn an array, Series, tensor or column, or a scalar of their libraries, into Python's."""
    for convert in ("tolist", "to_pylist", "as_py"):  # NumPy, pandas and torch; pyarrow
        if hasattr(value, convert):
            # A tensor on meta or a sparse one has no values to give, and stays for the checks.
            with suppress(NotImplementedError, RuntimeError):
                return getattr(value, convert)()
    return value


def as_list(value: object) -> list[Any] | None:
    """Return the elements of anything that has an order and a length, but is not a text.

    None if it is something else, such as a number, a text, a mapping, a set or a generator.
    """
    if isinstance(value, list):
        return value
    if isinstance(value, str | bytes | bytearray | Mapping | Set):
        return None
    value = plain(value)
    return list(value) if isinstance(value, Collection) and not isinstance(value, str) else None


def is_missing(value: object) -> bool:
    """Whether a value is None, NaN, NaT or NA, of Python, NumPy or pandas."""
    pandas_na = getattr(sys.modules.get("pandas"), "NA", None)  # has no truth value
    if value is None or value is pandas_na:
        return True
    try:
        return bool(value != value)  # NaN and NaT differ from themselves
    except (NotImplementedError, RuntimeError, TypeError, ValueError):  # it is not one value
        return False
