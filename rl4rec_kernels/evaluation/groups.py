"""Groups of users by a label, or by ranges of a number."""

from collections.abc import Mapping

import numpy as np

from rl4rec_kernels._utils.arrays import Labels, as_array
from rl4rec_kernels._utils.checks import shown
from rl4rec_kernels.ids import IdLists, as_ragged, pack_ids

NUM_BINS = 5


def history_lengths(histories: IdLists) -> np.ndarray:
    """Return the number of items in each history, int64 [B], to group users by.

    Parameters
    ----------
    histories : B lists of item ids, or RaggedIds with B rows
        -1 is padding and is not counted.
    """
    ids = pack_ids("histories", histories)
    return np.diff(as_ragged("histories", ids, len(ids.offsets) - 1).offsets)


def group_rows(
    groups: Mapping[str, Labels], num_users: int, num_bins: int
) -> dict[str, dict[str, np.ndarray]]:
    """Return the rows of each group of each grouping.

    `groups` and `num_bins` are those of `evaluate`. The rows are by grouping and label; labels are
    in numerical or alphabetical order, and no group is empty.

    Raises
    ------
    TypeError, ValueError
        If a grouping is invalid; the message names it.
    """
    if not isinstance(groups, Mapping):
        raise TypeError(
            f"groups must be a dict of one label or number per user, got {type(groups).__name__}"
        )
    rows = {}
    for name, labels in groups.items():
        values = as_array(f"groups[{shown(name)}]", labels)
        if values.shape != (num_users,):
            raise ValueError(
                f"groups[{shown(name)}] must have one label or number per user, {num_users}, got "
                f"shape {values.shape}"
            )
        if values.dtype.kind in "iuf":
            rows[name] = _ranges(name, values, num_bins)
        elif values.dtype.kind in "USOb":
            texts = np.array([str(label) for label in values.tolist()])
            rows[name] = {str(t): np.flatnonzero(texts == t) for t in np.unique(texts)}
        else:
            raise TypeError(
                f"groups[{shown(name)}] must hold labels or numbers, got {values.dtype}"
            )
    return rows


def _ranges(name: str, values: np.ndarray, num_bins: int) -> dict[str, np.ndarray]:
    """Split users by ranges of a number, with about the same number of users in each.

    Equal numbers stay together, so there may be fewer ranges if many users share a number.
    """
    if not np.isfinite(values).all():
        row = np.flatnonzero(~np.isfinite(values))[0]
        raise ValueError(f"groups[{shown(name)}] must be finite, but row {row} has {values[row]}")
    distinct = np.unique(values)
    if len(distinct) <= num_bins:
        bins = np.searchsorted(distinct, values)
    else:
        shares = np.arange(1, num_bins) / num_bins
        edges = np.unique(np.quantile(values, shares, method="lower"))
        bins = np.searchsorted(edges, values)  # a range holds its upper edge
    rows = {}
    for i in np.unique(bins):
        inside = np.flatnonzero(bins == i)
        low, high = values[inside].min(), values[inside].max()
        rows[f"{low:g}" if low == high else f"{low:g}–{high:g}"] = inside
    return rows
