"""Actors that outlive nobody."""

import signal
import subprocess
import sys
import time
from pathlib import Path

WATCH = """
import subprocess, sys, time
child = "from rl4rec_kernels.service.parent import end_with_parent; end_with_parent(); " \\
    "import time; print('up', flush=True); time.sleep(60)"
process = subprocess.Popen([sys.executable, "-c", child])
print(process.pid, flush=True)
time.sleep(60)
"""


def test_a_process_ends_soon_after_its_parent_was_killed():
    parent = subprocess.Popen([sys.executable, "-c", WATCH], stdout=subprocess.PIPE, text=True)
    child = Path("/proc") / parent.stdout.readline().strip()
    assert parent.stdout.readline() == "up\n"
    assert child.exists()
    parent.send_signal(signal.SIGKILL)
    parent.wait(10)
    end = time.monotonic() + 20
    while child.exists() and "Z" not in (child / "stat").read_text().split()[2]:
        assert time.monotonic() < end
        time.sleep(0.05)
