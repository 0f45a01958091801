"""The scores of candidates under the transforms of torch.func, and in forward mode.

A score is linear in its query and in its item, so its tangent is a sum of scores. Registered
operators have no place for a tangent: torch would take it for 0 without saying so.
"""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from rl4rec_kernels.ops import _backends
from rl4rec_kernels.ops._arguments import Catalog


def is_transformed() -> bool:
    """Whether a call is inside of torch.func.grad, vmap, jvp, … or a level of forward mode."""
    return forward_ad._current_level >= 0 or torch._C._are_functorch_transforms_active()


def refuse_derivatives(name: str, remedy: str, *tensors: Any) -> None:
    """Raise NotImplementedError if a transform asks for a derivative that would be taken for 0.

    Outside of transforms, a result that does not require a gradient is an error in itself.
    """
    if not is_transformed():
        return
    for tensor in tensors:
        if isinstance(tensor, Tensor) and (tensor.requires_grad or _has_tangent(tensor)):
            raise NotImplementedError(f"{name} cannot be differentiated here; {remedy}")


def without_gradient(query: Tensor, catalog: Catalog) -> AbstractContextManager[Any]:
    """`torch.no_grad`, or a context that does nothing, which is faster, if none is asked for."""
    tensors = (query, catalog.values, catalog.source)
    asked = any([tensor.requires_grad for tensor in tensors if tensor is not None])
    return torch.no_grad() if asked else nullcontext()


def _has_tangent(tensor: Tensor) -> bool:
    return forward_ad._current_level >= 0 and forward_ad.unpack_dual(tensor).tangent is not None


class Score(torch.autograd.Function):
    """``score_candidates`` of a backend: its name, then the operator's arguments."""

    generate_vmap_rule = True

    @staticmethod
    def forward(backend: str, *args: Any) -> Tensor:
        return _backends.operators(backend).score_candidates(*args)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.backend, *tensors = inputs
        ctx.save_for_backward(*tensors)
        ctx.save_for_forward(*tensors)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        grads = [
            Gradient.apply(ctx.backend, name, grad, *ctx.saved_tensors) if needed else None
            for name, needed in zip(("query", "table"), ctx.needs_input_grad[1:3], strict=True)
        ]
        return None, *grads, None, None

    @staticmethod
    def jvp(ctx: Any, _: None, query_t: Any, table_t: Any, *rest: None) -> Tensor:
        query, table, ids, offsets = ctx.saved_tensors
        score = _backends.operators(ctx.backend).score_candidates
        parts = [
            score(*pair, ids, offsets)
            for pair in ((query_t, table), (query, table_t))
            if pair[0] is not None and pair[1] is not None
        ]
        return sum(parts[1:], parts[0]).masked_fill(ids == -1, 0)  # -inf whatever the embeddings


class Gradient(torch.autograd.Function):
    """A gradient of the scores: of what, a backend's name, then the operator's arguments."""

    generate_vmap_rule = True

    @staticmethod
    def forward(backend: str, of: str, *args: Any) -> Tensor:
        return getattr(_backends.operators(backend), f"score_candidates_grad_{of}")(*args)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> None:
        raise NotImplementedError("score_candidates can be differentiated once, not twice")

    jvp = backward
