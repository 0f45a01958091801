"""Running commands as a user runs them."""

import os
import subprocess
import sys


def python(*arguments: str, stdin: str = "", **variables: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, *arguments],
        input=stdin,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **variables},
    )


def rl4rec(*arguments: str, stdin: str = "", **variables: str) -> subprocess.CompletedProcess:
    return python("-m", "rl4rec_kernels", *arguments, stdin=stdin, **variables)
