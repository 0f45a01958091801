"""The reward of openrlhf_grpo.sh; OpenRLHF loads `reward_func` from this file."""

from functools import partial

from rl4rec_kernels.adapters import openrlhf

OPTIONS = {"dataset_name": "beauty", "reward_type": "logrank", "k": 10}

reward_func = partial(openrlhf.reward_func, reward_options=OPTIONS)
