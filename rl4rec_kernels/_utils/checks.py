"""Argument checks that several modules share."""

import math
from numbers import Integral, Real
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


def number(name: str, value: Any, minimum: float, maximum: float, *, strict: bool = False) -> float:
    """Return `value` as a float from `minimum` to `maximum`; `strict` excludes both ends.

    Raises
    ------
    TypeError, ValueError
        If it is not a number, or out of the range.
    """
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name} must be a number, got {value!r}")
    result = float(value)
    inside = minimum < result < maximum if strict else minimum <= result <= maximum
    if not inside or not math.isfinite(result):
        least = f"more than {minimum:g}" if strict else f"at least {minimum:g}"
        most = f"less than {maximum:g}" if strict else f"at most {maximum:g}"
        most = "finite" if math.isinf(maximum) else most
        raise ValueError(f"{name} must be {least} and {most}, got {value!r}")
    return result
