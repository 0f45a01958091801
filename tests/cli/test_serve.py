"""``rl4rec serve``, ``status`` and ``stop`` with shards, replicas and HTTP, as a user runs them."""

import asyncio
import json
import socket
import urllib.error
import urllib.request
from types import SimpleNamespace

import pytest

from rl4rec_kernels import RecReward
from rl4rec_kernels.adapters.http import RewardEndpoint, start_http
from rl4rec_kernels.cli.serve import read_datasets, read_token
from rl4rec_kernels.data.labels import write_label
from rl4rec_kernels.service import RetrievalClient
from tests.cli import commands
from tests.errors import raises
from tests.service.cases import is_same, make_calls

URL = "http://127.0.0.1:18473/reward"


@pytest.fixture(scope="module")
def rl4rec(ray):
    def run(*arguments: str, fails: bool = False) -> str:
        done = commands.rl4rec(*arguments)
        assert done.returncode == 2 * fails, done.stderr
        return done.stderr if fails else done.stdout

    return run


@pytest.fixture(scope="module")
def served(rl4rec, index_file, tmp_path_factory):
    token = tmp_path_factory.mktemp("token") / "token"
    token.write_text("s3cret\n")
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
        "--token-file",
        str(token),
        "--token-in-url",
        "--http-timeout-s",
        "5",
        "--reward-type",
        "mrr",
    )
    assert "cli in namespace tests serves toys" in out
    assert URL in out
    return RetrievalClient("cli", "tests")


def post(body: bytes | None, url: str = URL, token: str = "s3cret") -> tuple[int, object]:
    request = urllib.request.Request(url, body, {"Authorization": f"Bearer {token}"})
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def test_shards_and_replicas_answer_as_one_table(served, local):
    for call in make_calls(12, seed=4):
        want = getattr(local, call.method)(*call.arguments)
        assert is_same(getattr(served, call.method)(*call.arguments), want)
    everything = served.calculate_reward(["soap"], "toys")
    assert is_same(everything, local.calculate_reward(["soap"], "toys"))
    assert [state["load"]["calls"] for state in served.describe()] in ([6, 7], [7, 6])


def test_http_answers_openrlhf_and_slime(served, local):
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
    ("body", "status", "named"),
    [
        (b"\xff\xfe{", 400, ["JSON"]),
        (b'{"query": ["a"], "labels": [99999]}', 400, ["targets", "item 99999"]),
        (b'{"query": ["a", "b"], "labels": [1]}', 400, ["query", "labels", "2, 2 and 1"]),
        (b'{"query": [], "labels": []}', 400, ["query", "[]"]),
        (b'{"query": ["\\ud800"], "labels": [1]}', 400, ["Unicode"]),
        (b" " * (33 << 20), 413, ["32 MiB"]),
    ],
)
def test_http_errors_name_what_is_wrong(served, body, status, named):
    code, answer = post(body)
    assert code == status
    assert not [part for part in named if part not in answer["error"]], answer


def test_http_requires_the_token(served):
    body = b'{"query": ["a"], "labels": [1]}'
    for token in ("", "s3cre", "wrong"):
        assert post(body, token=token)[0] == 401


def get(path: str) -> tuple[int, object]:
    return post(None, URL.replace("/reward", path), token="")


def test_http_health_needs_no_token(served):
    for path in ("/health", "/health/", "/reward/health"):
        assert get(path) == (200, {"datasets": ["toys"]})
    assert get("/healthy")[0] == 404
    assert post(b"{}", URL.replace("/reward", "/health"))[0] == 405


def test_http_health_says_why_the_service_does_not_answer(served):
    endpoint = RewardEndpoint({"retrieval_service_name": "nobody", "namespace": "tests"}, "s3cret")
    request = SimpleNamespace(method="GET", url=SimpleNamespace(path="/health"))
    response = asyncio.run(endpoint(request))
    assert response.status_code == 503
    assert "'nobody'" in json.loads(response.body)["error"]


def test_half_sent_requests_do_not_stop_others(served):
    """More of them than were answered at once; each is told that its time is over."""
    head = b"POST /reward HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer s3cret\r\n"
    half = [socket.create_connection(("127.0.0.1", 18473)) for _ in range(300)]
    try:
        for connection in half:
            connection.sendall(head + b"Content-Length: 2000000\r\n\r\n" + b" " * 99_000)
        body = b'{"query": ["soap"], "labels": [5]}'
        assert [post(body)[0] for _ in range(20)] == [200] * 20
        for connection in half:
            connection.settimeout(60)
            assert connection.recv(12) == b"HTTP/1.1 408"
    finally:
        for connection in half:
            connection.close()
    assert post(body)[0] == 200


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # Ray Serve's own
def test_http_does_not_listen_at_another_address(served):
    with raises(ValueError, "127.0.0.1:18473"):
        start_http("toys", name="cli", namespace="tests", port=18474)


def refused(run, *arguments: str) -> str:
    done = run("serve", *arguments, "--namespace", "tests", fails=True)
    assert "Traceback" not in done
    assert "\x1b" not in done
    assert len(done.strip().splitlines()) == 1, done
    return done


def test_a_second_http_endpoint_is_refused_before_anything_starts(served, rl4rec, index_file):
    second = (f"toys={index_file}", "--name", "second")
    assert "127.0.0.1:18473" in refused(rl4rec, *second, "--http-port", "18474")
    error = refused(
        rl4rec, *second, "--http-port", "18473", "--http-host", "0.0.0.0", "--token", "x"
    )
    assert "127.0.0.1:18473" in error
    assert "/reward" in refused(rl4rec, *second, "--http-port", "18473")
    with pytest.raises(LookupError):
        RetrievalClient("second", "tests")


def test_wrong_options_are_refused_in_one_line(served, rl4rec, index_file):
    second = (f"toys={index_file}", "--name", "second")
    error = rl4rec("serve", *second, "--backend", "jax", fails=True)
    assert not [part for part in ("--backend", "'jax'", "openvino") if part not in error], error
    assert "Traceback" not in error
    assert "num_threads" in refused(rl4rec, *second, "--num-threads", "0")
    assert "num_gpus" in refused(rl4rec, *second, "--num-gpus", "99")
    assert "port" in refused(rl4rec, *second, "--http-port", "99999")
    assert "reward_type" in refused(
        rl4rec, *second, "--http-port", "18473", "--reward-type", "best"
    )
    with pytest.raises(LookupError):
        RetrievalClient("second", "tests")


def test_status_then_stop(served, rl4rec):
    where = ("--name", "cli", "--namespace", "tests")
    table = rl4rec("status", *where)
    assert all(word in table for word in ("504 items", "inflight_texts", "cache_hit_ratio", "p99"))
    first, second = json.loads(rl4rec("status", *where, "--json"))
    assert (first["name"], second["name"]) == ("cli", "cli-1")
    assert first["datasets"]["toys"]["items"] == 504
    assert first["load"]["latency_ms"]["p99"] > 0
    assert "stopped cli, cli-1, cli-shard-0, cli-shard-1" in rl4rec("stop", *where)
    with pytest.raises(LookupError):
        RetrievalClient("cli", "tests")


def test_datasets_of_the_command_line(index_file):
    assert read_datasets(["beauty", f"toys={index_file}"]) == {
        "beauty": None,
        "toys": str(index_file),
    }
    with raises(FileNotFoundError, "/nowhere", "rl4rec index build"):
        read_datasets(["a=/nowhere"])
    for datasets in (["a", "a"], ["a", "a="], [""]):
        with raises(ValueError, repr(datasets[-1]), "NAME=INDEX.safetensors"):
            read_datasets(datasets)


def test_the_token_of_a_file(tmp_path):
    file = tmp_path / "token"
    file.write_text("s3cret\nmore\n")
    assert read_token(None, file) == "s3cret"
    assert read_token("other", None) == "other"
    with raises(ValueError, "--token-file", "RL4REC_TOKEN"):
        read_token("other", file)
    file.write_text("\n")
    with raises(ValueError, "--token-file", file, "empty"):
        read_token(None, file)
