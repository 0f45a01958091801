"""The forward pass of a transformer by OpenVINO, in float32."""

import warnings
from functools import cache
from typing import Any

import torch
from torch import Tensor

from rl4rec_kernels._utils.imports import require

_USED = {"input_ids", "attention_mask"}


class OpenVinoForward:
    """Stands in for ``forward`` of a transformers model that encodes text.

    OpenVINO fuses what torch runs one by one and needs no padding to speak of in small batches. It
    is asked for float32: by itself it would take bfloat16 where the CPU has it, which is faster but
    changes the best 10 items of every twentieth text. sentence-transformers has an OpenVINO backend
    too; it is not used because it brings optimum-intel, which holds transformers back.

    The model is converted at the first call, with as many threads as torch uses then.

    Parameters
    ----------
    model : transformers.PreTrainedModel
        Keeps its weights, which are read at the first call.
    """

    def __init__(self, model: Any) -> None:
        self._model = model
        self._compiled: Any = None
        require("openvino", "openvino")  # say at once that it is missing

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
            raise ValueError(
                "backend='openvino' is for single texts, without token types; use backend='torch'"
            )
        if self._compiled is None:
            self._compiled = _compile(self._model)
        given = {name: features[name].numpy() for name in _USED}
        return {"last_hidden_state": torch.from_numpy(self._compiled(given)[0])}


class _Encoding(torch.nn.Module):
    """The model as a function of two arguments, which is what can be traced."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        # The class's forward: the instance's is the OpenVinoForward.
        call = type(self.model).forward
        given = {"input_ids": input_ids, "attention_mask": attention_mask}
        return call(self.model, **given, return_dict=True).last_hidden_state


@cache
def _core() -> Any:
    """OpenVINO's devices, kept for as long as the process lives.

    Its CPU device gives the thread that loads it a stack for signals, and frees that stack with
    itself: the next signal, as of a DataLoader's worker that ends, would kill the process.
    """
    return require("openvino", "openvino").Core()


def _compile(model: Any) -> Any:
    openvino = require("openvino", "openvino")
    example = torch.ones(2, 7, dtype=torch.long)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # tracing warns of what holds for padding masks alone
            converted = openvino.convert_model(
                _Encoding(model), example_input={"input_ids": example, "attention_mask": example}
            )
    except Exception as error:  # of any kind: it traces foreign code
        raise ValueError(
            f"{type(model).__name__} cannot be converted for OpenVINO ({error}); use "
            "backend='torch'"
        ) from error
    return _core().compile_model(
        converted,
        "CPU",
        {
            "INFERENCE_PRECISION_HINT": "f32",
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
            "PERFORMANCE_HINT": "LATENCY",
        },
    )
