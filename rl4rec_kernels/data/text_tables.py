"""Tables in text files: separated values, or one object per line."""

import ast
import csv
import itertools
import json
import os
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rl4rec_kernels._utils.checks import shown
from rl4rec_kernels._utils.progress import bar
from rl4rec_kernels.data.files import check_json_characters, lone_surrogate, read_text
from rl4rec_kernels.data.lines import read_lines

ROWS = 1 << 16  # of a piece
_OBJECTS = (".json", ".jsonl", ".ndjson")
_SEPARATORS = ("\t", ",", ";", "|")
_SURROGATES = re.compile(r"\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}")
_TYPES = ("token", "token_seq", "float", "float_seq")


class Piece(NamedTuple):
    """Rows of a table: the values of each column, and the rows' lines in the file or positions."""

    columns: Mapping[str, Sequence[Any]]
    lines: Sequence[int]


class Table(ABC):
    """A table that is read in pieces.

    Attributes
    ----------
    name : str
        What messages call it.
    columns : list of str
        The names of the columns, from the header or the first row.
    """

    name: str
    columns: list[str]
    row_word = "row"

    def where(self, line: int) -> str:
        """Name a row for a message."""
        return f"{self.name}, {self.row_word} {line}"

    @abstractmethod
    def pieces(self, names: Sequence[str] | None, show: bool) -> Iterator[Piece]:
        """Read these columns, or all; a value that a row lacks is None."""

    def rows(self, show: bool) -> Iterator[tuple[int, Mapping[str, Any]]]:
        """Read all columns row by row, with the rows' lines."""
        for columns, lines in self.pieces(None, show):
            for line, values in zip(lines, zip(*columns.values(), strict=True), strict=True):
                yield line, dict(zip(columns, values, strict=True))


class SeparatedTable(Table):
    """A file of separated values.

    Parameters
    ----------
    path, encoding
        See `read_lines`.
    columns : sequence of str, optional
        The names of the columns, if the file has no header.
    separator : str, optional
        Default: ``::``, or else what the first line has most of: tab, comma, semicolon or ``|``.
    quotes : bool
        Whether cells may be quoted, as by Python's csv module.
    """

    row_word = "line"

    def __init__(
        self,
        path: Path,
        columns: Sequence[str] | None = None,
        separator: str | None = None,
        encoding: str = "utf-8",
        quotes: bool = True,
    ) -> None:
        self.path, self.name, self._encoding = path, str(path), encoding
        number, first = _first_line(path, encoding)
        self._separator = separator or _separator_of(first)
        self._quotes = quotes and len(self._separator) == 1
        self._has_header = columns is None
        if columns is not None:
            self.columns = list(columns)
            return
        self.columns = []
        heads = next(self._rows(iter([(number, first)])))[1]
        self.columns = [_plain_head(head) for head in heads]
        if len(set(self.columns)) < len(self.columns):
            raise ValueError(
                f"{self.where(number)}: columns must have different names, got "
                f"{', '.join(self.columns)}; if the file has no header, pass columns="
            )

    def pieces(self, names: Sequence[str] | None, show: bool) -> Iterator[Piece]:
        """Read these columns as text."""
        names = self.columns if names is None else names
        at = [self.columns.index(name) for name in names]
        with bar(os.path.getsize(self.path), f"reading {self.path.name}", show=show) as update:
            rows = self._rows(read_lines(self.path, self._encoding, update))
            if self._has_header:
                next(rows)
            while part := list(itertools.islice(rows, ROWS)):
                cells = {n: [row[i] for _, row in part] for n, i in zip(names, at, strict=True)}
                yield Piece(cells, [number for number, _ in part])

    def _rows(self, lines: Iterator[tuple[int, str]]) -> Iterator[tuple[int, list[str]]]:
        """Split lines into cells."""
        if not self._quotes:
            for number, line in lines:
                if not line.isspace():
                    yield number, self._checked(number, line.rstrip("\r\n").split(self._separator))
            return
        last, first = 0, 0

        def texts() -> Iterator[str]:
            nonlocal last, first
            for last, line in lines:
                first = first or last
                yield line

        try:
            for row in csv.reader(texts(), delimiter=self._separator, strict=True):
                if len(row) > 1 or (row and row[0].strip()):
                    yield first, self._checked(first, row)
                first = 0  # a quoted cell may have several lines
        except csv.Error as error:
            raise ValueError(
                f'{self.where(first)}: {error}; a cell that begins with " must end with ", and '
                'one inside is written as ""'
            ) from None

    def _checked(self, number: int, row: list[str]) -> list[str]:
        if self.columns and len(row) != len(self.columns):
            raise ValueError(
                f"{self.where(number)}: {len(row)} cells separated by {self._separator!r}, but "
                f"{len(self.columns)} columns; pass separator= if it is another one"
            )
        return row


class ObjectTable(Table):
    """A file of one object per line: JSON, or Python literals.

    The files of Amazon's metadata of 2014, and those of Steam, are made of Python's dicts, which
    the pages that publish them read by ``eval``.
    """

    row_word = "line"

    def __init__(self, path: Path, encoding: str = "utf-8") -> None:
        self.path, self.name, self._encoding = path, str(path), encoding
        number, first = _first_line(path, encoding)
        if first.lstrip().startswith("["):
            raise ValueError(
                f"{path} is a JSON list; write one object per line, or pass the list that "
                "json.load returns"
            )
        self._is_python = _is_python(first)
        self.columns = list(self._read(number, first))

    def pieces(self, names: Sequence[str] | None, show: bool) -> Iterator[Piece]:
        """Read these fields."""
        names = self.columns if names is None else names
        rows = self.rows(show)
        while part := list(itertools.islice(rows, ROWS)):
            values: dict[str, list[Any]] = {n: [row.get(n) for _, row in part] for n in names}
            yield Piece(values, [number for number, _ in part])

    def rows(self, show: bool) -> Iterator[tuple[int, Mapping[str, Any]]]:
        """Read the objects with all the fields that each has."""
        with bar(os.path.getsize(self.path), f"reading {self.path.name}", show=show) as update:
            for number, line in read_lines(self.path, self._encoding, update):
                if not line.isspace():
                    yield number, self._read(number, line)

    def _read(self, number: int, line: str) -> dict[str, Any]:
        try:
            if self._is_python:
                row = ast.literal_eval(_SURROGATES.sub(_whole, line.strip()))
            else:
                row = json.loads(line)
        except (ValueError, SyntaxError, RecursionError, MemoryError) as error:
            raise ValueError(
                f"{self.where(number)}: {shown(line[:60])} is not "
                f"{'a Python literal' if self._is_python else 'JSON'} ({error}); remove the line "
                "or fetch the file again"
            ) from None
        if not isinstance(row, dict):
            raise ValueError(f"{self.where(number)}: {shown(line[:60])} is not an object")
        if (at := lone_surrogate(line)) is not None:
            raise ValueError(
                f"{self.where(number)} contains {line[at : at + 6]}, half of a character; write "
                "the whole character or remove it"
            )
        return row


def open_text(path: Path, **options: Any) -> Table:
    """Open a file by its ending; `options` are those of `SeparatedTable`."""
    if path.name.removesuffix(".gz").endswith(_OBJECTS):
        return ObjectTable(path, options.get("encoding") or "utf-8")
    return SeparatedTable(path, **options)


def _whole(pair: re.Match[str]) -> str:
    """The character of two escapes, which Python would leave as two halves."""
    return str(json.loads(f'"{pair[0]}"'))


def _first_line(path: Path, encoding: str) -> tuple[int, str]:
    for number, line in read_lines(path, encoding):
        if not line.isspace():
            return number, line
    raise ValueError(f"{path} is empty")


def _plain_head(head: str) -> str:
    """The name of a column, without the type that RecBole's headers have."""
    name, _, kind = head.strip().partition(":")
    return name if kind in _TYPES else head.strip()


def _separator_of(line: str) -> str:
    return "::" if "::" in line else max(_SEPARATORS, key=line.count)


def _is_python(line: str) -> bool:
    """Whether a line is a Python literal, but not JSON."""
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        try:
            ast.literal_eval(line.strip())
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            return False
        return True
    return False


def read_json_object(path: Path) -> dict[str, Any]:
    """Read a file that is one JSON object."""
    text = read_text(path)
    check_json_characters(path, text)
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON ({error})") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path} must be a JSON object, got a {type(content).__name__}")
    return content
