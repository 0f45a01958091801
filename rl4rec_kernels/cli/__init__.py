"""The command ``rl4rec``, also as ``python -m rl4rec_kernels``."""

import os
import sys


def main() -> None:
    """Run the command line, and exit; an error is one line, without a traceback."""
    code: object = 0
    try:
        _run()
    except SystemExit as stop:
        code = stop.code
    except KeyboardInterrupt:
        code = 130
    except OSError as error:
        code = _write_error(error)
    try:
        if sys.stdout is not None:
            sys.stdout.flush()  # here, as Python reports an error at its own end by a traceback
    except OSError as error:
        code = code or _write_error(error)
    sys.exit(code)  # type: ignore[arg-type]


def _run() -> None:
    """Run the command line, or say in one line which extra it needs; `doctor` needs none."""
    if sys.argv[1:] == ["doctor"]:
        from rl4rec_kernels.cli import doctor

        sys.exit(doctor.main())
    try:
        from rl4rec_kernels.cli.app import main as run
    except ImportError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    run()


def _write_error(error: OSError) -> int:
    """Say what failed, unless a reader such as ``head`` has seen enough; return the exit status."""
    if sys.stdout is not None:  # what is left in its buffer can still not be written
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    if isinstance(error, BrokenPipeError):
        return 1
    print(f"error: {error}", file=sys.stderr)
    return 2
