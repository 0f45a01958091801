"""The directory in which commands keep downloads and indexes from one run to the next."""

import logging
import os
from pathlib import Path

from rl4rec_kernels._utils.paths import file_name
from rl4rec_kernels.data.item_fields import ItemMetadata
from rl4rec_kernels.index.encoder import Encoder
from rl4rec_kernels.index.item_index import ItemIndex

logger = logging.getLogger("rl4rec_kernels.index")


def cache_dir() -> Path:
    """Return ``$RL4REC_CACHE``, or the directory ``rl4rec`` of ``$XDG_CACHE_HOME`` or ``~/.cache``.

    Raises OSError if no variable is set and the user has no home directory.
    """
    if given := os.environ.get("RL4REC_CACHE"):
        return Path(given)
    shared = Path(os.environ.get("XDG_CACHE_HOME", ""))
    try:
        return (shared if shared.is_absolute() else Path.home() / ".cache") / "rl4rec"
    except RuntimeError as error:
        raise OSError(f"{error}; set RL4REC_CACHE to a directory for cached files") from error


def cached_index(name: str, item_metadata: ItemMetadata, encoder: Encoder) -> ItemIndex:
    """Open the cached index of a data set, or encode its items and cache them.

    Indexes are kept in ``$RL4REC_CACHE/index``, by default in ``~/.cache/rl4rec/index``. Items are
    encoded again if the encoder or the items have changed. If the cache cannot be written, a
    warning says so.

    Parameters
    ----------
    name : str
        The data set; the name of the file.
    item_metadata : mapping of int to mapping
        The items, as `load_item_metadata` gives them.
    encoder : Encoder
        The encoder of the items.

    Returns
    -------
    ItemIndex
        The same as ``ItemIndex.build(item_metadata, encoder)``.

    Raises
    ------
    TypeError, ValueError
        If an argument is invalid; the message names it.

    Examples
    --------
    >>> import rl4rec_kernels as rk
    >>> items = {1: {"title": "Nail polish"}, 2: {"title": "Hair dryer"}}
    >>> rk.cached_index("doc-example", items, rk.Encoder("minilm")).table.shape
    torch.Size([3, 384])
    """
    try:
        path = cache_dir() / "index" / file_name(name, ".safetensors")
        return ItemIndex.open(path, encoder=encoder, item_metadata=item_metadata)
    except FileNotFoundError:
        pass
    except (OSError, ValueError) as error:
        logger.info("%s: encoding the items again", error)
    index = ItemIndex.build(item_metadata, encoder)
    try:
        path = cache_dir() / "index" / file_name(name, ".safetensors")
        path.parent.mkdir(parents=True, exist_ok=True)
        index.save(path)
    except OSError as error:
        logger.warning(
            "the index of %s is not cached (%s); set RL4REC_CACHE to a directory that can be "
            "written",
            name,
            error,
        )
    return index
