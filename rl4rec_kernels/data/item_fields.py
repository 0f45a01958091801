"""One set of names for the fields of an item, whatever its file calls them."""

import math
import re
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
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, list | tuple):
        return ", ".join(dict.fromkeys(filter(None, map(as_text, value))))
    return " ".join(str(value).split())


def normalise_item(fields: dict[str, Any]) -> dict[str, Any]:
    """Return the fields under the names used here, without those that hold nothing.

    ``title``, ``brand`` and ``category`` become text; a ``release_year`` that is no year of four
    digits is left out; all other fields stay as they are. Where a file has a field under our name
    and under another, both stay.
    """
    result: dict[str, Any] = {}
    for name, value in fields.items():
        ours = canonical_name(name)
        ours = name if ours in fields else ours
        text = as_text(value)
        if not text or (ours == "release_year" and not re.fullmatch(r"\d{4}", text)):
            continue
        result.setdefault(ours, text if ours in ("title", "brand", "category") else value)
    return result
