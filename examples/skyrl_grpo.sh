#!/usr/bin/env bash
# GRPO with SkyRL 0.4.0 on Amazon Beauty, on one machine with $GPUS GPUs:
#
#   ray start --head
#   rl4rec serve beauty --address auto                       # the service that computes rewards
#   python examples/export_data.py beauty skyrl data/skyrl
#   RAY_ADDRESS=auto bash examples/skyrl_grpo.sh
#
# Append more options in SkyRL's syntax, for example trainer.epochs=3.
set -euo pipefail

MODEL=${MODEL:-Qwen/Qwen3-0.6B}
DATA=${DATA:-data/skyrl}
GPUS=${GPUS:-1}

python3 "$(dirname "$0")/skyrl_grpo.py" \
  data.train_data="['$DATA/train.parquet']" data.val_data="['$DATA/valid.parquet']" \
  environment.env_class=rl4rec environment.skyrl_gym.max_env_workers=64 \
  trainer.algorithm.advantage_estimator=grpo \
  trainer.algorithm.use_kl_loss=true trainer.algorithm.kl_loss_coef=0.001 \
  trainer.policy.model.path="$MODEL" trainer.policy.optimizer_config.lr=1e-6 \
  trainer.placement.colocate_all=true \
  trainer.placement.policy_num_gpus_per_node="$GPUS" \
  trainer.placement.ref_num_gpus_per_node="$GPUS" \
  trainer.train_batch_size=128 trainer.policy_mini_batch_size=64 \
  trainer.max_prompt_length=1024 trainer.epochs=1 \
  trainer.logger=console trainer.project_name=rl4rec trainer.run_name=beauty \
  generator.n_samples_per_prompt=8 generator.max_turns=1 \
  generator.sampling_params.max_generate_length=256 \
  generator.inference_engine.num_engines="$GPUS" \
  generator.inference_engine.tensor_parallel_size=1 \
  generator.inference_engine.gpu_memory_utilization=0.5 "$@"
