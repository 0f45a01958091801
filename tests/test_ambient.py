"""The same results to the bit in every state of torch that a caller may have set."""

import asyncio
import json
import types
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map

import rl4rec_kernels as rk
from rl4rec_kernels.adapters import areal, easyr1, ms_swift, nemo_rl, openrlhf, rllm, skyrl, slime
from rl4rec_kernels.adapters import verl as verl_adapter
from rl4rec_kernels.adapters.trl import AsyncTRLReward, TRLReward
from rl4rec_kernels.data import create_dataloaders
from rl4rec_kernels.data.loaders import create_dataloader
from rl4rec_kernels.evaluation import correction
from tests.adapters import conftest as samples
from tests.ambient import default_device, default_dtype, products, restored
from tests.data.cases import dataset, write_tiny
from tests.ops.cases import BF16, F16, make_case
from tests.ops.catalog_cases import make_catalog_case

METRICS = ("ndcg@10", "mrr", "auc", "logrank", "rank")
OF_SEVERAL = ("recall@10", "precision@10", "map@10", "ndcg@10", "hit@10", "mrr")
Results = dict[str, Any]
CANDIDATES = [make_case((2, 40, 30, 32), exact=False, ragged=ragged) for ragged in (False, True)]
NARROW = make_case((3, 9, 30, 32), (BF16, BF16), exact=False)
CATALOG = make_catalog_case((3, 140, 32), exact=False, exclusions=True)
LARGE = make_catalog_case((1, 1_200, 4), exact=False, exclusions=True)
SEEN = rk.RaggedIds(CATALOG.exclude, CATALOG.offsets).to_lists()
SEEN = [sorted({i for i in row[:40] if i >= 0}) for row in SEEN]
PLAIN_VALID = torch.ones(140, dtype=torch.bool)


def of_operators(backend: str) -> Results:
    found: Results = {}
    options = {"backend": backend}
    for case in (*CANDIDATES, NARROW):
        arguments = (case.query, case.table, case.candidates)
        name = f"{case.query.dtype} {case.offsets is None} "
        found[name + "scores"] = rk.score_candidates(*arguments, **options)
        found[name + "ranks"] = rk.rank_candidates(*arguments, **options)
        found[name + "log-probabilities"] = rk.log_prob_candidates(*arguments, 0.5, **options)
        for ties in ("expected", "average"):
            found[name + ties] = rk.reward_candidates(*arguments, METRICS, ties, **options)
    with torch.inference_mode(False), torch.enable_grad():
        query, table, ids = (t.clone() for t in CANDIDATES[0][:3])
        scores = rk.score_candidates(query.requires_grad_(), table.requires_grad_(), ids, **options)
        scores = scores.masked_fill(ids == -1, 0)
        found["gradients"] = torch.autograd.grad((scores**2).sum(), (query, table))
    for case in (CATALOG, LARGE):
        name, valid = f"{case.table.shape[0]} items: ", {"valid": case.valid}
        found[name + "ranks"] = rk.rank_catalog(*case.arguments, **valid, **options)
        found[name + "rewards"] = rk.reward_catalog(*case.arguments, METRICS, **valid, **options)
        both = [[first, (first + 7) % case.table.shape[0]] for first in case.targets.tolist()]
        several = (case.query, case.table, both, case.exclusions)
        found[name + "ranks of several"] = rk.rank_catalog(*several, **options)
        found[name + "rewards of several"] = rk.reward_catalog(*several, OF_SEVERAL, **options)
        log_probs = rk.log_prob_catalog(*case.arguments, 0.5, **valid, **options)
        found[name + "log-probabilities"] = log_probs
        best = rk.topk_catalog(case.query, case.table, 7, case.exclusions, **valid, **options)
        found[name + "best"] = best
    for dtype in (torch.int8, BF16, torch.float8_e4m3fn):
        if dtype.itemsize == 1 and dtype.is_floating_point and backend == "cpu":
            continue
        copy = rk.quantize_table(CATALOG.table, dtype)
        found[f"{dtype} copy"] = tuple(copy)
        for refine in (False, True) if backend == "cpu" else (False,):
            options = {"backend": backend, "valid": CATALOG.valid, "refine": refine}
            arguments = (CATALOG.query, copy, CATALOG.targets, CATALOG.exclusions)
            found[f"{dtype} ranks, {refine}"] = rk.rank_catalog(*arguments, **options)
            found[f"{dtype} best, {refine}"] = rk.topk_catalog(CATALOG.query, copy, 7, **options)
    if backend == "reference":
        return found  # it does not check ids
    query, table, targets = CATALOG.query, CATALOG.table, CATALOG.targets + 1_000
    found["errors"] = [
        error_of(lambda: rk.rank_catalog(query, table, targets, backend=backend)),
        error_of(lambda: rk.topk_catalog(query, table, 3, targets[:, None], backend=backend)),
        error_of(lambda: rk.rank_candidates(query, table, targets[:, None], backend=backend)),
        error_of(lambda: rk.score_candidates(query, table, targets[:, None], backend=backend)),
    ]
    return found


def error_of(call: Callable[[], Any]) -> str:
    try:
        call()
    except (IndexError, ValueError) as error:
        return f"{type(error).__name__}: {error}"
    raise AssertionError("no error")


def of_evaluation() -> Results:
    query, table, targets = CATALOG.query, CATALOG.table, CATALOG.targets
    seen = [[*row, target] for row, target in zip(SEEN, targets.tolist(), strict=True)]
    negatives = rk.sample_negatives(140, seen, 20)
    counts = rk.rank_candidates(
        query, table, torch.cat([targets[:, None], torch.from_numpy(negatives)], 1)
    )
    options = {"negatives": negatives, "exclude": SEEN, "valid": PLAIN_VALID, "ks": (1, 10)}
    groups = {"length": np.array([1.0, 2.0, 5.0])}
    result = rk.evaluate(query, table, targets, **options, groups=groups, num_bootstrap=40)
    both = [[target, row[0]] for target, row in zip(targets.tolist(), SEEN, strict=True)]
    options = {"ks": (1, 10), "num_bootstrap": 40, "beyond_accuracy": True}
    several = rk.evaluate(query, table, both, **options)
    mined = {
        str(refine): rk.mine_hard_negatives(
            query, copy, targets, SEEN, 5, 1, valid=CATALOG.valid, refine=refine
        )
        for refine, copy in ((False, table), (True, rk.quantize_table(table)))
    }
    distribution = list(correction.sampled_rank_distribution(5, 30))
    return {
        "negatives": negatives,
        "counts": counts,
        "metrics": rk.metrics_from_counts(counts, METRICS),
        "evaluation": (result.to_dict(), result.per_user, result.counts),
        "evaluation of several": (several.to_dict(), several.per_user, several.counts),
        "mined": mined,
        "distribution": distribution,
        "estimator": rk.bias_variance_estimator(METRICS, 20, 140),
        **{
            f"{method}, {ties}": rk.corrected_metrics(counts, METRICS, 140, method, ties=ties)
            for method in correction.METHODS
            for ties in ("expected", "average")
        },
    }


def of_index(folder: Path) -> Results:
    found: Results = {}
    table = torch.cat([torch.zeros_like(CATALOG.table[:1]), CATALOG.table[1:]])
    for name, options in {
        "plain": {},
        "ids": {"ids": list(range(1, 281, 2))},
        "mask": {"valid": [False] + [True] * 139},
    }.items():
        index = rk.ItemIndex.from_embeddings(table, **options)
        index.save(folder / f"{name}.safetensors")
        again = rk.ItemIndex.open(folder / f"{name}.safetensors")
        found[name] = (index.table, index.valid, again.table, again.valid, again.info())
        assert not again.table.is_inference()
    torch.save(
        {"e": table, "ids": torch.arange(140, dtype=torch.int64, device="cpu")}, folder / "e.pt"
    )
    np.save(
        folder / "e.npy",
        np.concatenate([np.zeros((1, 3), np.float32), np.ones((4, 3), np.float32)]),
    )
    for name in ("e.pt", "e.npy"):
        index = rk.ItemIndex.import_file(folder / name)
        found[name] = (index.table, index.valid)
    return found


def of_sharded_tables() -> Results:
    found: Results = {}
    for table in (CATALOG.table, rk.quantize_table(CATALOG.table)):
        sharded = rk.ShardedTable.from_slice(table, CATALOG.valid)
        arguments = (CATALOG.query, CATALOG.targets, CATALOG.exclusions)
        name = type(table).__name__
        found[name + " ranks"] = sharded.rank_catalog(*arguments)
        found[name + " rewards"] = sharded.reward_catalog(*arguments, METRICS)
        found[name + " best"] = sharded.topk_catalog(CATALOG.query, 7, CATALOG.exclusions)
    return found


def of_data(folder: Path) -> Results:
    split = dataset(folder, num_negs=2, num_items=10)
    loader = create_dataloader(split, batch_size=2, shuffle=True, seed=3)
    args = types.SimpleNamespace(dataset_name="tiny", data_dir=folder, num_negs=2, num_items=10)
    return {
        "samples": [split[i] for i in range(len(split))],
        "epochs": [list(loader), list(loader)],
        "loaders": [list(loader) for loader in create_dataloaders(args)[:3]],
    }


def of_rewards(encoder: rk.Encoder) -> Results:
    rows = (samples.TEXTS, samples.TARGETS, samples.HISTORIES)
    found: Results = {"queries": encoder.encode_queries(samples.TEXTS)}
    assert not found["queries"].is_inference()
    for kind, normalize in (("ndcg", False), ("ndcg_softmax", True)):
        reward = rk.RecReward(**{**samples.OPTIONS, "reward_type": kind}, normalize=normalize)
        for negatives in (None, samples.NEGATIVES):
            scored = reward.score(*rows, negatives)
            found[f"{kind}, {'catalog' if negatives is None else 'negatives'}"] = tuple(scored)
    found["metrics"] = reward.compute_metrics(*rows, samples.NEGATIVES)
    found["explanation"] = str(reward.explain(samples.TEXTS[0], 3, [1, 2], [5, 9]))
    return found


def of_adapters() -> Results:
    texts, labels = samples.TEXTS, samples.LABELS
    columns = {
        "target": samples.TARGETS,
        "history": samples.HISTORIES,
        "neg_items": samples.NEGATIVES,
    }
    extra = {name: values[0] for name, values in columns.items() if name != "target"}
    reward = rk.RecReward(**samples.OPTIONS)
    sample = types.SimpleNamespace(response=texts[0], label=labels[0])
    log = [[{"role": "assistant", "content": text}] for text in texts]
    one = {"response": texts[0], "ground_truth": labels[0]}
    task = types.SimpleNamespace(metadata={"ground_truth": labels[0]})
    episode = types.SimpleNamespace(artifacts={"answer": texts[0]}, trajectories=[])
    environment = nemo_rl.RecEnvironment({"reward": samples.OPTIONS})
    step = environment.step(log, [{"ground_truth": label} for label in labels])
    post = environment.global_post_process_and_metrics({"rewards": step[3]})[1]
    verl = verl_adapter.compute_score("toys", texts[0], 3, extra, **samples.OPTIONS)
    return {
        "trl": TRLReward(reward)(texts, texts, **columns),
        "trl, asynchronous": asyncio.run(AsyncTRLReward(reward)(texts, texts, **columns)),
        "verl": asyncio.run(verl),
        "openrlhf": openrlhf.reward_func(["q" + texts[0]], ["q"], labels[:1]),
        "nemo_rl": (step, post),
        "slime": asyncio.run(slime.custom_rm(types.SimpleNamespace(), sample)),
        "areal": areal.reward_fn("", texts[0], None, None, target=3, **extra),
        "easyr1": easyr1.compute_score([one]),
        "ms_swift": asyncio.run(ms_swift.RecORM()(texts, **columns)),
        "rllm": repr(rllm.RecEvaluator().evaluate(task, episode)),
        "skyrl": skyrl.RecTextEnv(extras={"reward_spec": {"ground_truth": labels[0]}}).step(
            texts[0]
        ),
    }


OPERATORS = ("cpu", "triton", "reference")
AREAS = (*OPERATORS, "evaluation", "index", "sharded", "data", "rewards", "adapters")


@pytest.fixture(scope="module")
def surface(encoder, tmp_path_factory) -> Iterator[dict[str, Callable[[], Results]]]:
    """The public calls of each area."""
    samples.start_service(encoder)
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    folder = write_tiny(tmp_path_factory.mktemp("ambient"))
    yield {
        **{name: partial(of_operators, name) for name in OPERATORS},
        "evaluation": of_evaluation,
        "index": lambda: of_index(folder),
        "sharded": of_sharded_tables,
        "data": lambda: of_data(folder),
        "rewards": lambda: of_rewards(encoder),
        "adapters": of_adapters,
    }
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def expected(surface) -> dict[str, Results]:
    """Their results where nothing has been set."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RL4REC_REWARD", json.dumps(samples.OPTIONS))
        return {name: call() for name, call in surface.items()}


class Watching(TorchFunctionMode):
    """Sees all calls of torch, as profilers and fake modes do."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        return func(*args, **(kwargs or {}))


def deterministic():
    get, put = torch.are_deterministic_algorithms_enabled, torch.use_deterministic_algorithms
    return restored(get, put, True)


# Encodings keep their last bits only with the same number of threads.
LEFT_OUT = [("one thread", "rewards"), ("one thread", "adapters")]
# Triton's interpreter is slow, and so are the adapters, which call `RecReward`. Variants of a state
# say nothing new about them.
SLOW = ("triton", "adapters")
VARIANTS = (
    *("default dtype float", "autocast to", "autocast of", "enable", "no_"),
    *("products: high", "products: bf16", "products: tf32"),
)


STATES: dict[str, Callable[[], Any]] = {
    "nothing": nullcontext,
    "default dtype bfloat16": lambda: default_dtype(BF16),
    "default dtype float16": lambda: default_dtype(F16),
    "default dtype float64": lambda: default_dtype(torch.float64),
    "default device": lambda: default_device("meta"),
    "device context": lambda: torch.device("meta"),
    "autocast": lambda: torch.autocast("cpu", BF16),
    "autocast to float16": lambda: torch.autocast("cpu", F16),
    "autocast of a GPU": lambda: torch.autocast("cuda", F16, enabled=torch.cuda.is_available()),
    "no_grad": torch.no_grad,
    "enable_grad": torch.enable_grad,
    "inference_mode": torch.inference_mode,
    "deterministic algorithms": deterministic,
    "one thread": lambda: restored(torch.get_num_threads, torch.set_num_threads, 1),
    "products: high": lambda: products("high"),
    "products: medium": lambda: products("medium"),
    "products: bf16 of MKLDNN": lambda: products("mkldnn.matmul.fp32_precision=bf16"),
    "products: tf32 of CUDA": lambda: products("cuda.matmul.fp32_precision=tf32"),
    "products: tf32 of all": lambda: products("fp32_precision=tf32"),
    "anomaly mode": lambda: torch.autograd.set_detect_anomaly(True, check_nan=False),
    "function mode": Watching,
    "forward mode": torch.autograd.forward_ad.dual_level,
}


def described(result: Any) -> Any:
    """Tensors and arrays as their dtype, device, shape and bytes."""

    def one(leaf: Any) -> Any:
        if isinstance(leaf, np.ndarray):
            return "array", leaf.dtype, leaf.shape, leaf.tobytes()
        if isinstance(leaf, torch.Tensor):
            values = leaf.detach().contiguous().flatten().view(torch.uint8).numpy().tobytes()
            return "tensor", leaf.dtype, leaf.device.type, leaf.shape, values
        return leaf

    return tree_map(one, result)


@pytest.mark.filterwarnings("ignore:Anomaly Detection", "ignore:.*invalid value encountered")
@pytest.mark.parametrize(
    ("state", "area"),
    [
        (state, area)
        for area in AREAS
        for state in STATES
        if (state, area) not in LEFT_OUT and not (area in SLOW and state.startswith(VARIANTS))
    ],
)
def test_results_do_not_depend_on_the_state_of_torch(surface, expected, monkeypatch, area, state):
    monkeypatch.setenv("RL4REC_REWARD", json.dumps(samples.OPTIONS))
    with STATES[state]():
        before = torch.get_default_dtype(), torch.backends.mkldnn.matmul.fp32_precision
        found = surface[area]()
        assert (torch.get_default_dtype(), torch.backends.mkldnn.matmul.fp32_precision) == before
    for name, want in expected[area].items():
        assert described(found[name]) == described(want), name


def test_an_encoder_made_in_any_state_is_the_same(encoder):
    for state in ("default dtype bfloat16", "default device", "device context", "autocast"):
        with STATES[state]():
            other = rk.Encoder(device="cpu")
            index = rk.ItemIndex.build({1: {"title": "soap"}, 2: {"title": "comb"}}, other)
        assert {p.dtype for p in other.model.parameters()} == {torch.float32}
        assert other.fingerprint == encoder.fingerprint
        want = rk.ItemIndex.build({1: {"title": "soap"}, 2: {"title": "comb"}}, encoder)
        assert torch.equal(index.table, want.table)


@pytest.mark.parametrize("kind", ["plain", "int8", "int8-refined", "bf16"])
def test_autocast_widens_the_query_of_every_function(kind):
    query, table, targets = CATALOG.query.to(BF16), CATALOG.table, CATALOG.targets
    if kind != "plain":
        table = rk.quantize_table(table, BF16 if kind == "bf16" else torch.int8)
    options = {"refine": kind.endswith("refined")}
    calls = [
        lambda q: rk.rank_catalog(q, table, targets, **options),
        lambda q: rk.reward_catalog(q, table, targets, **options),
        lambda q: rk.topk_catalog(q, table, 9, **options),
        lambda q: rk.mine_hard_negatives(q, table, targets, SEEN, 5, **options),
    ]
    if kind == "plain":
        calls.append(lambda q: rk.log_prob_catalog(q, table, targets))
        calls.append(lambda q: rk.evaluate(q, table, targets, num_bootstrap=10).to_dict())
    for call in calls:
        with torch.autocast("cpu", BF16):
            found = call(query)
        assert described(found) == described(call(query.float()))
