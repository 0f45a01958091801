"""Texts to encode: those of items, and checks of any."""

import contextlib
import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from rl4rec_kernels._utils.checks import names, shown
from rl4rec_kernels._utils.values import as_list
from rl4rec_kernels.data.files import is_whole_number
from rl4rec_kernels.data.item_fields import ItemMetadata, as_text
from rl4rec_kernels.data.labels import item_id

DEFAULT_FIELDS = ("title", "brand", "category")


def item_texts(
    item_metadata: ItemMetadata, fields: Sequence[str] = DEFAULT_FIELDS
) -> dict[int, str]:
    """Return the text of every item: its fields as `as_text` writes them, joined.

    Raises TypeError if `fields` is a single string; ValueError if there are no items, no item has
    a text, or a text is not valid Unicode.
    """
    fields = names("fields", fields)
    if not isinstance(item_metadata, Mapping):
        raise TypeError(f"item_metadata must be a dict, got {shown(item_metadata)}")
    if not item_metadata:
        raise ValueError("item_metadata is empty; pass load_item_metadata(name)")
    texts = {
        _item_key(item): _item_text(item, metadata, fields)
        for item, metadata in item_metadata.items()
    }
    if not any(texts.values()):
        known = sorted({name for metadata in item_metadata.values() for name in metadata})
        raise ValueError(
            f"no item has any of the fields {', '.join(fields)}; they have {', '.join(known)}"
        )
    for item, text in texts.items():
        _check_unicode(f"the text of item {item}", text)
    return texts


def _item_key(item: Any) -> int:
    if isinstance(item, str) and is_whole_number(item):
        return int(item)
    return item_id("every key of item_metadata", item)


def _item_text(item: Any, metadata: Mapping[str, Any], fields: Sequence[str]) -> str:
    if not isinstance(metadata, Mapping):
        raise TypeError(f"item_metadata[{item}] must be a dict of fields, got {shown(metadata)}")
    try:
        return ". ".join(filter(None, (as_text(metadata.get(name)) for name in fields)))
    except ValueError as error:
        raise ValueError(f"item {item}: {error}") from None


def texts_fingerprint(texts: Mapping[int, str]) -> str:
    """Return a digest of the items' texts."""
    return hashlib.sha256(json.dumps(sorted(texts.items())).encode()).hexdigest()


def check_texts(texts: object) -> list[str]:
    """Return the texts of a list, an array or a column of at least one valid string.

    Raises TypeError or ValueError if it is something else.
    """
    rows = as_list(texts)
    if rows is None:
        raise TypeError(
            f"texts must be a list of strings, got {type(texts).__name__}; put a single text in a "
            "list"
        )
    if not rows:
        raise ValueError("texts is empty: pass at least one text")
    with contextlib.suppress(TypeError, UnicodeEncodeError):
        "".join(rows).encode()  # much faster than one by one
        return rows
    for i, text in enumerate(rows):
        if not isinstance(text, str):
            raise TypeError(f"texts[{i}] must be a string, got {type(text).__name__}")
        _check_unicode(f"texts[{i}]", text)
    return rows


def _check_unicode(name: str, text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:  # a lone surrogate
        raise ValueError(
            f"{name} is not valid Unicode ({error}); decode its bytes with errors='replace'"
        ) from None
