"""Checks of arguments, and how messages show values."""

import inspect
import math
import os
import reprlib
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from numbers import Integral, Real
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np

Name = TypeVar("Name", bound=str)  # a string, or a Literal of some

MAX_THREADS = 4096
MAX_PROCESSES = 1024
MAX_SEED = 2**64 - 1
MAX_SECONDS = 10**9  # 32 years; Python's locks wait up to 292 years
MAX_COUNT = 2**31 - 1  # of what is held in memory at once

_CHARS = 500  # of a value in a message
_MESSAGE_CHARS = 4000  # of a message to another machine


class _Short(reprlib.Repr):
    """Python's ``repr``, shortened; also of values for which that raises an error."""

    def __init__(self) -> None:
        super().__init__()
        self.maxstring = self.maxother = _CHARS

    def repr_int(self, x: int, level: int) -> str:
        try:
            return super().repr_int(x, level)
        except ValueError:  # Python's limit on digits
            return f"a whole number of {x.bit_length()} bits"


def shown(value: object) -> str:
    """Return the ``repr`` of any value for a message: short, and without an error."""
    return _Short().repr(value)


def shortened(message: str) -> str:
    """Cut the middle out of a message that may contain much of what a caller has passed."""
    half = _MESSAGE_CHARS // 2
    return message if len(message) <= 2 * half else f"{message[:half]} … {message[-half:]}"


def named_options(name: str, given: object, options: Callable[..., Any]) -> dict[str, Any]:
    """Return a mapping of options, {} for None, or raise TypeError if it has others."""
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        raise TypeError(f"{name} must be a dict of options by name, got {shown(given)}")
    known = inspect.signature(options).parameters
    if unknown := [key for key in given if key not in known]:
        raise TypeError(f"{name} has {shown(unknown[0])}; known are {', '.join(known)}")
    return dict(given)


def flag(name: str, value: object) -> bool:
    """Return `value` as a bool if it is True or False, or raise ValueError.

    Other values have a truth value too, but ``"no"`` would mean yes.
    """
    if isinstance(value, bool):
        return value
    if not isinstance(value, np.bool_):
        raise ValueError(f"{name} must be True or False, got {shown(value)}")
    return bool(value)


def optional_flag(name: str, value: object) -> bool | None:
    """As `flag`, for an argument that may also be None."""
    if value is not None and not isinstance(value, bool | np.bool_):
        raise ValueError(f"{name} must be None, True or False, got {shown(value)}")
    return None if value is None else bool(value)


def choice(name: str, value: object, known: Collection[Name]) -> Name:
    """Return `value` if it is one of the `known` names, or raise ValueError."""
    # An array is not "in" a list of names: its comparison has no truth value.
    if not isinstance(value, str) or value not in known:
        raise ValueError(f"{name} must be one of {', '.join(known)}, got {shown(value)}")
    return cast(Name, value)


def text(name: str, value: Any, *, optional: bool = False) -> Any:
    """Return `value` if it is a string (or None, if that is allowed), or raise TypeError."""
    if not isinstance(value, str) and not (optional and value is None):
        kinds = "a string or None" if optional else "a string"
        raise TypeError(f"{name} must be {kinds}, got {shown(value)}")
    return value


def names(name: str, value: object) -> tuple[str, ...]:
    """Return a list of names as a tuple, or raise TypeError; a single string is a common mistake.

    Sets are refused, because their order differs between runs.
    """
    if isinstance(value, str):
        raise TypeError(
            f"{name} must be a list (or another sequence) of names, got the string {shown(value)}; "
            f"write ({shown(value)},)"
        )
    given: tuple[object, ...] = (None,)
    if isinstance(value, Iterable) and getattr(value, "ndim", 1) == 1:
        given = tuple(value) if isinstance(value, Sequence) or hasattr(value, "tolist") else given
    found = tuple(one for one in given if isinstance(one, str))
    if len(found) < len(given):
        raise TypeError(f"{name} must be a sequence of names, got {shown(value)}")
    return found


def as_path(name: str, value: object) -> Path:
    """Return a path that is given as a string or a path, or raise TypeError or ValueError."""
    if not isinstance(value, str | os.PathLike):
        raise TypeError(f"{name} must be a path, got {shown(value)}")
    if "\0" in (path := os.fsdecode(value)):
        raise ValueError(f"{name} must be a path, which has no NUL character, got {shown(value)}")
    return Path(path)


def whole_number(name: str, value: object, minimum: int, maximum: int | None = None) -> int:
    """Return `value` as an int in the range, or raise TypeError or ValueError.

    ``True`` and ``5.0`` are not whole numbers.
    """
    # Asking for Integral takes much longer.
    if type(value) is not int and (isinstance(value, bool) or not isinstance(value, Integral)):
        raise TypeError(f"{name} must be a whole number, got {shown(value)}")
    result = int(value)
    if result < minimum or (maximum is not None and result > maximum):
        allowed = f"at least {minimum}" if maximum is None else f"from {minimum} to {maximum}"
        raise ValueError(f"{name} must be {allowed}, got {shown(result)}")
    return result


def amount(name: str, value: object, minimum: int, maximum: int = MAX_COUNT) -> int:
    """As `whole_number`, for a bound that nobody means to reach: only errors above it name it."""
    return whole_number(name, whole_number(name, value, minimum), minimum, maximum)


def number(
    name: str, value: object, minimum: float, maximum: float, *, strict: bool = False
) -> float:
    """Return `value` as a finite float in the range, or raise TypeError or ValueError.

    `strict` excludes both ends of the range.
    """
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name} must be a number, got {shown(value)}")
    try:
        result = float(value)
    except OverflowError:  # of a whole number or a fraction
        result = math.inf if value > 0 else -math.inf  # type: ignore[operator]
    inside = minimum < result < maximum if strict else minimum <= result <= maximum
    if not inside or not math.isfinite(result):
        least = f"more than {minimum:g}" if strict else f"at least {minimum:g}"
        most = f"less than {maximum:g}" if strict else f"at most {maximum:g}"
        most = "finite" if math.isinf(maximum) else most
        raise ValueError(f"{name} must be {least} and {most}, got {shown(value)}")
    return result
