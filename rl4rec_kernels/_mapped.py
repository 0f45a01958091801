"""Tables that are mapped from files: one whose file was cut meanwhile must not end the process.

Reading what a mapped file no longer has is a bus error, which kills the process without a word. So
operators ask here first whether the file is still as long as it was when it was opened. A file that
is cut while an operator reads it, and a disk that fails, still kill.
"""

import os
import weakref
from typing import NamedTuple

import torch
from torch import Tensor


class _File(NamedTuple):
    descriptor: (
        int  # of its own: the path may have got another file, while this one is still mapped
    )
    path: str
    size: int


_files: dict[int, _File] = {}  # by the address of the storage, which all views of a table share


def watch(table: Tensor, path: str | os.PathLike[str]) -> None:
    """Have `check_mapped` look after a table that has just been mapped from the file `path`."""
    storage = table.untyped_storage()
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    file = _File(descriptor, os.fspath(path), os.fstat(descriptor).st_size)
    _files[storage.data_ptr()] = file
    weakref.finalize(storage, _forget, storage.data_ptr(), file)


def _forget(address: int, file: _File) -> None:
    if _files.get(address) is file:
        del _files[address]
    os.close(file.descriptor)


def check_mapped(table: Tensor) -> None:
    """Check that the file of a mapped table, or of a part of one, is as long as it was.

    Raises
    ------
    OSError
        If it is not; the message names the file.
    """
    if torch.compiler.is_compiling() or not _files or table.device.type != "cpu":
        return
    if type(table) not in (Tensor, torch.nn.Parameter):
        return  # such as a fake tensor, which has no storage
    try:
        file = _files.get(table.untyped_storage().data_ptr())
    except RuntimeError:  # nor have those of torch.func
        return
    if file is None:
        return
    size = os.fstat(file.descriptor).st_size
    if size < file.size:
        raise OSError(f"{file.path} had {file.size} bytes when it was opened and has {size} now; "
                      "write a new one under another name, rename it, and open it")  # fmt: skip
