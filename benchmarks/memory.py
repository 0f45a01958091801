"""Peak memory of a piece of work, in a process of its own."""

import subprocess
import sys

_SCRIPT = """
from pathlib import Path

def status(field):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field))

{setup}
Path("/proc/self/clear_refs").write_text("5")  # the peak starts from here
before = status("VmRSS")
{work}
print(status("VmHWM") - before)
"""


def peak(setup: str, work: str) -> float:
    """Run two pieces of code; return by how many MiB the second rose above what the first left."""
    command = [sys.executable, "-c", _SCRIPT.format(setup=setup, work=work)]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    if run.returncode:
        raise RuntimeError(f"the measured process failed:\n{run.stderr}")
    return int(run.stdout.splitlines()[-1]) / 1024
