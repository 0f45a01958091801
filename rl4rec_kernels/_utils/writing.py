"""Writing files as a whole or not at all."""

import errno
import logging
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

logger = logging.getLogger(__name__)

_NOT_SUPPORTED = frozenset(
    (errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EPERM, errno.EACCES)
)
"""Errors of file systems that lack a step, as opposed to a full or a failing disk."""


@contextmanager
def replacing(path: Path) -> Iterator[str]:
    """Give the name of a temporary file, which replaces `path` after it has been written.

    On an error or an interrupt, `path` stays as it was. A new file has the permissions of any new
    file, an existing one keeps its own. A symbolic link stays, and its target is replaced.

    Some file systems cannot set permissions, or cannot force data to the disk. The file is written
    nevertheless, and a warning is logged.
    """
    path = Path(os.path.realpath(path))
    old_mode = stat.S_IMODE(path.stat().st_mode) & 0o777 if path.is_file() else None
    # Only a part of the name, since a whole one with an ending may be too long.
    part = path.with_name(f".{path.name[:20]}.{secrets.token_hex(8)}")
    # Never open to more people than the finished file, but the writer may need to open it again.
    mode = 0o666 if old_mode is None else old_mode | 0o600
    handle = os.open(part, os.O_CREAT | os.O_EXCL | os.O_WRONLY, mode)
    try:
        mode = stat.S_IMODE(os.fstat(handle).st_mode) if old_mode is None else old_mode
        os.close(handle)
        yield str(part)
        not_forced = _or_warn(path, "is not forced to the disk: a power failure may lose it")
        with open(part, "rb") as file, not_forced:
            os.fsync(file.fileno())
        if stat.S_IMODE(part.stat().st_mode) != mode:
            with _or_warn(path, f"does not have the permissions {mode:03o}"):
                os.chmod(part, mode)
        os.replace(part, path)
    except BaseException as error:
        part.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno and error.filename in (None, str(part)):
            error.filename = str(path)  # otherwise a full disk has no name
        raise
    # The new file is complete, whatever happens from here on.
    with _or_warn(path, "may be the old one again after a power failure", any_error=True):
        directory = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)


@contextmanager
def _or_warn(path: Path, what: str, *, any_error: bool = False) -> Iterator[None]:
    """Log a warning if the file system lacks a step that is not needed to write a file."""
    try:
        yield
    except OSError as error:
        if not any_error and error.errno not in _NOT_SUPPORTED:
            raise
        logger.warning("%s is written, but %s (%s)", path, what, error)


def save_figure(figure: Any, path: Path) -> None:
    """Write a matplotlib figure in the format of the file's suffix, creating directories."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as part:
        figure.savefig(part, format=path.suffix[1:] or "png", dpi=150)
