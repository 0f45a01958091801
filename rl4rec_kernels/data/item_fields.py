"""One set of names for the fields of items, whatever the file calls them."""

import re
from collections.abc import Collection, Iterator, Mapping, Set
from typing import Any

import numpy as np

from rl4rec_kernels._utils.checks import shown
from rl4rec_kernels._utils.values import is_missing, plain

ItemMetadata = Mapping[int, Mapping[str, object]]
"""Item id to its fields."""

ALIASES = {
    "title": ("movie_title", "name"),
    "category": ("categories", "genre", "genres", "class"),
    "release_year": ("year",),
}
"""The names used here, and other names of the same fields in files."""


def canonical_name(name: str) -> str:
    """Return the name used here for a file's field."""
    return next((ours for ours, others in ALIASES.items() if name in others), name)


def as_text(value: object) -> str:
    """Return a field's value as one line of text, ``""`` if it is empty.

    None, NaN and pandas' NA and NaT are empty. The parts of lists, arrays and Series, nested ones
    too, are joined by commas, without repeats; those of sets are sorted, and those of mappings are
    written as ``name: value``. A whole float is written as ``1999``, since pandas makes floats of
    whole numbers with gaps. Bytes must be UTF-8.

    Raises
    ------
    ValueError
        If bytes are not UTF-8.
    """
    return ", ".join(dict.fromkeys(_parts(value)))


def normalize_item(fields: Mapping[str, object]) -> dict[str, Any]:
    """Return the fields that are not empty, under the names used here.

    ``title``, ``brand`` and ``category`` become text; a ``release_year`` that does not have four
    digits is left out; all other fields stay as they are. If two fields would get the same name,
    the one that has it in the file (or else the first) gets it and the other keeps its own.
    """
    filled = {name: value for name, value in fields.items() if as_text(value)}
    result: dict[str, Any] = {}
    for name, value in filled.items():
        ours = canonical_name(name)
        if ours in filled or ours in result:
            ours = name
        if ours == "release_year" and not re.fullmatch(r"\d{4}", as_text(value)):
            continue
        result[ours] = as_text(value) if ours in ("title", "brand", "category") else value
    return result


def _parts(value: Any) -> Iterator[str]:
    if isinstance(value, np.ndarray) and value.ndim == 0:
        value = None if value is np.ma.masked else value[()]
    if not isinstance(value, str | np.generic | np.ndarray):  # would lose their types
        value = plain(value)
    if isinstance(value, bytes | bytearray | memoryview):
        value = _decoded(bytes(value))
    if isinstance(value, Mapping):
        for name, part in value.items():
            if text := as_text(part):
                yield f"{as_text(name)}: {text}"
    elif isinstance(value, Collection) and not isinstance(value, str):
        # The order of a set of texts is another one in each process.
        for part in sorted(value, key=as_text) if isinstance(value, Set) else value:
            yield from _parts(part)
    elif not is_missing(value):
        if isinstance(value, float | np.floating) and value.is_integer():
            value = int(value)
        text = " ".join(str(value).split())
        if text:
            yield text


def _decoded(value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{shown(value[:40])} is not UTF-8 text ({error}); decode it with errors='replace'"
        ) from None
