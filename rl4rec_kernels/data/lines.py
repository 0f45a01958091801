"""Text files line by line, which take little memory, whatever their size."""

import gzip
import io
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from rl4rec_kernels._utils.contents import GZIP, HEAD_BYTES, kind_of

MAX_LINE_BYTES = 1 << 26
_BLOCK_BYTES = 1 << 22


def read_lines(
    path: Path, encoding: str = "utf-8", update: Callable[[int], None] | None = None
) -> Iterator[tuple[int, str]]:
    """Yield the numbers, from 1, and the lines of a text file, plain or as ``.gz``.

    Only ``\\n`` ends a line, and stays at its end. `update` is told how many bytes of the file were
    read.

    Raises
    ------
    ValueError
        If it is something else, damaged, or has a line of more than 64 MiB; the message names the
        file and the line.
    """
    number = 0
    for block, done in _blocks(path):
        try:
            text = block.decode("utf-8-sig" if encoding == "utf-8" and not number else encoding)
        except UnicodeDecodeError as error:
            line = number + 1 + block.count(b"\n", 0, error.start)
            raise ValueError(
                f"{path}, line {line}: not {encoding} text ({error}); convert it with iconv"
            ) from None
        if "\0" in text:
            line = number + 1 + text.count("\n", 0, text.index("\0"))
            raise ValueError(
                f"{path}, line {line} contains a NUL character: the file is damaged or not text; "
                "fetch or convert it again"
            )
        for number, row in enumerate(io.StringIO(text, newline="\n"), number + 1):  # noqa: B020
            yield number, row
        if update is not None:
            update(done)


def _blocks(path: Path) -> Iterator[tuple[bytes, int]]:
    """Yield whole lines, several MiB at once, and how many bytes of the file were read."""
    with open(path, "rb") as raw:
        head = raw.read(HEAD_BYTES)
        raw.seek(0)
        packed = path.suffix == ".gz"
        kind = kind_of(head)
        if kind and not packed:
            raise ValueError(f"{path} is not text, it is {kind}")
        if kind and not head.startswith(GZIP):
            raise ValueError(f"{path} is not a gzip file, it is {kind}")
        file: Any = gzip.GzipFile(fileobj=raw) if packed else raw
        rest, lines = b"", 0
        while True:
            try:
                block = file.read(_BLOCK_BYTES)
            except (gzip.BadGzipFile, EOFError, zlib.error) as error:
                raise ValueError(
                    f"{path} is not a complete gzip file ({error}), after line {lines}; fetch or "
                    "pack it again"
                ) from None
            if packed and not lines and not rest and (kind := kind_of(block[:HEAD_BYTES])):
                raise ValueError(f"{path} is not text, it contains {kind}")
            end = block.rfind(b"\n") + 1
            if block and not end:
                rest += block
            else:
                if whole := rest + block[:end]:
                    yield whole, raw.tell()
                    lines += whole.count(b"\n")
                rest = block[end:]
            if len(rest) > MAX_LINE_BYTES:
                raise ValueError(
                    f"{path}, line {lines + 1}: it is longer than {MAX_LINE_BYTES >> 20} MiB, "
                    "which no row of a table is"
                )
            if not block:
                return
