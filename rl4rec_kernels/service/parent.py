"""Ends an actor's process when the Ray that runs it has been killed."""

import os
import sys
import threading
import time

_EVERY_S = 1.0


def end_with_ray() -> None:
    """In an actor: end this process soon after its parent, Ray's raylet, has ended.

    ``rl4rec serve`` takes its own Ray with it, even if it is killed. Ray's workers find that out
    when they next talk to the raylet, which may take long in the middle of a batch.
    """
    ray = sys.modules.get("ray")
    # Outside of Ray, a runtime context would start one, or wait for one that is gone.
    if ray is None or not ray.is_initialized():
        return
    if ray.get_runtime_context().get_actor_id() is not None:
        end_with_parent()


def end_with_parent() -> None:
    """End this process soon after the one that started it."""
    threading.Thread(target=_watch, args=(os.getppid(),), name="parent", daemon=True).start()


def _watch(parent: int) -> None:
    while os.getppid() == parent:  # orphans get another one
        time.sleep(_EVERY_S)
    os._exit(1)
