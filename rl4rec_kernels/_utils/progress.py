"""Progress bars for long work, if tqdm is installed."""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

T = TypeVar("T")


def progress(items: Sequence[T], description: str, *, show: bool) -> Iterable[T]:
    """Iterate over `items`, with a bar on standard error if `show`."""
    tqdm = _tqdm() if show else None
    return items if tqdm is None else tqdm(items, desc=description)


@contextlib.contextmanager
def bar(
    total: int | None, description: str, *, show: bool, unit: str = "B"
) -> Iterator[Callable[[int], None]]:
    """Yield a function that is told how much of `total` is done, and shows it if `show`."""
    tqdm = _tqdm() if show else None
    if tqdm is None:
        yield lambda done: None
        return
    with tqdm(total=total, desc=description, unit=unit, unit_scale=True) as shown:
        yield lambda done: shown.update(done - shown.n)


def _tqdm() -> Any:
    """The class of bars, or None if it is not installed."""
    try:
        from tqdm import tqdm
    except ImportError:
        return None
    return tqdm
