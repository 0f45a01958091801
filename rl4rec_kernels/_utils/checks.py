"""Checks of numbers passed as arguments."""

import math
from numbers import Integral, Real
from typing import Any


def whole_number(name: str, value: Any, minimum: int, maximum: int | None = None) -> int:
    """Return `value` as an int in the range, or raise TypeError or ValueError.

    ``True`` and ``5.0`` are not whole numbers.
    """
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(f"{name} must be a whole number, got {value!r}")
    result = int(value)
    if result < minimum or (maximum is not None and result > maximum):
        allowed = f"at least {minimum}" if maximum is None else f"from {minimum} to {maximum}"
        raise ValueError(f"{name} must be {allowed}, got {result}")
    return result


def number(name: str, value: Any, minimum: float, maximum: float, *, strict: bool = False) -> float:
    """Return `value` as a finite float in the range, or raise TypeError or ValueError.

    `strict` excludes both ends of the range.
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
