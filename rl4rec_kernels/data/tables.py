"""Tables of any kind, read in pieces: text files, data frames, columns of other libraries."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from rl4rec_kernels._utils.checks import shown
from rl4rec_kernels._utils.imports import require
from rl4rec_kernels._utils.progress import bar
from rl4rec_kernels._utils.values import as_list
from rl4rec_kernels.data.text_tables import ROWS, Piece, Table, open_text

_PARQUET = (".parquet", ".pq")

if TYPE_CHECKING:
    import datasets
    import pandas
    import pyarrow

# What the rows of a table come from. The parts in quotes are types of optional packages.
Source: TypeAlias = (
    "str | os.PathLike[str] | pandas.DataFrame | datasets.Dataset | pyarrow.Table"
    " | Mapping[str, Sequence[object] | np.ndarray] | Sequence[Mapping[str, object]]"
)

Slices = Callable[[Sequence[str]], Iterator[dict[str, Sequence[Any]]]]


class ColumnTable(Table):
    """A table of another library; `slices` gives its columns, piece by piece."""

    def __init__(
        self,
        name: str,
        columns: Sequence[Any],
        slices: Slices,
        num_rows: int | None,
    ) -> None:
        self.name, self.columns = name, [str(column) for column in columns]
        self._slices, self._num_rows = slices, num_rows

    def pieces(self, names: Sequence[str] | None, show: bool) -> Iterator[Piece]:
        names = self.columns if names is None else names
        start = 0
        with bar(self._num_rows, f"reading {self.name}", show=show, unit="rows") as update:
            for columns in self._slices(names):
                length = len(next(iter(columns.values()), ()))
                yield Piece(columns, range(start, start + length))
                start += length
                update(start)


def open_table(name: str, source: Any, **options: Any) -> Table:
    """Open a table: a file, a data frame, columns or rows.

    `options` are those of `SeparatedTable`, for files. Messages call the argument `name`.

    Raises
    ------
    TypeError, ValueError, FileNotFoundError
        If it is something else, or the file is damaged.
    """
    if isinstance(source, str | os.PathLike):
        path = Path(source)
        if not path.is_file():
            raise FileNotFoundError(f"{name}: there is no file {path}")
        if path.suffix in _PARQUET:
            return _parquet(path)
        return open_text(path, **options)
    if options.get("columns") is not None:
        raise ValueError(f"columns= is for files without a header, but {name} is {shown(source)}")
    if isinstance(source, Mapping) and source and not hasattr(source, "column_names"):
        if any(hasattr(part, "column_names") for part in source.values()):
            raise TypeError(f"{name} has several splits; pass one, such as {name}['train']")
        if any(as_list(column) is None for column in source.values()):
            raise TypeError(f"{name} must be a dict of columns, got {shown(source)}")
        lengths = {len(column) for column in source.values()}
        if len(lengths) > 1:
            raise ValueError(f"{name} has columns of different lengths, {sorted(lengths)}")
        return ColumnTable(name, list(source), _slices_of(source, lengths.pop()), None)
    if hasattr(source, "iloc"):  # pandas
        frame = source
        if not all(isinstance(column, str) for column in frame.columns):
            frame = frame.rename(columns=str)
        return ColumnTable(name, frame.columns, _slices_of(frame, len(frame)), len(frame))
    if hasattr(source, "select_columns") and hasattr(source, "iter"):  # datasets
        return _hugging_face(name, source)
    if hasattr(source, "column_names") and hasattr(source, "to_batches"):  # pyarrow
        return _arrow(name, source)
    if isinstance(source, Sequence) and source and isinstance(source[0], Mapping):
        return ColumnTable(name, list(source[0]), _slices_of_rows(source), len(source))
    raise TypeError(
        f"{name} must be a file, a pandas DataFrame, a datasets.Dataset, a pyarrow Table, a dict "
        f"of columns or a list of dicts, got {shown(source)}"
    )


def _slices_of(columns: Any, length: int) -> Slices:
    def slices(names: Sequence[str]) -> Iterator[dict[str, Sequence[Any]]]:
        for start in range(0, length, ROWS):
            piece = {name: columns[name][start : start + ROWS] for name in names}
            yield {name: _plain_column(column) for name, column in piece.items()}

    return slices


def _plain_column(column: Any) -> Sequence[Any]:
    values = getattr(column, "array", column)  # of a Series: its index does not count
    if hasattr(values, "dtype") and getattr(values.dtype, "kind", "") == "M":
        return values.to_numpy() if hasattr(values, "to_numpy") else values
    return values.tolist() if hasattr(values, "tolist") else list(values)


def _slices_of_rows(rows: Sequence[Any]) -> Slices:
    def slices(names: Sequence[str]) -> Iterator[dict[str, Sequence[Any]]]:
        for start in range(0, len(rows), ROWS):
            piece = rows[start : start + ROWS]
            yield {name: [row.get(name) for row in piece] for name in names}

    return slices


def _arrow(name: str, table: Any) -> Table:
    def slices(names: Sequence[str]) -> Iterator[dict[str, Sequence[Any]]]:
        for batch in table.select(list(names)).to_batches(max_chunksize=ROWS):
            yield {column: batch.column(column).to_pylist() for column in names}

    return ColumnTable(name, table.column_names, slices, table.num_rows)


def _hugging_face(name: str, dataset: Any) -> Table:
    def slices(names: Sequence[str]) -> Iterator[dict[str, Sequence[Any]]]:
        for batch in dataset.select_columns(list(names)).with_format(None).iter(ROWS):
            yield {column: batch[column] for column in names}

    if not dataset.column_names:
        raise ValueError(f"{name} does not say which columns it has; pass dataset.resolve_features")
    rows = len(dataset) if hasattr(dataset, "__len__") else None
    return ColumnTable(name, dataset.column_names, slices, rows)


def _parquet(path: Path) -> Table:
    parquet = require("pyarrow.parquet", "datasets")
    try:
        file = parquet.ParquetFile(path)
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} is not a complete Parquet file ({error})") from None

    def slices(names: Sequence[str]) -> Iterator[dict[str, Sequence[Any]]]:
        for batch in file.iter_batches(ROWS, columns=list(names)):
            yield {name: batch.column(name).to_pylist() for name in names}

    return ColumnTable(str(path), file.schema_arrow.names, slices, file.metadata.num_rows)
