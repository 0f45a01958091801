"""``read_interactions``: interactions and items in any form, or of a known layout."""

import logging
import os
import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rl4rec_kernels._utils.checks import (
    flag,
    names,
    optional_flag,
    shown,
    text,
)
from rl4rec_kernels._utils.values import as_list, is_missing
from rl4rec_kernels.data.atomic import interaction_files
from rl4rec_kernels.data.files import first_file
from rl4rec_kernels.data.folders import (
    Items,
    folder_layout,
    read_lc_rec,
    read_minionerec,
    read_openp5,
)
from rl4rec_kernels.data.interactions import SEQUENCE_FILES, Interactions, read_prepared
from rl4rec_kernels.data.item_fields import canonical_name
from rl4rec_kernels.data.labels import Id
from rl4rec_kernels.data.layouts import (
    FOLDERS,
    GENRES,
    ITEM_FIELDS,
    ITEM_NAMES,
    Layout,
    LayoutName,
    choose_column,
    files_in,
    find_layout,
    layout_of,
)
from rl4rec_kernels.data.log import (
    Duplicates,
    Log,
    check_filters,
    collect,
    keep_known,
    log_of,
    read_id,
)
from rl4rec_kernels.data.metadata import read_prepared_items
from rl4rec_kernels.data.tables import Source, open_table
from rl4rec_kernels.data.text_tables import ObjectTable, Table

logger = logging.getLogger("rl4rec_kernels.data")


def read_interactions(
    source: "Source",
    *,
    layout: LayoutName | None = None,
    user: str | None = None,
    item: str | None = None,
    time: str | None = None,
    rating: str | None = None,
    items: "Source | Mapping[Id, Mapping[str, object]] | None" = None,
    item_id: str | None = None,
    item_fields: Sequence[str] | None = None,
    columns: Sequence[str] | None = None,
    separator: str | None = None,
    time_format: str | None = None,
    min_rating: float | None = None,
    duplicates: Duplicates = "keep",
    k_core: int | tuple[int, int] = 0,
    all_items: bool = False,
    name: str | None = None,
    show_progress: bool | None = None,
) -> Interactions:
    """Read interactions and items from files, data frames or data sets of other libraries.

    Parameters
    ----------
    source : path, DataFrame, Dataset, Table, dict of columns or list of dicts
        The interactions, one per row: ``.csv``, ``.tsv`` or other separated values, ``.jsonl`` or
        ``.json`` (one object, or Python literal, per line), plain or as ``.gz``; ``.parquet``;
        objects of pandas, Hugging Face ``datasets`` or pyarrow. A folder is searched for the files
        of a known layout.
    layout : str, optional
        ``"amazon-2014"``, ``"amazon-2018"``, ``"amazon-2023"``, ``"amazon-2014-ratings"`` and
        ``"amazon-2018-ratings"`` (files of ratings only), ``"movielens"``, ``"movielens-1m"``,
        ``"movielens-100k"``, ``"yelp"``, ``"steam"`` or ``"recbole"``; for folders also ``"p5"``,
        ``"openp5"``, ``"lc-rec"`` or ``"minionerec"``. Default: by the names of columns and files.
    user, item, time, rating : str, optional
        The columns of user ids, item ids, times and ratings. Default: those of the layout, or with
        a usual name, such as ``user_id``, ``item_id``, ``timestamp`` and ``rating``. Ids are texts
        or whole numbers. Times are numbers in any unit, or dates, in any order; without them rows
        keep their order.
    items : path, DataFrame, …, optional
        The items, one per row, or a dict of raw id to fields. Interactions with other items are
        removed first. Default: the file beside the interactions in a folder, or else none: the
        title of an item is then its id.
    item_id : str, optional
        The column of `items` with the ids that the interactions have.
    item_fields : sequence of str, optional
        The columns of `items` to keep. Default: all of a table; title, brand, category, year,
        description and price of files of objects.
    columns : sequence of str, optional
        The names of all columns of a file that has no header.
    separator : str, optional
        What separates the columns of a file. Default: told by its first line.
    time_format : str, optional
        The format of dates other than ISO 8601, as of ``datetime.strptime``: ``"%m %d, %Y"``.
    min_rating : float, optional
        Remove interactions with a lower rating.
    duplicates : str
        What to do with a user's repeats of an item: ``"keep"`` them, or keep the ``"first"`` or
        the ``"last"`` only.
    k_core : int or two
        Remove users and items with fewer interactions, after all other filters, until all have as
        many. Two numbers are those per user and per item.
    all_items : bool
        Keep items that no remaining user interacted with.
    name : str, optional
        The data set's name. Default: that of the file or folder.
    show_progress : bool, optional
        Whether to show a progress bar. Default: if standard error is a terminal.

    Returns
    -------
    Interactions
        With ``item_metadata``. Ids are those of the file if they are whole numbers and the items'
        can be rows of a table, or else numbered from 1; ``user_tokens`` and ``item_tokens`` have
        the file's own. Printing it says what was removed.

    Raises
    ------
    TypeError, ValueError
        If an argument is invalid, a column is not found (the message lists those that are), a row
        is damaged (it names the file and the line) or nothing is left.
    FileNotFoundError
        If there is no such file.

    Examples
    --------
    >>> data = read_interactions(
    ...     "All_Beauty.jsonl.gz", items="meta_All_Beauty.jsonl.gz", k_core=5
    ... )  # doctest: +SKIP
    >>> train = RecommendationDataset.from_interactions(data, "train")  # doctest: +SKIP
    """
    options = {"layout": layout, "item_id": item_id, "separator": separator}
    for option, value in (options | {"time_format": time_format, "name": name}).items():
        text(option, value, optional=True)
    item_fields = None if item_fields is None else names("item_fields", item_fields)
    per_user, per_item = check_filters(duplicates, k_core, min_rating)
    all_items = flag("all_items", all_items)
    show_progress = optional_flag("show_progress", show_progress)
    show = sys.stderr.isatty() if show_progress is None else show_progress
    chosen = None if layout in FOLDERS else find_layout(layout)
    filtered = bool(per_user or per_item or min_rating is not None or duplicates != "keep")
    items_name = "items"
    found: Log | Interactions | None = None
    known: Items | None = None
    if isinstance(source, str | os.PathLike) and Path(source).is_dir():
        directory = Path(source)
        name = name or directory.name
        found, known = _read_folder(directory, name, layout)
        if found is None:
            source, beside = files_in(directory)
            items = beside if items is None else items
    elif layout in FOLDERS and layout != "recbole":
        raise ValueError(f"layout={layout!r} is that of a folder, but source is {shown(source)}")
    if isinstance(found, Interactions) and not filtered and items is None:
        return found if not name else replace(found, name=name)
    if isinstance(found, Interactions):
        known = known or _by_token(found)
        found = log_of(found)
    if found is not None and min_rating is not None:
        raise ValueError(f"min_rating={min_rating}: the sequences of {source} have no ratings")
    if found is None:
        table, chosen = _open("source", source, chosen, columns, separator)
        if name is None and isinstance(source, str | os.PathLike):
            name = Path(source).name.partition(".")[0]
        at_user = choose_column("user", user, table, chosen, required=True)
        at_item = choose_column("item", item, table, chosen, required=True)
        at_time = choose_column("time", time, table, chosen, required=False)
        at_rating = choose_column("rating", rating, table, chosen, required=min_rating is not None)
        if at_time is None:
            logger.warning(
                "%s has no column of times (it has %s), so rows keep their order; pass time=",
                table.name,
                ", ".join(table.columns),
            )
        assert at_user is not None
        assert at_item is not None
        found = collect(
            table,
            at_user,
            at_item,
            at_time,
            at_rating,
            min_rating=min_rating,
            time_format=time_format,
            show=show,
        )
    if items is not None:
        wanted = None if all_items else set(found.item_tokens)
        known, items_name = _read_items(items, item_id, item_fields, chosen, wanted, show)
    if known is not None:
        found = keep_known(found, known, items_name)
    found = found.sorted().without_duplicates(duplicates).core(per_user, per_item)
    return found.to_interactions(name or "interactions", known, all_items)


def _read_folder(
    directory: Path, name: str, layout: LayoutName | None
) -> tuple[Log | Interactions | None, Items | None]:
    """Read a folder that has more than a table of interactions; None if it has only that."""
    kind = layout if layout in FOLDERS else folder_layout(directory) if layout is None else None
    if kind == "openp5":
        return read_openp5(directory)
    if kind == "lc-rec":
        return read_lc_rec(directory)
    if kind == "minionerec":
        return read_minionerec(directory, name), None
    prepared = first_file(directory, SEQUENCE_FILES) or interaction_files(directory, name)
    if kind in ("p5", "recbole") or (layout is None and prepared):
        found = read_prepared(directory, name)
        if found is None:
            raise FileNotFoundError(
                f"{directory} has no sequential_data.txt and no {name}.inter, which "
                f"layout={layout!r} needs; if the files have another name, pass it as name="
            )
        try:
            metadata = read_prepared_items(directory, name)
        except FileNotFoundError:
            metadata = None  # it may be passed as items=
        return replace(found, item_metadata=metadata), None
    return None, None


def _by_token(interactions: Interactions) -> Items | None:
    if interactions.item_metadata is None:
        return None
    tokens = interactions.item_tokens
    return {
        str(item) if tokens is None else tokens[item]: fields
        for item, fields in interactions.item_metadata.items()
    }


def _open(
    argument: str,
    source: Any,
    layout: Layout | None,
    columns: Sequence[str] | None = None,
    separator: str | None = None,
) -> tuple[Table, Layout | None]:
    """Open a table, with the options of its layout if it is a file."""
    if not isinstance(source, str | os.PathLike):
        return open_table(argument, source, columns=columns), layout
    if columns is not None:
        names = as_list(columns)
        if not names or not all(isinstance(column, str) for column in names):
            raise TypeError(f"columns must be a list of names, got {shown(columns)}")
        return open_table(argument, source, columns=names, separator=separator), layout
    layout = layout or layout_of(Path(source))
    options = dict(getattr(layout, "options" if argument == "source" else "item_options", {}))
    if separator is not None:
        options["separator"] = separator
    return open_table(argument, source, **options), layout


def _read_items(
    source: Any,
    item_id: str | None,
    fields: Sequence[str] | None,
    layout: Layout | None,
    wanted: Collection[str] | None,
    show: bool,
) -> tuple[Items, str]:
    """Read the items with these ids, or all, and say what their source is called.

    Of several rows of an item, the first counts: some files of Amazon repeat rows.
    """
    if isinstance(source, Mapping) and all(isinstance(v, Mapping) for v in source.values()):
        items = {}
        for key, values in source.items():
            try:
                token = read_id(key)
            except (TypeError, ValueError) as error:
                raise ValueError(f"items: the key {error}") from None
            items[token] = _renamed(_chosen(dict(values), fields))
        return items, "items"
    table, layout = _open("items", source, layout)
    column = choose_column("item_id", item_id, table, layout, required=True)
    assert column is not None
    names = as_list(fields) if fields is not None else None
    if names is not None and not isinstance(table, ObjectTable):
        missing = [name for name in names if name not in table.columns]
        if missing:
            raise ValueError(
                f"item_fields has {shown(missing[0])}, but the columns of {table.name} are "
                f"{', '.join(table.columns)}"
            )
    if names is None and isinstance(table, ObjectTable):
        names = list(ITEM_FIELDS)
    items = {}
    for line, row in table.rows(show):
        value = row.get(column)
        if isinstance(table, ObjectTable) and is_missing(value):
            continue  # some games of Steam have no id
        try:
            token = read_id(value)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{table.where(line)}: {column} {error}") from None
        if (wanted is None or token in wanted) and token not in items:
            others = {name: value for name, value in row.items() if name != column}
            items[token] = _renamed(_chosen(_of_movielens(others), names))
    return items, table.name


def _chosen(row: dict[str, Any], names: Sequence[str] | None) -> dict[str, Any]:
    return row if names is None else {name: row[name] for name in names if name in row}


def _renamed(row: dict[str, Any]) -> dict[str, Any]:
    """Give fields our names where no field has one."""
    have = {canonical_name(name) for name, value in row.items() if not is_missing(value)}
    for ours, others in ITEM_NAMES.items():
        for other in others:
            if ours not in have and not is_missing(row.get(other)):
                row[ours] = row.pop(other)
                break
    return row


def _of_movielens(row: dict[str, Any]) -> dict[str, Any]:
    """Read genres as MovieLens writes them: as ``A|B``, or as flags in u.item."""
    if all(genre in row for genre in GENRES):
        return {
            "title": row["title"],
            "category": [genre for genre in GENRES if row[genre] == "1"],
            "release_year": str(row["release_date"])[-4:],
        }
    genres = row.get("genres")
    if genres == "(no genres listed)":
        del row["genres"]
    elif isinstance(genres, str) and "|" in genres:
        row["genres"] = genres.split("|")
    return row
