"""``rl4rec serve``, ``status`` and ``stop``: shards, replicas and HTTP, as a user runs them."""

import json
import os
import subprocess
import sys
import urllib.error
import urllib.request

import pytest

from rl4rec_kernels import RecReward
from rl4rec_kernels.adapters.http import read_rows, start_http
from rl4rec_kernels.cli.serve import read_datasets
from rl4rec_kernels.data.labels import write_label
from rl4rec_kernels.service import RetrievalClient
from tests.service.cases import is_same, make_calls

URL = "http://127.0.0.1:18473/reward"


@pytest.fixture(scope="module")
def rl4rec(ray):
    environment = {**os.environ, "RAY_ADDRESS": ray.get_runtime_context().gcs_address}

    def run(*arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "rl4rec_kernels", *arguments],
            capture_output=True,
            text=True,
            check=False,
            env=environment,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


@pytest.fixture(scope="module")
def served(rl4rec, index_file):
    out = rl4rec(
        "serve",
        f"toys={index_file}",
        "--name",
        "cli",
        "--namespace",
        "tests",
        "--replicas",
        "2",
        "--shards",
        "2",
        "--http-port",
        "18473",
        "--token",
        "s3cret",
        "--reward-type",
        "mrr",
    )
    assert "cli in namespace tests serves toys" in out
    assert URL in out
    return RetrievalClient("cli", "tests")


def post(body: bytes, url: str = URL, token: str = "s3cret") -> tuple[int, object]:
    request = urllib.request.Request(url, body, {"Authorization": f"Bearer {token}"})
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def test_shards_and_replicas_give_the_answers_of_one_table(served, local):
    for call in make_calls(12, seed=4):
        want = getattr(local, call.method)(*call.arguments)
        assert is_same(getattr(served, call.method)(*call.arguments), want)
    everything = served.calculate_reward(["soap"], "toys")
    assert is_same(everything, local.calculate_reward(["soap"], "toys"))
    assert [state["load"]["calls"] for state in served.describe()] in ([6, 7], [7, 6])


def test_http_answers_as_openrlhf_and_slime_ask(served, local):
    reward = RecReward(service=local, dataset_name="toys", reward_type="mrr")
    negatives = [[2, 3, 4], [8, 9]]
    want = reward(["soap", "perfume"], [5, 6], [[1], []], negatives)
    labels = [
        {"target": 5, "history": [1], "neg_items": negatives[0]},
        write_label(6, [], negatives[1]),
    ]
    queries = ["<|im_start|>Hi! soap<|im_end|>", "perfume</s>"]
    body = {"query": queries, "prompts": ["<|im_start|>Hi! ", ""], "labels": labels}
    status, answer = post(json.dumps(body).encode())
    assert (status, answer["rewards"]) == (200, want)
    body = {"prompt": "Hi! ", "response": "soap<eos>", "label": "5"}
    assert post(json.dumps(body).encode()) == (200, reward(["soap"], [5], [[]])[0])
    assert post(json.dumps(body).encode(), f"{URL}?token=s3cret", token="")[0] == 200


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        (b"\xff\xfe{", 400, "not JSON"),
        (b'{"query": ["a"], "labels": [99999]}', 400, "targets: item 99999 is not in the index"),
        (b'{"query": ["a", "b"], "labels": [1]}', 400, "must be of one length, got 2, 2 and 1"),
        (b'{"query": [], "labels": []}', 400, "query must be a list of at least one"),
        (b'{"query": ["\\ud800"], "labels": [1]}', 400, "no valid Unicode"),
        (b" " * (33 << 20), 413, "larger than 32 MiB"),
    ],
)
def test_http_errors_say_what_is_wrong(served, body, status, words):
    code, answer = post(body)
    assert code == status
    assert words in answer["error"]


def test_http_wants_the_token(served):
    body = b'{"query": ["a"], "labels": [1]}'
    for token in ("", "s3cre", "wrong"):
        assert post(body, token=token)[0] == 401


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # Ray Serve's own
def test_http_does_not_listen_where_it_was_not_told_to(served):
    with pytest.raises(ValueError, match=r"listens at 127\.0\.0\.1:18473 already"):
        start_http("toys", name="cli", namespace="tests", port=18474)


def test_status_then_stop(served, rl4rec):
    where = ("--name", "cli", "--namespace", "tests")
    first, second = json.loads(rl4rec("status", *where, "--json"))
    assert (first["name"], second["name"]) == ("cli", "cli-1")
    assert first["datasets"]["toys"]["items"] == 504
    assert first["load"]["latency_ms"]["p99"] > 0
    assert "stopped cli, cli-1, cli-shard-0, cli-shard-1" in rl4rec("stop", *where)
    with pytest.raises(LookupError):
        RetrievalClient("cli", "tests")


def test_the_endpoint_is_not_opened_to_others_without_a_token():
    with pytest.raises(ValueError, match=r"host '0\.0\.0\.0' lets other machines in"):
        start_http("toys", host="0.0.0.0")
    with pytest.raises(ValueError, match="token is empty"):
        start_http("toys", token="")


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"query": ["a"], "labels": ["soap"]}, r"labels\[0\]: label 'soap' is not JSON"),
        ({"query": ["a"], "labels": [None]}, r"labels\[0\]: label must be JSON text"),
        ({"query": [1], "labels": [1]}, r"query\[0\] must be a string, got int"),
        ({"query": ["a"], "labels": ["[" * 10**5]}, r"labels\[0\]: label '\[.* is not JSON"),
        ({"query": ["a"], "prompts": ["b"], "labels": [1]}, r"query\[0\]: the query does not"),
        ({"response": "a", "label": {"target": True}}, "target must be an item id, got True"),
        ([1], "must be a JSON object"),
    ],
)
def test_bad_requests_are_named(body, words):
    with pytest.raises((TypeError, ValueError), match=words):
        read_rows(json.dumps(body).encode())


def test_data_sets_of_the_command_line(index_file):
    assert read_datasets(["beauty", f"toys={index_file}"]) == {
        "beauty": None,
        "toys": str(index_file),
    }
    with pytest.raises(FileNotFoundError, match="/nowhere does not exist"):
        read_datasets(["a=/nowhere"])
    with pytest.raises(ValueError, match="'a' is no data set, or is there twice"):
        read_datasets(["a", "a"])
