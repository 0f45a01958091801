"""One set of names for the fields of an item, whatever its file calls them."""

import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

ALIASES = {
    "title": ("movie_title", "name"),
    "category": ("categories", "genre", "genres", "class"),
    "release_year": ("year",),
}
"""The names used here, and those under which files have the same fields."""


def canonical_name(name: str) -> str:
    """Return the name used here for a file's field."""
    return next((ours for ours, others in ALIASES.items() if name in others), name)


def as_text(value: Any) -> str:
    """Return a field's value as one line of text, ``""`` where there is none.

    Lists, nested ones too, are joined by commas, each part once.
    """
    return ", ".join(dict.fromkeys(_parts(value)))


def _parts(value: Any) -> Iterator[str]:
    if isinstance(value, list | tuple):
        for part in value:
            yield from _parts(part)
    elif value is not None and not (isinstance(value, float) and math.isnan(value)):
        text = " ".join(str(value).split())
        if text:
            yield text


def normalise_item(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields under the names used here, without those that hold nothing.

    ``title``, ``brand`` and ``category`` become text; a ``release_year`` that is no year of four
    digits is left out; all other fields stay as they are. Where two fields have the same name here,
    the one that has it in the file (else the first) gets it and the other keeps its own.
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
