"""The negatives of a call, without repeats and targets."""

from dataclasses import dataclass

import numpy as np

from rl4rec_kernels import _ids
from rl4rec_kernels.data.labels import read_rows
from rl4rec_kernels.ids import RaggedIds, without


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


NOTHING_REMOVED = NegativesReport()


def clean_negatives(
    neg_items: object, targets: np.ndarray | RaggedIds, num_rows: int, required: bool | None
) -> tuple[RaggedIds | None, NegativesReport]:
    """The negatives to rank among, None for all items, and what was removed.

    `required` is `RecReward.use_negatives_only`.
    """
    given = None
    if neg_items is not None and required is not False:
        given = read_rows("neg_items", neg_items, num_rows)
    if given is None or not given.values.size:  # a dataset without negatives has empty lists
        if required:
            raise ValueError(
                "use_negatives_only=True needs neg_items: pass them, or use_negatives_only=None"
            )
        return None, NOTHING_REMOVED
    cleaned, removed = remove_repeats(given, targets)
    empty = _ids.first_empty(cleaned.offsets)
    if empty >= 0:
        raise ValueError(
            f"neg_items: row {empty} has no negatives besides its target, which would "
            "always rank first"
        )
    return cleaned, removed


def remove_repeats(
    negatives: RaggedIds, targets: np.ndarray | RaggedIds
) -> tuple[RaggedIds, NegativesReport]:
    """Remove each row's targets, and all but the first of equal negatives in a row."""
    if isinstance(targets, RaggedIds):
        others = without(negatives, targets)
        none = np.full(len(targets.offsets) - 1, -1)
        cleaned, report = remove_repeats(others, none)
        removed = len(negatives.values) - len(others.values)
        if not removed:
            return cleaned, report
        return cleaned, NegativesReport(report.duplicates, removed)
    values, offsets, repeats, of_targets = _ids.clean(*negatives, targets)
    if values is None or offsets is None:
        return negatives, NOTHING_REMOVED
    return RaggedIds(values, offsets), NegativesReport(repeats, of_targets)
