"""Index files: their paths and their contents."""

import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rl4rec_kernels._utils.checks import as_path, shown
from rl4rec_kernels._utils.contents import HEAD_BYTES, kind_of
from rl4rec_kernels._utils.imports import require
from rl4rec_kernels._utils.mapped import opened, watch
from rl4rec_kernels._utils.unpacking import check_unpacked, check_zip
from rl4rec_kernels._utils.writing import replacing

FORMAT = "rl4rec_kernels.ItemIndex/1"
_SYSTEM_ERROR = re.compile(r"\(os error (\d+)\)")  # in messages of Rust
TABLE_DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def check_table(name: str, table: object) -> None:
    """Raise TypeError or ValueError unless `table` is a table of embeddings, [M, D]."""
    if not isinstance(table, Tensor):
        raise TypeError(
            f"{name} must be a tensor, got {type(table).__name__}; convert an array with "
            "torch.from_numpy"
        )
    if table.is_meta:
        raise TypeError(f"{name} has no values, only a shape (device meta); load the values")
    if table.layout != torch.strided:
        raise TypeError(f"{name} must be dense, got {table.layout}; convert with .to_dense()")
    if table.dtype not in TABLE_DTYPES:
        raise TypeError(
            f"{name} must be float32, float16 or bfloat16, got {table.dtype}; convert with .float()"
        )
    if table.dim() != 2 or 0 in table.shape:
        raise ValueError(f"{name} must be [M, D] with M, D >= 1, got {tuple(table.shape)}")


def check_valid(valid: object, table: Tensor) -> None:
    """Raise ValueError unless `valid` has a bool for each row of the table."""
    is_mask = isinstance(valid, Tensor) and valid.dtype == torch.bool and not valid.is_meta
    if not is_mask or getattr(valid, "shape", None) != table.shape[:1]:
        found = f"{valid.dtype} {tuple(valid.shape)}" if isinstance(valid, Tensor) else shown(valid)
        raise ValueError(f"valid must be bool [{table.shape[0]}], a tensor, got {found}")


def existing_file(path: str | os.PathLike[str]) -> Path:
    """Return the path of a file, or raise FileNotFoundError."""
    path = as_path("path", path)
    if not path.is_file():
        raise FileNotFoundError(
            f"there is no file {path}; build it with ItemIndex.build, or check the path"
        )
    return path


def index_path(path: str | os.PathLike[str]) -> Path:
    """Return the path of an index file, or raise ValueError unless named *.safetensors."""
    path = as_path("path", path)
    if path.suffix != ".safetensors":
        raise ValueError(
            f"the path of an index file must be *.safetensors, got {path}; for other files use "
            "ItemIndex.import_file"
        )
    return path


def check_destination(path: str | os.PathLike[str]) -> Path:
    """Return the path to save an index to, or raise ValueError or FileNotFoundError.

    Commands call it before they start building.
    """
    path = index_path(path)
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{path.parent} is not a directory; create it first")
    return path


def write_index(path: Path, tensors: dict[str, Tensor], origin: Mapping[str, str]) -> None:
    """Write an index file, replacing an existing one in one step.

    Raises OSError with the path if it cannot be written, for example because the disk is full.
    """
    safetensors = require("safetensors.torch", "index")
    with replacing(path) as part:
        try:
            safetensors.save_file(tensors, part, metadata={"format": FORMAT, **origin})
        except require("safetensors", "index").SafetensorError as error:
            code = _SYSTEM_ERROR.search(str(error))
            if code is None:
                raise OSError(f"{path} cannot be written: {error}") from error
            raise OSError(int(code[1]), os.strerror(int(code[1])), str(path)) from error


def read_index(path: Path) -> tuple[Tensor, Tensor, dict[str, str]]:
    """Return an index file's table (mapped into memory), `valid` (a copy) and origin.

    Raises ValueError if it is not an index, or damaged.
    """
    with _safetensors(path, "build it again") as (file, descriptor):
        origin = file.metadata() or {}
        if origin.pop("format", None) != FORMAT or set(file.keys()) != {"table", "valid"}:
            raise ValueError(f"{path} is not an item index; read it with ItemIndex.import_file")
        table, valid = file.get_tensor("table"), file.get_tensor("valid")
        watch(table, descriptor, path)
    good = table.dim() == 2 and 0 not in table.shape and table.dtype in TABLE_DTYPES
    good = good and (valid.dtype, valid.shape) == (torch.bool, table.shape[:1])
    # A bool whose byte is neither 0 nor 1 is undefined behaviour in C++.
    if not good or int(valid.view(torch.uint8).max()) > 1:
        raise ValueError(
            f"{path} is damaged (table {table.dtype} {tuple(table.shape)}, valid {valid.dtype} "
            f"{tuple(valid.shape)}); build it again"
        )
    return table, valid.clone(), origin


def _kind(path: Path, *own: bytes) -> str | None:
    """What a file is that does not begin with one of its `own` marks, if that can be told."""
    with path.open("rb") as file:
        head = file.read(HEAD_BYTES)
    return None if head.startswith(own) else kind_of(head)


def metadata_fields(origin: Mapping[str, str], path: Path) -> list[str]:
    """Return the metadata fields that an index was built from.

    Raises ValueError if the file does not say, or is damaged.
    """
    if "metadata" not in origin:
        raise ValueError(
            f"{path} was imported, so its metadata is not known; open it without item_metadata"
        )
    try:
        fields = json.loads(origin.get("fields", ""))
    except (ValueError, RecursionError):
        fields = None
    if not isinstance(fields, list) or not all(isinstance(field, str) for field in fields):
        raise ValueError(f"{path} is damaged (its fields are not a list of names); build it again")
    return fields


def read_embeddings(path: Path) -> tuple[Tensor, Any]:
    """Read embeddings from a file, and the items of their rows if it has ``ids``.

    Raises ValueError if the file is not one that `ItemIndex.import_file` supports.
    """
    if path.suffix == ".npy":
        try:
            with opened(path) as (descriptor, same):
                embeddings = torch.from_numpy(np.load(same, mmap_mode="c", allow_pickle=False))
                watch(embeddings, descriptor, path)
        except PermissionError:
            raise
        except Exception as error:  # the type depends on the damage
            kind = _kind(path, b"\x93NUMPY")
            why = f"it is {kind}" if kind else str(error)
            if not kind and ("pickle" in why or "object" in why):  # not NumPy's advice to load it
                why = "it is damaged, or contains objects, which are never loaded"
            raise ValueError(
                f"{path} is not a plain array ({why}); save one with np.save(path, embeddings)"
            ) from error
        return embeddings, None
    if path.suffix == ".safetensors":
        loaded = _read_tensors(path)
    elif path.suffix in (".pt", ".pth"):
        loaded = _read_torch(path)
    else:
        raise ValueError(
            f"{path} is not a .safetensors, .npy or .pt file; load it and call "
            "ItemIndex.from_embeddings"
        )
    if isinstance(loaded, Tensor):
        return loaded, None
    if not isinstance(loaded, Mapping):
        raise ValueError(f"{path} must contain a tensor, got {type(loaded).__name__}")
    tables = [value for value in loaded.values() if isinstance(value, Tensor) and value.dim() == 2]
    if len(tables) != 1:
        raise ValueError(
            f"{path} must contain one [M, D] tensor, got {len(tables)}; pass the right one to "
            "ItemIndex.from_embeddings"
        )
    return tables[0], loaded.get("ids")


def _read_torch(path: Path) -> Any:
    """Read what torch.save wrote, if it is no more than tensors."""
    check_zip(path)
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except PermissionError:
        raise
    except Exception as error:  # the type depends on the damage
        kind = _kind(path, b"PK", b"\x80")
        raise ValueError(
            f"{path} is {kind or 'damaged, or contains more than tensors'}, which is never loaded; "
            "save one with torch.save(embeddings, path)"
        ) from error
    for tensor in loaded.values() if isinstance(loaded, Mapping) else [loaded]:
        is_dense = isinstance(tensor, Tensor) and tensor.layout == torch.strided
        if is_dense and tensor.nbytes > tensor.untyped_storage().nbytes():
            check_unpacked(path, tensor.nbytes)  # an expanded one takes no room in its file
    return loaded


def _read_tensors(path: Path) -> dict[str, Tensor]:
    """Map all tensors of a safetensors file."""
    with _safetensors(path, "save it again") as (file, descriptor):
        if (file.metadata() or {}).get("format") == FORMAT:
            raise ValueError(f"{path} is an item index; open it with ItemIndex.open")
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        for tensor in tensors.values():
            watch(tensor, descriptor, path)
    return tensors


@contextmanager
def _safetensors(path: Path, remedy: str) -> Iterator[tuple[Any, int]]:
    """Open a safetensors file, and give it and its descriptor; ValueError if it is damaged."""
    safetensors = require("safetensors", "index")
    try:
        with opened(path) as (descriptor, same), safetensors.safe_open(same, "pt") as file:
            yield file, descriptor
    except safetensors.SafetensorError as error:
        kind = _kind(path)
        if kind and kind != "a safetensors file":
            raise ValueError(f"{path} is not a safetensors file, it is {kind}") from error
        raise ValueError(f"{path} is damaged ({error}); {remedy}") from error
