"""Progress bars for long work, if tqdm is installed."""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

T = TypeVar("T")


def progress(items: Sequence[T], description: str, *, show: bool) -> Iterable[T]:
    """Iterate over `items`, with a bar on standard error if `show`."""
    with contextlib.suppress(ImportError):
        if show:
            from tqdm import tqdm

            return tqdm(items, desc=description)
    return items


@contextlib.contextmanager
def bar(
    total: int | None, description: str, *, show: bool, unit: str = "B"
) -> Iterator[Callable[[int], None]]:
    """Yield a function that is told how much of `total` is done, and shows it if `show`."""
    try:
        if not show:
            raise ImportError
        from tqdm import tqdm
    except ImportError:
        yield lambda done: None
        return
    with tqdm(total=total, desc=description, unit=unit, unit_scale=True) as shown:
        yield lambda done: shown.update(done - shown.n)
