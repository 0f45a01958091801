"""What of an item is encoded."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from rl4rec_kernels.index.encoder import check_unicode

DEFAULT_FIELDS = ("title", "brand", "category")


def item_texts(
    item_metadata: Mapping[int, Mapping[str, Any]], fields: Sequence[str] = DEFAULT_FIELDS
) -> dict[int, str]:
    """The text of every item that is encoded: its fields, one after the other.

    Raises
    ------
    TypeError
        If `fields` is a single string.
    ValueError
        If there are no items, no item has a text, or one is no valid Unicode.
    """
    if isinstance(fields, str):
        raise TypeError(
            f"fields must be a sequence of names, got the string {fields!r}; write ({fields!r},)"
        )
    if not item_metadata:
        raise ValueError("item_metadata is empty; pass load_item_metadata(name)")
    texts = {
        int(item): ". ".join(str(metadata[name]) for name in fields if metadata.get(name))
        for item, metadata in item_metadata.items()
    }
    if not any(texts.values()):
        known = sorted({name for metadata in item_metadata.values() for name in metadata})
        raise ValueError(
            f"no item has any of the fields {', '.join(fields)}; there are {', '.join(known)}"
        )
    for item, text in texts.items():
        check_unicode(f"the text of item {item}", text)
    return texts


def texts_fingerprint(texts: Mapping[int, str]) -> str:
    """A digest of the items' texts."""
    return hashlib.sha256(json.dumps(sorted(texts.items())).encode()).hexdigest()
