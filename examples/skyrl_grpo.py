"""SkyRL's entry point with the reward's environment; skyrl_grpo.sh has its options."""

import sys
from typing import Any

REWARD = {"dataset_name": "beauty", "reward_type": "logrank", "k": 10}


def run(config: Any) -> None:
    """Train. The environment is registered in the process that makes environments."""
    from skyrl.train.entrypoints.main_base import BasePPOExp
    from skyrl_gym import register

    path = "rl4rec_kernels.adapters.skyrl:RecEnv"
    register(id="rl4rec", entry_point=path, kwargs={"reward_options": REWARD})
    BasePPOExp(config).run()


def main(arguments: list[str]) -> None:
    import ray
    from skyrl.train.config import SkyRLTrainConfig
    from skyrl.train.utils import validate_cfg
    from skyrl.train.utils.utils import initialize_ray

    config = SkyRLTrainConfig.from_cli_overrides(arguments)
    validate_cfg(config)
    initialize_ray(config)
    ray.get(ray.remote(num_cpus=1)(run).remote(config))


if __name__ == "__main__":
    main(sys.argv[1:])
