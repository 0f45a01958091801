"""Where a dataset's files are, and how they are read."""

import errno
import gzip
import os
import re
import zlib
from collections.abc import Iterable
from pathlib import Path

from rl4rec_kernels._utils.checks import as_path, shown
from rl4rec_kernels._utils.contents import GZIP, HEAD_BYTES, kind_of
from rl4rec_kernels._utils.unpacking import unpack_gzip

DATA_DIR_VARIABLE = "RL4REC_DATA"

_NUL, _CR = "\0", "\r"

_ESCAPE = re.compile(  # of JSON, so that an escaped backslash is not taken for the start of one
    r"\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}"
    r"|(?P<half>u[dD][89a-fA-F][0-9a-fA-F]{2})|.)",
    re.DOTALL,
)


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
    if data_dir is not None:
        data_dir = as_path("data_dir", data_dir)
    root = Path(data_dir or os.environ.get(DATA_DIR_VARIABLE) or "data")
    if (root / name).is_dir():
        return root / name
    found = f"{root} is not a directory" if root.exists() else f"{root} does not exist"
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

    Raises ValueError if the file is not UTF-8 text, is a damaged gzip file or holds more than
    ``RL4REC_MAX_UNPACKED_MIB``, or has a line that programs would read in different ways; the
    message names the file and the line.
    """
    raw = path.read_bytes()
    packed = path.suffix == ".gz"
    if packed:
        kind = kind_of(raw[:HEAD_BYTES])
        try:
            raw = unpack_gzip(path, raw)
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            why = error if raw.startswith(GZIP) or kind is None else f"it is {kind}"
            raise ValueError(
                f"{path} is not a complete gzip file ({why}); fetch or pack it again"
            ) from error
    if kind := kind_of(raw[:HEAD_BYTES]):
        raise ValueError(f"{path} is not text, it {'contains' if packed else 'is'} {kind}")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise ValueError(
            f"{path}, line {line}: not UTF-8 text ({error}); convert it with iconv"
        ) from error
    if _NUL in text:
        raise ValueError(
            f"{line_at(path, text, text.index(_NUL))} contains a NUL character: the file is "
            "damaged or not UTF-8; fetch or convert it again"
        )
    if "\r" not in text:
        return text
    text = text.replace("\r\n", "\n")
    if "\n" not in text:
        return text.replace("\r", "\n")  # classic Mac OS
    text = re.sub(r"\r+(\n|\Z)", r"\1", text)
    if _CR in text:
        raise ValueError(
            f"{line_at(path, text, text.index(_CR))} contains a carriage return (\\r), which ends "
            "a line for some programs only; replace it with a line end or a space"
        )
    return text


def lone_surrogate(text: str) -> int | None:
    """Return the position in a JSON text of the first escape of half a character, if any."""
    if "\\ud" not in text and "\\uD" not in text:
        return None
    halves = (match.start() for match in _ESCAPE.finditer(text) if match["half"])
    return next(halves, None)


def check_json_characters(path: Path, text: str) -> None:
    """Raise ValueError if a JSON text has half a character, which cannot be encoded."""
    at = lone_surrogate(text)
    if at is not None:
        raise ValueError(
            f"{line_at(path, text, at)} contains {text[at : at + 6]}, half of a character; write "
            "the whole character or remove it"
        )


def line_at(path: Path, text: str, position: int) -> str:
    """Return the file and the line of a position in its text, for a message."""
    line = text.count("\n", 0, position) + 1
    return f"{path}, line {line}:"


def is_whole_number(text: str) -> bool:
    """Whether a text consists of 1 to 18 decimal digits."""
    # isdigit also accepts digits of other scripts and superscripts.
    return text.isascii() and text.isdigit() and len(text) < 19


def numbered_lines(text: str) -> list[tuple[int, str]]:
    """Return the lines that are not blank, with their numbers from 1.

    Only ``\\n`` ends a line: ``str.splitlines`` would also split at characters that titles contain.
    """
    return [(i, line) for i, line in enumerate(text.split("\n"), 1) if line and not line.isspace()]
