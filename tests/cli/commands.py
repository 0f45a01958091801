"""Running commands as a user runs them."""

import multiprocessing
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

# Importing torch and the encoder's libraries takes seconds: one process does it for all commands.
_PROCESSES = multiprocessing.get_context("forkserver")
_PROCESSES.set_forkserver_preload(["rl4rec_kernels.cli.app", "sentence_transformers", "ray.serve"])


def python(*arguments: str, stdin: str = "", **variables: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, *arguments],
        input=stdin,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **variables},
    )


def rl4rec(
    *arguments: str, stdin: str = "", is_read: bool = True, **variables: str
) -> subprocess.CompletedProcess:
    """Run a command in a separate process, in which the package is imported already.

    Unless `is_read`, its standard output is a pipe whose reader has ended.
    """
    with tempfile.TemporaryDirectory() as folder:
        streams = [Path(folder, name) for name in ("stdin", "stdout", "stderr")]
        for stream in streams:
            stream.write_text(stdin if stream.name == "stdin" else "", encoding="utf-8")
        environment = {**os.environ, **variables}
        process = _PROCESSES.Process(target=_run, args=(arguments, streams, is_read, environment))
        process.start()
        process.join()
        output, errors = (stream.read_text(encoding="utf-8") for stream in streams[1:])
        return subprocess.CompletedProcess(arguments, process.exitcode or 0, output, errors)


def _run(
    arguments: Sequence[str], streams: Sequence[Path], is_read: bool, environment: Mapping[str, str]
) -> None:
    """The process of a command: its standard streams are files."""
    for number, stream in enumerate(streams):
        opened = os.open(stream, os.O_RDWR)
        if number == 1 and not is_read:
            os.close(opened)
            reading, opened = os.pipe()
            os.close(reading)
        os.dup2(opened, number)
        os.close(opened)
    os.environ.clear()
    os.environ.update(environment)
    encoding = environment.get("PYTHONIOENCODING", "utf-8")
    sys.stdin, sys.stdout, sys.stderr = (
        open(number, mode, encoding=encoding, closefd=False)  # noqa: SIM115
        for number, mode in enumerate("rww")
    )
    sys.argv = ["rl4rec", *arguments]
    from rl4rec_kernels.cli import main

    main()
