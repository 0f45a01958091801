"""Start and stop a service with its replicas and shards."""

import os
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from rl4rec_kernels._utils.checks import shown, text
from rl4rec_kernels._utils.paths import absolute
from rl4rec_kernels.index.encoder import PACKAGED_MODEL, Encoder
from rl4rec_kernels.service.actor import RetrievalService
from rl4rec_kernels.service.client import RetrievalClient
from rl4rec_kernels.service.connection import connected_ray
from rl4rec_kernels.service.local import DEFAULT_NAME, DEFAULT_NAMESPACE
from rl4rec_kernels.service.options import Datasets, check_options, check_resource
from rl4rec_kernels.service.shards import Shard

# Why not Ray Serve, which would route by load: a call by its handle takes two to four times as long
# as a call of an actor (benchmarks/bench_service.py), and its actors cannot keep a service's name.


def start_service(
    datasets: Datasets,
    encoder: str | Mapping[str, object] | Encoder = PACKAGED_MODEL,
    *,
    name: str = DEFAULT_NAME,
    namespace: str = DEFAULT_NAMESPACE,
    data_dir: str | os.PathLike[str] | None = None,
    replicas: int = 1,
    shards: int = 0,
    num_cpus: float = 0,
    num_gpus: float = 0,
    num_threads: int | None = None,
    limits: Mapping[str, float] | None = None,
    timeout_s: float = 600.0,
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
    timeout_s : float
        Seconds within which the service must be up. After any error, the actors that this call has
        started are stopped.

    Raises
    ------
    LookupError
        If there is no cluster.
    TypeError, ValueError
        If an argument is invalid, the cluster has too few CPUs or GPUs, or a service of that name
        runs with other data sets, replicas or shards.
    ServiceUnavailableError
        If an actor could not be started; the message says why.
    TimeoutError
        If the service is not up in time.
    """
    check_options(
        datasets,
        encoder,
        name=name,
        namespace=namespace,
        data_dir=data_dir,
        replicas=replicas,
        shards=shards,
        num_cpus=num_cpus,
        num_gpus=num_gpus,
        num_threads=num_threads,
        limits=limits,
        timeout_s=timeout_s,
    )
    ray = connected_ray()
    known = [datasets] if isinstance(datasets, str) else list(datasets)
    names = [name, *(f"{name}-{number}" for number in range(1, replicas))]
    holders = [f"{name}-shard-{part}" for part in range(shards)]
    running = {actor["name"] for actor in _named_actors(ray, namespace)}
    new = [actor for actor in (*holders, *names) if actor not in running]
    check_resource(ray, "num_cpus", "CPU", num_cpus, len(new))
    check_resource(ray, "num_gpus", "GPU", num_gpus, len(set(new) & set(names)))
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
    try:
        # A shard's methods have no side effects, so Ray may repeat them.
        shard = ray.remote(max_restarts=-1, max_task_retries=-1)(Shard)
        parts = [
            shard.options(name=holder, **detached).remote(datasets, part, shards, num_threads)
            for part, holder in enumerate(holders)
        ]
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
        states = RetrievalClient(name, namespace, timeout_s=timeout_s).describe()
    except BaseException as error:
        _kill(ray, new, namespace)  # nothing is left that would be found by this name
        if isinstance(error.__cause__, TypeError | ValueError):
            raise error.__cause__ from None  # of the actor's arguments
        raise
    wanted = {"data sets": known, "replicas": replicas, "shards": shards}
    for state in states:
        has = {
            "data sets": list(state["datasets"]),
            "replicas": len(state["replicas"]),
            "shards": state["shards"],
        }
        if has != wanted:
            _kill(ray, new, namespace)
            raise ValueError(
                f"service {shown(name)} in namespace {shown(namespace)} already runs with "
                f"{has} instead of {wanted}; stop it first, or choose another name"
            )
    return RetrievalClient(name, namespace)


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
    text("name", name)
    text("namespace", namespace)
    ray = connected_ray()
    mine = re.compile(rf"{re.escape(name)}(-(shard-)?\d+)?")
    found = [
        actor["name"] for actor in _named_actors(ray, namespace) if mine.fullmatch(actor["name"])
    ]
    if not found:
        raise LookupError(
            f"no retrieval service {shown(name)} in namespace {shown(namespace)} of the cluster"
        )
    _kill(ray, found, namespace)
    return sorted(found)


def _named_actors(ray: Any, namespace: str) -> list[dict[str, str]]:
    actors = ray.util.list_named_actors(all_namespaces=True)
    return [actor for actor in actors if actor["namespace"] == namespace]


def _kill(ray: Any, names: Sequence[str], namespace: str) -> None:
    """Kill actors, those that have just died included."""
    for name in sorted(names):
        with suppress(ValueError):  # it does not exist any more
            ray.kill(ray.get_actor(name, namespace=namespace), no_restart=True)
