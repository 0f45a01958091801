"""Datasets in Hugging Face's form, which TRL and others train on."""

from typing import TYPE_CHECKING, Any

from rl4rec_kernels._imports import require

if TYPE_CHECKING:
    from rl4rec_kernels.data.dataset import RecommendationDataset


def to_hf(dataset: "RecommendationDataset", conversational: bool = False) -> Any:
    """Return a dataset as a ``datasets.Dataset``; see `RecommendationDataset.to_hf`."""
    hf = require("datasets", "datasets")
    histories = dataset.histories.to_lists()
    generator = dataset.prompt_generator
    text, ids = hf.Value("string"), hf.Value("int64")
    features = hf.Features(
        prompt=[{"role": text, "content": text}] if conversational else text,
        history=hf.Sequence(ids),
        target=ids,
        user_id=ids,
        neg_items=hf.Sequence(ids),
    )
    make = generator.messages if conversational else generator
    columns = {
        "prompt": [make(history) for history in histories],
        "history": histories,
        "target": dataset.targets.tolist(),
        "user_id": dataset.user_ids.tolist(),
        "neg_items": dataset.negatives.tolist(),
    }
    return hf.Dataset.from_dict(columns, features=features)
