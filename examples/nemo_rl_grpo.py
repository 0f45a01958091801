"""Register the reward's environment in NeMo-RL, then run one of NeMo-RL's scripts.

uv run examples/nemo_rl_grpo.py RL/examples/run_grpo.py --config …, see nemo_rl_grpo.sh
"""

import runpy
import sys

from rl4rec_kernels.adapters import nemo_rl

if __name__ == "__main__":  # NeMo-RL's processes may import this file
    if len(sys.argv) < 2:
        sys.exit("usage: nemo_rl_grpo.py path/to/run_grpo.py [options of that script]")
    nemo_rl.register()
    del sys.argv[0]
    runpy.run_path(sys.argv[0], run_name="__main__")
