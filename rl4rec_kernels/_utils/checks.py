"""Argument checks that several modules share."""

from numbers import Integral
from typing import Any


def whole_number(name: str, value: Any, minimum: int, maximum: int | None = None) -> int:
    """Return `value` as an int.

    Raises
    ------
    TypeError
        If it is not a whole number (``True`` and ``5.0`` are not).
    ValueError
        If it is less than `minimum` or more than `maximum`.
    """
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(f"{name} must be a whole number, got {value!r}")
    number = int(value)
    if maximum is not None and not minimum <= number <= maximum:
        raise ValueError(f"{name} must be from {minimum} to {maximum}, got {number}")
    if number < minimum:
        raise ValueError(f"{name} must be at least {minimum}, got {number}")
    return number
