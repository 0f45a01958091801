#!/usr/bin/env bash
# GRPO with ms-swift 4.6.0 on Amazon Beauty, on one machine with $GPUS GPUs:
#
#   ray start --head
#   rl4rec serve beauty --address auto                       # the service that computes rewards
#   python examples/export_data.py beauty ms_swift data/ms_swift --ending .jsonl
#   RAY_ADDRESS=auto bash examples/ms_swift_grpo.sh
#
# Append more options in ms-swift's syntax, for example --num_train_epochs 3.
set -euo pipefail

MODEL=${MODEL:-Qwen/Qwen3-0.6B}
DATA=${DATA:-data/ms_swift}
export NPROC_PER_NODE=${GPUS:-1}

swift rlhf \
  --rlhf_type grpo \
  --model "$MODEL" --use_hf true \
  --tuner_type full \
  --dataset "$DATA/train.jsonl" --val_dataset "$DATA/valid.jsonl" \
  --external_plugins "$(dirname "$0")/ms_swift_plugin.py" \
  --reward_funcs rl4rec \
  --use_vllm true --vllm_mode colocate --vllm_gpu_memory_utilization 0.5 \
  --max_length 1024 --max_completion_length 256 \
  --num_generations 8 \
  --per_device_train_batch_size 8 --gradient_accumulation_steps 16 \
  --learning_rate 1e-6 --beta 0.001 --temperature 1.0 \
  --num_train_epochs 1 --logging_steps 1 --log_completions true \
  --output_dir checkpoints/ms_swift "$@"
