"""The reward of ms_swift_grpo.sh, a plugin that ms-swift loads."""

from swift.rewards import orms

from rl4rec_kernels.adapters.ms_swift import RecORM


class BeautyReward(RecORM):
    options = {"dataset_name": "beauty", "reward_type": "logrank", "k": 10}  # noqa: RUF012


orms["rl4rec"] = BeautyReward
