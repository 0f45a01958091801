"""Options that are True or False take nothing else: any text, such as "no", would mean yes."""

import inspect
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from sentence_transformers import SentenceTransformer

import rl4rec_kernels as rk
from rl4rec_kernels.data.dataset import RecommendationDataset
from rl4rec_kernels.evaluation.correction import sampled_rank_distribution
from rl4rec_kernels.service import LocalRetrievalService
from tests.errors import raises

TABLE = torch.eye(4)
COPY = rk.quantize_table(TABLE)
ROWS = {"user_id": [1, 1], "item_id": [1, 2]}
INDEX = rk.ItemIndex.from_embeddings(TABLE, ids=range(1, 5))


class FakeDataset(RecommendationDataset):
    """A dataset of nothing: options are checked before it is read."""

    def __init__(self) -> None:
        pass


class FakeEncoder(rk.Encoder):
    """An encoder of nothing."""

    def __init__(self) -> None:
        pass

    model, query_prefix, item_prefix = SentenceTransformer, None, None


CALLS: dict[str, Callable[[Any], Any]] = {
    "rank_catalog.refine": lambda v: rk.rank_catalog(TABLE, COPY, torch.arange(4), refine=v),
    "reward_catalog.refine": lambda v: rk.reward_catalog(TABLE, COPY, torch.arange(4), refine=v),
    "topk_catalog.refine": lambda v: rk.topk_catalog(TABLE, COPY, 1, refine=v),
    "mine_hard_negatives.refine": lambda v: rk.mine_hard_negatives(
        TABLE, COPY, [1] * 4, [[]] * 4, 1, refine=v
    ),
    "mine_hard_negatives.show_progress": lambda v: rk.mine_hard_negatives(
        TABLE, TABLE, [1] * 4, [[]] * 4, 1, show_progress=v
    ),
    "quantize_table.keep_source": lambda v: rk.quantize_table(TABLE, keep_source=v),
    "evaluate.whole_catalog": lambda v: rk.evaluate(TABLE, TABLE, [1] * 4, whole_catalog=v),
    "evaluate.beyond_accuracy": lambda v: rk.evaluate(TABLE, TABLE, [1] * 4, beyond_accuracy=v),
    "sampled_rank_distribution.show_progress": lambda v: list(
        sampled_rank_distribution(2, 5, show_progress=v)
    ),
    "create_dataloader.shuffle": lambda v: rk.create_dataloader([1], shuffle=v),  # type: ignore
    "export_dataset.conversational": lambda v: rk.export_dataset(
        FakeDataset(), "trl", conversational=v
    ),
    "export_dataset.raw_ids": lambda v: rk.export_dataset(FakeDataset(), "trl", raw_ids=v),
    "RecommendationDataset.to_hf.raw_ids": lambda v: FakeDataset().to_hf(raw_ids=v),
    "RecommendationDataset.augment": lambda v: rk.RecommendationDataset(
        "tiny", {1: {}}, str, "train", augment=v
    ),
    "RecommendationDataset.from_interactions.augment": lambda v: (
        rk.RecommendationDataset.from_interactions(
            rk.read_interactions(ROWS, show_progress=False), "train", augment=v
        )
    ),
    "read_interactions.all_items": lambda v: rk.read_interactions(ROWS, all_items=v),
    "read_interactions.show_progress": lambda v: rk.read_interactions(ROWS, show_progress=v),
    "RecommendationDataset.to_hf.conversational": lambda v: FakeDataset().to_hf(v),
    "Encoder.normalize": lambda v: rk.Encoder(normalize=v),
    "Encoder.encode_queries.show_progress": lambda v: FakeEncoder().encode_queries(["a"], v),
    "Encoder.encode_items.show_progress": lambda v: FakeEncoder().encode_items(["a"], v),
    "ItemIndex.build.show_progress": lambda v: rk.ItemIndex.build(
        {1: {"title": "a"}}, FakeEncoder(), show_progress=v
    ),
    "RecReward.normalize": lambda v: rk.RecReward(normalize=v),
    "RecReward.use_negatives_only": lambda v: rk.RecReward(use_negatives_only=v),
}
CALLS |= {
    name.replace("Reward.", "RewardFrunction."): call
    for name, call in CALLS.items()
    if name.startswith("RecReward.")
}
# In tests/ops/test_sharded.py, as these need several processes.
ELSEWHERE = {f"ShardedTable.{name}_catalog.refine" for name in ("rank", "reward", "topk")}


def flags(name: str, call: Any) -> Iterator[str]:
    """The parameters of a function, or of a class and its methods, that are bools."""
    if inspect.isclass(call):
        for key, method in inspect.getmembers(call, callable):
            if not key.startswith("_"):
                yield from flags(f"{name}.{key}", method)
    try:
        parameters = inspect.signature(call).parameters.values()
    except ValueError:  # of a builtin
        return
    for parameter in parameters:
        if isinstance(parameter.default, bool) or "bool" in str(parameter.annotation):
            yield f"{name}.{parameter.name}"


def test_all_flags_are_tested():
    public = {name: getattr(rk, name) for name in rk.__all__}
    extra = (sampled_rank_distribution, LocalRetrievalService)
    public |= {call.__name__: call for call in extra}
    found = {flag for name, call in public.items() if callable(call) for flag in flags(name, call)}
    assert found == CALLS.keys() | ELSEWHERE


@pytest.mark.parametrize("value", ["no", "", 0, 1, 1.0, [], torch.tensor([True])])
@pytest.mark.parametrize("name", CALLS)
def test_a_flag_is_true_or_false(name, value):
    with raises(ValueError, name.rpartition(".")[2], "True or False", repr(value)):
        CALLS[name](value)
