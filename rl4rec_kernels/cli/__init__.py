"""The command ``rl4rec``, also as ``python -m rl4rec_kernels``."""

import sys


def main() -> None:
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
