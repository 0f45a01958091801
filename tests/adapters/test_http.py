"""Requests of the HTTP endpoint; tests/cli/test_serve.py sends some to a running one."""

import json

import pytest

from rl4rec_kernels.adapters.http import read_rows, start_http
from tests.errors import raises


def test_other_machines_need_a_token():
    with raises(ValueError, "host", "'0.0.0.0'", "token"):
        start_http("toys", host="0.0.0.0")
    with raises(ValueError, "token", "empty"):
        start_http("toys", token="")


@pytest.mark.parametrize(
    ("body", "named"),
    [
        ({"query": ["a"], "labels": ["soap"]}, ["labels[0]", "'soap'", "JSON"]),
        ({"query": ["a"], "labels": [None]}, ["labels[0]", "JSON text"]),
        ({"query": [1], "labels": [1]}, ["query[0]", "string", "int"]),
        ({"query": ["a"], "labels": ["[" * 10**5]}, ["labels[0]", "'[", "JSON"]),
        ({"query": ["a"], "prompts": ["b"], "labels": [1]}, ["query[0]"]),
        ({"query": ["a"], "prompts": 5, "labels": [1]}, ["prompts[0]", "string", 5]),
        ({"query": ["a"], "prompts": 0, "labels": [1]}, ["prompts[0]", "string", 0]),
        ({"query": ["a"], "prompts": {}, "labels": [1]}, ["prompts[0]", "string", "{}"]),
        ({"query": ["a"], "prompts": [5], "labels": [1]}, ["prompts[0]", "string", 5]),
        ({"query": ["a"], "prompts": False, "labels": [1]}, ["prompts[0]", "string", False]),
        ({"query": ["a"], "prompts": [], "labels": [1]}, ["prompts", "at least one", "[]"]),
        ({"response": "a", "label": {"target": True}}, ["target", "item id", True]),
        ([1], ["JSON object"]),
    ],
)
def test_invalid_requests_are_named(body, named):
    with raises((TypeError, ValueError), *named):
        read_rows(json.dumps(body).encode())
