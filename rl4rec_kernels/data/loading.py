"""Data sets by name: ``load_interactions``, ``load_item_metadata``, and both by ``load_data``."""

import os
from dataclasses import replace
from typing import Any

from rl4rec_kernels.data.atomic import interaction_files
from rl4rec_kernels.data.files import dataset_dir, first_file
from rl4rec_kernels.data.folders import folder_layout
from rl4rec_kernels.data.interactions import SEQUENCE_FILES, Interactions, read_prepared
from rl4rec_kernels.data.layouts import files_in
from rl4rec_kernels.data.log import check_filters
from rl4rec_kernels.data.metadata import has_metadata, read_prepared_items
from rl4rec_kernels.data.reading import read_interactions


def load_interactions(name: str, data_dir: str | os.PathLike[str] | None = None) -> Interactions:
    """Load a dataset's interactions.

    Reads ``sequential_data.txt[.gz]`` (one user per line: ``user item item …`` in time order) or,
    if there is none, RecBole's ``<name>.inter[.gz]``, or ``<name>.train.inter[.gz]`` with
    ``valid`` and ``test``, which are then the splits. In those, ``item_id_list`` is the history of
    a row. Any other folder is read by `read_interactions`.

    Parameters
    ----------
    name, data_dir
        See `rl4rec_kernels.data.files.dataset_dir`.

    Raises
    ------
    FileNotFoundError
        If the directory or the file is missing.
    ValueError
        If a line is malformed; the message names the file and the line.
    """
    directory = dataset_dir(name, data_dir)
    return read_prepared(directory, name) or read_interactions(directory, name=name)


def load_item_metadata(
    name: str,
    data_dir: str | os.PathLike[str] | None = None,
    *,
    k_core: int | tuple[int, int] = 0,
    min_rating: float | None = None,
) -> dict[int, dict[str, Any]]:
    """Load a dataset's item metadata.

    Reads ``item_metadata.json`` or another ``meta*.json``, plain, as JSON lines (``.jsonl``) or
    with ``.gz``; for a dataset in RecBole's atomic files, ``<name>.item``. Any other folder is
    read by `read_interactions`.

    Parameters
    ----------
    name, data_dir
        See `rl4rec_kernels.data.files.dataset_dir`.
    k_core, min_rating
        Leave out the items whose interactions these remove, see `read_interactions`. Items have the
        ids that `load_data` gives them.

    Returns
    -------
    dict of int to dict
        Item id to its fields, in ascending order. Fields are named as in
        `rl4rec_kernels.data.item_fields.ALIASES` (``title``, ``brand``, ``category``,
        ``release_year``; others keep their names); empty ones are left out. Items of files with
        names have their name in the file as ``token``. ``max(metadata) + 1`` is the number of
        table rows, row 0 being padding.

    Raises
    ------
    FileNotFoundError
        If the directory or the file is missing.
    ValueError
        If the file is malformed, or a pickle (which is never read).
    """
    if _has_filters(k_core, min_rating):
        data = load_data(name, data_dir, k_core=k_core, min_rating=min_rating)
        return data.item_metadata or {}
    directory = dataset_dir(name, data_dir)
    prepared = first_file(directory, SEQUENCE_FILES) or interaction_files(directory, name)
    if not prepared and not has_metadata(directory):
        try:
            has_rows = folder_layout(directory) is not None or files_in(directory) is not None
        except FileNotFoundError:
            has_rows = False
        if has_rows and (found := read_interactions(directory, name=name).item_metadata):
            return found
    return read_prepared_items(directory, name)


def load_data(
    name: str,
    data_dir: str | os.PathLike[str] | None = None,
    *,
    k_core: int | tuple[int, int] = 0,
    min_rating: float | None = None,
) -> Interactions:
    """Load a dataset's interactions with its items, and read each file once.

    Parameters
    ----------
    name, data_dir
        See `rl4rec_kernels.data.files.dataset_dir`.
    k_core, min_rating
        See `read_interactions`.

    Raises
    ------
    FileNotFoundError, TypeError, ValueError
        As `load_interactions`, `load_item_metadata` and `read_interactions`.
    """
    if _has_filters(k_core, min_rating):
        directory = dataset_dir(name, data_dir)
        return read_interactions(directory, name=name, k_core=k_core, min_rating=min_rating)
    found = load_interactions(name, data_dir)
    metadata = found.item_metadata or load_item_metadata(name, data_dir)
    return replace(found, name=name, item_metadata=metadata)


def _has_filters(k_core: object, min_rating: object) -> bool:
    """Check both, and say whether they can remove anything."""
    return any(check_filters("keep", k_core, min_rating)) or min_rating is not None
