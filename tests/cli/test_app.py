"""The command line, run as a user runs it."""

import gzip
import io
import json
import os
import re
import subprocess
import sys
import threading

import pytest

import rl4rec_kernels
from rl4rec_kernels.cli import app
from rl4rec_kernels.cli.app import ArrivingLines, _available, read_requests
from tests.cli.commands import python, rl4rec
from tests.errors import raises

REWARD = ("reward", "--reward-type", "rank", "--index")


def test_index_info(index):
    info = json.loads(rl4rec("index", "info", str(index)).stdout)
    assert (info["items"], info["rows"], info["dim"], info["dtype"]) == (12, 13, 384, "float32")


def test_the_version_is_that_of_the_package():
    assert rl4rec("--version").stdout == f"rl4rec-kernels {rl4rec_kernels.__version__}\n"


def test_an_unknown_library_of_the_encoder_is_named(data_dir, index, tmp_path):
    for command in (
        (
            "index",
            "build",
            "toys",
            "--data-dir",
            str(data_dir),
            "--out",
            str(tmp_path / "a.safetensors"),
        ),
        ("reward", "--index", str(index)),
        ("evaluate", "toys", "--data-dir", str(data_dir)),
        ("demo", "--data", str(data_dir / "toys")),
    ):
        done = rl4rec(*command, "--backend", "tensorrt")
        assert done.returncode == 2
        assert "backend" in done.stderr
        assert "'tensorrt'" in done.stderr


def test_sample(data_dir):
    done = rl4rec("sample", "toys", "--num-negs", "5", "--data-dir", str(data_dir))
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [(row["user_id"], row["target"], row["history"]) for row in rows] == [
        (1, 3, [1, 2]),
        (2, 6, [5]),
    ]
    for row, seen in zip(rows, ({1, 2, 3, 4, 5}, {5, 6, 7, 8}), strict=True):
        assert len(set(row["neg_items"])) == 5
        assert not seen & set(row["neg_items"])


def test_sample_hard_negatives(data_dir, index):
    command = "sample toys --num-negs 2 --hard 3 --skip-top 1"
    done = rl4rec(*command.split(), "--index", str(index), "--data-dir", str(data_dir))
    assert done.returncode == 0, done.stderr
    first, second = (json.loads(line)["neg_items"] for line in done.stdout.splitlines())
    assert len(set(first)) == len(set(second)) == 5
    assert not {1, 2, 3, 4, 5} & set(first)
    assert not {5, 6, 7, 8} & set(second)
    # User 1 has a red car and a red ball, user 2 a blue ball: the most similar unseen items are
    # other cars and balls, of which the best is skipped.
    assert set(first[:2]) <= {6, 9, 10}
    assert second[0] in (1, 9)


def test_reward(index):
    requests = [
        {"text": "<query>red ball</query>", "target": 1, "neg_items": [2, 7, 12]},
        {"text": "green kite", "target": 12, "history": [1, 2]},
        {"text": "green kite", "target": 1, "neg_items": [12]},
    ]
    done = rl4rec(*REWARD, str(index), stdin="\n\n".join(map(json.dumps, requests)))
    assert [json.loads(line)["reward"] for line in done.stdout.splitlines()] == [1, 1, 2]


def test_padding_alone_is_no_negatives_beside_any_line(index):
    padded = '{"text": "red ball", "target": 2, "neg_items": [-1]}'
    other = '{"text": "red ball", "target": 2, "neg_items": [7]}'
    plain = '{"text": "red ball", "target": 2}'
    done = rl4rec(*REWARD, str(index), stdin="\n".join([padded, other, plain]))
    alone, _, want = (json.loads(line)["reward"] for line in done.stdout.splitlines())
    assert alone == want
    assert json.loads(rl4rec(*REWARD, str(index), stdin=padded).stdout)["reward"] == want


@pytest.mark.parametrize("chunks", [["x" * 9] * (1 << 18), ["a\n" * 9 + "x" * (1 << 21)]])
def test_a_line_without_an_end_is_refused_with_the_bound(chunks):
    stream = io.BufferedReader(io.BytesIO("".join(chunks).encode()))
    with raises(ValueError, f"line {10 if len(chunks) == 1 else 1}", "1 MiB", "--max-line-mib"):
        list(ArrivingLines(stream, max_line_mib=1))


@pytest.mark.parametrize(("output", "code"), [("/dev/full", 2), ("| head -1", 1)])
def test_output_that_cannot_be_written_is_one_line_or_none(output, code):
    command = f"{sys.executable} -m rl4rec_kernels doctor"
    command += f" > {output}" if code == 2 else f" {output}; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert done.returncode == code
    assert len(done.stderr.splitlines()) == (code == 2), done.stderr
    assert code == 1 or "No space left" in done.stderr


def test_an_error_while_importing_is_one_line():
    done = python("-m", "rl4rec_kernels", "doctor", RL4REC_CPU_LEVEL="bogus")
    assert (done.returncode, done.stdout) == (2, "")
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert "RL4REC_CPU_LEVEL='bogus'" in done.stderr


@pytest.mark.parametrize("program", [["-m", "rl4rec_kernels"], ["{rl4rec}"]])
def test_ctrl_c_while_importing_leaves_no_traceback(tmp_path, program):
    """A module that the package imports interrupts the import, as a key would."""
    (tmp_path / "torch.py").write_text(
        "import os, signal, time\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in the background\n"
        "os.kill(os.getpid(), signal.SIGINT)\n"
        "time.sleep(60)"
    )
    script = tmp_path / "rl4rec"
    script.write_text("from rl4rec_kernels.cli import main; main()")
    paths = os.pathsep.join([str(tmp_path), os.getcwd()])
    arguments = [part.format(rl4rec=script) for part in program]
    done = python(*arguments, "--help", PYTHONPATH=paths)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


def test_errors_never_go_among_the_output_if_standard_error_is_closed():
    command = f"{sys.executable} -m rl4rec_kernels index info nothing.safetensors 2>&-"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")


def test_a_closed_standard_input_is_named_first():
    command = f"{sys.executable} -m rl4rec_kernels reward --index nothing.safetensors <&-"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "standard input" in done.stderr
    assert len(done.stderr.splitlines()) == 1, done.stderr


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ("{", ("line 2", "JSON")),
        ("[1]", ("line 2", "object", "[1]")),
        ('{"target": 1}', ("line 2", "'text'", "string")),
        ('{"text": "a", "target": "b"}', ("line 2", "'target'", "item id")),
        ('{"text": "a", "target": true}', ("line 2", "'target'", "item id")),
        ('{"text": "a", "target": 1, "neg_items": [1.5]}', ("line 2", "'neg_items'", "list")),
        ('{"text": "a", "target": 1, "history": 7}', ("line 2", "'history'", "list")),
        ('{"text": "a", "target": 1, "history": 0}', ("line 2", "'history'", "list")),
    ],
)
def test_an_error_names_the_invalid_line(line, named):
    good = '{"text": "red ball", "target": 1}'
    with raises(ValueError, *named):
        list(read_requests([good, line]))


@pytest.mark.parametrize("line", ["[" * 100_000, '{"target": ' + "9" * 5000 + "}"])
def test_an_error_names_the_line_that_python_cannot_parse(line):
    with raises(ValueError, "line 1", "JSON"):
        list(read_requests([line]))


def test_reward_reads_and_writes_utf8_in_any_locale(index, data_dir):
    line = '\ufeff{"text": "빨간 공", "target": 1}\n'
    done = rl4rec("reward", "--index", str(index), stdin=line, PYTHONIOENCODING="ascii")
    assert done.returncode == 0, done.stderr
    items = data_dir / "balls" / "item_metadata.json"
    items.parent.mkdir(exist_ok=True)
    items.write_text(json.dumps({i: {"title": f"공 {i}"} for i in range(1, 9)}))
    (items.parent / "sequential_data.txt").write_text("1 1 2 3 4 5\n")
    variables = {"RL4REC_DATA": str(data_dir), "PYTHONIOENCODING": "ascii"}
    done = rl4rec("sample", "balls", "--num-negs", "1", **variables)
    assert "1. 공 1" in json.loads(done.stdout)["prompt"]


def test_reward_answers_each_line_as_it_comes(index):
    """Another process may write one line and wait for its answer."""
    process = subprocess.Popen(
        [sys.executable, "-m", "rl4rec_kernels", *REWARD, str(index)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    line = b'{"text": "red ball", "target": 1, "neg_items": [2, 7]}'
    stop = threading.Timer(120, process.kill)  # an answer that does not come would block the test
    stop.start()
    try:
        for sent, answers in (
            (line + b"\n", 1),
            (b"\n\r\n" + line + b"\r\n  \n\n", 1),
            (line[:20], 0),
            (line[20:] + b"\n" + line[:30], 1),
            (line[30:] + b"\n" + (line + b"\n") * 600, 601),
        ):
            process.stdin.write(sent)
            process.stdin.flush()
            for _ in range(answers):
                assert json.loads(process.stdout.readline()) == {"reward": 1}
        last, _ = process.communicate(line)  # without the end of the line
        assert json.loads(last) == {"reward": 1}
        assert process.returncode == 0
    finally:
        stop.cancel()
        process.kill()


def test_lines_that_come_together_are_a_batch():
    line = b'{"text": "a", "target": 1}\n'
    reading, writing = os.pipe()
    with open(reading, "rb") as stream:
        lines = ArrivingLines(stream)
        requests = read_requests(lines)

        def batch() -> list[int]:
            return [number for number, _ in _available(requests, lines)]

        os.write(writing, line * 300 + line[:9])
        assert batch() == [*range(1, 257)]
        os.write(writing, line[9:] + b"\r\n\n" + line[:-1])
        assert batch() == [*range(257, 302)]
        os.close(writing)
        assert batch() == [304]
        assert batch() == []


def test_no_negatives_mean_the_whole_catalog_in_any_batch(index):
    lines = [
        {"text": "red ball", "target": 1, "neg_items": [2]},
        {"text": "green kite", "target": 1, "neg_items": []},
        {"text": "green kite", "target": 1},
    ]
    done = rl4rec(*REWARD, str(index), stdin="\n".join(map(json.dumps, lines)))
    first, second, third = (json.loads(line)["reward"] for line in done.stdout.splitlines())
    assert (first, second) == (1, third)
    assert third > 2


def test_a_closed_pipe_is_not_an_error(data_dir):
    command = f"{sys.executable} -m rl4rec_kernels sample toys --data-dir {data_dir} --num-negs 1"
    done = subprocess.run(
        f"{command} | head -c 5", shell=True, capture_output=True, text=True, check=False
    )
    assert done.stdout == '{"pro'
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "command",
    [
        "--help",
        "--version",
        "doctor",
        "index build toys --out {out}/new.safetensors",
        "index info {index}",
        "sample toys --num-negs 1",
        "reward --index {index}",
        "evaluate toys --index {index} --num-negs 3 --num-bootstrap 2 --out {out}",
        "demo --data {data}/balls --users 1 --out {out}",
    ],
)
def test_every_command_ends_quietly_if_nobody_reads_its_output(data_dir, index, tmp_path, command):
    (data_dir / "balls").mkdir(exist_ok=True)
    items = {i: {"title": f"ball {i}"} for i in range(1, 121)}
    (data_dir / "balls" / "item_metadata.json").write_text(json.dumps(items))
    (data_dir / "balls" / "sequential_data.txt").write_text("1 1 2 3 4 5\n")
    words = command.format(out=tmp_path, index=index, data=data_dir).split()
    variables = {"RL4REC_DATA": str(data_dir), "RL4REC_CACHE": str(tmp_path)}
    line = '{"text": "red ball", "target": 1}'
    done = rl4rec(*words, stdin=line, is_read=False, **variables)
    assert done.returncode == 1
    # Bars and notes of what is done may be there, but no error.
    assert not re.search("Traceback|[Ee]rror|pipe", done.stderr), done.stderr


@pytest.mark.parametrize(
    ("out", "named"),
    [("x.bin", ("x.bin", ".safetensors")), ("no/x.safetensors", ("no", "directory"))],
)
def test_the_index_file_is_checked_before_encoding(data_dir, out, named):
    command = f"index build toys --out {out} --encoder /none"
    done = rl4rec(*command.split(), RL4REC_DATA=str(data_dir))
    assert done.returncode == 2
    assert all(part in done.stderr for part in named), done.stderr


def test_an_error_names_the_id_that_is_not_in_the_index(index):
    line = '{"text": "a", "target": 99, "neg_items": [1]}'
    done = rl4rec("reward", "--index", str(index), stdin=f'{{"text": "a", "target": 1}}\n\n{line}')
    assert done.returncode == 2
    assert all(part in done.stderr for part in ("line 3", "targets", "99")), done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ("index info nothing.safetensors", ("nothing.safetensors",)),
        ("sample nothing", ("'nothing'",)),
        ("sample nothing --skip-top 2", ("--skip-top", "--hard")),
        ("demo --data nowhere", ("--data", "nowhere")),
        ("demo --users 0", ("Invalid value for '--users'",)),
        ("reward --index nothing.safetensors", ("nothing.safetensors",)),
        ("evaluate", ("name", "--data")),
        ("evaluate nothing --ks ten", ("--ks", "whole numbers", "'ten'")),
        ("evaluate --data nowhere", ("--data", "nowhere")),
        ("evaluate nothing --texts nothing.jsonl", ("nothing.jsonl",)),
        ("dance", ("No such command 'dance'",)),
    ],
)
def test_an_error_is_one_line(arguments, named):
    done = rl4rec(*arguments.split())
    assert done.returncode == 2
    message = " ".join(done.stderr.replace("│", " ").split())
    assert all(part in message for part in named), message
    assert "Traceback" not in done.stderr


def test_a_missing_extra_is_named_in_one_line():
    code = (
        "import sys; sys.modules['typer'] = None; from rl4rec_kernels.__main__ import main; main()"
    )
    done = python("-c", code)
    assert done.returncode == 2
    assert done.stderr == (
        "error: typer is not installed; run: pip install 'rl4rec-kernels[cli]'\n"
    )


@pytest.mark.parametrize("from_stdin", [False, True])
@pytest.mark.parametrize(
    ("content", "named"),
    [
        (b'{"text": "a", "target": 1}\n{"text": "a"}\r{"text": "b"}\n', ("line 2", "JSON")),
        (b"version https://git-lfs.github.com/spec/v1\n", ("line 1", "git lfs pull")),
        (b"<!DOCTYPE html>\n<html></html>\n", ("line 1", "web page")),
        (gzip.compress(b'{"text": "a", "target": 1}\n'), ("gzip",)),
        ('{"text": "a", "target": 1}\n'.encode("utf-16"), ("UTF-16",)),
        (b'{"text": "\\ud800", "target": 1}\n', ("line 1", "\\ud800")),
    ],
)
def test_input_of_another_kind_is_named(
    index, encoder, tmp_path, monkeypatch, content, named, from_stdin
):
    """Lines end as in the files of data sets: not at a carriage return."""
    path = tmp_path / "input.jsonl"
    path.write_bytes(content)
    monkeypatch.setattr(app, "Encoder", lambda *_, **__: encoder)
    with path.open() as stdin:
        monkeypatch.setattr("sys.stdin", stdin)
        monkeypatch.setattr("sys.stdout", io.StringIO())
        with raises(ValueError, *named):
            app.reward(index, None if from_stdin else path)
