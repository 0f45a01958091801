#!/usr/bin/env bash
# GRPO with EasyR1 0.3.3 on Amazon Beauty, on one machine with $GPUS GPUs. In EasyR1's checkout:
#
#   ray start --head
#   rl4rec serve beauty --address auto                       # the service that computes rewards
#   python path/to/examples/export_data.py beauty easyr1 data/easyr1
#   RAY_ADDRESS=auto bash path/to/examples/easyr1_grpo.sh
#
# Append more options in EasyR1's syntax, for example trainer.total_epochs=3.
set -euo pipefail

MODEL=${MODEL:-Qwen/Qwen3-0.6B}
DATA=${DATA:-data/easyr1}
GPUS=${GPUS:-1}
CONFIG=${CONFIG:-examples/config.yaml}
REWARD=$(realpath "$(dirname "$0")/easyr1_reward.py")

python3 -m verl.trainer.main \
  config="$CONFIG" \
  data.train_files="$DATA/train.parquet" data.val_files="$DATA/valid.parquet" \
  data.prompt_key=prompt data.answer_key=answer data.format_prompt=null \
  data.max_prompt_length=1024 data.max_response_length=256 data.rollout_batch_size=128 \
  worker.actor.model.model_path="$MODEL" worker.actor.global_batch_size=64 \
  worker.rollout.n=8 worker.rollout.tensor_parallel_size=1 \
  worker.reward.reward_function="$REWARD:compute_score" \
  worker.reward.reward_function_kwargs='{dataset_name: beauty, reward_type: logrank, k: 10}' \
  algorithm.online_filtering=false \
  trainer.n_gpus_per_node="$GPUS" trainer.logger='[console]' trainer.total_epochs=1 \
  trainer.experiment_name=beauty "$@"
