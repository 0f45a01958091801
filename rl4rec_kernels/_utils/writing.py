"""Writing files as a whole or not at all."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def replacing(path: Path) -> Iterator[str]:
    """Give the name of a temporary file, which replaces `path` after it has been written.

    On an error or an interrupt, `path` stays as it was.
    """
    handle, part = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(handle)
    try:
        yield part
        with open(part, "rb") as file:
            os.fsync(file.fileno())
        os.chmod(part, 0o666 & ~_umask())
        os.replace(part, path)
    except BaseException:
        Path(part).unlink(missing_ok=True)
        raise
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)  # otherwise a power failure may bring the old file back
    finally:
        os.close(directory)


def save_figure(figure: Any, path: Path) -> None:
    """Write a matplotlib figure in the format of the file's suffix, creating directories."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as part:
        figure.savefig(part, format=path.suffix[1:] or "png", dpi=150)


def _umask() -> int:
    # os.umask can only be read by setting it, which other threads would notice.
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1], 8) for line in lines if line.startswith("Umask:"))
