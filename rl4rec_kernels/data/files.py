"""Where a dataset's files are, and how they are read."""

import gzip
import os
import zlib
from collections.abc import Iterable
from pathlib import Path

DATA_DIR_VARIABLE = "RL4REC_DATA"


def dataset_dir(name: str, data_dir: str | os.PathLike[str] | None = None) -> Path:
    """Return the directory of a dataset, ``<data_dir>/<name>``.

    Parameters
    ----------
    name : str
        Name of the dataset, for example ``"beauty"``.
    data_dir : path, optional
        The directory that contains the dataset's directory. Default: the environment variable
        ``RL4REC_DATA``, or ``./data`` where that is not set.

    Raises
    ------
    TypeError, ValueError
        If `name` is not the plain name of a directory.
    FileNotFoundError
        If there is no such directory; the message lists the datasets that are there.
    """
    if not isinstance(name, str):
        raise TypeError(f"the dataset's name must be a string, got {name!r}")
    if not name or name in (".", "..") or Path(name).name != name:
        raise ValueError(
            f"the dataset's name must be the plain name of a directory, got {name!r}; "
            "pass where it is as data_dir"
        )
    root = Path(data_dir or os.environ.get(DATA_DIR_VARIABLE) or "data")
    if (root / name).is_dir():
        return root / name
    there = sorted(p.name for p in root.iterdir() if p.is_dir()) if root.is_dir() else []
    found = f"it contains {', '.join(there)}" if there else "it contains no dataset"
    raise FileNotFoundError(
        f"no dataset {name!r}: {root / name} is not a directory "
        f"({found if root.is_dir() else f'{root} does not exist'}). Pass data_dir=, or set "
        f"{DATA_DIR_VARIABLE}, to the directory that contains {name}/"
    )


def first_file(directory: Path, names: Iterable[str]) -> Path | None:
    """Return the first of `names` that is a file in `directory`."""
    return next((directory / name for name in names if (directory / name).is_file()), None)


def with_gz(*names: str) -> list[str]:
    """Return every name, plain and with ``.gz``; plain files come first."""
    return [*names, *(f"{name}.gz" for name in names)]


def read_text(path: Path) -> str:
    """Read a UTF-8 file, unpacking ``.gz``; line ends become ``\\n``.

    Raises
    ------
    ValueError
        If the file is not UTF-8, or not the gzip file its name says.
    """
    try:
        raw = path.read_bytes()
        if path.suffix == ".gz":
            raw = gzip.decompress(raw)
        text = raw.decode("utf-8-sig")
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise ValueError(
            f"{path} is no complete gzip file ({error}); fetch or pack it again"
        ) from (error)
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text ({error}); convert it with iconv") from error
    text = text.replace("\r\n", "\n")
    return text if "\n" in text else text.replace("\r", "\n")  # of an old Macintosh


def numbered_lines(text: str) -> list[tuple[int, str]]:
    """Return the lines that are not blank, with their numbers from 1.

    Only ``\\n`` ends a line: ``str.splitlines`` would also cut at marks that titles contain.
    """
    return [(i, line) for i, line in enumerate(text.split("\n"), 1) if line and not line.isspace()]
