"""Train an instruction-tuned model with TRL's GRPO on Amazon Beauty or your own data set.

    python examples/grpo_beauty.py --model Qwen/Qwen2.5-0.5B-Instruct --report-to wandb
    python examples/grpo_beauty.py --model Qwen/Qwen2.5-0.5B-Instruct --resume  # if it was stopped

The model reads a user's latest items as a chat message and answers with the description of an item.
MiniLM encodes what is inside <query> and </query>, and the reward is how high the user's true next
item ranks among 99 negatives. Rewards of validation users are logged every --eval-steps.

The service runs in this process. With several processes, for example under ``accelerate launch``,
start one for all of them by ``rl4rec serve beauty --address auto``, and pass ``--service ray``.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import AutoTokenizer
from trl import GRPOConfig, GRPOTrainer

import rl4rec_kernels as rk
from rl4rec_kernels.adapters.trl import TRLReward


def read_options(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__.partition("\n")[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--model", required=True, help="a name or path with a chat template")
    parser.add_argument("--name", default="beauty", help="the data set")
    parser.add_argument("--data-dir", type=Path, help="its parent directory, else $RL4REC_DATA")
    parser.add_argument("--service", choices=["local", "ray"], default="local")
    parser.add_argument("--reward-type", default="logrank", help="ndcg, hit, mrr, logrank, …")
    parser.add_argument("--num-negs", type=int, default=99, help="competitors of a target")
    parser.add_argument("--steps", type=int, default=500, help="updates of the model")
    parser.add_argument("--prompts", type=int, default=8, help="per update and device")
    parser.add_argument("--generations", type=int, default=8, help="per prompt")
    parser.add_argument("--new-tokens", type=int, default=128, help="of an answer")
    parser.add_argument("--max-history", type=int, default=10, help="items in a prompt")
    parser.add_argument("--learning-rate", type=float, default=1e-6)
    parser.add_argument("--eval-users", type=int, default=256, help="of the validation split")
    parser.add_argument("--eval-steps", type=int, default=50, help="also between checkpoints")
    parser.add_argument("--report-to", default="none", help="wandb, tensorboard, …")
    parser.add_argument("--out", type=Path, default=Path("grpo_beauty_out"))
    parser.add_argument("--resume", action="store_true", help="from the last checkpoint in --out")
    parser.add_argument("--seed", type=int, default=42)
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> GRPOTrainer:
    """Train, and save the model in ``--out``."""
    options = read_options(arguments)
    items = rk.load_item_metadata(options.name, options.data_dir)
    prompts = rk.PromptGenerator(items, max_history=options.max_history)
    train, valid = (
        rk.RecommendationDataset(
            options.name,
            items,
            prompts,
            split,
            num_negs=options.num_negs,
            num_items=max(items) + 1,
            seed=options.seed,
            data_dir=options.data_dir,
        ).to_hf(conversational=True)
        for split in ("train", "valid")
    )
    if options.service == "local":
        encoder = rk.Encoder("minilm")
        index = rk.cached_index(options.name, items, encoder)
        rk.LocalRetrievalService({options.name: index}, encoder).register()

    has_gpu = torch.cuda.is_available()
    trainer = GRPOTrainer(
        options.model,
        reward_funcs=TRLReward(
            rk.RecReward(dataset_name=options.name, reward_type=options.reward_type)
        ),
        args=GRPOConfig(
            output_dir=str(options.out),
            seed=options.seed,
            use_cpu=not has_gpu,
            bf16=has_gpu,
            max_steps=options.steps,
            learning_rate=options.learning_rate,
            per_device_train_batch_size=options.prompts * options.generations,
            per_device_eval_batch_size=options.prompts * options.generations,
            num_generations=options.generations,
            max_completion_length=options.new_tokens,
            eval_strategy="steps",
            eval_on_start=not options.resume,
            eval_steps=options.eval_steps,
            save_steps=options.eval_steps,
            logging_steps=1,
            report_to=options.report_to,
        ),
        train_dataset=train,
        eval_dataset=valid.select(range(min(options.eval_users, len(valid)))),
        processing_class=AutoTokenizer.from_pretrained(options.model, padding_side="left"),
    )
    trainer.train(resume_from_checkpoint=options.resume)
    trainer.save_model()
    for entry in trainer.state.log_history:
        if "eval_reward" in entry:
            print(f"step {entry['step']}: reward of validation users {entry['eval_reward']:.4f}")
    return trainer


if __name__ == "__main__":
    main()
