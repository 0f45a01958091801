"""Work that must end in time."""

from collections.abc import Callable
from concurrent.futures import Future
from threading import Thread
from typing import Any, TypeVar

Result = TypeVar("Result")


def within(seconds: float, work: Callable[..., Result], *arguments: Any) -> Result:
    """Return ``work(*arguments)``, or raise TimeoutError after this many seconds.

    The work runs in a thread, which is then left behind and does not keep the process alive.
    """
    done: Future[Result] = Future()

    def run() -> None:
        try:
            done.set_result(work(*arguments))
        except BaseException as error:
            done.set_exception(error)

    Thread(target=run, daemon=True, name="rl4rec").start()
    return done.result(seconds)
