"""Every tensor argument in every memory layout: columns, slices, steps, transposed and expanded."""

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

import rl4rec_kernels as rk
from tests.gpu.cases import EVERY
from tests.ops.cases import F32, make_case
from tests.ops.catalog_cases import make_catalog_case
from tests.ops.gpu import DEVICE, Backend, moved

METRICS = ("ndcg@10", "mrr")
BACKENDS = ["auto", "triton", "reference"]


def junk_like(tensor: Tensor) -> Tensor:
    """What no operator may read beside a tensor: NaN, ids of no item, the opposite of a mask."""
    if tensor.dtype == torch.bool:
        return ~tensor
    if tensor.is_floating_point():
        return torch.full_like(tensor, torch.nan)
    return torch.full_like(tensor, 1 << 30 if tensor.dtype.itemsize > 1 else -128)


def column(tensor: Tensor) -> Tensor:
    """Each value between values that are not the tensor's; its storage begins elsewhere."""
    junk = junk_like(tensor)
    return torch.stack([junk, tensor, junk], -1)[..., 1]


def sliced(tensor: Tensor) -> Tensor:
    """Rows that are parts of wider rows, and of more of them."""
    junk = junk_like(tensor)
    wide = torch.cat([junk, tensor, junk], -1)
    wide = wide if tensor.dim() == 1 else torch.cat([wide, wide])[len(tensor) :]
    return wide[..., tensor.shape[-1] : 2 * tensor.shape[-1]]


def transposed(tensor: Tensor) -> Tensor:
    """The columns one after the other."""
    return tensor.mT.contiguous().mT if tensor.dim() > 1 else tensor.flip(0).flip(0)


def expanded(tensor: Tensor) -> Tensor:
    """The first row in place of all."""
    return tensor[:1].expand(tensor.shape)


LAYOUTS = [column, sliced, transposed, expanded]
IDS = [torch.int64, torch.int32]


def on_all(*choices: Sequence[Any]) -> list[tuple[Any, ...]]:
    """Backends with all choices; Triton's interpreter, which is slow, with some of them."""
    few = [tuple(choice[i % len(choice)] for choice in choices) for i in range(4)]
    return [
        (backend, *chosen)
        for backend in BACKENDS
        for chosen in itertools.product(*choices)
        if backend != "triton" or EVERY or chosen in few
    ]


def named(choice: Any) -> str:
    return getattr(choice, "__name__", str(choice))


def candidate_calls(case: Any, options: dict[str, Any]) -> list[Tensor]:
    arguments = (case.query, case.table, case.candidates)
    return [
        rk.score_candidates(*arguments, **options),
        *rk.rank_candidates(*arguments, **options),
        rk.reward_candidates(*arguments, METRICS, **options),
    ]


def catalog_calls(case: Any, options: dict[str, Any]) -> list[Tensor]:
    options = {**options, "valid": case.valid}
    query, table, targets, exclude = case.arguments
    return [
        *rk.rank_catalog(query, table, targets, exclude, **options),
        rk.reward_catalog(query, table, targets, exclude, METRICS, **options),
        *rk.topk_catalog(query, table, 9, exclude, **options),
    ]


def assert_layout_does_not_matter(
    calls: Callable[..., list[Tensor]], case: Any, name: str, how: Callable[..., Tensor], **options
) -> None:
    """Laid out after it was moved: a copy on another device is dense."""
    case = moved(case, DEVICE)
    laid_out = how(getattr(case, name))
    same = laid_out.clone(memory_format=torch.contiguous_format)
    want = calls(case._replace(**{name: same}), options)
    found = calls(case._replace(**{name: laid_out}), options)
    for got, expected in zip(found, want, strict=True):
        torch.testing.assert_close(got, expected, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize(
    ("backend", "how", "ids_dtype", "ragged"),
    on_all(LAYOUTS, IDS, (False, True)),
    ids=named,
)
def test_candidates(backend, how, ids_dtype, ragged):
    case = make_case((2, 140, 30, 32), ids_dtype=ids_dtype, ragged=ragged, exact=True)
    for name in ("query", "table", "ids", "offsets"):
        if getattr(case, name) is not None and not (name == "offsets" and how is expanded):
            assert_layout_does_not_matter(candidate_calls, case, name, how, backend=backend)


@pytest.mark.parametrize(("backend", "how", "ids_dtype"), on_all(LAYOUTS, IDS), ids=named)
def test_catalog(backend, how, ids_dtype):
    case = make_catalog_case((3, 140, 16), ids_dtype=ids_dtype, exclusions=True)
    for name in ("query", "table", "targets", "exclude", "offsets", "valid"):
        if name == "offsets" and how is expanded:
            continue
        ready = case
        if name == "valid" and how is expanded:
            ready = case._replace(valid=torch.ones_like(case.valid))
        assert_layout_does_not_matter(catalog_calls, ready, name, how, backend=backend)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("how", LAYOUTS[:3], ids=lambda how: how.__name__)
@pytest.mark.parametrize("name", ["exclude", "valid"])
def test_a_matrix_of_excluded_ids(backend, how, name):
    case = make_catalog_case((3, 1_300, 16))  # more items than `topk_catalog` sorts at once
    generator = torch.Generator().manual_seed(1)
    exclude = torch.randint(-1, 1_300, (3, 11), generator=generator)
    valid = torch.rand(1_300, generator=generator) < 0.5
    valid[case.targets] = True
    case = case._replace(exclude=exclude, valid=valid)
    assert_layout_does_not_matter(catalog_calls, case, name, how, backend=backend)


@pytest.mark.parametrize("dtype", [torch.int8, torch.bfloat16])
@pytest.mark.parametrize("how", LAYOUTS[:3], ids=lambda how: how.__name__)
@pytest.mark.parametrize("backend", ["auto", "triton"])
def test_quantized_tables(backend, how, dtype):
    case = moved(make_catalog_case((3, 140, 16), exact=False, exclusions=True), DEVICE)
    table = rk.quantize_table(case.table, dtype)
    for refine in (False, True):
        options = {"backend": backend, "refine": refine}
        want = catalog_calls(case._replace(table=table), options)
        for name in ("values", "row_stats", "source"):
            other = table._replace(**{name: how(getattr(table, name))})
            found = catalog_calls(case._replace(table=other), options)
            assert all(map(torch.equal, found, want))
        assert torch.equal(rk.quantize_table(how(case.table), dtype).row_stats, table.row_stats)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("how", LAYOUTS, ids=lambda how: how.__name__)
def test_metrics_and_gradients(backend, how):
    counts = moved(rk.RankCounts(*torch.tensor([[3, 0, 2], [1, 0, 0], [9, 5, 7]])), DEVICE)
    for name in counts._fields:
        laid_out = counts._replace(**{name: how(getattr(counts, name))})
        same = rk.RankCounts(*(count.clone() for count in laid_out))
        found, want = (
            rk.metrics_from_counts(c, METRICS, backend=backend) for c in (laid_out, same)
        )
        assert torch.equal(found, want)
    case = moved(make_case((5, 40, 30, 32)), DEVICE)
    query, table = case.query.requires_grad_(), case.table.requires_grad_()
    grad = how(torch.randint(-3, 4, case.ids.shape, device=DEVICE).float())
    scores = rk.score_candidates(query, table, case.ids, backend=backend)
    found, want = (
        torch.autograd.grad(scores, (query, table), g, retain_graph=True)
        for g in (grad, grad.clone(memory_format=torch.contiguous_format))
    )
    assert all(map(torch.equal, found, want))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("shape", [(0, 3, 4, 5), (3, 1, 4, 0), (2, 0, 3, 4)], ids=str)
def test_empty_arguments(backend, shape):
    rows, columns, num_items, dim = shape
    query, table = (torch.ones(n, dim, device=DEVICE) for n in (rows, num_items))
    ids = torch.zeros(rows, columns, dtype=torch.int64, device=DEVICE)
    assert rk.score_candidates(query, table, ids, backend=backend).shape == ids.shape
    options = {"backend": backend, "valid": torch.ones(num_items, 2, device=DEVICE).bool()[:, 1]}
    targets = torch.zeros(rows, dtype=torch.int32, device=DEVICE)
    assert len(rk.rank_catalog(query, table, targets, ids, **options).above) == rows
    assert rk.topk_catalog(query, table, 2, ids, **options)[0].dtype == F32


@pytest.mark.parametrize("num_candidates", [127, 300, 900])
@pytest.mark.parametrize("ragged", [False, True])
def test_any_number_of_bad_ids_makes_a_total_negative(num_candidates, ragged):
    """Each chunk of a row finds the bad target, and marks the row's total."""
    backend = Backend("triton")
    query, table = torch.ones(3, 4), torch.ones(50, 4)
    ids = torch.randint(0, 50, (3, num_candidates))
    ids[1, 0], ids[2, 1::2] = 77, -9
    offsets = torch.arange(4) * num_candidates
    candidates = rk.RaggedIds(ids.reshape(-1), offsets) if ragged else ids
    with rk.ops.unchecked_ids():
        counts = backend.rank_candidates(query, table, candidates)
        rewards = backend.reward_candidates(query, table, candidates)
    assert (counts.total < 0).tolist() == [False, True, True]
    assert rewards.isnan()[:, 0].tolist() == [False, True, True]
