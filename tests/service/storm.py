"""Good and bad callers of one service at once, over Ray and HTTP, while its process is killed.

A program, not a test: ``python -m tests.service.storm 60`` runs 64 callers for a minute, on its own
Ray. It fails if a good answer is not the local service's for the same call, or if the memory or the
descriptors of the service's processes grow.
"""

import http.client
import json
import os
import random
import signal
import socket
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ray
import torch

import rl4rec_kernels as rk
from rl4rec_kernels.adapters.http import ROUTE, start_http
from tests.service.cases import METADATA, is_same, make_calls
from tests.service.soak import is_mine

PORT, TOKEN = 18475, "t0ken"
READ_TIMEOUT_S = 2.0  # after which a request that is not complete is refused
PROCESSES = ("ray::RetrievalActor", "ray::ServeReplica", "ray::ProxyActor")
KILLS = 2
KINDS = {"ray", "bad ray", "http", "bad http", "token", "partial"}


class Storm:
    """The callers, what they found, and when they end."""

    def __init__(self, client: Any, local: rk.LocalRetrievalService) -> None:
        self.client, self.end = client, 0.0
        self.found: Counter[str] = Counter()
        self.wrong: list[str] = []
        self.calls = make_calls(70, seed=1)
        self.answers = [getattr(local, call.method)(*call.arguments) for call in self.calls]
        reward = rk.RecReward(service=local, dataset_name="toys", reward_type="logrank")
        self.bodies, self.rewards = [], []
        for call in self.calls:
            texts, _, targets = call.arguments[:3]
            negatives = [[item for item in METADATA if item % 9 == i] for i in range(len(texts))]
            labels = [
                {"target": target, "neg_items": row}
                for target, row in zip(targets, negatives, strict=True)
            ]
            self.bodies.append(json.dumps({"query": texts, "labels": labels}).encode())
            self.rewards.append(reward(texts, targets, None, negatives))

    def over_ray(self, draw: random.Random) -> None:
        """Call a method of the service, and compare the answer."""
        which = draw.randrange(len(self.calls))
        call = self.calls[which]
        got = getattr(self.client, call.method)(*call.arguments)
        self.expect("ray", is_same(got, self.answers[which]), f"{call}: {got}")

    def bad_over_ray(self, draw: random.Random) -> None:
        """Call with an id that is not an item, in a certain row."""
        try:
            self.client.rank(["soap", "perfume"], "toys", [1, 10**6 + draw.randrange(9)], [[2]] * 2)
        except IndexError as error:
            self.expect("bad ray", "in row 1" in str(error), str(error))
        else:
            self.expect("bad ray", False, "an answer")

    def over_http(self, draw: random.Random) -> None:
        """Post a good request, and compare the rewards."""
        which = draw.randrange(len(self.bodies))
        status, answer = self.post(self.bodies[which])
        if status != 503:  # while the service is being restarted
            same = status == 200 and json.loads(answer)["rewards"] == self.rewards[which]
            self.expect("http", same, f"{status} {answer!r} instead of {self.rewards[which]}")

    def bad_over_http(self, draw: random.Random) -> None:
        """Post something that is not a request, or one of another's data."""
        body = draw.choice([b"", b"{", b"[]", b'{"query": ["a"]}', os.urandom(draw.randrange(99))])
        self.expect_status("bad http", 400, self.post(body))
        label = b'{"query": ["a"], "labels": [{"target": 1, "neg_items": [99999999]}]}'
        self.expect_status("bad http", 400, self.post(label))

    def without_token(self, draw: random.Random) -> None:
        """Post a good request with a wrong token."""
        wrong = {"Authorization": f"Bearer {draw.choice(['', 'token', TOKEN[:-1]])}"}
        self.expect_status("token", 401, self.post(self.bodies[0], wrong))

    def partly(self, draw: random.Random) -> None:
        """Send a part of a request, then hang up or wait to be refused."""
        body = draw.choice(self.bodies)
        head = f"POST {ROUTE} HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {TOKEN}\r\n"
        head += f"Content-Length: {len(body)}\r\n\r\n"
        with socket.create_connection(("127.0.0.1", PORT), 30) as connection:
            connection.sendall(head.encode() + body[: draw.randrange(len(body))])
            if draw.random() < 0.5:
                connection.settimeout(30)
                answer = connection.recv(1000)
                self.expect("partial", b" 200 " not in answer, repr(answer))
            else:
                time.sleep(0.1 * draw.random())
                self.found["partial"] += 1

    def post(self, body: bytes, headers: Any = None) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", PORT, timeout=60)
        try:
            connection.request("POST", ROUTE, body, headers or {"Authorization": f"Bearer {TOKEN}"})
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def expect_status(self, name: str, want: int, got: tuple[int, bytes]) -> None:
        # 503: while the service is being restarted, or too many requests are being read
        self.expect(name, got[0] in (want, 503), f"{got} instead of {want}")

    def expect(self, name: str, is_right: bool, what: str) -> None:
        self.found[name] += 1
        if not is_right:
            self.wrong.append(f"{name}: {what}")

    def run(self, work: Callable[[random.Random], None], number: int) -> None:
        """Do the same until the end."""
        draw = random.Random(number)
        try:
            while time.monotonic() < self.end and not self.wrong:
                work(draw)
        except Exception as error:
            self.wrong.append(f"{work.__name__}: {error!r}")

    def callers(self) -> list[threading.Thread]:
        kinds = [self.over_ray] * 24 + [self.over_http] * 22 + [self.bad_over_ray] * 4
        kinds += [self.bad_over_http] * 5 + [self.without_token] * 4 + [self.partly] * 5
        return [
            threading.Thread(target=self.run, args=(work, number))
            for number, work in enumerate(kinds)
        ]


def main(seconds: float) -> None:
    torch.set_num_threads(1)
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    with tempfile.TemporaryDirectory() as folder:
        path, encoder = str(Path(folder) / "toys.safetensors"), rk.Encoder()
        index = rk.ItemIndex.build(METADATA, encoder)
        index.save(path)
        storm = Storm(
            rk.start_service(
                {"toys": path}, name="storm", namespace="tests", limits={"cache_mib": 1}
            ),
            rk.LocalRetrievalService({"toys": index}, encoder),
        )
        start_http(
            "toys",
            name="storm",
            namespace="tests",
            port=PORT,
            token=TOKEN,
            reward_type="logrank",
            limits={"read_timeout_s": READ_TIMEOUT_S},
        )
        blow(storm, seconds)
    ray.shutdown()


def blow(storm: Storm, seconds: float) -> None:
    """Let all call, kill the actor meanwhile, and compare the second half of the time."""
    start = time.monotonic()
    storm.end = start + seconds
    callers = storm.callers()
    for caller in callers:
        caller.start()
    for kill in range(KILLS):
        time.sleep(max(0.0, start + 0.1 * seconds * (1 + kill) - time.monotonic()))
        os.kill(storm.client.describe()[0]["pid"], signal.SIGKILL)
    storm.client.describe()  # waits until it is up again
    storm.end = max(storm.end, time.monotonic() + seconds / 2)
    time.sleep((storm.end - time.monotonic()) / 2)
    before = sizes()
    for caller in callers:
        caller.join()
    time.sleep(READ_TIMEOUT_S + 1)  # requests that nobody completes are dropped
    after = sizes()
    print(dict(storm.found), before, after, flush=True)
    assert not storm.wrong, storm.wrong[0]
    assert set(storm.found) == KINDS, storm.found
    assert len(after) >= 3, after
    for name, (memory, descriptors) in after.items():
        first, opened = before.get(name, (memory, descriptors))
        assert memory < first * 1.05 + 20, f"{name} grew from {first:.0f} to {memory:.0f} MiB"
        assert descriptors <= opened + 5, f"{name} had {opened}, has {descriptors} descriptors"


def sizes() -> dict[str, tuple[float, int]]:
    """Private memory in MiB and open descriptors of the service's processes."""
    found = {}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            name = (process / "cmdline").read_bytes().partition(b"\0")[0].decode()
            if not name.startswith(PROCESSES) or not is_mine(int(process.name)):
                continue
            status = (process / "status").read_text()
            memory = int(status.partition("RssAnon:")[2].split()[0]) / 1024
            descriptors = len(list((process / "fd").iterdir()))
            found[f"{name.partition(':')[2][1:20]}[{process.name}]"] = (memory, descriptors)
        except (OSError, IndexError):  # the process has ended
            continue
    return found


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit("usage: python -m tests.service.storm SECONDS")
    main(float(sys.argv[1]))
