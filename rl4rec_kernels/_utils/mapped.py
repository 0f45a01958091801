"""Tables that may be mapped from files, and checks of them before and while they are read.

Reading a part of a mapped file that has been cut off is a bus error, which kills the process
without a message. So operators first check that the file is still as long as when it was opened.
(A file that is cut while an operator reads it, or a failing disk, still kills the process.)
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.compiler import is_compiling

from rl4rec_kernels._utils.forking import fork_safe_lock

_MAPS = Path("/proc/self/maps")
_BLOCK_BYTES = 4 << 20  # of rows checked at once, so that checking a mapped table takes no memory


class _File(NamedTuple):
    descriptor: int  # still refers to this file if the path gets another one
    path: str
    size: int


_files: dict[int, _File] = {}  # by the address of the storage, which all views of a table share
_lock = fork_safe_lock()  # of changes, or two threads would close one descriptor


@contextmanager
def opened(path: str | os.PathLike[str]) -> Iterator[tuple[int, str]]:
    """Open a file, and give its descriptor and a path at which only this file is found.

    Libraries open a path several times, and in between another process may replace the file.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        same = f"/proc/self/fd/{descriptor}"
        yield descriptor, same if os.path.exists(same) else os.fspath(path)
    finally:
        os.close(descriptor)


def watch(table: Tensor, descriptor: int, path: str | os.PathLike[str]) -> None:
    """Let `check_mapped` check a table that has just been mapped from an open file."""
    file = _File(os.dup(descriptor), os.fspath(path), os.fstat(descriptor).st_size)
    with _lock:
        _forget_unmapped()
        # An older table of the same file may have been at this address.
        old = _files.pop(address := table.untyped_storage().data_ptr(), None)
        _files[address] = file
    if old is not None:
        os.close(old.descriptor)


def check_mapped(table: Tensor) -> None:
    """Raise OSError if the file that a table, or a part of one, is mapped from has been cut."""
    if is_compiling() or not _files or not table.is_cpu:
        return
    if type(table) not in (Tensor, torch.nn.Parameter):
        return  # for example a fake tensor, which has no storage
    try:
        file = _files.get(table.untyped_storage().data_ptr())
    except RuntimeError:  # the tensors of torch.func have none either
        return
    if file is None:
        return
    size = os.fstat(file.descriptor).st_size
    if size < file.size and _is_mapped(table.untyped_storage().data_ptr(), file):
        raise OSError(
            f"{file.path} had {file.size} bytes when it was opened, but has {size} now; write "
            "the new file under another name, rename it, and open it"
        )


def row_blocks(table: Tensor) -> Iterator[tuple[int, Tensor]]:
    """Yield views of a few rows after another, each with the index of its first row."""
    step = max(1, _BLOCK_BYTES // max(1, table.shape[1] * table.element_size()))
    for start in range(0, table.shape[0], step):
        check_mapped(table)
        yield start, table[start : start + step]


def check_finite(name: str, table: Tensor) -> None:
    """Raise ValueError if a table contains NaN or infinities; the message names the first row."""
    for start, block in row_blocks(table):
        bad = (~block.isfinite()).any(1).nonzero()
        if bad.numel():
            row = start + int(bad[0])
            raise ValueError(f"{name}: row {row} holds NaN or infinity; encode it again")


def _forget_unmapped() -> None:
    """Close the files of tables that no longer exist.

    Looking up what is mapped, now and then, needs no callback from torch's storages, whose Python
    objects may come and go while the storage lives.
    """
    for address, file in list(_files.items()):
        if not _is_mapped(address, file):
            del _files[address]
            os.close(file.descriptor)


def _is_mapped(address: int, file: _File) -> bool:
    """Whether `file` is mapped at an address; True if the system does not say."""
    if not _MAPS.exists():
        return True
    for line in _MAPS.read_bytes().split(b"\n")[:-1]:  # names may be in any encoding
        bounds, _, _, _, inode = line.split(maxsplit=5)[:5]
        begin, end = (int(bound, 16) for bound in bounds.split(b"-"))
        if begin <= address < end:
            return int(inode) == os.fstat(file.descriptor).st_ino
    return False
