"""Paths of index files, and writing them whole or not at all."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def existing(path: str | os.PathLike[str]) -> Path:
    """Return the path of a file that is there.

    Raises
    ------
    FileNotFoundError
        If it is not.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"there is no file {path}; build it with ItemIndex.build, or check "
                                "the path")  # fmt: skip
    return Path(path)


def named_safetensors(path: str | os.PathLike[str]) -> Path:
    """Return the path of an index file.

    Raises
    ------
    ValueError
        If it is not named *.safetensors.
    """
    if Path(path).suffix != ".safetensors":
        raise ValueError(f"an index file must be named *.safetensors, got {path}; other files are "
                         "read by ItemIndex.import_file")  # fmt: skip
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


@contextmanager
def replacing(path: Path) -> Iterator[str]:
    """Give the name of a file to write, which then takes the place of `path` at once."""
    handle, part = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(handle)
    try:
        yield part
        with open(part, "rb") as file:
            os.fsync(file.fileno())
        os.chmod(part, 0o666 & ~_umask())
        os.replace(part, path)
    except BaseException:
        os.unlink(part)
        raise


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
