"""What a forked child of this process needs: threads, locks and executors do not survive a fork.

A child has only the thread that forked. OpenMP, which torch uses, would wait for its other threads
for ever. So they are ended before a fork, and both processes start new ones when they need them.
"""

import ctypes
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Lock
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

import torch

Thing = TypeVar("Thing")

_PAUSE_HARD = 2  # omp_pause_hard

_renewals: WeakKeyDictionary[Any, Callable[[Any], object]] = WeakKeyDictionary()
_are_threads_ended = False


def renew_in_child(thing: Thing, renew: Callable[[Thing], object]) -> Thing:
    """Call ``renew(thing)`` in each forked child while `thing` exists; returns `thing`."""
    _renewals[thing] = renew
    return thing


def fork_safe_lock() -> Lock:
    """Return a lock that is free in a forked child, even if another thread held it."""
    return renew_in_child(Lock(), lambda lock: lock._at_fork_reinit())  # type: ignore[attr-defined]


def fork_safe_pool(num_threads: int, name: str = "") -> ThreadPoolExecutor:
    """Return an executor that starts new threads in a forked child."""
    pool = ThreadPoolExecutor(num_threads, thread_name_prefix=name)
    return renew_in_child(pool, lambda pool: pool.__init__(num_threads, name))  # type: ignore[misc]


def _end_threads() -> None:
    """End the OpenMP threads that the calling thread would leave behind in the child."""
    global _are_threads_ended
    try:
        end = ctypes.CDLL(torch._C.__file__).omp_pause_resource_all  # of the OpenMP that torch uses
    except (AttributeError, OSError):
        _are_threads_ended = False
    else:
        _are_threads_ended = end(_PAUSE_HARD) == 0


def _renew() -> None:
    if not _are_threads_ended:
        torch.set_num_threads(1)  # so that torch does not wait for others
    for thing, renew in list(_renewals.items()):
        renew(thing)


os.register_at_fork(before=_end_threads, after_in_child=_renew)
