#!/usr/bin/env bash
# GRPO with verl 0.9.1 on Amazon Beauty, on one machine with $GPUS GPUs:
#
#   ray start --head
#   rl4rec serve beauty --address auto                       # the service that computes rewards
#   python examples/export_data.py beauty verl data/verl
#   bash examples/verl_grpo.sh
#
# If `rl4rec serve beauty` runs on its own Ray instead (without --address), set RAY_ADDRESS=auto
# for the last command: without it, the trainer may start another Ray, which has no service.
#
# Append more options in verl's syntax, for example trainer.total_epochs=3.
set -euo pipefail

MODEL=${MODEL:-Qwen/Qwen3-0.6B}
DATA=${DATA:-data/verl}
GPUS=${GPUS:-1}

reward=(
  reward.custom_reward_function.path=pkg://rl4rec_kernels.adapters.verl
  reward.custom_reward_function.name=compute_score
  +reward.custom_reward_function.reward_kwargs.reward_type=logrank
  +reward.custom_reward_function.reward_kwargs.k=10
)
data=(
  data.train_files="$DATA/train.parquet"
  data.val_files="$DATA/valid.parquet"
  data.train_batch_size=128
  data.max_prompt_length=1024
  data.max_response_length=256
  data.filter_overlong_prompts=True
)
actor=(
  actor_rollout_ref.model.path="$MODEL"
  actor_rollout_ref.actor.optim.lr=1e-6
  actor_rollout_ref.actor.ppo_mini_batch_size=64
  actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu=8
  actor_rollout_ref.actor.use_kl_loss=True
  actor_rollout_ref.actor.kl_loss_coef=0.001
)
rollout=(
  actor_rollout_ref.rollout.name=vllm
  actor_rollout_ref.rollout.n=8
  actor_rollout_ref.rollout.tensor_model_parallel_size=1
  actor_rollout_ref.rollout.gpu_memory_utilization=0.5
  actor_rollout_ref.rollout.log_prob_micro_batch_size_per_gpu=8
  actor_rollout_ref.ref.log_prob_micro_batch_size_per_gpu=8
)

python3 -m verl.trainer.main_ppo \
  algorithm.adv_estimator=grpo \
  "${reward[@]}" "${data[@]}" "${actor[@]}" "${rollout[@]}" \
  trainer.n_gpus_per_node="$GPUS" trainer.nnodes=1 \
  trainer.logger='["console"]' trainer.project_name=rl4rec trainer.experiment_name=beauty \
  trainer.total_epochs=1 "$@"
