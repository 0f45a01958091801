"""``python -m rl4rec_kernels`` is the command ``rl4rec``."""

from rl4rec_kernels.cli import main

if __name__ == "__main__":
    main()
