"""Scoring, ranking, sampling and rewards for reinforcement learning on recommendation.

Names are imported on first use, so ``import rl4rec_kernels`` costs little more than ``import torch``.
Importing the package registers the operators ``torch.ops.rl4rec.*``.
"""

import importlib
from typing import TYPE_CHECKING, Any

from rl4rec_kernels import ops as _ops  # registers torch.ops.rl4rec.*

__version__ = "0.1.0"

_HOME = {
    "rl4rec_kernels.ragged": ("RaggedIds",),
    "rl4rec_kernels.metrics": (
        "RankCounts",
        "metrics_from_counts",
    ),
    "rl4rec_kernels.ops": (
        "cpu_level",
        "rank_candidates",
        "reward_candidates",
        "score_candidates",
    ),
    "rl4rec_kernels.sampling": ("sample_negatives",),
    "rl4rec_kernels.data": (
        "PromptGenerator",
        "RecommendationDataset",
        "create_dataloaders",
        "load_item_metadata",
    ),
    "rl4rec_kernels.retrieval": ("Encoder", "ItemIndex", "LocalRetrievalService"),
    "rl4rec_kernels.reward": ("RecReward", "RecRewardFrunction"),
}
_MODULE_OF = {name: module for module, names in _HOME.items() for name in names}

__all__ = ["__version__", *sorted(_MODULE_OF)]  # noqa: PLE0604

if TYPE_CHECKING:
    from rl4rec_kernels.data import (
        PromptGenerator,
        RecommendationDataset,
        create_dataloaders,
        load_item_metadata,
    )
    from rl4rec_kernels.metrics import RankCounts, metrics_from_counts
    from rl4rec_kernels.ops import (
        cpu_level,
        rank_candidates,
        reward_candidates,
        score_candidates,
    )
    from rl4rec_kernels.ragged import RaggedIds
    from rl4rec_kernels.retrieval import Encoder, ItemIndex, LocalRetrievalService
    from rl4rec_kernels.reward import RecReward, RecRewardFrunction
    from rl4rec_kernels.sampling import sample_negatives


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_MODULE_OF[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
