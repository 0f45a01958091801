#!/usr/bin/env bash
# GRPO with OpenRLHF 0.11.2 on Amazon Beauty, on one machine with $GPUS GPUs:
#
#   ray start --head
#   rl4rec serve beauty --address auto                       # the service that computes rewards
#   python examples/export_data.py beauty openrlhf data/openrlhf
#   bash examples/openrlhf_grpo.sh
#
# If `rl4rec serve beauty` runs on its own Ray instead (without --address), set RAY_ADDRESS=auto
# for the last command: without it, the trainer may start another Ray, which has no service.
#
# Append more options in OpenRLHF's syntax, for example --train.num_episodes 3.
set -euo pipefail

MODEL=${MODEL:-Qwen/Qwen3-0.6B}
DATA=${DATA:-data/openrlhf}
GPUS=${GPUS:-1}
REWARD=$(realpath "$(dirname "$0")/openrlhf_reward.py")

python3 -m openrlhf.cli.train_ppo_ray \
  --actor.model_name_or_path "$MODEL" \
  --reward.remote_url "$REWARD" \
  --data.prompt_dataset "$DATA/train.parquet" \
  --data.input_key input \
  --data.label_key label \
  --data.apply_chat_template \
  --data.max_len 1280 \
  --rollout.max_new_tokens 256 \
  --rollout.batch_size 128 \
  --rollout.n_samples_per_prompt 8 \
  --rollout.micro_batch_size 8 \
  --train.batch_size 1024 \
  --train.micro_batch_size 8 \
  --train.num_episodes 1 \
  --train.max_epochs 1 \
  --train.colocate_all \
  --algo.advantage.estimator group_norm \
  --algo.kl.init_coef 0.001 \
  --algo.kl.use_loss \
  --algo.kl.estimator k3 \
  --actor.num_nodes 1 --actor.num_gpus_per_node "$GPUS" \
  --ref.num_nodes 1 --ref.num_gpus_per_node "$GPUS" \
  --vllm.num_engines "$GPUS" --vllm.tensor_parallel_size 1 \
  --vllm.gpu_memory_utilization 0.5 --vllm.enable_sleep --ds.enable_sleep \
  --ds.zero_stage 2 --ds.param_dtype bf16 \
  --ckpt.output_dir checkpoints/openrlhf "$@"
