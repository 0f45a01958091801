"""One set of names for the fields of items, whatever the file calls them."""

import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

ALIASES = {
    "title": ("movie_title", "name"),
    "category": ("categories", "genre", "genres", "class"),
    "release_year": ("year",),
}
"""The names used here, and other names of the same fields in files."""


def canonical_name(name: str) -> str:
    """Return the name used here for a file's field."""
    return next((ours for ours, others in ALIASES.items() if name in others), name)


def as_text(value: Any) -> str:
    """Return a field's value as one line of text, ``""`` if it is empty.

    The parts of lists, nested ones too, are joined by commas, without repeats.
    """
    return ", ".join(dict.fromkeys(_parts(value)))


def normalize_item(fields: Mapping[str, Any]) -> dict[str, Any]:
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
    if isinstance(value, list | tuple):
        for part in value:
            yield from _parts(part)
    elif value is not None and not (isinstance(value, float) and math.isnan(value)):
        text = " ".join(str(value).split())
        if text:
            yield text
