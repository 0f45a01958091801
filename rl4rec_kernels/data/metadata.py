"""Item metadata by id: of RecBole's files, in JSON, of P5."""

import json
import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from rl4rec_kernels._utils.checks import shown
from rl4rec_kernels.data.atomic import atomic_file, interaction_files, read_atomic_metadata
from rl4rec_kernels.data.files import (
    check_json_characters,
    first_file,
    is_whole_number,
    numbered_lines,
    read_text,
    with_gz,
)
from rl4rec_kernels.data.folders import read_p5_items
from rl4rec_kernels.data.interactions import SEQUENCE_FILES
from rl4rec_kernels.data.item_fields import normalize_item
from rl4rec_kernels.ids import most_rows

logger = logging.getLogger("rl4rec_kernels.data")

METADATA_FILES = with_gz("item_metadata.json", "item_metadata.jsonl")
_ID_FIELDS = ("item_id", "id")
_FORMS = (
    'write {"1": {"title": …}, …}, a list of {"item_id": 1, "title": …}, or one such item per line'
)


def read_prepared_items(directory: Path, name: str) -> dict[int, dict[str, Any]]:
    """Read the items of a folder: of RecBole's files, of JSON by id, or of P5."""
    if not first_file(directory, SEQUENCE_FILES) and interaction_files(directory, name):
        if not (path := atomic_file(directory, name, "item")):
            raise FileNotFoundError(
                f"{directory} has {name}.inter but no {name}.item; add one with the items' titles"
            )
        items = read_atomic_metadata(directory, name)
    elif not has_metadata(directory) and (by_token := read_p5_items(directory)) is not None:
        path = directory / "datamaps.json"
        items = _by_id(path, ((f"item {k}", k, fields) for k, fields in by_token.items()))
    else:
        path = _metadata_file(directory)
        items = read_json_metadata(path)
    if items.pop(0, None) is not None:
        logger.warning("%s: item id 0 is left out, since it is reserved for padding", path)
    if not items:
        raise ValueError(f"{path} has no items; {_FORMS}")
    try:
        return {item: normalize_item(items[item]) for item in sorted(items)}
    except RecursionError:
        raise ValueError(f"{path} has lists that are nested too deeply; {_FORMS}") from None


def has_metadata(directory: Path) -> bool:
    """Whether a folder has a file of items by id under our own name."""
    return first_file(directory, METADATA_FILES) is not None


def _metadata_file(directory: Path) -> Path:
    path = first_file(directory, METADATA_FILES)
    if path is not None:
        return path
    endings = tuple(with_gz(".json", ".jsonl"))
    found = sorted(p for p in directory.glob("meta*") if p.name.endswith(endings) and p.is_file())
    if len(found) == 1:
        return found[0]
    if found:
        names = ", ".join(path.name for path in found)
        raise ValueError(
            f"{directory} has several metadata files ({names}); rename one to item_metadata.json"
        )
    pickles = sorted(p for p in directory.glob("*meta*") if ".pkl" in p.name or ".pickle" in p.name)
    if pickles:
        raise ValueError(
            f"{pickles[0]} is a pickle, which is not read since loading one can run any code; if "
            "you trust it, convert it by json.dump({int(i): dict(m) for i, m in metadata.items()}, "
            'open("item_metadata.json", "w"))'
        )
    raise FileNotFoundError(
        f"{directory} has no item metadata; add item_metadata.json or another meta*.json, plain or "
        "as .gz"
    )


def read_json_metadata(path: Path) -> dict[int, dict[str, Any]]:
    """Read a JSON file of items, leaving the fields as they are.

    It is an object ``{id: fields}``, a list of objects with an ``item_id`` (or ``id``), or one such
    object per line. Raises ValueError otherwise, or if an id occurs twice.
    """
    text = read_text(path)
    check_json_characters(path, text)
    try:
        content = json.loads(text, object_pairs_hook=_unique)
    except _DuplicateKey as error:
        raise ValueError(f"{path}: {error}") from None
    except (ValueError, RecursionError) as error:  # also numbers too long, brackets too deep
        if getattr(error, "msg", "") != "Extra data":
            raise ValueError(f"{path} is not JSON ({error}); {_FORMS}") from error
        content = _json_lines(path, text)  # another value after the first: one object per line
    if isinstance(content, dict) and not any(field in content for field in _ID_FIELDS):
        return _by_id(path, ((f"item {shown(key)}", key, value) for key, value in content.items()))
    if isinstance(content, dict):
        content = [content]
    if not isinstance(content, list):
        raise ValueError(f"{path} contains a {type(content).__name__}; {_FORMS}")
    return _by_id(path, map(_with_id, range(1, len(content) + 1), content))


class _DuplicateKey(ValueError):
    pass


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise _DuplicateKey(f"{shown(twice)} occurs twice in one object; remove one of them")
    return result


def _json_lines(path: Path, text: str) -> list[Any]:
    items = []
    for number, line in numbered_lines(text):
        try:
            items.append(json.loads(line, object_pairs_hook=_unique))
        except (ValueError, RecursionError) as error:  # not JSON, or a repeated key
            raise ValueError(f"{path}, line {number}: {error}; {_FORMS}") from error
    return items


def _with_id(position: int, item: Any) -> tuple[str, Any, Any]:
    """Name an item of a list, and split it into its id and its other fields."""
    if not isinstance(item, dict):
        return f"entry {position}", None, item
    field = next((field for field in _ID_FIELDS if field in item), None)
    others = {name: value for name, value in item.items() if name != field}
    return f"entry {position}", item.get(field), others


def _by_id(path: Path, entries: Iterable[tuple[str, Any, Any]]) -> dict[int, dict[str, Any]]:
    items: dict[int, dict[str, Any]] = {}
    for entry, key, fields in entries:
        if not isinstance(fields, dict):
            raise ValueError(
                f"{path}: {entry} is {shown(str(fields)[:40])}, not an object of fields; {_FORMS}"
            )
        if isinstance(key, bool) or not is_whole_number(str(key)):
            raise ValueError(
                f"{path}: the id of {entry} must be a whole number, as in the interactions, "
                f"got {shown(key)}; {_FORMS}"
            )
        if int(key) in items:
            raise ValueError(f"{path}: {entry} has id {int(key)}, which another item already has")
        items[int(key)] = fields
    if items and max(items) >= most_rows(len(items)):
        raise ValueError(
            f"{path} has item {max(items)}, but the ids of {len(items)} items must be less than "
            f"{most_rows(len(items))}; number the items from 1, here and in the interactions"
        )
    return items
