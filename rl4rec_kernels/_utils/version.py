"""The version of the package."""

from importlib.metadata import PackageNotFoundError, version

try:
    VERSION = version("rl4rec-kernels")  # of pyproject.toml, at installation
except PackageNotFoundError:  # a source tree that was built in place
    VERSION = "0+unknown"
