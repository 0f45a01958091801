"""Errors as tests assert them: the type, the argument and the value that the message names."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest


@contextmanager
def raises(kind: type[BaseException], *named: Any) -> Iterator[Any]:
    """As ``pytest.raises``, for an error whose message names all of `named`, whatever its words.

    >>> with raises(ValueError, "num_negs", -1):
    ...     sample_negatives(10, [[1]], -1)
    """
    with pytest.raises(kind) as caught:
        yield caught
    missing = [str(part) for part in named if str(part) not in str(caught.value)]
    assert not missing, f"{caught.value!r} does not name {', '.join(missing)}"
