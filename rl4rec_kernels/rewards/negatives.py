"""The negatives of a call, without repeats and targets."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from rl4rec_kernels.data.labels import read_rows
from rl4rec_kernels.ids import RaggedIds, rows_of, select


@dataclass(frozen=True)
class NegativesReport:
    """What the last call removed from its negatives.

    Attributes
    ----------
    duplicates : int
        Items that appear earlier in the same row.
    targets : int
        Items that are the target of their row.
    """

    duplicates: int = 0
    targets: int = 0

    def __str__(self) -> str:
        return f"{self.duplicates} repeats and {self.targets} targets"


def clean_negatives(
    neg_items: Any, targets: np.ndarray, required: bool | None
) -> tuple[RaggedIds | None, NegativesReport]:
    """The negatives to rank among, None for all items, and what was removed.

    `required` is `RecReward.use_negatives_only`.
    """
    given = None
    if neg_items is not None and required is not False:
        given = read_rows("neg_items", neg_items, len(targets))
    if given is None or not given.values.size:  # a dataset without negatives has empty lists
        if required:
            raise ValueError(
                "use_negatives_only=True needs neg_items: pass them, or use_negatives_only=None"
            )
        return None, NegativesReport()
    cleaned, removed = remove_repeats(given, targets)
    is_empty = np.diff(cleaned.offsets) == 0
    if is_empty.any():
        raise ValueError(
            f"neg_items: row {is_empty.argmax()} has no negatives besides its target, which would "
            "always rank first"
        )
    return cleaned, removed


def remove_repeats(negatives: RaggedIds, targets: np.ndarray) -> tuple[RaggedIds, NegativesReport]:
    """Remove each row's target, and all but the first of equal negatives in a row."""
    values, row = negatives.values, rows_of(negatives)
    is_target = values == targets[row]
    order = np.lexsort((values, row))  # stable: the first of equal negatives comes first
    ordered = values[order]
    again = (ordered[1:] == ordered[:-1]) & (row[1:] == row[:-1])
    if not again.any() and not is_target.any():
        return negatives, NegativesReport()
    repeated = np.zeros(len(values), dtype=bool)
    repeated[order[1:]] = again
    report = NegativesReport(int((repeated & ~is_target).sum()), int(is_target.sum()))
    return select(negatives, ~(repeated | is_target)), report
