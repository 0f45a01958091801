"""Unpacking files up to a bound: a file of a few megabytes may hold gigabytes."""

import gzip
import io
import os
import zipfile
from pathlib import Path

from rl4rec_kernels._utils.checks import shown

UNPACKED_VARIABLE = "RL4REC_MAX_UNPACKED_MIB"
_DEFAULT_MIB = 2048


def unpack_gzip(path: Path, packed: bytes) -> bytes:
    """Unpack the contents of a gzip file.

    Raises
    ------
    ValueError
        If it holds more than ``RL4REC_MAX_UNPACKED_MIB`` (default: 2048).
    gzip.BadGzipFile, EOFError, zlib.error
        If it is damaged.
    """
    limit = _limit()
    with gzip.GzipFile(fileobj=io.BytesIO(packed)) as file:
        unpacked = file.read(limit + 1)
    check_unpacked(path, len(unpacked), limit)
    return unpacked


def check_zip(path: Path) -> None:
    """Raise ValueError if a file is a zip archive that holds more than the bound."""
    try:
        with zipfile.ZipFile(path) as archive:
            is_packed = [part for part in archive.infolist() if part.compress_type]
    except zipfile.BadZipFile:  # not one, or damaged, which its reader says
        return
    check_unpacked(path, sum(part.file_size for part in is_packed))


def check_unpacked(path: Path, size: int, limit: int | None = None) -> None:
    """Raise ValueError if a file holds more bytes than the bound."""
    limit = _limit() if limit is None else limit
    if size > limit:
        raise ValueError(
            f"{path} holds more than {limit >> 20} MiB; if you expect that, unpack it, or set "
            f"{UNPACKED_VARIABLE} to more"
        )


def _limit() -> int:
    """The most bytes that a file may hold."""
    given = os.environ.get(UNPACKED_VARIABLE) or str(_DEFAULT_MIB)
    if not (given.isascii() and given.isdigit() and 0 < len(given) < 10):
        raise ValueError(f"{UNPACKED_VARIABLE} must be a whole number, got {shown(given)}")
    return int(given) << 20
