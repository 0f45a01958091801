"""Tables that are mapped from files: one whose file was cut meanwhile must not end the process.

Reading what a mapped file no longer has is a bus error, which kills the process without a word. So
operators ask here first whether the file is still as long as it was when it was opened. A file that
is cut while an operator reads it, and a disk that fails, still kill.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

_MAPS = Path("/proc/self/maps")
_BLOCK_BYTES = 4 << 20  # of the rows looked at together: checks of a mapped table take no memory


class _File(NamedTuple):
    descriptor: int  # of its own: the path may have got another file while this one is still mapped
    path: str
    size: int


_files: dict[int, _File] = {}  # by the address of the storage, which all views of a table share


def watch(table: Tensor, path: str | os.PathLike[str]) -> None:
    """Have `check_mapped` look after a table that has just been mapped from the file `path`."""
    _forget_unmapped()
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    file = _File(descriptor, os.fspath(path), os.fstat(descriptor).st_size)
    _files[table.untyped_storage().data_ptr()] = file


def _forget_unmapped() -> None:
    """Close the files of tables that are gone.

    Asking what is mapped, now and then, needs no call back from torch's storages, whose Python side
    may come and go while they live.
    """
    for address, file in list(_files.items()):
        if not _is_mapped(address, file):
            del _files[address]
            os.close(file.descriptor)


def _is_mapped(address: int, file: _File) -> bool:
    """Whether the file is what is mapped at an address; True where the system does not tell."""
    if not _MAPS.exists():
        return True
    for line in _MAPS.read_text().splitlines():
        bounds, _, _, _, inode = line.split(maxsplit=5)[:5]
        begin, end = (int(bound, 16) for bound in bounds.split("-"))
        if begin <= address < end:
            return int(inode) == os.fstat(file.descriptor).st_ino
    return False


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
    if size < file.size and _is_mapped(table.untyped_storage().data_ptr(), file):
        raise OSError(
            f"{file.path} had {file.size} bytes when it was opened and has {size} now; "
            "write a new one under another name, rename it, and open it"
        )


def check_finite(name: str, table: Tensor) -> None:
    """Check that a table holds neither NaN nor infinities.

    Raises
    ------
    ValueError
        If it does; the message names the first such row.
    """
    for start, block in row_blocks(table):
        bad = (~block.isfinite()).any(1).nonzero()
        if bad.numel():
            raise ValueError(
                f"{name}: row {start + int(bad[0])} holds NaN or infinity; encode it again"
            )


def row_blocks(table: Tensor) -> Iterator[tuple[int, Tensor]]:
    """A few rows after the other: where they start, and a view of them."""
    step = max(1, _BLOCK_BYTES // max(1, table.shape[1] * table.element_size()))
    for start in range(0, table.shape[0], step):
        check_mapped(table)
        yield start, table[start : start + step]
