"""Progress bars for long work, where tqdm is installed."""

from collections.abc import Iterable, Iterator, Sized
from typing import Protocol, TypeVar

T_co = TypeVar("T_co", covariant=True)


class SizedIterable(Sized, Iterable[T_co], Protocol[T_co]):
    """What has a length and can be gone through."""


def progress(items: SizedIterable[T_co], what: str, *, show: bool) -> Iterator[T_co]:
    """Go through `items` with a bar on standard error; without one if tqdm is not installed."""
    if show:
        try:
            from tqdm import tqdm
        except ModuleNotFoundError:
            pass
        else:
            yield from tqdm(items, desc=what)
            return
    yield from items
