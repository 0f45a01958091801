"""Calls of all public functions with good arguments, and values that are bad for most of them."""

import functools
import inspect
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import datasets
import numpy as np
import pandas
import torch
from sentence_transformers import SentenceTransformer

import rl4rec_kernels as rk
from rl4rec_kernels._utils.forking import fork_safe_lock
from rl4rec_kernels.data import (
    Interactions,
    collate_samples,
    load_interactions,
    read_interactions,
    read_label,
    split_seed,
    write_label,
)
from rl4rec_kernels.evaluation import history_lengths, target_popularity
from rl4rec_kernels.ids import RaggedIds, to_offsets
from rl4rec_kernels.service.options import check_options

_RECURSIVE: list[Any] = [1]
_RECURSIVE.append(_RECURSIVE)


class Nothing:
    """An object of no use."""


def text_of(value: Any) -> str:
    """A function, where a value is expected."""
    return str(value)


VALUES: dict[str, Any] = {
    "None": None,
    "True": True,
    "text": "soap",
    "bytes": b"soap",
    "path": Path("nowhere"),
    "object": Nothing(),
    "function": text_of,
    "dict": {"soap": 1},
    "set": {1, 2},
    "generator": (i for i in ()),
    "nested lists": [[["soap"]]],
    "recursive list": _RECURSIVE,
    "list of None": [None, None],
    "NaN": math.nan,
    "infinity": math.inf,
    "-1": -1,
    "2**63": 2**63,
    "0.5": 0.5,
    "array of floats": np.full((2, 3), 0.5),
    "array of texts": np.array([["soap", "comb"]] * 2),
    "array of objects": np.array([Nothing()] * 2),
    "array of numbers [2, 2, 2]": np.ones((2, 2, 2), np.int64),
    "array without a shape": np.array(1.5),
    "complex array": np.ones((2, 3), np.complex128),
    "tensor on meta": torch.empty(2, 3, device="meta"),
    "tensor with a gradient": torch.ones(2, 3, dtype=torch.float64, requires_grad=True),
    "tensor without a shape": torch.tensor(1.5),
    "complex tensor": torch.ones(2, 3, dtype=torch.complex64),
    "sparse tensor": torch.eye(3).to_sparse(),
    "tensor of bools": torch.ones(2, 3, dtype=torch.bool),
}

# Good arguments.
TABLE = torch.cat([torch.zeros(1, 3), torch.eye(3), torch.eye(3).flip(0)])  # items 1 to 6
QUERY, TARGETS = TABLE[1:3].clone(), torch.tensor([1, 2])
CANDIDATES = torch.tensor([[1, 2], [2, 3]])
COUNTS = rk.RankCounts(torch.tensor([0, 1]), torch.tensor([0, 0]), torch.tensor([6, 6]))
METADATA = {item: {"title": f"soap {item}"} for item in range(1, 7)}
INTERACTIONS = Interactions(
    np.array([1, 2]), RaggedIds.from_lists([[1, 2, 3, 4, 5], [2, 3, 4, 5, 6]])
)
COLUMNS = {
    "user": [1] * 4 + [2] * 4,
    "item": [1, 2, 3, 4, 2, 3, 4, 1],
    "time": [1, 2, 3, 4] * 2,
    "rating": [5.0] * 8,
}


def _encode(rows: Any, **options: Any) -> torch.Tensor:
    return TABLE[[1] * len(rows)].clone()


class FakeEncoder(rk.Encoder):
    """Encodes each text alike, without a model."""

    model = SimpleNamespace(  # type: ignore[assignment]
        encode_query=_encode, encode_document=_encode, device="cpu", prompts={}
    )
    query_prefix, item_prefix, dim, fingerprint = None, "", 3, "fake"
    batch_size, normalize = 2, True

    def __init__(self) -> None:
        self._lock = fork_safe_lock()


ENCODER = FakeEncoder()
INDEX = rk.ItemIndex.from_embeddings(TABLE)
SERVICE = rk.LocalRetrievalService({"toys": INDEX}, ENCODER)
PROMPTS = rk.PromptGenerator(METADATA)


@functools.cache
def dataset() -> rk.RecommendationDataset:
    return rk.RecommendationDataset("toys", METADATA, PROMPTS, "train", interactions=INTERACTIONS)


_OPERATOR = {"query": QUERY, "table": TABLE}
_CANDIDATES = _OPERATOR | {"candidates": CANDIDATES}
_CATALOG = _OPERATOR | {"targets": TARGETS, "exclude": None}
_TEXTS = {"texts": ["soap", "comb"], "dataset_name": "toys", "targets": [1, 2]}
_IDS = {"neg_items": None, "histories": None}
_REWARD = {
    "generated_texts": ["soap", "comb"],
    "targets": [1, 2],
    "histories": [[], [3]],
    "neg_items": None,
}
_REWARD_FN = rk.RecReward(service=SERVICE, dataset_name="toys")

# Functions with good arguments; parameters that are not listed have their defaults.
CALLS: dict[str, tuple[Callable[..., Any], dict[str, Any]]] = {
    "score_candidates": (rk.score_candidates, _CANDIDATES),
    "rank_candidates": (rk.rank_candidates, _CANDIDATES),
    "reward_candidates": (rk.reward_candidates, _CANDIDATES),
    "log_prob_candidates": (rk.log_prob_candidates, _CANDIDATES),
    "rank_catalog": (rk.rank_catalog, _CATALOG),
    "reward_catalog": (rk.reward_catalog, _CATALOG),
    "log_prob_catalog": (rk.log_prob_catalog, _CATALOG),
    "topk_catalog": (rk.topk_catalog, _OPERATOR | {"k": 2}),
    "metrics_from_counts": (rk.metrics_from_counts, {"counts": COUNTS, "metrics": ["mrr"]}),
    "quantize_table": (rk.quantize_table, {"table": TABLE}),
    "RaggedIds.from_lists": (RaggedIds.from_lists, {"rows": [[1], [2, 3]]}),
    "RaggedIds": (
        lambda values, offsets: rk.rank_candidates(QUERY, TABLE, RaggedIds(values, offsets)),
        {"values": torch.tensor([1, 2, 3]), "offsets": torch.from_numpy(to_offsets([2, 1]))},
    ),
    "sample_negatives": (
        rk.sample_negatives,
        {"num_items": 9, "seen": [[1], [2, 3]], "num_negs": 2},
    ),
    "mine_hard_negatives": (
        rk.mine_hard_negatives,
        _OPERATOR | {"targets": [1, 2], "seen": [[1], [2]], "num_negs": 1},
    ),
    "evaluate": (
        rk.evaluate,
        _OPERATOR | {"targets": [1, 2], "ks": [1], "num_bootstrap": 2},
    ),
    "unbiased_rank": (rk.unbiased_rank, {"rank": 1, "num_negs": 2, "num_items": 9}),
    "bias_variance_estimator": (
        rk.bias_variance_estimator,
        {"metrics": ["mrr"], "num_negs": 2, "num_items": 9},
    ),
    "corrected_metrics": (
        rk.corrected_metrics,
        {"counts": COUNTS, "metrics": ["mrr"], "num_items": 9},
    ),
    "history_lengths": (history_lengths, {"histories": [[1], []]}),
    "target_popularity": (target_popularity, {"targets": [1], "item_counts": [0, 5]}),
    "PromptGenerator": (rk.PromptGenerator, {"item_metadata": METADATA}),
    "PromptGenerator.generate": (PROMPTS.generate, {"history": [1, 2]}),
    "PromptGenerator.messages": (PROMPTS.messages, {"history": [1, 2]}),
    "RecommendationDataset": (
        rk.RecommendationDataset,
        {
            "data_name": "toys",
            "item_metadata": METADATA,
            "prompt_generator": PROMPTS,
            "split": "train",
            "interactions": INTERACTIONS,
        },
    ),
    "read_interactions": (read_interactions, {"source": COLUMNS}),
    "RecommendationDataset.from_source": (
        rk.RecommendationDataset.from_source,
        {"source": COLUMNS},
    ),
    "RecommendationDataset.from_interactions": (
        rk.RecommendationDataset.from_interactions,
        {"interactions": read_interactions(COLUMNS), "split": "train"},
    ),
    "RecommendationDataset.from_pandas": (
        rk.RecommendationDataset.from_pandas,
        {"frame": pandas.DataFrame(COLUMNS)},
    ),
    "RecommendationDataset.from_hf": (
        rk.RecommendationDataset.from_hf,
        {"dataset": datasets.Dataset.from_dict(COLUMNS)},
    ),
    "RecommendationDataset.from_csv": (rk.RecommendationDataset.from_csv, {"path": "no.csv"}),
    "RecommendationDataset.from_jsonl": (
        rk.RecommendationDataset.from_jsonl,
        {"path": "no.jsonl"},
    ),
    "RecommendationDataset.history": (lambda index: dataset().history(index), {"index": 0}),
    "RecommendationDataset.target": (lambda index: dataset().target(index), {"index": 0}),
    "RecommendationDataset.with_negatives": (
        lambda negatives, num_random: dataset().with_negatives(negatives, num_random=num_random),
        {"negatives": [[6]] * 2, "num_random": 0},
    ),
    "create_dataloader": (rk.create_dataloader, {"dataset": dataset()}),
    "create_dataloaders": (
        lambda **args: rk.create_dataloaders(SimpleNamespace(**args)),
        {"dataset_name": "nothing", "batch_size": 2, "num_negs": 0, "seed": 1, "num_workers": 0},
    ),
    "collate_samples": (collate_samples, {"samples": [dataset()[0]]}),
    "export_dataset": (rk.export_dataset, {"dataset": dataset(), "trainer": "trl"}),
    "load_item_metadata": (rk.load_item_metadata, {"name": "nothing"}),
    "load_interactions": (load_interactions, {"name": "nothing"}),
    "split_seed": (split_seed, {"seed": 1, "split": "train"}),
    "read_label": (read_label, {"label": 5}),
    "write_label": (write_label, {"target": 5}),
    "Encoder": (rk.Encoder, {"model": SentenceTransformer(modules=[torch.nn.Identity()])}),
    "Encoder.encode_queries": (ENCODER.encode_queries, {"texts": ["soap"]}),
    "Encoder.encode_items": (ENCODER.encode_items, {"texts": ["soap"]}),
    "ItemIndex": (rk.ItemIndex, {"table": TABLE, "valid": INDEX.valid, "origin": {}}),
    "ItemIndex.from_embeddings": (rk.ItemIndex.from_embeddings, {"embeddings": TABLE}),
    "ItemIndex.build": (rk.ItemIndex.build, {"item_metadata": METADATA, "encoder": ENCODER}),
    "ItemIndex.open": (rk.ItemIndex.open, {"path": "no.safetensors"}),
    "ItemIndex.import_file": (rk.ItemIndex.import_file, {"path": "no.npy"}),
    "ItemIndex.save": (INDEX.save, {"path": "no.folder/no.safetensors"}),
    "ItemIndex.slice": (INDEX.slice, {"part": 0, "parts": 2}),
    "ItemIndex.check_encoder": (INDEX.check_encoder, {"encoder": ENCODER}),
    "LocalRetrievalService": (
        rk.LocalRetrievalService,
        {"datasets": {"toys": INDEX}, "encoder": ENCODER},
    ),
    "LocalRetrievalService.register": (SERVICE.register, {"name": "a", "namespace": "b"}),
    "LocalRetrievalService.calculate_reward": (
        SERVICE.calculate_reward,
        _TEXTS | {"neg_items": None},
    ),
    "LocalRetrievalService.raw_items": (SERVICE.raw_items, {"dataset_name": "toys"}),
    "LocalRetrievalService.rank": (SERVICE.rank, _TEXTS | _IDS),
    "LocalRetrievalService.rank_with_log_prob": (SERVICE.rank_with_log_prob, _TEXTS | _IDS),
    "find_service": (rk.find_service, {"name": "a", "namespace": "b"}),
    "RetrievalClient": (rk.RetrievalClient, {"name": "a", "namespace": "b"}),
    "start_service": (
        check_options,  # all that it does before it connects to a cluster
        {"datasets": {"toys": INDEX}, "encoder": ENCODER, "name": "a", "namespace": "b"},
    ),
    "stop_service": (rk.stop_service, {"name": "a", "namespace": "b"}),
    "RecReward": (rk.RecReward, {"service": SERVICE}),
    "RecReward.__call__": (_REWARD_FN, _REWARD),
    "RecReward.score": (_REWARD_FN.score, _REWARD),
    "RecReward.compute_metrics": (_REWARD_FN.compute_metrics, _REWARD),
    "RecReward.explain": (
        _REWARD_FN.explain,
        {"text": "soap", "target": 1, "history": [], "neg_items": None},
    ),
}


# Values that are good for some parameters, beyond those that their annotations name.
GOOD = {
    "topk_catalog.exclude": {"None"},
    "RaggedIds.from_lists.rows": {"generator"},
    "sample_negatives.seed": {"2**63"},
    "sample_negatives.seen": {"generator"},
    "mine_hard_negatives.user_ids": {"list of None", "array of objects", "array of texts"},
    "evaluate.seed": {"2**63"},
    "evaluate.about": {"dict"},
    "unbiased_rank.rank": {"tensor with a gradient", "tensor without a shape"},
    "history_lengths.histories": {"generator"},
    "PromptGenerator.max_history": {"2**63"},
    "RecommendationDataset.seed": {"2**63"},
    "RecommendationDataset.prompt_generator": {"function"},
    "RecommendationDataset.from_interactions.seed": {"2**63"},
    "RecommendationDataset.from_interactions.prompt_generator": {"function"},
    "read_interactions.min_rating": {"-1"},
    "load_item_metadata.min_rating": {"-1"},
    "RecommendationDataset.history.index": {"True", "-1"},
    "RecommendationDataset.target.index": {"True", "-1"},
    "create_dataloader.dataset": {"nested lists", "recursive list", "list of None"},
    "create_dataloader.seed": {"2**63"},
    "create_dataloaders.seed": {"2**63"},
    "ItemIndex.open.item_metadata": {"dict"},
    "split_seed.seed": {"2**63"},
    "read_label.label": {"-1", "2**63"},
    "write_label.target": {"-1", "2**63"},
    "start_service.datasets": {"text"},
    "start_service.encoder": {"text"},
    "start_service.data_dir": {"text", "path"},
    "RecReward.explain.text": {"text"},
}
# Ids may be missing, and whole floats.
for _name in ("write_label.history", "write_label.neg_items", "RecReward.explain.history"):
    GOOD[_name] = {"None", "NaN", "list of None"}
for _name in ("__call__", "score", "compute_metrics", "explain"):
    GOOD[f"RecReward.{_name}.neg_items"] = {"NaN", "list of None"}
    GOOD[f"RecReward.{_name}.histories"] = {"None", "list of None", "tensor with a gradient"}
# A model would be downloaded, a cluster searched for.
SKIPPED = {("Encoder", "model", "text")}
SKIPPED |= {
    (call, one, "text")
    for call in ("RetrievalClient", "stop_service", "find_service")
    for one in ("name", "namespace")
}


def parameters(name: str) -> Iterator[tuple[str, set[str]]]:
    """The parameters of a call, and which values are good for it."""
    function, arguments = CALLS[name]
    found = inspect.signature(function).parameters
    for one in found.values():
        if one.kind not in (one.VAR_KEYWORD, one.VAR_POSITIONAL):
            good = set(GOOD.get(f"{name}.{one.name}", ()))
            kind = str(one.annotation)
            for word, values in _BY_ANNOTATION.items():
                good |= values if word in kind else set()
            yield one.name, good | ({"None"} if one.default is None else set())
    if any(one.kind == one.VAR_KEYWORD for one in found.values()):
        yield from ((one, set(GOOD.get(f"{name}.{one}", ()))) for one in arguments)


_BY_ANNOTATION = {
    "None": {"None"},
    "bool": {"True"},
    "str": {"text"},
    "PathLike": {"path"},
    "float": {"0.5", "2**63"},
}


def public() -> Iterator[str]:
    """The functions of the package, its classes and their methods."""
    for name in rk.__all__:
        item = getattr(rk, name)
        if inspect.isclass(item):
            yield from (
                f"{name}.{key}"
                for key, method in inspect.getmembers(item, callable)
                if not key.startswith("_")
                and inspect.signature(method).parameters.keys() - {"self"}
            )
        if callable(item):
            yield name
