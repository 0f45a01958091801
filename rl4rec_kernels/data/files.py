"""Where a dataset's files are, and how they are read."""

import errno
import gzip
import os
import zlib
from collections.abc import Iterable
from pathlib import Path

from rl4rec_kernels._utils.checks import shown

DATA_DIR_VARIABLE = "RL4REC_DATA"


def dataset_dir(name: str, data_dir: str | os.PathLike[str] | None = None) -> Path:
    """Return the directory of a dataset, ``<data_dir>/<name>``.

    Parameters
    ----------
    name : str
        Name of the dataset, for example ``"beauty"``.
    data_dir : path, optional
        The directory that contains the dataset's directory. Default: the environment variable
        ``RL4REC_DATA`` or, if it is not set, ``./data``.

    Raises
    ------
    TypeError, ValueError
        If `name` is not the plain name of a directory.
    FileNotFoundError
        If there is no such directory; the message lists the datasets found.
    """
    if not isinstance(name, str):
        raise TypeError(f"the dataset's name must be a string, got {shown(name)}")
    if not name or name in (".", "..") or Path(name).name != name:
        raise ValueError(
            f"the dataset's name must be the plain name of a directory, got {shown(name)}; "
            "pass the directory that contains it as data_dir"
        )
    root = Path(data_dir or os.environ.get(DATA_DIR_VARIABLE) or "data")
    if (root / name).is_dir():
        return root / name
    found = f"{root} does not exist"
    if root.is_dir():
        names = ", ".join(sorted(path.name for path in root.iterdir() if path.is_dir()))
        found = f"found {names or 'no datasets'}"
    raise FileNotFoundError(
        f"no dataset {shown(name)}: {root / name} is not a directory ({found}); pass data_dir=, or "
        f"set {DATA_DIR_VARIABLE}, to the directory that contains {name}/"
    )


def first_file(directory: Path, names: Iterable[str]) -> Path | None:
    """Return the first of `names` that is a file in `directory`."""
    return next((directory / name for name in names if _is_file(directory / name)), None)


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:  # a data set's name may just fit without an ending
            raise
        return False


def with_gz(*names: str) -> list[str]:
    """Return the names as they are, then with ``.gz``."""
    return [*names, *(f"{name}.gz" for name in names)]


def read_text(path: Path) -> str:
    """Read a UTF-8 file, unpacking ``.gz``; line ends become ``\\n``.

    Raises ValueError if the file is not UTF-8, or is a damaged gzip file.
    """
    try:
        raw = path.read_bytes()
        if path.suffix == ".gz":
            raw = gzip.decompress(raw)
        text = raw.decode("utf-8-sig")
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise ValueError(
            f"{path} is not a complete gzip file ({error}); fetch or pack it again"
        ) from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text ({error}); convert it with iconv") from error
    text = text.replace("\r\n", "\n")
    return text if "\n" in text else text.replace("\r", "\n")  # classic Mac OS


def is_whole_number(text: str) -> bool:
    """Whether a text consists of 1 to 18 decimal digits."""
    # isdigit also accepts digits of other scripts and superscripts.
    return text.isascii() and text.isdigit() and len(text) < 19


def numbered_lines(text: str) -> list[tuple[int, str]]:
    """Return the lines that are not blank, with their numbers from 1.

    Only ``\\n`` ends a line: ``str.splitlines`` would also split at characters that titles contain.
    """
    return [(i, line) for i, line in enumerate(text.split("\n"), 1) if line and not line.isspace()]
