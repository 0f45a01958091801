"""This process's connection to a Ray cluster: at most one, and never a forked parent's."""

import builtins
import os
import re
import socket
import sys
from contextlib import suppress
from pathlib import Path
from threading import Lock
from typing import Any
from urllib.parse import urlsplit

from rl4rec_kernels._utils.checks import shown
from rl4rec_kernels._utils.deadline import within
from rl4rec_kernels._utils.forking import renew_in_child
from rl4rec_kernels._utils.imports import require

PROBE_S = 5.0
"""Seconds within which the head of a cluster must answer."""

START = (
    "start it with `ray start --head` and `rl4rec serve NAME --address auto` or, if `rl4rec serve` "
    "already runs on its own Ray, set RAY_ADDRESS=auto for this process"
)
_CLIENT_PORT = 10001  # of addresses "ray://host"
# What every gRPC client sends first (RFC 9113, 3.4), and the type of the frame that answers it.
_GREETING = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
_SETTINGS = 4
_ESCAPES = re.compile(r"\x1b\[[0-9;]*m")  # colours of a terminal
_RAY_ADDRESS = "from the environment variable RAY_ADDRESS"


class NoClusterError(LookupError):
    """Ray is not installed, or there is no Ray cluster, or no such actor in it."""


_was_connected = False  # whether the process that forked this one was connected


def _forget_parent(lock: Any) -> None:
    global _was_connected
    lock._at_fork_reinit()
    ray = sys.modules.get("ray")
    _was_connected = _was_connected or (ray is not None and ray.is_initialized())


_connecting = renew_in_child(Lock(), _forget_parent)


def check_not_forked() -> None:
    """Raise NoClusterError if this process was forked from one that is connected to Ray."""
    if _was_connected:
        raise NoClusterError(
            "this process was forked from one that is connected to Ray, and the connection does "
            "not survive a fork; start it by the method 'spawn' or 'forkserver' (see "
            "multiprocessing.get_context), or connect to Ray only after the fork"
        )


def connected_ray(address: str = "auto") -> Any:
    """Return the Ray module, connected to a cluster; it may be called from several threads.

    Parameters
    ----------
    address : str
        As in ``ray.init``. Not used if this process is connected already.

    Raises
    ------
    NoClusterError
        If there is no cluster, or it does not answer, or Ray is not installed.
    """
    check_not_forked()
    try:
        ray = require("ray", "ray")
    except ImportError as error:
        raise NoClusterError(f"Ray cannot be used ({error})") from None
    with _connecting:  # also if it is initialized, which it says before it is
        if not ray.is_initialized():
            try:
                found = _find_cluster(address)
                # The dashboard of a separate Ray would be ten more processes, and open a port.
                own = {"include_dashboard": False} if found == "local" else {}
                ray.init(address=found, log_to_driver=False, logging_level="ERROR", **own)
            except (ConnectionError, RuntimeError, ValueError) as error:
                first_line = str(error).strip().partition("\n")[0]
                raise NoClusterError(
                    f"no Ray cluster was found at {shown(address)} ({first_line}); {START}"
                ) from None
    return ray


def find_actor(name: str, namespace: str) -> Any:
    """Return the handle of an actor.

    Raises
    ------
    NoClusterError
        If there is none.
    """
    try:
        return require("ray", "ray").get_actor(name, namespace=namespace)
    except ValueError:
        raise NoClusterError(
            f"the Ray cluster has no actor {shown(name)} in namespace {shown(namespace)}; {START}"
        ) from None


def original_error(error: Exception) -> Exception:
    """Return the error that an error of Ray reports, whose last line names its type."""
    lines = [line for line in _ESCAPES.sub("", str(error)).splitlines() if line.strip()]
    last = lines[-1].strip() if lines else type(error).__name__
    name, _, message = last.partition(": ")
    kind = getattr(builtins, name.rpartition(".")[2], None)
    if isinstance(kind, type) and issubclass(kind, Exception):
        with suppress(TypeError):  # of a type that needs more than a message
            return kind(message)
    return RuntimeError(last)


def _find_cluster(address: str) -> str:
    """Return the address of a cluster whose head answers.

    ``ray.init`` would wait for a head that is gone for more than a minute.
    """
    if address == "local":
        return address
    if address == "auto":
        services = require("ray._private.services", "ray")
        address = services.get_ray_address_from_environment("auto", None)  # may raise
        source = _source(address)
    else:  # typer passes the variable on as an argument
        source = _RAY_ADDRESS if os.environ.get("RAY_ADDRESS") == address else "as given"
    url = urlsplit(address if "://" in address else f"gcs://{address}")
    port = url.port or (_CLIENT_PORT if url.scheme == "ray" else None)
    if url.hostname is None or port is None or url.scheme not in ("gcs", "ray"):
        return address  # for Ray to explain
    try:
        within(PROBE_S, _greet, url.hostname, port)
    except OSError as error:
        why = f"no answer in {PROBE_S:g} s" if isinstance(error, TimeoutError) else error
        raise NoClusterError(
            f"the Ray cluster at {address} ({source}) cannot be reached: {why}; correct the "
            "address, or start a cluster with `rl4rec serve`"
        ) from None
    return address


def _source(address: str) -> str:
    """Where Ray found an address that was not given."""
    if os.environ.get("RAY_ADDRESS") == address:
        return _RAY_ADDRESS
    file = Path(require("ray._private.utils", "ray").get_ray_address_file(None))
    if file.is_file() and file.read_text().strip() == address:
        return f"from {file}, which `ray start` wrote and `ray stop` removes"
    return "from a process of Ray on this machine"


def _greet(host: str, port: int) -> None:
    """Raise OSError unless a gRPC server answers."""
    with socket.create_connection((host, port), PROBE_S) as connection:
        if os.environ.get("RAY_USE_TLS", "0").lower() in ("1", "true"):
            return
        connection.sendall(_GREETING)
        answer = connection.recv(9)
    if len(answer) < 4 or answer[3] != _SETTINGS:
        raise OSError("another server listens there")
