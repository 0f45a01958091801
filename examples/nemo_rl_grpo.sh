#!/usr/bin/env bash
# GRPO with NeMo-RL 0.7.0 on Amazon Beauty, on one machine with $GPUS GPUs. In NeMo-RL's checkout:
#
#   uv pip install 'rl4rec-kernels[encoder,ray]'             # in the environment of its driver
#   uv run ray start --head
#   uv run rl4rec serve beauty --address auto                # the service that computes rewards
#   uv run path/to/examples/export_data.py beauty nemo_rl data/nemo_rl
#   bash path/to/examples/nemo_rl_grpo.sh
#
# Append more options in NeMo-RL's syntax, for example grpo.max_num_steps=100.
set -euo pipefail

MODEL=${MODEL:-Qwen/Qwen3-0.6B}
DATA=${DATA:-data/nemo_rl}
GPUS=${GPUS:-1}
NEMO_RL=${NEMO_RL:-.}

policy=(
  policy.model_name="$MODEL"
  policy.max_total_sequence_length=1280
  policy.train_global_batch_size=256
)
data=(
  data.train.dataset_name=ResponseDataset
  +data.train.data_path="$DATA/train.parquet"
  data.train.split_validation_size=0
  data.validation="{dataset_name: ResponseDataset, data_path: $DATA/valid.parquet}"
  data.default.prompt_file=null
  data.default.env_name=rl4rec
)
reward=(
  '+env.rl4rec.reward={dataset_name: beauty, reward_type: logrank, k: 10}'
)

uv run "$(dirname "$0")/nemo_rl_grpo.py" "$NEMO_RL/examples/run_grpo.py" \
  --config "$NEMO_RL/examples/configs/grpo_math_1B.yaml" \
  grpo.num_prompts_per_step=32 grpo.num_generations_per_prompt=8 \
  "${policy[@]}" "${data[@]}" "${reward[@]}" \
  cluster.gpus_per_node="$GPUS" "$@"
