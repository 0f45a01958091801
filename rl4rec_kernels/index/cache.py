"""The directory in which commands keep downloads and indexes from one run to the next."""

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rl4rec_kernels.index.encoder import Encoder
from rl4rec_kernels.index.item_index import ItemIndex

logger = logging.getLogger("rl4rec_kernels.index")


def cache_dir() -> Path:
    """Return the directory: ``$RL4REC_CACHE`` or ``~/.cache/rl4rec``."""
    return Path(os.environ.get("RL4REC_CACHE") or Path.home() / ".cache" / "rl4rec")


def cached_index(
    name: str, item_metadata: Mapping[int, Mapping[str, Any]], encoder: Encoder
) -> ItemIndex:
    """Open the cached index of a data set, or encode its items and cache them."""
    path = cache_dir() / "index" / f"{name}.safetensors"
    if path.is_file():
        try:
            return ItemIndex.open(path, encoder=encoder, item_metadata=item_metadata)
        except ValueError as error:
            logger.info("%s: encoding the items again", error)
    path.parent.mkdir(parents=True, exist_ok=True)
    index = ItemIndex.build(item_metadata, encoder)
    index.save(path)
    return index
