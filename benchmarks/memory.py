"""The peak memory of a piece of code, measured in a separate process."""

import subprocess
import sys

# VmHWM counts only the memory of the process itself. The ru_maxrss of getrusage is inherited from
# the parent, which would hide any growth below the parent's peak.
_SCRIPT = """
def peak():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM:"))

{setup}
with open("/proc/self/clear_refs", "w") as file:
    file.write("5")  # resets the peak
before = peak()
{work}
print(peak() - before)
"""


def peak_growth(setup: str, work: str) -> float:
    """Run two pieces of code, and return by how many MiB the second raised the peak."""
    script = _SCRIPT.format(setup=setup, work=work)
    run = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    return int(run.stdout.splitlines()[-1]) / 1024
