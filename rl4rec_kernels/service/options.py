"""Checks of a service's options before an actor is made."""

import inspect
import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

from rl4rec_kernels._utils.checks import (
    MAX_PROCESSES,
    MAX_THREADS,
    amount,
    named_options,
    number,
    shown,
)
from rl4rec_kernels.data.item_fields import ItemMetadata
from rl4rec_kernels.index.encoder import ENGINES, Encoder
from rl4rec_kernels.index.item_index import ItemIndex
from rl4rec_kernels.service.batching import Limits
from rl4rec_kernels.service.client import check_timeout

Datasets = (
    str | Sequence[str] | Mapping[str, str | os.PathLike[str] | ItemIndex | ItemMetadata | None]
)
"""Names of data sets, or their index files, indexes or metadata by name."""


def check_options(
    datasets: object,
    encoder: object,
    *,
    name: str,
    namespace: str,
    data_dir: object = None,
    replicas: int = 1,
    shards: int = 0,
    num_cpus: float = 0,
    num_gpus: float = 0,
    num_threads: int | None = None,
    limits: Mapping[str, float] | None = None,
    timeout_s: float = 1.0,
) -> None:
    """Check the arguments of `start_service` as far as this machine can.

    Raises
    ------
    TypeError, ValueError
        If one is invalid; the message names it.
    """
    for label, text in (("name", name), ("namespace", namespace)):
        if not isinstance(text, str) or not text:
            raise ValueError(f"{label} must be a string that is not empty, got {shown(text)}")
    if data_dir is not None and not isinstance(data_dir, str | os.PathLike):
        raise TypeError(f"data_dir must be a path, got {shown(data_dir)}")
    amount("replicas", replicas, 1, MAX_PROCESSES)
    amount("shards", shards, 0, MAX_PROCESSES)
    number("num_cpus", num_cpus, 0, math.inf)
    number("num_gpus", num_gpus, 0, math.inf)
    check_timeout(timeout_s)
    if num_threads is not None:
        amount("num_threads", num_threads, 1, MAX_THREADS)
    Limits(**named_options("limits", limits, Limits))
    _check_encoder(encoder)
    for key, source in as_sources(datasets).items():
        if shards and not isinstance(source, str | os.PathLike):
            raise ValueError(
                "with shards, datasets must be a dict of index files by name, which each shard "
                f"opens, got {shown(datasets)}; save the index and pass its path"
            )
        if isinstance(source, str | os.PathLike) and os.path.isfile(source):
            ItemIndex.open(source)  # otherwise it may be on the actor's machine
        elif source is not None and not isinstance(source, str | os.PathLike | Mapping | ItemIndex):
            raise TypeError(
                f"datasets[{shown(key)}] must be the path of an index file, an ItemIndex or "
                f"items' metadata, got {type(source).__name__}"
            )


def as_sources(datasets: object) -> dict[str, Any]:
    """Return the source of each data set by name; None for a name alone."""
    if isinstance(datasets, str):
        datasets = [datasets]
    if not isinstance(datasets, Mapping | Sequence) or not datasets:
        raise ValueError(
            "datasets must be a data set's name, a list of names, or a dict of index files, "
            f"indexes or metadata by name, got {shown(datasets)}"
        )
    for name in datasets:
        if not isinstance(name, str):
            raise TypeError(f"datasets must have strings as names, got {shown(name)}")
    return dict(datasets) if isinstance(datasets, Mapping) else dict.fromkeys(datasets)


def _check_encoder(encoder: object) -> None:
    if isinstance(encoder, Encoder):
        return
    options = encoder if isinstance(encoder, Mapping) else {"model": encoder}
    try:
        given = inspect.signature(Encoder).bind(**options).arguments
    except TypeError as error:
        raise TypeError(f"encoder: {error}, in {shown(encoder)}") from None
    if given.get("backend", "torch") not in ENGINES:
        raise ValueError(
            f"encoder: backend must be {' or '.join(ENGINES)}, got {shown(given['backend'])}"
        )
    if not isinstance(given.get("model", ""), str) and not hasattr(given["model"], "encode"):
        raise TypeError(
            "encoder must be a model's name or path, a dict of options of Encoder, or an Encoder, "
            f"got {shown(given['model'])}"
        )


def check_resource(ray: Any, name: str, kind: str, wanted: float, actors: int) -> None:
    """Raise ValueError if the cluster cannot have so many actors; they would wait without end."""
    if not wanted or not actors:
        return
    amounts = [node["Resources"].get(kind, 0) for node in ray.nodes() if node["Alive"]]
    if sum(int(amount / wanted + 1e-6) for amount in amounts) < actors:
        found = " + ".join(f"{amount:g}" for amount in amounts)
        raise ValueError(
            f"{name}={shown(wanted)} for each of {actors} actors is more than the {found} {kind}s "
            "of the cluster's machines; ask for fewer"
        )
