"""The command ``rl4rec``, also as ``python -m rl4rec_kernels``.

Imports nothing but Python's own modules, so that it can report whatever goes wrong later.
"""

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

_PACKAGE = "rl4rec_kernels"
_INTERRUPTED = 130  # 128 + SIGINT, as shells count
_USER_ERRORS = (ImportError, LookupError, MemoryError, OSError, RuntimeError, TypeError, ValueError)


def main() -> None:
    """Run the command line, and exit; an error is one line, without a traceback."""
    with one_line_errors():
        _run()
        sys.exit(0)


@contextmanager
def one_line_errors() -> Iterator[None]:
    """End the process at an error or an interrupt, with one line and without a traceback."""
    _open_standard_streams()
    try:
        yield
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # another one would interrupt what Python ends
        sys.exit(_INTERRUPTED)
    except SystemExit as stop:
        _flush_and_exit(stop.code)
    except OSError as error:
        sys.exit(_write_error(error))
    except _USER_ERRORS as error:
        say_error(error)
        _flush_and_exit(2)


@contextmanager
def while_importing() -> Iterator[None]:
    """As `one_line_errors` in a process that runs the command; elsewhere errors are raised."""
    if not is_command():
        yield
        return
    with one_line_errors():
        yield


def is_command() -> bool:
    """Whether this process runs the command. Python imports the package before `main`."""
    program, *_ = sys.argv or [""]
    if program == "-m":  # until Python has found the module
        return sys.orig_argv[-len(sys.argv)].removeprefix("-m") == _PACKAGE
    return os.path.basename(program) == "rl4rec"


def say_error(error: BaseException) -> None:
    """Write an error to standard error, in one line if it has no more."""
    with suppress(OSError, ValueError):  # nobody reads it
        print(f"error: {error or 'out of memory'}", file=sys.stderr)


def _run() -> None:
    """Run the command line, or say in one line which extra it needs; `doctor` needs none."""
    if sys.argv[1:] == ["doctor"]:
        from rl4rec_kernels.cli import doctor

        sys.exit(doctor.main())
    from rl4rec_kernels.cli.app import main as run

    run()


def _open_standard_streams() -> None:
    """Keep the numbers of closed standard streams from the next files that are opened.

    Without standard error, ``print(…, file=None)`` would also write errors to standard output.
    """
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115


def _flush_and_exit(code: object) -> None:
    """Write what was printed, then exit: at its own end Python reports errors by tracebacks."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError as error:
        code = code or _write_error(error)
    sys.exit(code)  # type: ignore[arg-type]


def _write_error(error: OSError) -> int:
    """Say what failed, unless a reader such as ``head`` has seen enough; return the exit status."""
    if sys.stdout is not None:  # what is left in its buffer can still not be written
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    if isinstance(error, BrokenPipeError):
        return 1
    say_error(error)
    return 2
