"""The peak memory of a piece of work, measured in a process of its own."""

import subprocess
import sys

# VmHWM belongs to the process's own memory; getrusage's ru_maxrss is inherited from the parent, and
# would hide any growth below what the tests' own process has taken.
_SCRIPT = """
def peak():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM:"))

{setup}
with open("/proc/self/clear_refs", "w") as file:
    file.write("5")  # the peak starts anew
before = peak()
{work}
print(peak() - before)
"""


def peak_growth(setup: str, work: str) -> float:
    """Run two pieces of code; return by how many MiB the second raised the peak."""
    script = _SCRIPT.format(setup=setup, work=work)
    run = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    return int(run.stdout.splitlines()[-1]) / 1024
