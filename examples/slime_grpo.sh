#!/usr/bin/env bash
# GRPO with slime 0.3.1 on Amazon Beauty, on one machine with $GPUS GPUs. In slime's checkout, with
# Qwen3-0.6B converted as slime's documentation says:
#
#   ray start --head
#   rl4rec serve beauty --address auto                       # the service that computes rewards
#   python path/to/examples/export_data.py beauty slime data/slime
#   bash path/to/examples/slime_grpo.sh
#
# Append more options in slime's syntax, for example --num-rollout 1000.
set -euo pipefail

MODEL=${MODEL:-models/Qwen3-0.6B}
DATA=${DATA:-data/slime}
GPUS=${GPUS:-1}
# shellcheck disable=SC1091
source scripts/models/qwen3-0.6B.sh  # sets MODEL_ARGS

REWARD=$(realpath "$(dirname "$0")/slime_reward.yaml")

ray job submit --address=http://127.0.0.1:8265 \
  --runtime-env-json='{"env_vars": {"PYTHONPATH": "/root/Megatron-LM/", "CUDA_DEVICE_MAX_CONNECTIONS": "1"}}' \
  -- python3 train.py \
  --actor-num-nodes 1 --actor-num-gpus-per-node "$GPUS" --colocate \
  "${MODEL_ARGS[@]}" \
  --hf-checkpoint "$MODEL" --ref-load "${MODEL}_torch_dist" --save checkpoints/slime \
  --save-interval 100 \
  --custom-rm-path rl4rec_kernels.adapters.slime.custom_rm --custom-config-path "$REWARD" \
  --prompt-data "$DATA/train.parquet" \
  --input-key prompt --label-key label --apply-chat-template --rollout-shuffle \
  --eval-prompt-data beauty "$DATA/valid.parquet" --eval-interval 50 \
  --n-samples-per-eval-prompt 1 --eval-max-response-len 256 \
  --num-rollout 500 --rollout-batch-size 32 --n-samples-per-prompt 8 \
  --rollout-max-response-len 256 --rollout-temperature 1 --global-batch-size 256 \
  --advantage-estimator grpo --use-kl-loss --kl-loss-coef 0.001 --kl-loss-type low_var_kl \
  --optimizer adam --lr 1e-6 --lr-decay-style constant \
  --use-dynamic-batch-size --max-tokens-per-gpu 9216 \
  --rollout-num-gpus-per-engine 1 --sglang-mem-fraction-static 0.6 \
  --attention-dropout 0.0 --hidden-dropout 0.0 "$@"
