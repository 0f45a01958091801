"""Running work in a forked child."""

import multiprocessing
from collections.abc import Callable
from typing import Any


def in_child(work: Callable[[], Any]) -> Any:
    """Return what `work` returns in a forked child, or raise its error; a child may not hang."""
    context = multiprocessing.get_context("fork")
    reader, writer = context.Pipe(duplex=False)

    def run() -> None:
        try:
            writer.send((True, work()))
        except BaseException as error:
            writer.send((False, error))

    child = context.Process(target=run)
    child.start()
    try:
        assert reader.poll(60), "the child hangs"
        worked, result = reader.recv()
    finally:
        child.kill()
        child.join()
    if not worked:
        raise result
    return result
