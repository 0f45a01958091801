"""Argument checks that the data modules share."""

from numbers import Integral
from typing import Any


def whole_number(name: str, value: Any, minimum: int) -> int:
    """Return `value` as an int.

    Raises
    ------
    TypeError
        If it is not a whole number (``True`` and ``5.0`` are not).
    ValueError
        If it is less than `minimum`.
    """
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(f"{name} must be a whole number, got {value!r}")
    if value < minimum:
        raise ValueError(f"{name} must be at least {minimum}, got {value}")
    return int(value)
