"""What one client sends over HTTP does not take memory, time or places from others."""

import asyncio
import json
from types import SimpleNamespace

import pytest

from rl4rec_kernels.adapters._http_body import Bodies, HttpLimits, RefusedError
from rl4rec_kernels.adapters.http import ROUTE, RewardEndpoint, start_http
from tests.errors import raises

MIB = b"x" * (1 << 20)


class Request:
    """A request of a client, whose parts come as they are put; None never comes."""

    method = "POST"

    def __init__(self, *parts: bytes | None, client: str = "a", url: str = "", **headers: str):
        self.client, self.url = SimpleNamespace(host=client), SimpleNamespace(path=ROUTE)
        self.headers, self.query_params = headers, {"token": url}
        self._parts = parts

    async def stream(self):
        for part in self._parts:
            if part is None:
                await asyncio.sleep(60)
            await asyncio.sleep(0)
            yield part


async def size(bodies: Bodies, request: Request, keep_s: float = 0) -> int:
    """The size of a body that is kept for a while, or the status of its refusal."""
    try:
        async with bodies.read(request) as body:
            await asyncio.sleep(keep_s)
            return len(body)
    except RefusedError as refused:
        return -refused.status


def sizes(limits: HttpLimits, *requests: Request, keep_s: float = 0) -> list[int]:
    async def all_of_them() -> list[int]:
        bodies = Bodies(limits)
        together = await asyncio.gather(*(size(bodies, request, keep_s) for request in requests))
        assert await size(bodies, Request(MIB, b"y")) == (1 << 20) + 1  # all is given back
        assert (bodies._total, bodies._reads) == (0, {})
        return together

    return asyncio.run(all_of_them())


def test_a_body_that_never_ends_is_given_up():
    limits = HttpLimits(read_timeout_s=0.2)
    assert sizes(limits, *[Request(b"{", None)] * 3, Request(b"{}")) == [-408] * 3 + [2]


def test_large_bodies_are_limited_together_and_small_ones_pass():
    limits = HttpLimits(max_total_mib=4, max_body_mib=3, read_timeout_s=0.2)
    large, small = Request(MIB * 2), Request(b"{}")
    assert sizes(limits, Request(MIB, MIB, MIB, MIB)) == [-413]
    got = sizes(limits, large, Request(MIB * 2, None), large, small, large, small, keep_s=0.1)
    assert got == [2 << 20, -408, -503, 2, -503, 2]


def test_one_client_does_not_take_the_places_of_others():
    limits = HttpLimits(read_timeout_s=0.2, max_reads_per_client=3)
    requests = [*[Request(None)] * 5, Request(b"{}"), Request(b"{}", client="b")]
    assert sizes(limits, *requests) == [-408] * 3 + [-429] * 3 + [2]


@pytest.mark.parametrize(
    ("limits", "named"),
    [
        ({"read_timeout_s": float("inf")}, ("read_timeout_s", "inf")),
        ({"max_total_mib": 0}, ("max_total_mib", 0)),
        ({"max_reads_per_client": "9"}, ("max_reads_per_client", "'9'")),
        ({"max_reads": 9}, ("limits", "'max_reads'", "max_reads_per_client")),
        ([9], ("limits", "[9]")),
    ],
)
def test_wrong_limits_are_named(limits, named):
    with raises((TypeError, ValueError), *named):
        start_http("toys", limits=limits)


def answer(endpoint: RewardEndpoint, request: Request) -> tuple[int, str]:
    response = asyncio.run(endpoint(request))
    return response.status_code, json.loads(response.body)["error"]


def test_the_token_is_taken_from_the_url_only_if_asked_for():
    good = [Request(b"[]", authorization="Bearer s3cret"), Request(b"[]", url="s3cret")]
    for in_url, statuses in ((False, [400, 401]), (True, [400, 400])):
        endpoint = RewardEndpoint({"dataset_name": "toys"}, "s3cret", in_url)
        assert [answer(endpoint, request)[0] for request in good] == statuses
        assert answer(endpoint, Request(b"[]", url="wrong"))[0] == 401


def test_an_error_does_not_send_back_all_that_was_sent():
    endpoint = RewardEndpoint({"dataset_name": "toys"})
    label = {"x" * 3_000_000: 1, "history": ["y" * 3_000_000]}
    body = json.dumps({"query": ["a"], "labels": [label]}).encode()
    status, error = answer(endpoint, Request(body))
    assert status == 400
    assert "labels[0]" in error
    assert len(error) < 5000
