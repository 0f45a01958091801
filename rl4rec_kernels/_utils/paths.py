"""Paths as the user gives them, and names that a file system accepts."""

import hashlib
import os
from pathlib import Path

_NAME_BYTES = 255  # of a file's name, on nearly every file system


def absolute(path: str | os.PathLike[str]) -> Path:
    """Return a path made absolute as it is written: links are not followed.

    Names and endings are read from it, and the target of a link may have others: hub caches link
    ``index.safetensors`` to a file whose name is a hash. Only a path that has no name,
    such as ``..``, is that of its target.
    """
    given = Path(path)
    if given == Path():  # "." has the name under which the shell has entered it
        shell = os.environ.get("PWD", "")
        if os.path.isabs(shell) and os.path.isdir(shell) and os.path.samefile(shell, "."):
            given = Path(shell)
    given = given.absolute()
    return given.resolve() if given.name in ("", "..") else given


def file_name(stem: str, ending: str) -> str:
    """Return ``<stem><ending>``, with the stem shortened if file systems would not accept it.

    A digest of the stem keeps shortened names distinct.
    """
    if len(os.fsencode(stem + ending)) <= _NAME_BYTES:
        return stem + ending
    digest = hashlib.sha256(os.fsencode(stem)).hexdigest()[:16]
    return f"{stem[:40]}-{digest}{ending}"  # a character has up to 4 bytes
