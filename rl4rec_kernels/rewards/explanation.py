"""Why a text got its reward, in words."""

from dataclasses import dataclass

import numpy as np

from rl4rec_kernels.ids import RaggedIds
from rl4rec_kernels.metrics import RankCounts, TieRule, parse_metric
from rl4rec_kernels.ops import metrics_from_counts
from rl4rec_kernels.rewards.formulas import SOFTMAX
from rl4rec_kernels.rewards.negatives import NegativesReport
from rl4rec_kernels.rewards.targets import Request, best_target


@dataclass(frozen=True)
class Explanation:
    """How one text got its reward; ``str()`` is a summary of a few lines.

    Attributes
    ----------
    query : str
        The text that was encoded.
    target : int
        The true next item; of several the one that ranks best.
    above, tied, total : int
        Competitors that score higher than the target, others that score the same, and all
        candidates, including the target.
    rank : float
        The target's rank under the tie rule.
    ties : str
        The tie rule.
    sampled : bool
        Whether the target was ranked among negatives, not among all items.
    removed : NegativesReport
        Repeats and targets that were removed from the negatives.
    left_out : int
        Items of the history that do not compete; 0 among negatives, where they do.
    parts, weights : dict of str to float
        The values of the reward's parts, and their weights.
    novelty : float
        The weight of the target by its novelty; 1 if that is off.
    reward : float
        The reward before `normalize`, which scales it by the other rewards of a call.
    num_targets : int
        How many targets the text has. Counts and rank are those of `target`, among the others too;
        the parts of the reward are those of all.
    """

    query: str
    target: int
    above: int
    tied: int
    total: int
    rank: float
    ties: TieRule
    sampled: bool
    removed: NegativesReport
    left_out: int
    parts: dict[str, float]
    weights: dict[str, float]
    novelty: float
    reward: float
    num_targets: int = 1

    @property
    def reason(self) -> str:
        """Why the reward is what it is, in one sentence."""
        first, last = self.above + 1, self.above + self.tied + 1
        position = f"rank {first} of {self.total}" if self.total > 1 else "no competitors"
        if self.tied:
            position = f"tied with {_count(self.tied, 'other')}: {self.ties} over ranks {first} to "
            position += f"{last} of {self.total}"
            if self.ties != "expected":
                position += f", which is rank {self.rank:g}"
        best = first if self.ties == "expected" else self.rank
        cutoffs = [parse_metric(name).cutoff for name in self.parts if name != SOFTMAX]
        beyond = f", beyond k={cutoffs[0]}" if cutoffs and best > cutoffs[0] else ""
        values = " and ".join(f"{name} is {value:.4g}" for name, value in self.parts.items())
        novelty = f", times a novelty weight of {self.novelty:.2g}" if self.novelty != 1 else ""
        empty = "" if self.query else "empty query; "
        return f"{empty}{position}{beyond}, so {values}{novelty}"

    @property
    def summary(self) -> str:
        """The query, the target and its rank, in one line."""
        query = self.query if len(self.query) <= 80 else f"{self.query[:79]}…"
        return (
            f"query {query!r}: target {self.target} at rank {self.rank:g} of {self.total}, "
            f"{self.tied} tied"
        )

    def __str__(self) -> str:
        among = f"{_count(self.total - 1, 'negative')}" if self.sampled else "all items"
        several = f", the best of {self.num_targets}," if self.num_targets > 1 else ""
        terms = (
            name if weight == 1 else f"{weight:g} * {name}" for name, weight in self.weights.items()
        )
        removed = [
            _count(self.removed.duplicates, "repeated negative"),
            f"{_count(self.removed.targets, 'negative')} equal to the target",
            f"{_count(self.left_out, 'item')} of the history",
        ]
        return "\n".join(
            [
                f"reward {self.reward:.4g}: {self.reason}",
                f"  query    {self.query!r}",
                f"  target   item {self.target}{several} among {among}",
                f"  counts   {self.above} above, {self.tied} tied, {self.total} in total",
                f"  removed  {', '.join(removed)}",
                f"  formula  {' + '.join(terms)}"
                + (f", times {self.novelty:.4g}" * (self.novelty != 1)),
            ]
        )


def explain_first(
    request: Request,
    counts: RankCounts,
    values: np.ndarray,
    weights: dict[str, float],
    ties: TieRule,
) -> Explanation:
    """How the first text of a call gets its reward.

    `request` has the call's arguments, `values` [parts] are those of the text.
    """
    ids, history = request.targets, request.histories
    ids = ids.values if isinstance(ids, RaggedIds) else ids
    best, num_targets = best_target(counts.above.tolist(), request.targets)
    target, targets = int(ids[best]), set(ids[:num_targets].tolist())
    sampled = request.negatives is not None
    seen = set() if sampled or history is None else set(history.to_lists()[0])
    first = RankCounts(*(count[best : best + 1].cpu() for count in counts))
    above, tied, total = (int(count) for count in first)
    parts = dict(zip(weights, values.tolist(), strict=True))
    weight = 1.0 if request.weights is None else float(request.weights[0])
    return Explanation(
        query=request.queries[0],
        target=target,
        above=above,
        tied=tied,
        total=total,
        rank=metrics_from_counts(first, ("rank",), ties).item(),
        ties=ties,
        sampled=sampled,
        removed=request.removed,
        left_out=len(seen - targets),
        parts=parts,
        weights=weights,
        novelty=weight,
        reward=sum(parts[name] * weights[name] for name in parts) * weight,
        num_targets=num_targets,
    )


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
