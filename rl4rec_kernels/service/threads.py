"""The number of threads for short work on a service's loop."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import torch

_LOAD = Path("/proc/loadavg")


@contextmanager
def use_threads(count: int) -> Iterator[None]:
    """Let torch use `count` threads, the calling one included.

    Python threads that first use torch meanwhile start with this number too.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def free_processors() -> int:
    """Count the idle processors and the caller's own; 1 if unknown.

    A second thread halves a millisecond of work if a processor is idle. If trainers keep all of
    them busy, waiting for that thread takes ten milliseconds.
    """
    with suppress(OSError, ValueError, IndexError, AttributeError):  # Linux only
        # "0.20 0.18 0.12 1/80 11206": 1 of 80 threads runs, the caller
        file = os.open(_LOAD, os.O_RDONLY)  # Path.read_text() takes three times as long
        try:
            running = int(os.read(file, 100).split()[3].partition(b"/")[0])
        finally:
            os.close(file)
        return max(1, len(os.sched_getaffinity(0)) - running + 1)
    return 1
