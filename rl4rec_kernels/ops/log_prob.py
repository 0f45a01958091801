"""Log-probabilities of targets in the softmax of scores, as rewards and as losses."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from rl4rec_kernels._utils.arrays import Array
from rl4rec_kernels.ids import IdList, IdLists
from rl4rec_kernels.metrics import RankCounts
from rl4rec_kernels.ops import _backends, _gradients, _hopper, reference
from rl4rec_kernels.ops._arguments import (
    Catalog,
    Ids,
    as_embeddings,
    as_targets,
    check_catalog,
    check_embeddings,
    check_log_q,
    check_temperature,
    split_excluded,
    split_ids,
)
from rl4rec_kernels.ops._backends import Backend
from rl4rec_kernels.ops._blocks import explain_ids, in_blocks
from rl4rec_kernels.ops._transforms import refuse_derivatives
from rl4rec_kernels.ops.catalog import rank_catalog


def log_prob_candidates(
    query: Array,
    table: Array,
    candidates: IdLists,
    temperature: float = 1.0,
    log_q: Array | None = None,
    *,
    backend: Backend = "auto",
) -> Tensor:
    """Compute the log-probability of each row's target among its candidates.

    With s the scores of `score_candidates`, it is the log-softmax of ``s / temperature - log_q`` at
    the target. No scores are written. ``-log_prob_candidates(...).mean()`` is the sampled softmax
    loss.

    Parameters
    ----------
    query : Tensor or array, shape [B, D]
        float32, float16 or bfloat16.
    table : Tensor or array, shape [N, D]
        Embeddings of all items; of the dtype of `query`, or lower if `query` is float32.
    candidates : Tensor or array, shape [B, C], B lists of ids, or RaggedIds with B rows
        int32 or int64 rows of the table. The first of each row is the target. -1 is padding;
        repeats of the target are dropped, other ids count as often as they occur.
    temperature : float
        More than 1e-30 and less than 1e30. To learn it, divide the query by it instead.
    log_q : Tensor or array, float32, shape [N], optional
        The log of the probability with which each item is sampled as a negative, which is
        subtracted from the logits, the target's as well, see Notes. It gets no gradient.
    backend : {"auto", "cpu", "triton", "reference"}
        The implementation to use. ``"auto"`` uses C++ on the CPU and Triton on a GPU.

    Returns
    -------
    Tensor
        float32, shape [B]. Differentiable once, in `query` and `table`; gradients are summed in
        float32 in a fixed order. A NaN score of the target or a candidate makes the row NaN.
        Candidates that score infinity share the probability; if all score minus infinity, all do.

    Raises
    ------
    TypeError, ValueError
        If dtypes, shapes or devices are invalid, a row has no target, or `temperature` is out of
        range; the message names the argument.
    IndexError
        If an id is not in the table; the message names its row and column.

    Notes
    -----
    Negatives that are drawn from a distribution q other than the uniform one, for example by
    popularity or from the batch, bias a softmax over them: popular items are pushed down too often.
    Subtracting log q from the logits corrects this (Bengio & Senécal, IEEE Trans. Neural Networks
    2008; Yi et al., Sampling-Bias-Corrected Neural Modeling for Large Corpus Item Recommendations,
    RecSys 2019, equation 3). A constant added to `log_q` changes nothing.
    """
    query, table = as_embeddings(query, table)
    temperature = _check("log_prob_candidates", query, table, temperature)
    check_embeddings(query, table)
    ids = split_ids("candidates", candidates, query)
    log_q = check_log_q(log_q, table)
    backend = _backends.resolve_backend(backend, query, cuda=False)
    if backend == "reference":
        return reference.log_prob_candidates(query, table, *ids, log_q, temperature).float()
    operator = _backends.operators(backend).log_prob_candidates
    log_probs, _ = operator(query, table, *ids, log_q, temperature)
    return log_probs


def log_prob_catalog(
    query: Array,
    table: Array,
    targets: IdList,
    exclude: IdLists | None = None,
    temperature: float = 1.0,
    valid: Array | None = None,
    *,
    backend: Backend = "auto",
) -> Tensor:
    """Compute the log-probability of each query's target among all items.

    It is the log-softmax of the scores / `temperature` at the target. Exponentials are summed where
    scores are computed, also in the backward pass, which computes the scores again: there is no
    ``[B, N]`` matrix. ``-log_prob_catalog(...).mean()`` is the cross-entropy over the whole
    catalog.

    Parameters
    ----------
    query, table, temperature
        As in `log_prob_candidates`.
    targets : Tensor, shape [B]
        int32 or int64 rows of the table.
    exclude : Tensor or array, shape [B, X], B lists of ids, or RaggedIds with B rows, optional
        Items that get no probability for a query, for example the user's history; -1 is padding,
        and repeats are allowed. It never removes the target itself.
    valid : Tensor or array, bool, shape [N], optional
        Which rows are items; others get no probability. Default: all.
    backend : {"auto", "cpu", "cuda", "triton", "reference"}
        As in `rank_catalog`; gradients are Triton's with ``"cuda"``, too.

    Returns
    -------
    Tensor
        float32, shape [B], as of `log_prob_candidates`. A query's result depends only on the query,
        its target and exclusions, and the table, to the bit; the last bits may differ between CPU
        levels.

    Raises
    ------
    TypeError, ValueError
        If dtypes, shapes or devices are invalid, a target's row is not valid, or `temperature` is
        out of range; the message names the argument.
    IndexError
        If an id is not in the table; the message names it.
    """
    query, table, catalog, targets, excluded, temperature = _check_catalog(
        "log_prob_catalog", query, table, targets, exclude, temperature, valid
    )
    backend = _hopper.resolve_backend(backend, query, catalog)
    if backend == "reference":
        found = reference.log_prob_catalog(
            query, table, targets, *excluded, catalog.valid, temperature
        )
        return found.float()
    operator = _backends.operators(backend).log_prob_catalog
    if torch.is_grad_enabled() and (query.requires_grad or table.requires_grad):
        return operator(query, table, targets, *excluded, catalog.valid, temperature)[0]
    return in_blocks(
        lambda *arguments: operator(*arguments[:6], temperature)[0],
        query,
        catalog,
        targets,
        excluded,
    )


def rank_with_log_prob(
    query: Array,
    table: Array,
    targets: IdList,
    exclude: IdLists | None = None,
    temperature: float = 1.0,
    valid: Array | None = None,
    *,
    backend: Backend = "auto",
) -> tuple[RankCounts, Tensor]:
    """Compute the counts of `rank_catalog` and the log-probabilities of `log_prob_catalog`.

    On the CPU and with ``backend="cuda"`` both come from one pass over the table. They are those of
    the two calls, to the bit.

    Parameters
    ----------
    query, table, targets, exclude, temperature, valid, backend
        As in `log_prob_catalog`.

    Returns
    -------
    tuple of RankCounts and Tensor
        The counts, and the log-probabilities, float32 [B], which have no gradient.

    Raises
    ------
    TypeError, ValueError, IndexError
        As `log_prob_catalog`.
    """
    query, table, catalog, targets, excluded, temperature = _check_catalog(
        "rank_with_log_prob", query, table, targets, exclude, temperature, valid
    )
    chosen = _hopper.resolve_backend(backend, query, catalog)
    if chosen == "reference":
        counts = rank_catalog(query, table, targets, exclude, valid=valid, backend=backend)
        with torch.no_grad():
            return counts, log_prob_catalog(
                query, table, targets, exclude, temperature, valid, backend=backend
            )
    operator = _backends.operators(chosen).rank_log_prob_catalog
    *counts, log_probs = in_blocks(
        lambda *arguments: operator(*arguments[:6], temperature), query, catalog, targets, excluded
    )
    return RankCounts(*counts), log_probs


def _check_catalog(
    name: str, query: Any, table: Any, targets: Any, exclude: Any, temperature: Any, valid: Any
) -> tuple[Tensor, Tensor, Catalog, Tensor, Ids, float]:
    """Check what both operators on the catalog take."""
    query, table = as_embeddings(query, table)
    temperature = _check(name, query, table, temperature)
    check_embeddings(query, table)
    catalog = check_catalog(query, table, valid)
    excluded = split_excluded(exclude, query)
    return query, table, catalog, as_targets(targets, query), excluded, temperature


def _check(name: str, query: Any, table: Any, temperature: Any) -> float:
    remedy = "call backward() or torch.autograd.grad outside of torch.func and forward mode"
    refuse_derivatives(name, remedy, query, table)
    return check_temperature(temperature)


def _empty_log_probs(query: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    rows = query.shape[0]
    log_probs = query.new_empty(rows, dtype=torch.float32)
    return log_probs, query.new_empty((rows, 2), dtype=torch.float64)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    *tensors, ctx.temperature = inputs
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(*tensors, *output)


def _candidates_backward(ops: Any) -> Callable[..., Any]:
    def backward(ctx: Any, grad: Tensor, _: Any) -> tuple[Tensor | None, ...]:
        *arguments, log_q, _, normalizer = ctx.saved_tensors
        weights = ops.log_prob_candidates_weights(
            grad, normalizer, *arguments, log_q, ctx.temperature
        )
        grad_query = grad_table = None
        if ctx.needs_input_grad[0]:
            grad_query = ops.score_candidates_grad_query(weights, *arguments)
        if ctx.needs_input_grad[1]:
            grad_table = ops.score_candidates_grad_table(weights, *arguments)
        return grad_query, grad_table, None, None, None, None

    return backward


def _catalog_backward(ops: Any) -> Callable[..., Any]:
    def backward(ctx: Any, grad: Tensor, _: Any) -> tuple[Tensor | None, ...]:
        *arguments, log_probs, normalizer = ctx.saved_tensors
        needs_query, needs_table, *_ = ctx.needs_input_grad
        grad_query, grad_table = ops.log_prob_catalog_grad(
            grad, log_probs, normalizer, *arguments, ctx.temperature, needs_query, needs_table
        )
        grads = (grad_query if needs_query else None, grad_table if needs_table else None)
        return *grads, *[None] * 5

    return backward


def _differentiable_once(name: str) -> Callable[[Any], Callable[..., Any]]:
    def make(ops: Any) -> Callable[..., Any]:
        def backward(ctx: Any, *grads: Any) -> None:
            raise NotImplementedError(f"{name} can be differentiated once, not twice")

        return backward

    return make


def _weigh_candidates(
    kernels: Any,
    grad: Tensor,
    normalizer: Tensor,
    query: Tensor,
    table: Tensor,
    ids: Tensor,
    offsets: Tensor | None,
    log_q: Tensor | None,
    temperature: float,
) -> Tensor:
    """The derivatives with respect to the scores on a GPU; ids have been checked."""
    bad = query.new_zeros(1, dtype=torch.int32)
    flat = ids.reshape(-1).long()
    logits = kernels.score_candidates(query, table, ids, offsets, bad).reshape(-1).double()
    logits = logits / temperature
    known = (flat >= 0) & (flat < table.shape[0])
    if log_q is not None:
        logits = logits - log_q[torch.where(known, flat, 0)].double()
    starts = _gradients.starts_of(ids, offsets)
    slots = torch.arange(flat.numel(), dtype=torch.int64, device=ids.device)
    rows = (torch.searchsorted(starts, slots, right=True) - 1).clamp(0, query.shape[0] - 1)
    first = starts[rows]
    is_target = slots == first
    largest, log_sum = normalizer[rows].unbind(1)
    log_probs = torch.where(logits == largest, 0.0, logits - largest) - log_sum
    weights = torch.where(is_target, log_probs.expm1(), log_probs.exp())
    weights = weights * (-grad.double() / temperature)[rows]
    competes = is_target | (known & (flat != flat[first]))
    return torch.where(competes, weights, 0.0).float().reshape(ids.shape)


def _explain_candidates(
    query: Tensor, table: Tensor, ids: Tensor, offsets: Tensor | None, *rest: Any
) -> None:
    no_query, no_table = (
        torch.empty(part.shape[0], 0, dtype=torch.float32, device="cpu") for part in (query, table)
    )
    ids, offsets = ids.cpu(), None if offsets is None else offsets.cpu()
    torch.ops.rl4rec.rank_candidates(no_query, no_table, ids, offsets)


def _explain_catalog(
    query: Tensor,
    table: Tensor,
    targets: Tensor,
    exclude: Tensor | None,
    offsets: Tensor | None,
    valid: Tensor | None,
    *rest: Any,
) -> None:
    explain_ids(table.shape[0], targets, Ids(exclude, offsets), valid)


_backends.register(
    "log_prob_candidates",
    _empty_log_probs,
    cuda=False,
    explain=_explain_candidates,
    backward=_candidates_backward,
    setup_context=_keep,
)
_backends.register(
    "log_prob_candidates_weights",
    lambda grad, normalizer, query, table, ids, *rest: grad.new_empty(ids.shape),
    cuda=False,
    kernel=_weigh_candidates,
    backward=_differentiable_once("log_prob_candidates"),
)
_backends.register(
    "log_prob_catalog",
    _empty_log_probs,
    prefers_cuda=False,
    explain=_explain_catalog,
    kernel=_hopper.or_triton("log_prob_catalog"),
    backward=_catalog_backward,
    setup_context=_keep,
)
_backends.register(
    "log_prob_catalog_grad",
    lambda grad, log_probs, normalizer, query, table, *rest: tuple(
        like.new_empty((like.shape[0] if needed else 0, like.shape[1]))
        for like, needed in zip((query, table), rest[-2:], strict=True)
    ),
    prefers_cuda=False,
    kernel=lambda _, *args: _backends.kernels("triton").log_prob_catalog_grad(*args),
    backward=_differentiable_once("log_prob_catalog"),
)
_backends.register(
    "rank_log_prob_catalog",
    lambda query, *rest: (*_backends.empty_counts(query), _empty_log_probs(query)[0]),
    prefers_cuda=False,
    explain=_explain_catalog,
    kernel=_hopper.or_triton("rank_log_prob_catalog"),
)
