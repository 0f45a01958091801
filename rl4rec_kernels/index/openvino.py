"""The forward pass of a transformer in OpenVINO, in float32."""

import warnings
from functools import cache
from typing import Any

import torch
from torch import Tensor

from rl4rec_kernels._utils.imports import require

_INPUTS = ("input_ids", "attention_mask")


class OpenVINOForward:
    """Replaces ``forward`` of a transformers model that encodes text.

    OpenVINO fuses operators that torch runs one by one, and is fast with small batches, which need
    little padding. It computes in float32: by default it would use bfloat16 if the CPU supports it,
    which is faster but changes the best 10 items of one text in twenty. The OpenVINO backend of
    sentence-transformers is not used because it needs optimum-intel, which does not support recent
    versions of transformers.

    The model is converted in the first call, with as many threads as torch uses then.

    Parameters
    ----------
    model : transformers.PreTrainedModel
        Keeps its weights, which are read in the first call.
    """

    def __init__(self, model: Any) -> None:
        self._model = model
        self._compiled: Any = None
        require("openvino", "openvino")  # fail now if it is not installed

    def __getstate__(self) -> dict[str, Any]:
        return {"_model": self._model, "_compiled": None}

    def __call__(self, **features: Any) -> dict[str, Tensor]:
        """Return the last hidden state of tokens, float32 [B, tokens, D].

        Raises
        ------
        ValueError
            If the model cannot be converted, or needs more than ids and their mask.
        """
        types = features.get("token_type_ids")
        if types is not None and types.any():
            raise ValueError("backend='openvino' does not support token types; use backend='torch'")
        if self._compiled is None:
            self._compiled = _compile(self._model)
        inputs = {name: features[name].numpy() for name in _INPUTS}
        return {"last_hidden_state": torch.from_numpy(self._compiled(inputs)[0])}


class _Traceable(torch.nn.Module):
    """The model as a function of two tensors."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        # The forward of the class: that of the instance is the OpenVINOForward.
        return (
            type(self.model)
            .forward(
                self.model, input_ids=input_ids, attention_mask=attention_mask, return_dict=True
            )
            .last_hidden_state
        )


@cache
def _core() -> Any:
    """OpenVINO's devices, kept until the process ends.

    The CPU device gives the thread that loads it a signal stack, and frees that stack when it is
    destroyed: the next signal, for example from a DataLoader worker that exits, would then kill the
    process.
    """
    return require("openvino", "openvino").Core()


def _compile(model: Any) -> Any:
    openvino = require("openvino", "openvino")
    example = torch.ones(2, 7, dtype=torch.int64, device="cpu")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # tracing warns about masks other than padding
            converted = openvino.convert_model(
                _Traceable(model), example_input=dict.fromkeys(_INPUTS, example)
            )
    except Exception as error:  # of any kind, since it traces foreign code
        raise ValueError(
            f"cannot convert {type(model).__name__} for OpenVINO ({error}); use backend='torch'"
        ) from error
    config = {
        "INFERENCE_PRECISION_HINT": "f32",
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "PERFORMANCE_HINT": "LATENCY",
    }
    return _core().compile_model(converted, "CPU", config)
