"""Addresses where no cluster is: an error within seconds that says where the address came from."""

import json
import os
import socket
import subprocess
import sys
import time

import pytest

from tests.cli.commands import rl4rec

pytest.importorskip("ray")

CONNECT = """
import functools, json, os, sys, time
from ray._private import services
from rl4rec_kernels.service import connection

services._cached_find_gcs_addresses = functools.cache(frozenset)  # whatever runs here
connection.PROBE_S = 1.0
answers = []
for address, variable in json.loads(sys.argv[1]):
    os.environ["RAY_ADDRESS"] = variable
    start = time.monotonic()
    try:
        connection.connected_ray(address)
    except connection.NoClusterError as error:
        answers.append([str(error), time.monotonic() - start])
print(json.dumps(answers))
"""


def test_errors_name_the_address_and_where_it_came_from(tmp_path):
    file = tmp_path / "ray" / "ray_current_cluster"
    file.parent.mkdir()
    file.write_text("127.0.0.1:2\n")
    with socket.create_server(("127.0.0.1", 0)) as silent:  # as a head that was stopped
        frozen = f"127.0.0.1:{silent.getsockname()[1]}"
        cases = {
            ("auto", ""): ("127.0.0.1:2", str(file), "refused"),
            ("auto", "auto"): ("127.0.0.1:2", str(file), "refused"),
            ("auto", "127.0.0.1:3"): ("127.0.0.1:3", "RAY_ADDRESS", "refused"),
            ("127.0.0.1:3", "127.0.0.1:3"): ("127.0.0.1:3", "RAY_ADDRESS", "refused"),
            ("127.0.0.1:4", ""): ("127.0.0.1:4", "as given", "refused"),
            ("ray://127.0.0.1:5", ""): ("ray://127.0.0.1:5", "as given", "refused"),
            ("no.such.host.invalid:6", ""): ("no.such.host.invalid:6", "as given"),
            (frozen, ""): (frozen, "as given", "1 s"),
            ("nowhere", ""): ("nowhere",),
            ("127.0.0.1:99999", ""): ("127.0.0.1:99999",),
        }
        done = subprocess.run(
            [sys.executable, "-c", CONNECT, json.dumps(list(cases))],
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, "RAY_TMPDIR": str(tmp_path)},
        )
    answers = json.loads(done.stdout)
    for case, named, (message, seconds) in zip(cases, cases.values(), answers, strict=True):
        assert all(part in message for part in named), (case, message)
        assert "rl4rec serve" in message
        assert seconds < 10, case


def test_another_server_at_the_address_is_not_a_cluster():
    code = """
import http.server, threading
from rl4rec_kernels.service.connection import connected_ray
server = http.server.HTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler)
threading.Thread(target=server.serve_forever, daemon=True).start()
try:
    connected_ray(f"127.0.0.1:{server.server_port}")
except LookupError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "another server" in done.stdout


def test_status_returns_at_once():
    start = time.monotonic()
    done = rl4rec("status", "--address", "127.0.0.1:1")
    assert time.monotonic() - start < 60  # most of it to import
    assert done.returncode == 2
    assert "127.0.0.1:1" in done.stderr
