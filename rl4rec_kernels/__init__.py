"""Scoring, ranking, sampling and rewards for reinforcement learning on recommendation.

Importing the package registers the operators ``torch.ops.rl4rec.*``. Optional dependencies
(sentence-transformers and others) are imported when they are first needed.
"""

from rl4rec_kernels.cli import while_importing

with while_importing():  # all that can fail
    import rl4rec_kernels.adapters  # noqa: F401 - registers the columns of each trainer
    from rl4rec_kernels._utils.version import VERSION as __version__
    from rl4rec_kernels.data import (
        Interactions,
        PromptGenerator,
        RecommendationDataset,
        create_dataloader,
        create_dataloaders,
        export_dataset,
        load_item_metadata,
        read_interactions,
    )
    from rl4rec_kernels.evaluation import Evaluation, evaluate
    from rl4rec_kernels.evaluation.correction import (
        bias_variance_estimator,
        corrected_metrics,
        unbiased_rank,
    )
    from rl4rec_kernels.ids import RaggedIds
    from rl4rec_kernels.index import Encoder, ItemIndex
    from rl4rec_kernels.index.cache import cached_index
    from rl4rec_kernels.metrics import RankCounts
    from rl4rec_kernels.negatives.mining import mine_hard_negatives
    from rl4rec_kernels.negatives.sampling import sample_negatives
    from rl4rec_kernels.ops import (
        cpu_level,
        log_prob_candidates,
        log_prob_catalog,
        metrics_from_counts,
        rank_candidates,
        rank_catalog,
        reward_candidates,
        reward_catalog,
        score_candidates,
        topk_catalog,
    )
    from rl4rec_kernels.ops.quantize import QuantizedTable, quantize_table
    from rl4rec_kernels.ops.sharded import ShardedTable
    from rl4rec_kernels.rewards.reward import RecReward, RecRewardFrunction
    from rl4rec_kernels.service import (
        LocalRetrievalService,
        RetrievalClient,
        RetrievalService,
        find_service,
        start_service,
        stop_service,
    )

__all__ = [
    "Encoder",
    "Evaluation",
    "Interactions",
    "ItemIndex",
    "LocalRetrievalService",
    "PromptGenerator",
    "QuantizedTable",
    "RaggedIds",
    "RankCounts",
    "RecReward",
    "RecRewardFrunction",
    "RecommendationDataset",
    "RetrievalClient",
    "RetrievalService",
    "ShardedTable",
    "__version__",
    "bias_variance_estimator",
    "cached_index",
    "corrected_metrics",
    "cpu_level",
    "create_dataloader",
    "create_dataloaders",
    "evaluate",
    "export_dataset",
    "find_service",
    "load_item_metadata",
    "log_prob_candidates",
    "log_prob_catalog",
    "metrics_from_counts",
    "mine_hard_negatives",
    "quantize_table",
    "rank_candidates",
    "rank_catalog",
    "read_interactions",
    "reward_candidates",
    "reward_catalog",
    "sample_negatives",
    "score_candidates",
    "start_service",
    "stop_service",
    "topk_catalog",
    "unbiased_rank",
]
