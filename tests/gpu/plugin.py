"""For pytest: the Triton kernels of all tests run as compiled PTX, of the GPU RL4REC_CAPABILITY.

`make test-gpu-emulated` runs the tests of the GPU backends with `-p tests.gpu.plugin`.
"""

import os

os.environ["TRITON_INTERPRET"] = "0"  # before anything imports triton

from tests.gpu import compiled

compiled.GPU.capability = int(os.environ.get("RL4REC_CAPABILITY", "90"))
compiled.install()
