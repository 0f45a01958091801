"""The commands ``rl4rec serve``, ``status`` and ``stop``: the retrieval service on Ray."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

from rl4rec_kernels.cli.common import DataDir, EncoderName, typer

_LOOK_S = 2.0  # how often `serve` looks whether the service is still there

_SHOWN: dict[str, Callable[[dict[str, Any]], str]] = {
    "calls": lambda load: f"{load['calls']:,}",
    "errors": lambda load: f"{load['errors']:,}",
    "texts in work": lambda load: f"{load['texts_in_work']:,}",
    "calls in line": lambda load: f"{load['calls_in_line']:,}",
    "texts encoded at once": lambda load: f"{load['texts_per_encoding']:.1f}",
    "calls ranked at once": lambda load: f"{load['calls_per_ranking']:.1f}",
    "texts remembered": lambda load: f"{load['texts_remembered_share']:.0%}",
    "p50 in ms": lambda load: _ms(load["latency_ms"]["p50"]),
    "p90 in ms": lambda load: _ms(load["latency_ms"]["p90"]),
    "p99 in ms": lambda load: _ms(load["latency_ms"]["p99"]),
}

Name = Annotated[str, typer.Option(help="Name of the service.")]
Namespace = Annotated[str, typer.Option(help="Ray namespace of the service.")]
Address = Annotated[
    str | None,
    typer.Option(envvar="RAY_ADDRESS", help="Address of a Ray cluster, or 'auto' for one here."),
]


def serve(
    datasets: Annotated[
        list[str], typer.Argument(help="Data sets: NAME, or NAME=INDEX.safetensors.")
    ],
    encoder: EncoderName = "minilm",
    backend: Annotated[str, typer.Option(help="Who encodes: torch, or openvino.")] = "torch",
    data_dir: DataDir = None,
    address: Address = None,
    name: Name = "RetrievalService",
    namespace: Namespace = "rl4rec",
    replicas: Annotated[int, typer.Option(help="Actors that do the same.")] = 1,
    shards: Annotated[int, typer.Option(help="Actors that share the rows of the tables.")] = 0,
    num_gpus: Annotated[float, typer.Option(help="GPUs of a replica, also a fraction.")] = 0,
    num_threads: Annotated[
        int | None, typer.Option(help="Threads of a replica (default: all cores).")
    ] = None,
    max_wait_ms: Annotated[float, typer.Option(help="How long a text waits for others.")] = 2.0,
    cache_mib: Annotated[int, typer.Option(help="Memory for remembered encodings.")] = 256,
    http_port: Annotated[
        int | None, typer.Option(help="Also answer HTTP POST {query, prompts, labels} here.")
    ] = None,
    http_host: Annotated[str, typer.Option(help="Where HTTP listens.")] = "127.0.0.1",
    token: Annotated[
        str | None, typer.Option(envvar="RL4REC_TOKEN", help="Secret that HTTP requests need.")
    ] = None,
    reward_type: Annotated[str, typer.Option(help="Reward of HTTP: ndcg, hit, mrr, …")] = "ndcg",
    k: Annotated[int, typer.Option(help="Cut-off of that reward.")] = 10,
) -> None:
    """Start the retrieval service on Ray.

    With an address, on that cluster, where it stays until `rl4rec stop`. Without, on a Ray of its
    own, until this command ends (Ctrl-C, or `rl4rec stop` elsewhere).
    """
    from rl4rec_kernels.adapters.http import start_http
    from rl4rec_kernels.service.client import connected_ray
    from rl4rec_kernels.service.deploy import start_service, stop_service

    sources = read_datasets(datasets)
    ray = connected_ray(address or "local")
    client = start_service(
        sources,
        {"model": encoder, "backend": backend},
        name=name,
        namespace=namespace,
        data_dir=None if data_dir is None else str(data_dir.resolve()),
        replicas=replicas,
        shards=shards,
        num_gpus=num_gpus,
        num_threads=num_threads,
        limits={"max_wait_ms": max_wait_ms, "cache_mib": cache_mib},
    )
    print(f"{name} in namespace {namespace} serves {', '.join(sources)}", flush=True)
    if http_port is not None:
        url = start_http(
            next(iter(sources)),
            name=name,
            namespace=namespace,
            host=http_host,
            port=http_port,
            token=token,
            reward_type=reward_type,
            k=k,
        )
        print(f"rewards by POST to {url}", flush=True)
    if address is not None:
        return
    for node in ray.nodes():
        where = f"{node['NodeManagerAddress']}:{node['MetricsExportPort']}"
        print(f"metrics for Prometheus at http://{where}/metrics", flush=True)
    print("Ctrl-C, or `rl4rec stop`, stops it", flush=True)
    try:
        while _is_there(client):
            time.sleep(_LOOK_S)
    except KeyboardInterrupt:
        stop_service(name, namespace)
    ray.shutdown()


def status(
    address: Address = None,
    name: Name = "RetrievalService",
    namespace: Namespace = "rl4rec",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show what a running service holds, its load, and how long calls take."""
    client = _client(address, name, namespace)
    replicas = client.describe()
    if as_json:
        print(json.dumps(replicas, indent=2))
        return
    from rich.console import Console
    from rich.table import Table

    console = Console()
    for dataset, info in replicas[0]["datasets"].items():
        console.print(
            f"{dataset}: {info['items']:,} items of {info['dim']} dimensions, {info['dtype']}",
            highlight=False,
            markup=False,
        )
    table = Table(title=f"{name} in {namespace}, {replicas[0]['shards'] or 'no'} shards")
    for title in ("", *(replica["name"] for replica in replicas)):
        table.add_column(title, justify="right" if title else "left")
    for title, show in _SHOWN.items():
        table.add_row(title, *(show(replica["load"]) for replica in replicas))
    console.print(table)


def stop(
    address: Address = None,
    name: Name = "RetrievalService",
    namespace: Namespace = "rl4rec",
) -> None:
    """Stop a running service, with its replicas, shards and HTTP endpoint."""
    from rl4rec_kernels.adapters.http import stop_http
    from rl4rec_kernels.service.client import connected_ray
    from rl4rec_kernels.service.deploy import stop_service

    connected_ray(address or "auto")
    stop_http(name, namespace)
    print(f"stopped {', '.join(stop_service(name, namespace))}")


def read_datasets(arguments: list[str]) -> dict[str, str | None]:
    """Parse ``NAME`` and ``NAME=INDEX.safetensors``.

    Raises
    ------
    ValueError, FileNotFoundError
        If a name is empty or there twice, or a file does not exist.
    """
    sources: dict[str, str | None] = {}
    for argument in arguments:
        name, is_file, path = argument.partition("=")
        if not name or name in sources or (is_file and not path):
            raise ValueError(
                f"{argument!r} is no data set, or is there twice; write NAME or "
                "NAME=INDEX.safetensors"
            )
        if is_file and not Path(path).is_file():
            raise FileNotFoundError(f"{path} does not exist; build it with `rl4rec index build`")
        sources[name] = str(Path(path).resolve()) if is_file else None
    return sources


def _ms(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


def _client(address: str | None, name: str, namespace: str) -> Any:
    from rl4rec_kernels.service.client import NoClusterError, RetrievalClient, connected_ray

    connected_ray(address or "auto")
    try:
        return RetrievalClient(name, namespace)
    except NoClusterError as error:
        raise LookupError(
            f"no retrieval service {name!r} in namespace {namespace!r}: {error}; "
            "start one with `rl4rec serve`"
        ) from None


def _is_there(client: Any) -> bool:
    """Whether the service was not stopped; one that is being restarted is there."""
    from rl4rec_kernels.service.client import NoClusterError, find_actor

    try:
        find_actor(client.name, client.namespace)
    except NoClusterError:
        return False
    return True
