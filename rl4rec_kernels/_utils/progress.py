"""Progress bars for long work, if tqdm is installed."""

import contextlib
from collections.abc import Iterable, Sequence
from typing import TypeVar

T = TypeVar("T")


def progress(items: Sequence[T], description: str, *, show: bool) -> Iterable[T]:
    """Iterate over `items`, with a bar on standard error if `show`."""
    with contextlib.suppress(ImportError):
        if show:
            from tqdm import tqdm

            return tqdm(items, desc=description)
    return items
