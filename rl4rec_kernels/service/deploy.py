"""Start and stop a service with its replicas and shards."""

import os
import re
from collections.abc import Mapping
from typing import Any

from rl4rec_kernels._utils.checks import shown, whole_number
from rl4rec_kernels._utils.imports import require
from rl4rec_kernels._utils.paths import absolute
from rl4rec_kernels.index.encoder import PACKAGED_MODEL, Encoder
from rl4rec_kernels.service.actor import RetrievalService
from rl4rec_kernels.service.client import RetrievalClient
from rl4rec_kernels.service.connection import connected_ray
from rl4rec_kernels.service.local import DEFAULT_NAME, DEFAULT_NAMESPACE
from rl4rec_kernels.service.shards import Shard

# Why not Ray Serve, which would route by load: a call by its handle takes two to four times as long
# as a call of an actor (benchmarks/bench_service.py), and its actors cannot keep a service's name.


def start_service(
    datasets: Any,
    encoder: str | Mapping[str, Any] | Encoder = PACKAGED_MODEL,
    *,
    name: str = DEFAULT_NAME,
    namespace: str = DEFAULT_NAMESPACE,
    data_dir: Any = None,
    replicas: int = 1,
    shards: int = 0,
    num_cpus: float = 0,
    num_gpus: float = 0,
    num_threads: int | None = None,
    limits: Mapping[str, Any] | None = None,
) -> RetrievalClient:
    """Start a detached service on the Ray cluster, or find it if it runs; wait until it is up.

    Parameters
    ----------
    datasets, encoder, data_dir, num_threads, limits
        As in `RetrievalService`. Ray restarts a dead actor with the same arguments: names and paths
        always work, but indexes and encoders are lost when this process ends.
    name, namespace : str
        Name and namespace of the actor; further replicas are called ``name-1`` and so on.
    replicas : int
        Identical actors. Each client cycles through them, starting at a random one.
    shards : int
        Actors that share the rows of the tables; 0 keeps whole tables in each replica. `datasets`
        must then be a dict of index files that exist on all machines.
    num_cpus, num_gpus : float
        CPUs and GPUs that Ray reserves for each replica, possibly fractions.

    Raises
    ------
    LookupError
        If there is no cluster.
    TypeError, ValueError
        If an argument is invalid, or a service of that name runs with other data sets, replicas or
        shards.
    ServiceUnavailableError
        If an actor could not be started; the message says why.
    """
    replicas = whole_number("replicas", replicas, 1)
    shards = whole_number("shards", shards, 0)
    connected_ray()
    data_dir = data_dir or os.environ.get("RL4REC_DATA")  # the actor's machine may have another
    data_dir = None if data_dir is None else str(absolute(data_dir))
    if isinstance(datasets, Mapping):  # an actor may run in another directory
        datasets = {
            key: str(absolute(source)) if isinstance(source, str | os.PathLike) else source
            for key, source in datasets.items()
        }
    detached = {
        "lifetime": "detached",
        "get_if_exists": True,
        "namespace": namespace,
        "scheduling_strategy": "SPREAD",
        "num_cpus": num_cpus,
    }
    parts = []
    if shards:
        paths = _index_paths(datasets)
        # Their methods have no side effects, so Ray may repeat them.
        actor = require("ray", "ray").remote(max_restarts=-1, max_task_retries=-1)(Shard)
        parts = [
            actor.options(name=f"{name}-shard-{part}", **detached).remote(
                paths, part, shards, num_threads
            )
            for part in range(shards)
        ]
    names = [name, *(f"{name}-{number}" for number in range(1, replicas))]
    for replica in names:
        RetrievalService.options(name=replica, num_gpus=num_gpus, **detached).remote(
            datasets,
            encoder,
            data_dir=data_dir,
            limits=limits,
            num_threads=num_threads,
            replicas=names,
            shards=parts,
        )
    client = RetrievalClient(name, namespace)
    known = [datasets] if isinstance(datasets, str) else list(datasets)
    wanted = {"data sets": known, "replicas": replicas, "shards": shards}
    for state in client.describe():
        running = {
            "data sets": list(state["datasets"]),
            "replicas": len(state["replicas"]),
            "shards": state["shards"],
        }
        if running != wanted:
            raise ValueError(
                f"service {shown(name)} in namespace {shown(namespace)} already runs with "
                f"{running} instead of {wanted}; stop it first, or choose another name"
            )
    return client


def stop_service(name: str = DEFAULT_NAME, namespace: str = DEFAULT_NAMESPACE) -> list[str]:
    """Stop a service with its replicas and shards.

    Returns
    -------
    list of str
        Names of the actors that were stopped.

    Raises
    ------
    LookupError
        If there is no such service.
    """
    ray = connected_ray()
    mine = re.compile(rf"{re.escape(name)}(-(shard-)?\d+)?")
    found = [
        actor["name"]
        for actor in ray.util.list_named_actors(all_namespaces=True)
        if actor["namespace"] == namespace and mine.fullmatch(actor["name"])
    ]
    if not found:
        raise LookupError(
            f"no retrieval service {shown(name)} in namespace {shown(namespace)} of the cluster"
        )
    for actor in sorted(found):
        ray.kill(ray.get_actor(actor, namespace=namespace), no_restart=True)
    return sorted(found)


def _index_paths(datasets: Any) -> dict[str, str]:
    """The index files that shards open."""
    paths = datasets if isinstance(datasets, Mapping) else {}
    if not paths or not all(isinstance(path, str) for path in paths.values()):
        raise ValueError(
            "with shards, datasets must be a dict of index files by name, which each shard opens, "
            f"got {shown(datasets)}; save the index and pass its path"
        )
    return dict(paths)
