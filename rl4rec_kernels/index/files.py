"""Index files: their paths and what is in them."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rl4rec_kernels._utils.imports import require
from rl4rec_kernels._utils.mapped import watch

FORMAT = "rl4rec_kernels.ItemIndex/1"
TABLE_DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def existing(path: str | os.PathLike[str]) -> Path:
    """Return the path of a file that is there.

    Raises
    ------
    FileNotFoundError
        If it is not.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(
            f"there is no file {path}; build it with ItemIndex.build, or check the path"
        )
    return Path(path)


def named_safetensors(path: str | os.PathLike[str]) -> Path:
    """Return the path of an index file.

    Raises
    ------
    ValueError
        If it is not named *.safetensors.
    """
    if Path(path).suffix != ".safetensors":
        raise ValueError(
            f"an index file must be named *.safetensors, got {path}; other files are "
            "read by ItemIndex.import_file"
        )
    return Path(path)


def check_destination(path: str | os.PathLike[str]) -> Path:
    """Check that an index can be saved there, before the work of building it.

    Raises
    ------
    ValueError, FileNotFoundError
        See `ItemIndex.save`.
    """
    path = named_safetensors(path)
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{path.parent} is no directory; make it first")
    return path


def read_index(path: Path) -> tuple[Tensor, Tensor, dict[str, str]]:
    """Map an index file into memory: the table, which rows are items (a copy), and the origin.

    Raises
    ------
    ValueError
        If it is no index, or damaged.
    """
    safetensors = require("safetensors", "encoder")
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            origin = file.metadata() or {}
            if origin.pop("format", None) != FORMAT or set(file.keys()) != {"table", "valid"}:
                raise ValueError(
                    f"{path} is no item index; load its tensor and call ItemIndex.from_embeddings"
                )
            table, valid = file.get_tensor("table"), file.get_tensor("valid")
    except safetensors.SafetensorError as error:
        raise ValueError(f"{path} is damaged ({error}); build it again") from error
    watch(table, path)
    fits = table.dim() == 2 and 0 not in table.shape and table.dtype in TABLE_DTYPES
    fits = fits and (valid.dtype, valid.shape) == (torch.bool, table.shape[:1])
    # A byte that is neither 0 nor 1 is no bool, and C++ may do anything with it.
    if not fits or int(valid.view(torch.uint8).max()) > 1:
        raise ValueError(
            f"{path} is damaged (table {table.dtype} {tuple(table.shape)}, valid "
            f"{valid.dtype} {tuple(valid.shape)}); build it again"
        )
    return table, valid.clone(), origin


def fields_of(origin: Mapping[str, str], path: Path) -> list[str]:
    """Return what of the metadata an index was built from.

    Raises
    ------
    ValueError
        If the file does not say, or is damaged.
    """
    if "metadata" not in origin:
        raise ValueError(
            f"{path} was imported and does not say what metadata it belongs to; open "
            "it without item_metadata"
        )
    try:
        fields = json.loads(origin.get("fields", ""))
    except (ValueError, RecursionError):
        fields = None
    if not isinstance(fields, list) or not all(isinstance(field, str) for field in fields):
        raise ValueError(f"{path} is damaged (its fields are no list of names); build it again")
    return fields


def read_embeddings(path: Path) -> tuple[Tensor, Any]:
    """Read embeddings that were made elsewhere, and the items of their rows if the file says.

    Raises
    ------
    ValueError
        If it is not what `ItemIndex.import_file` reads.
    """
    if path.suffix == ".npy":
        try:
            embeddings = torch.from_numpy(np.load(path, mmap_mode="c", allow_pickle=False))
        except PermissionError:
            raise
        except Exception as error:  # which one depends on what of the file is damaged
            raise ValueError(
                f"{path} is no plain array ({error}); save one with np.save(path, embeddings)"
            ) from error
        watch(embeddings, path)
        return embeddings, None
    if path.suffix not in (".pt", ".pth"):
        raise ValueError(
            f"{path} is no .npy or .pt file; load it and call ItemIndex.from_embeddings"
        )
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except PermissionError:
        raise
    except Exception as error:  # as above
        raise ValueError(
            f"{path} holds something else than tensors, which is never loaded, or is damaged; save "
            "one with torch.save(embeddings, path)"
        ) from error
    if isinstance(loaded, Tensor):
        return loaded, None
    if not isinstance(loaded, Mapping):
        raise ValueError(f"{path} must hold a tensor, got {type(loaded).__name__}")
    tables = [value for value in loaded.values() if isinstance(value, Tensor) and value.dim() == 2]
    if len(tables) != 1:
        raise ValueError(
            f"{path} must hold one [M, D] tensor, it has {len(tables)}; pass the "
            "right one to from_embeddings"
        )
    return tables[0], loaded.get("ids")
