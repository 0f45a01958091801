"""Rewards over HTTP in the formats of OpenRLHF and slime: a Ray Serve endpoint of the service."""

import asyncio
import hmac
import ipaddress
import json
import logging
import socket
from collections.abc import Mapping
from typing import Any

from rl4rec_kernels._utils.checks import flag, named_options, shortened, shown, whole_number
from rl4rec_kernels._utils.forking import fork_safe_pool
from rl4rec_kernels._utils.imports import require
from rl4rec_kernels.adapters._http_body import Bodies, HttpLimits, RefusedError
from rl4rec_kernels.adapters.openrlhf import response
from rl4rec_kernels.data.labels import read_label
from rl4rec_kernels.rewards.completions import strip_special_tokens
from rl4rec_kernels.rewards.reward import RecReward
from rl4rec_kernels.rewards.rows import reward_rows
from rl4rec_kernels.service.batcher import ServiceOverloadedError
from rl4rec_kernels.service.client import ServiceUnavailableError, connect
from rl4rec_kernels.service.connection import connected_ray, original_error
from rl4rec_kernels.service.local import DEFAULT_NAME, DEFAULT_NAMESPACE

logger = logging.getLogger("rl4rec_kernels.adapters.http")

ROUTE = "/reward"
HEALTH = "/health"

_APP = "rl4rec-"  # how the names of our applications begin
_HEALTH_TIMEOUT_S = 5.0
_THREADS = 64  # that wait for the service: the number of requests that are answered together
_MAX_REQUESTS = 8192  # that are read or answered; more wait for these


class RewardEndpoint:
    """Answers ``POST {"query": […], "prompts": […], "labels": […]}`` with ``{"rewards": […]}``.

    This is OpenRLHF's format; ``prompts``, if given, are removed from the queries. The answer to
    slime's ``{"prompt", "response", "label"}`` is a number. Special tokens are removed in both. A
    label is what `export_dataset` writes, ``{"target": …, "history": […], "neg_items": […]}``, as
    JSON text or as an object, or the target's item id alone.

    ``GET /health`` needs no token. The answer is ``{"datasets": […]}``, the names of the service's
    data sets, or 503 with the reason if no replica answers within 5 seconds.

    Parameters
    ----------
    reward : mapping
        Arguments of `RecReward`.
    token : str, optional
        Required in each request, as ``Authorization: Bearer …``.
    token_in_url : bool
        Whether it may also be sent as ``?token=…``, because OpenRLHF cannot send additional
        headers. Logs of proxies contain it then.
    limits : mapping, optional
        Fields of `HttpLimits`.
    """

    def __init__(
        self,
        reward: Mapping[str, Any],
        token: str | None = None,
        token_in_url: bool = False,
        limits: Mapping[str, float] | None = None,
    ) -> None:
        self._reward = RecReward(**reward)
        self._checking: asyncio.Future[list[str]] | None = None
        self._token = None if token is None else token.encode()
        self._token_in_url = flag("token_in_url", token_in_url)
        self._bodies = Bodies(HttpLimits(**named_options("limits", limits, HttpLimits)))
        self._threads = fork_safe_pool(_THREADS)

    async def __call__(self, request: Any) -> Any:
        """Answer a Starlette request."""
        status, answer = await self._answer(request)
        headers = {"Retry-After": "1"} if status in (429, 503) else None
        responses = require("starlette.responses", "serve")
        return responses.JSONResponse(answer, status_code=status, headers=headers)

    async def _answer(self, request: Any) -> tuple[int, Any]:
        path = request.url.path.rstrip("/")
        if path.endswith(HEALTH):
            return await self._health(request)
        if path != ROUTE:
            return 404, {"error": f"send requests to {ROUTE} or {HEALTH}"}
        if not self._may_pass(request):
            remedy = "send it as 'Authorization: Bearer TOKEN'"
            return 401, {"error": f"the token is missing or wrong; {remedy}"}
        if request.method != "POST":
            return 405, {"error": "send a POST request"}
        try:
            async with self._bodies.read(request) as body:
                loop = asyncio.get_running_loop()
                return 200, await loop.run_in_executor(self._threads, self._rewards, body)
        except RefusedError as refused:
            return _failure(refused.status, refused)
        except (ServiceOverloadedError, ServiceUnavailableError, TimeoutError) as error:
            return _failure(503, error)
        except (LookupError, TypeError, ValueError) as error:
            return _failure(400, error)

    async def _health(self, request: Any) -> tuple[int, Any]:
        """Whether a replica of the service answers; requests at the same time share one call."""
        if request.method not in ("GET", "HEAD"):
            return 405, {"error": "send a GET request"}
        if self._checking is None or self._checking.done():
            # Not in the threads of rewards, which may all be waiting for the service.
            self._checking = asyncio.ensure_future(asyncio.to_thread(self._datasets))
        try:
            return 200, {"datasets": await asyncio.shield(self._checking)}
        except Exception as error:
            return _failure(503, error)

    def _datasets(self) -> list[str]:
        reward = self._reward
        return connect(
            reward.retrieval_service_name, reward.namespace, _HEALTH_TIMEOUT_S
        ).datasets()

    def _rewards(self, body: bytearray) -> Any:
        """The answer to a request, in the format of its trainer."""
        rows, is_single = read_rows(body)
        rewards = reward_rows(self._reward, rows)
        if is_single:
            return rewards[0]
        return {"rewards": rewards, "scores": rewards, "extra_logs": {}}

    def _may_pass(self, request: Any) -> bool:
        if self._token is None:
            return True
        given = request.headers.get("authorization", "")
        given = given.removeprefix("Bearer ")
        if self._token_in_url:
            given = given or request.query_params.get("token", "")
        # In constant time, which does not reveal how much of the token is right.
        return hmac.compare_digest(given.encode(errors="replace"), self._token)


def _failure(status: int, error: Exception) -> tuple[int, dict[str, str]]:
    message = shortened(str(error))  # it may contain what the client sent
    # OpenRLHF's client shows the status only.
    logger.warning("HTTP %d: %s: %s", status, type(error).__name__, message)
    return status, {"error": message}


def read_rows(body: bytes | bytearray) -> tuple[list[dict[str, Any]], bool]:
    """Parse a request into rows for `reward_rows`, and whether it is slime's, with a single text.

    Raises
    ------
    ValueError, TypeError
        If the request has neither format; the message says what is wrong.
    """
    try:
        request = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"the request is not JSON in UTF-8: {error}") from None
    if not isinstance(request, dict):
        raise TypeError("the request must be a JSON object with query and labels")
    if "response" in request:
        row = _row(request["response"], None, request.get("label"), "response", "label")
        return [row], True
    queries, labels = _list(request, "query"), _list(request, "labels")
    prompts = [None] * len(queries)
    if request.get("prompts") is not None:
        prompts = _list(request, "prompts")
    if not len(queries) == len(labels) == len(prompts):
        raise ValueError(
            "query, prompts and labels must have one length, got "
            f"{len(queries)}, {len(prompts)} and {len(labels)}"
        )
    return [
        _row(query, prompt, label, f"query[{i}]", f"labels[{i}]", f"prompts[{i}]")
        for i, (query, prompt, label) in enumerate(zip(queries, prompts, labels, strict=True))
    ], False


def start_http(
    dataset_name: str,
    *,
    name: str = DEFAULT_NAME,
    namespace: str = DEFAULT_NAMESPACE,
    host: str = "127.0.0.1",
    port: int = 8000,
    token: str | None = None,
    token_in_url: bool = False,
    limits: Mapping[str, float] | None = None,
    **reward: Any,
) -> str:
    """Start the endpoint of a service on Ray Serve, with ``/reward`` and ``/health``.

    If another application of Ray Serve has ``/``, health is at ``/reward/health`` only.

    Parameters
    ----------
    dataset_name, name, namespace
        The data set, and the service that has it.
    host, port
        Where it listens. Access from other machines requires a token.
    token, token_in_url, limits
        See `RewardEndpoint`.
    **reward
        More arguments of `RecReward`, such as ``reward_type``, ``k`` and ``ties``.

    Returns
    -------
    str
        The URL of the endpoint.

    Raises
    ------
    ValueError
        If it would be open to other machines without a token, if the token is empty, or if Ray
        Serve already listens elsewhere.
    LookupError
        If there is no Ray cluster.
    """
    arguments = {
        "retrieval_service_name": name,
        "namespace": namespace,
        "dataset_name": dataset_name,
        **reward,
    }
    check_http(host, port, token, arguments, limits)
    flag("token_in_url", token_in_url)
    connected_ray()
    is_new = check_serve(host, port, name, namespace)
    route = _route(_app(name, namespace))
    serve = require("ray.serve", "serve")
    deployment = serve.deployment(
        name="RewardEndpoint", max_ongoing_requests=_MAX_REQUESTS, ray_actor_options={"num_cpus": 0}
    )(RewardEndpoint)
    try:
        serve.start(http_options={"host": host, "port": port})
        endpoint = deployment.bind(arguments, token, token_in_url, limits)
        serve.run(endpoint, name=_app(name, namespace), route_prefix=route)
    except BaseException as error:
        if is_new:
            serve.shutdown()
        else:
            serve.delete(_app(name, namespace))
        if isinstance(error, Exception) and type(error).__module__.startswith("ray."):
            raise RuntimeError(
                f"no HTTP endpoint at {host}:{port}: {original_error(error)}"
            ) from error
        raise
    return f"http://{host}:{port}{ROUTE}"


def check_http(
    host: str,
    port: int,
    token: str | None,
    reward: Mapping[str, Any],
    limits: Mapping[str, float] | None = None,
) -> None:
    """Check the arguments of `start_http`, as far as that needs no cluster."""
    whole_number("port", port, 1, 65535)
    try:
        is_known = isinstance(host, str) and bool(host and socket.getaddrinfo(host, port))
    except (OSError, UnicodeError):
        is_known = False
    if not is_known:
        raise ValueError(f"host must be an address at which to listen, got {shown(host)}")
    if token is not None and (not isinstance(token, str) or not token):
        raise ValueError("token is empty; pass a secret, or None")
    if token is None and not _is_loopback(host):
        raise ValueError(
            f"host {shown(host)} is open to other machines: set a token, or use 127.0.0.1"
        )
    RecReward(**reward)
    HttpLimits(**named_options("limits", limits, HttpLimits))
    require("ray.serve", "serve")


def check_serve(host: str, port: int, name: str, namespace: str) -> bool:
    """Return whether Ray Serve does not run yet; it can only have one address, and one such route.

    Raises
    ------
    ValueError
        If it listens elsewhere, or another application has the route.
    """
    client = _serve_client()
    if client is None:
        return True
    used = client.http_config  # it keeps its own options, and may be open to everybody
    if (used.host, used.port) != (host, port):
        raise ValueError(
            f"host and port must be {used.host}:{used.port}, where Ray Serve already listens in "
            f"this cluster, got {host}:{port}; pass these, or stop it with `serve shutdown`"
        )
    for app, route in _routes(client).items():
        is_ours = route == "/" and app.startswith(_APP)
        if (route == ROUTE or is_ours) and app != _app(name, namespace):
            raise ValueError(
                f"{ROUTE} at {host}:{port} already answers for {shown(app)}: stop that first, or "
                "start this service without HTTP"
            )
    return False


def _route(app: str) -> str:
    """The route of an application: all that is free, for health, or that of rewards alone."""
    client = _serve_client()
    others = {} if client is None else _routes(client)
    others.pop(app, None)
    return ROUTE if "/" in others.values() else "/"


def _serve_client() -> Any:
    return require("ray.serve.context", "serve")._get_global_client(False)


def _routes(client: Any) -> dict[str, str]:
    """The route of each application of Ray Serve."""
    applications = client.get_serve_details()["applications"]
    return {app: details["route_prefix"] for app, details in applications.items()}


def stop_http(name: str = DEFAULT_NAME, namespace: str = DEFAULT_NAMESPACE) -> None:
    """Stop the endpoint of a service, if there is one; other applications keep running."""
    try:
        serve = require("ray.serve", "serve")
    except ImportError:
        return
    if _app(name, namespace) in serve.status().applications:
        serve.delete(_app(name, namespace))


def _app(name: str, namespace: str) -> str:
    return f"{_APP}{namespace}-{name}"


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _list(request: Mapping[str, Any], name: str) -> list[Any]:
    value = request.get(name)
    if isinstance(value, str | int | float | dict):
        value = [value]
    if not isinstance(value, list) or not value:
        raise TypeError(f"{name} must be a list of at least one, got {shown(value)}")
    return value


def _row(
    text: Any, prompt: Any, label: Any, text_name: str, label_name: str, prompt_name: str = ""
) -> dict[str, Any]:
    if not isinstance(text, str):
        raise TypeError(f"{text_name} must be a string, got {type(text).__name__}")
    if prompt is not None and not isinstance(prompt, str):
        raise TypeError(f"{prompt_name} must be a string, got {shown(prompt)}")
    read = read_label(label, label_name, raw_ids=True)
    try:
        text = text if prompt is None else response(text, prompt)
    except ValueError as error:
        raise ValueError(f"{text_name}: {error}") from None
    return {"text": strip_special_tokens(text), **read._asdict()}
