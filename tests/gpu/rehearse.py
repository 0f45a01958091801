"""Runs benchmarks/bench_gpu.py on tiny shapes, with emulated launches."""

import runpy
import sys

from tests.gpu import compiled

compiled.install()
sys.argv = ["bench_gpu", "--emulated", *sys.argv[1:]]
runpy.run_module("benchmarks.bench_gpu", run_name="__main__")
