"""The commands ``rl4rec serve``, ``status`` and ``stop``: the retrieval service on Ray."""

import json
import signal
import sys
import time
from pathlib import Path
from typing import Annotated, Any

from rl4rec_kernels._utils.checks import shown
from rl4rec_kernels._utils.paths import absolute
from rl4rec_kernels.adapters.http import check_http, check_serve, start_http, stop_http
from rl4rec_kernels.cli.common import DataDir, EncoderBackend, EncoderName, typer
from rl4rec_kernels.service.client import RetrievalClient
from rl4rec_kernels.service.connection import NoClusterError, connected_ray, find_actor
from rl4rec_kernels.service.deploy import start_service, stop_service
from rl4rec_kernels.service.local import DEFAULT_NAME, DEFAULT_NAMESPACE
from rl4rec_kernels.service.options import check_options

_POLL_S = 2.0  # how often `serve` checks whether the service still runs

_FORMATS = {  # the rows that `status` shows
    "calls": ",",
    "errors": ",",
    "inflight_texts": ",",
    "queued_calls": ",",
    "encode_batch_size": ".1f",
    "rank_batch_size": ".1f",
    "cache_hit_ratio": ".0%",
}

Name = Annotated[str, typer.Option(help="Name of the service.")]
Namespace = Annotated[str, typer.Option(help="Ray namespace of the service.")]
Address = Annotated[
    str | None,
    typer.Option(
        envvar="RAY_ADDRESS", help="Address of a Ray cluster, or 'auto' for one on this machine."
    ),
]


def serve(
    datasets: Annotated[
        list[str], typer.Argument(help="Data sets, as NAME or NAME=INDEX.safetensors.")
    ],
    encoder: EncoderName = "minilm",
    backend: EncoderBackend = "torch",
    data_dir: DataDir = None,
    address: Address = None,
    name: Name = DEFAULT_NAME,
    namespace: Namespace = DEFAULT_NAMESPACE,
    replicas: Annotated[int, typer.Option(help="Actors that share the calls.")] = 1,
    shards: Annotated[int, typer.Option(help="Actors that share the rows of the tables.")] = 0,
    num_gpus: Annotated[float, typer.Option(help="GPUs per replica, possibly a fraction.")] = 0,
    num_threads: Annotated[
        int | None, typer.Option(help="Threads per replica (default: all cores).")
    ] = None,
    batch_wait_timeout_s: Annotated[
        float, typer.Option(help="Seconds that a text waits for others to fill a batch.")
    ] = 0.002,
    cache_mib: Annotated[int, typer.Option(help="Memory for cached encodings, in MiB.")] = 256,
    http_port: Annotated[
        int | None, typer.Option(help="Port that also answers HTTP POST {query, prompts, labels}.")
    ] = None,
    http_host: Annotated[str, typer.Option(help="Address at which HTTP listens.")] = "127.0.0.1",
    token: Annotated[
        str | None,
        typer.Option(
            envvar="RL4REC_TOKEN",
            help="Secret that HTTP requests must send. Other users of this machine see it in the "
            "list of processes: prefer the variable, or --token-file.",
        ),
    ] = None,
    token_file: Annotated[
        Path | None, typer.Option(help="File whose first line is the secret.")
    ] = None,
    token_in_url: Annotated[
        bool, typer.Option(help="Also take the secret as ?token=…, which proxies may log.")
    ] = False,
    http_timeout_s: Annotated[
        float, typer.Option(help="Seconds within which an HTTP request must be complete.")
    ] = 30.0,
    http_total_mib: Annotated[int, typer.Option(help="Memory for HTTP requests, in MiB.")] = 256,
    http_per_client: Annotated[
        int, typer.Option(help="HTTP requests that one address may be sending at once.")
    ] = 1024,
    reward_type: Annotated[
        str, typer.Option(help="Reward sent over HTTP: ndcg, hit, mrr, …")
    ] = "ndcg",
    k: Annotated[int, typer.Option(help="Cut-off of that reward.")] = 10,
) -> None:
    """Start the retrieval service on Ray.

    With an address, the service runs on that cluster until `rl4rec stop`. Without one, it runs on
    its own Ray until this command ends (by Ctrl-C, or by `rl4rec stop` in another shell).
    """
    sources = read_datasets(datasets)
    service = {"name": name, "namespace": namespace}
    options: dict[str, Any] = {
        **service,
        "data_dir": data_dir,
        "replicas": replicas,
        "shards": shards,
        "num_gpus": num_gpus,
        "num_threads": num_threads,
        "limits": {"batch_wait_timeout_s": batch_wait_timeout_s, "cache_mib": cache_mib},
    }
    model = {"model": encoder, "backend": backend}
    check_options(sources, model, **options)  # before a Ray is started
    token = read_token(token, token_file)
    http_limits = {
        "read_timeout_s": http_timeout_s,
        "max_total_mib": http_total_mib,
        "max_reads_per_client": http_per_client,
    }
    if http_port is not None:
        answer = {"reward_type": reward_type, "k": k}
        check_http(http_host, http_port, token, answer, http_limits)
    ray = connected_ray(address or "local")
    signal.signal(signal.SIGTERM, _interrupt)  # Ray's handler prints C++ stacks
    if http_port is not None:
        check_serve(http_host, http_port, **service)
    try:
        find_actor(**service)
        is_new = False
    except NoClusterError:
        is_new = True
    start_service(sources, model, **options)
    if http_port is not None:
        try:
            url = start_http(
                next(iter(sources)),
                **service,
                host=http_host,
                port=http_port,
                token=token,
                token_in_url=token_in_url,
                limits=http_limits,
                reward_type=reward_type,
                k=k,
            )
        except BaseException:
            if is_new:
                stop_service(**service)
            raise
    print(f"{name} in namespace {namespace} serves {', '.join(sources)}", flush=True)
    if http_port is not None:
        print(f"POST to {url} for rewards", flush=True)
    if address is not None:
        return
    for node in ray.nodes():
        where = f"{node['NodeManagerAddress']}:{node['MetricsExportPort']}"
        print(f"metrics for Prometheus at http://{where}/metrics", flush=True)
    print("stop it with Ctrl-C or `rl4rec stop`", flush=True)
    try:
        while True:
            find_actor(name, namespace)  # also finds one that is being restarted
            time.sleep(_POLL_S)
    except NoClusterError:
        pass  # stopped by another process
    except KeyboardInterrupt:
        for stop_signal in (signal.SIGINT, signal.SIGTERM):  # impatient ones would leave a part
            signal.signal(stop_signal, signal.SIG_IGN)
        print(f"stopping {name}", file=sys.stderr, flush=True)
        stop_service(name, namespace)
    ray.shutdown()


def _interrupt(number: int, frame: Any) -> None:
    """End as by Ctrl-C, which stops what was started."""
    raise KeyboardInterrupt


def status(
    address: Address = None,
    name: Name = DEFAULT_NAME,
    namespace: Namespace = DEFAULT_NAMESPACE,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show the data sets of a running service, its load, and the latency of calls."""
    connected_ray(address or "auto")
    replicas = RetrievalClient(name, namespace).describe()
    if as_json:
        print(json.dumps(replicas, indent=2))
        return
    from rich.console import Console
    from rich.table import Table

    console = Console()
    for dataset, info in replicas[0]["datasets"].items():
        console.print(
            f"{dataset}: {info['items']:,} items, {info['dim']} dimensions, {info['dtype']}",
            highlight=False,
            markup=False,
        )
    table = Table(title=f"{name} in {namespace}, {replicas[0]['shards'] or 'no'} shards")
    for title in ("", *(replica["name"] for replica in replicas)):
        table.add_column(title, justify="right" if title else "left")
    loads = [replica["load"] for replica in replicas]
    for key, style in _FORMATS.items():
        table.add_row(key, *(format(load[key], style) for load in loads))
    for quantile in loads[0]["latency_ms"]:
        latencies = (load["latency_ms"][quantile] for load in loads)
        row = ("-" if latency is None else f"{latency:.1f}" for latency in latencies)
        table.add_row(f"latency_ms {quantile}", *row)
    console.print(table)


def stop(
    address: Address = None,
    name: Name = DEFAULT_NAME,
    namespace: Namespace = DEFAULT_NAMESPACE,
) -> None:
    """Stop a running service, with its replicas, shards and HTTP endpoint."""
    connected_ray(address or "auto")
    stop_http(name, namespace)
    print(f"stopped {', '.join(stop_service(name, namespace))}")


def read_datasets(arguments: list[str]) -> dict[str, str | None]:
    """Parse ``NAME`` and ``NAME=INDEX.safetensors``.

    Raises
    ------
    ValueError, FileNotFoundError
        If a name is empty or repeated, or a file does not exist.
    """
    sources: dict[str, str | None] = {}
    for argument in arguments:
        name, is_file, path = argument.partition("=")
        if not name or name in sources or (is_file and not path):
            raise ValueError(
                f"data set {shown(argument)} is invalid or repeated; write NAME or "
                "NAME=INDEX.safetensors"
            )
        if is_file and not Path(path).is_file():
            raise FileNotFoundError(f"{path} does not exist; build it with `rl4rec index build`")
        sources[name] = str(absolute(path)) if is_file else None
    return sources


def read_token(token: str | None, file: Path | None) -> str | None:
    """Return the secret as given, or the first line of a file.

    Raises
    ------
    ValueError
        If both are given, or the file is empty.
    """
    if file is None:
        return token
    if token is not None:
        raise ValueError("pass --token-file or a token (RL4REC_TOKEN, --token), not both")
    line = file.read_text("utf-8").partition("\n")[0].strip()
    if not line:
        raise ValueError(f"--token-file {file} is empty; write the secret in its first line")
    return line
