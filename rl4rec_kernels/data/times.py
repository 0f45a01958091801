"""Times of interactions, in whatever unit or form a file has them, as seconds since 1970."""

import datetime
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from rl4rec_kernels._utils.checks import shown
from rl4rec_kernels._utils.values import is_missing, plain

Time = float | str | datetime.date | np.datetime64  # a datetime is a date

_SECONDS = 5e9  # in the year 2128
_UNITS = ((_SECONDS, 1.0), (_SECONDS * 1e3, 1e-3), (_SECONDS * 1e6, 1e-6), (np.inf, 1e-9))
_REMEDY = "write seconds, milliseconds, or dates such as 2018-07-07 22:09:11"


def seconds_of(name: str, value: object) -> float:
    """Return one time as seconds since 1970, or raise TypeError or ValueError."""
    value = plain(value)
    if isinstance(value, bool) or is_missing(value):
        raise TypeError(f"{name} must be a time, got {shown(value)}; {_REMEDY}")
    return float(to_seconds(read_times([value], lambda row: name), lambda row: name)[0])


def to_seconds(numbers: np.ndarray, where: Callable[[int], str]) -> np.ndarray:
    """Turn the numbers of `read_times` into seconds since 1970.

    Their unit (seconds, milliseconds, microseconds or nanoseconds) is told by the largest; small
    ones, such as positions, stay as they are. `where` names a row for messages.

    Raises
    ------
    ValueError
        If numbers are in different units.
    """
    largest = np.abs(numbers).max(initial=0.0)
    scale = next(scale for limit, scale in _UNITS if largest < limit)
    if scale == 1:
        return numbers
    # What would be the first two months of 1970 in this unit is a present time in a coarser one.
    mixed = np.flatnonzero((np.abs(numbers) >= 1e8) & (np.abs(numbers) < largest / 50))
    if mixed.size:
        other = int(np.abs(numbers).argmax())
        raise ValueError(
            f"{where(mixed[0])}: the time {numbers[mixed[0]]:.0f} has another unit than that of "
            f"{where(other)}, {numbers[other]:.0f}; write all in one"
        )
    return numbers * scale


def read_times(
    values: Sequence[Any] | np.ndarray,
    where: Callable[[int], str],
    time_format: str | None = None,
) -> np.ndarray:
    """Return times as numbers, float64, in their own unit; dates are in seconds.

    Parameters
    ----------
    values : numbers, dates, or texts of either
        Dates without a zone are in UTC.
    where : callable
        Names a row for messages.
    time_format : str, optional
        The format of texts, as of ``datetime.strptime``. Default: numbers or ISO 8601.

    Raises
    ------
    ValueError
        If a value is not a time.
    """
    if isinstance(values, np.ndarray) and values.dtype.kind == "M":
        seconds = values.astype("datetime64[us]").astype(np.int64) / 1e6
        numbers = np.where(np.isnat(values), np.nan, seconds)
    else:
        try:
            if time_format is not None:
                raise ValueError("each is read by itself")
            numbers = np.array(values, dtype=np.float64)
        except (TypeError, ValueError, OverflowError):
            numbers = np.array([_number(v, where, i, time_format) for i, v in enumerate(values)])
    bad = np.flatnonzero(~np.isfinite(numbers))
    if bad.size:
        raise ValueError(
            f"{where(bad[0])}: the timestamp {shown(values[bad[0]])} is not a number or a date; "
            f"{_REMEDY}, or leave out the whole column"
        )
    return numbers


def _number(value: Any, where: Callable[[int], str], row: int, time_format: str | None) -> float:
    if isinstance(value, str):
        text = value.strip()
        try:
            if time_format is None:
                return float(text)
        except ValueError:
            pass
        try:
            if time_format is not None:
                return _utc(datetime.datetime.strptime(text, time_format))
            return _utc(datetime.datetime.fromisoformat(text))
        except ValueError as error:
            if time_format is not None:
                raise ValueError(
                    f"{where(row)}: the time {shown(value)} does not have the time_format "
                    f"{shown(time_format)} ({error})"
                ) from None
    elif isinstance(value, datetime.datetime):
        return _utc(value)
    elif isinstance(value, datetime.date):
        return _utc(datetime.datetime(value.year, value.month, value.day))
    try:
        return float("nan") if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        return float("nan")


def _utc(value: datetime.datetime) -> float:
    if value.tzinfo is None:
        value = value.replace(tzinfo=datetime.UTC)
    return value.timestamp()
