"""Train a small language model with TRL's GRPO, and check that held-out users' rewards rise.

    make grpo                                           # MovieLens-100k, three seeds
    python examples/grpo_trl.py --data DIR --seeds 0 --service local

Creates a Llama with about a million weights and a tokenizer of the titles' words. A warm-up by
next-token prediction teaches it to answer a user's last titles with a title. Then GRPO trains it on
the reward alone: MiniLM encodes what it writes, and the reward is how high the user's true next
item ranks among 99 negatives. A retrieval service on Ray computes it, or one in this process with
``--service local``; the rewards are the same. Held-out users are in neither stage; the figure shows
their rewards before and after GRPO.
"""

import argparse
import json
import logging
import os
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import matplotlib.pyplot as plt
import numpy as np
import torch
from datasets import Dataset, concatenate_datasets
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, set_seed
from trl import GRPOConfig, GRPOTrainer

import rl4rec_kernels as rk
from rl4rec_kernels.adapters.trl import TRLReward
from rl4rec_kernels.data.item_fields import as_text
from rl4rec_kernels.index.cache import cache_dir, cached_index

logger = logging.getLogger("grpo_trl")

SHOWN = 3  # titles in a prompt
NEGATIVES_SEED = 42  # the same competitors in every run


@dataclass
class Settings:
    """Sizes of a run; the defaults take a few minutes per seed on two cores."""

    warm_up_steps: int = 300
    grpo_steps: int = 120
    updates_per_batch: int = 2
    prompts: int = 16
    generations: int = 8
    learning_rate: float = 2e-3
    new_tokens: int = 8
    held_out: float = 0.25
    texts_per_user: int = 8
    num_negs: int = 99
    reward_type: str = "logrank"


@dataclass
class Run:
    """Results of one seed: training rewards per batch, and held-out users' rewards per user."""

    seed: int
    training: list[float]
    before: list[float]
    after: list[float]
    seconds: float


class Task:
    """The splits, prompts and items of a data set.

    Parameters
    ----------
    directory : Path
        The data set's directory.
    settings : Settings
        The number of negatives and the fraction of users that are held out.
    """

    def __init__(self, directory: Path, settings: Settings) -> None:
        self.name = directory.name
        self.items = rk.load_item_metadata(self.name, directory.parent)
        self.prompts = rk.PromptGenerator(
            self.items, template="{history}\n=>", item_template="{title}", max_history=SHOWN
        )
        self.splits = {
            split: rk.RecommendationDataset(
                self.name,
                self.items,
                self.prompts,
                split,
                num_negs=settings.num_negs,
                num_items=max(self.items) + 1,
                seed=NEGATIVES_SEED,
                data_dir=directory.parent,
            )
            for split in ("train", "valid", "test")
        }
        self.held_out_share = settings.held_out

    def held_out(self, seed: int) -> set[int]:
        """The users that are in neither stage of training."""
        users = self.splits["test"].user_ids
        count = max(1, round(self.held_out_share * len(users)))
        return set(np.random.default_rng(seed).choice(users, count, replace=False).tolist())

    def warm_up_texts(self, held_out: set[int]) -> list[str]:
        """A prompt with its answer for each item of the other users' training histories."""
        train = self.splits["train"]
        texts = []
        for row, user in enumerate(train.user_ids.tolist()):
            if user not in held_out:
                history = train.history(row)
                for end in range(1, len(history)):
                    title = as_text(self.items[history[end]].get("title"))
                    texts.append(f"{self.prompts(history[max(0, end - SHOWN) : end])} {title}")
        return texts

    def training_rows(self, held_out: set[int]) -> Dataset:
        """The other users' samples from all splits, in TRL's columns."""
        return concatenate_datasets(
            [
                split.to_hf().filter(lambda user: user not in held_out, input_columns="user_id")
                for split in self.splits.values()
            ]
        )

    def test_rows(self, held_out: set[int]) -> list[dict]:
        """The held-out users' samples, whose targets are in no training sample."""
        test = self.splits["test"]
        rows = np.flatnonzero(np.isin(test.user_ids, list(held_out)))
        return [test[row] for row in rows]


def make_tokenizer(texts: Sequence[str]) -> PreTrainedTokenizerFast:
    """A tokenizer with one token per word, so that a small model writes real words at once."""
    words = Tokenizer(models.WordLevel(unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split("\n", "isolated"), pre_tokenizers.Metaspace()]
    )
    words.decoder = decoders.Metaspace()
    special = ["<pad>", "<unk>", "</s>"]
    words.train_from_iterator(
        texts, trainers.WordLevelTrainer(vocab_size=20_000, special_tokens=special)
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=words,
        pad_token="<pad>",
        unk_token="<unk>",
        eos_token="</s>",
        padding_side="left",
    )


def make_model(tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """A Llama with two layers and random weights."""
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=128,
            intermediate_size=512,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=4,
            max_position_embeddings=256,
            tie_word_embeddings=True,
            pad_token_id=tokenizer.pad_token_id,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
        )
    )


def warm_up(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    texts: Sequence[str],
    steps: int,
    seed: int,
    batch_size: int = 32,
    learning_rate: float = 3e-3,
) -> None:
    """Train next-token prediction for `steps` batches."""
    rng = np.random.default_rng(seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, total_steps=steps)
    model.train()
    for _ in range(steps):
        chosen = [texts[row] + "</s>" for row in rng.integers(0, len(texts), batch_size)]
        inputs = tokenizer(
            chosen,
            return_tensors="pt",
            padding=True,
            padding_side="right",
            return_token_type_ids=False,
        )
        labels = inputs["input_ids"].masked_fill(inputs["attention_mask"] == 0, -100)
        loss = model(**inputs, labels=labels).loss
        loss.backward()
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    logger.info("warm-up: loss %.2f after %d steps", loss.item(), steps)


@torch.inference_mode()
def write_texts(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    prompts: Sequence[str],
    new_tokens: int,
) -> list[str]:
    """Sample a continuation of each prompt."""
    model.eval()
    inputs = tokenizer(
        list(prompts), return_tensors="pt", padding=True, return_token_type_ids=False
    )
    ids = model.generate(**inputs, max_new_tokens=new_tokens, do_sample=True)
    return tokenizer.batch_decode(ids[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)


def mean_rewards(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    reward: rk.RecReward,
    samples: Sequence[dict],
    settings: Settings,
) -> list[float]:
    """The mean reward of each user over several sampled texts."""
    torch.manual_seed(0)  # the same random numbers before and after GRPO
    rows = [sample for sample in samples for _ in range(settings.texts_per_user)]
    texts = write_texts(model, tokenizer, [row["prompt"] for row in rows], settings.new_tokens)
    columns = [[row[name] for row in rows] for name in ("target", "history", "neg_items")]
    rewards = np.array(reward(texts, *columns)).reshape(len(samples), -1)
    logger.info("for example: %s", "; ".join(texts[:: settings.texts_per_user][:5]))
    return rewards.mean(1).tolist()


def run_seed(task: Task, reward: rk.RecReward, settings: Settings, seed: int) -> Run:
    """Warm up, measure, train with GRPO, measure again."""
    start = time.monotonic()
    set_seed(seed)
    held_out = task.held_out(seed)
    texts = task.warm_up_texts(held_out)
    tokenizer = make_tokenizer(texts)
    model = make_model(tokenizer)
    warm_up(model, tokenizer, texts, settings.warm_up_steps, seed)
    samples = task.test_rows(held_out)
    before = mean_rewards(model, tokenizer, reward, samples, settings)
    with TemporaryDirectory() as folder:
        config = GRPOConfig(
            output_dir=folder,
            use_cpu=True,
            bf16=False,
            seed=seed,
            report_to="none",
            save_strategy="no",
            logging_steps=1,
            disable_tqdm=True,
            max_steps=settings.grpo_steps,
            learning_rate=settings.learning_rate,
            lr_scheduler_type="constant_with_warmup",
            warmup_steps=5,
            per_device_train_batch_size=settings.prompts * settings.generations,
            num_generations=settings.generations,
            max_completion_length=settings.new_tokens,
            num_iterations=settings.updates_per_batch,
        )
        trainer = GRPOTrainer(
            model,
            TRLReward(reward),
            args=config,
            processing_class=tokenizer,
            train_dataset=task.training_rows(held_out),
        )
        trainer.train()
    training = [entry["reward"] for entry in trainer.state.log_history if "reward" in entry]
    after = mean_rewards(model, tokenizer, reward, samples, settings)
    seconds = time.monotonic() - start
    logger.info(
        "seed %d: %.4f before, %.4f after, %.0f s", seed, np.mean(before), np.mean(after), seconds
    )
    return Run(seed, training, before, after, seconds)


def serve(task: Task, where: str) -> None:
    """Start the service in this process, or on Ray, which is started if it does not run."""
    encoder = rk.Encoder("minilm", device="cpu")
    index = cached_index(task.name, task.items, encoder)
    if where == "local":
        rk.LocalRetrievalService({task.name: index}, encoder).register()
        return
    import ray

    if "RAY_ADDRESS" not in os.environ and not ray.is_initialized():
        ray.init(address="local", include_dashboard=False, log_to_driver=False)
    path = cache_dir() / "index" / f"{task.name}.safetensors"
    rk.start_service({task.name: path})


def interval(values: Sequence[float]) -> float:
    """Half the width of the 95 % interval of a mean."""
    return 1.96 * float(np.std(values, ddof=1)) / len(values) ** 0.5 if len(values) > 1 else 0.0


def draw(runs: Sequence[Run], reward_type: str, path: Path) -> None:
    """Plot training rewards per batch, and held-out users' mean rewards before and after."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4))
    for run in runs:
        window = min(10, len(run.training))
        smooth = np.convolve(run.training, np.ones(window) / window, "valid")
        left.plot(np.arange(len(smooth)) + window, smooth, label=f"seed {run.seed}")
        means = [np.mean(run.before), np.mean(run.after)]
        errors = [interval(run.before), interval(run.after)]
        right.errorbar([0, 1], means, errors, marker="o", capsize=4, label=f"seed {run.seed}")
    left.set(
        xlabel="batch of texts", ylabel=f"{reward_type}, mean of 10 batches", title="Training users"
    )
    rise = np.concatenate([np.subtract(run.after, run.before) for run in runs])
    right.set(
        xticks=[0, 1],
        xticklabels=["before GRPO", "after"],
        xlim=(-0.3, 1.3),
        ylabel=f"{reward_type}, mean and 95 % interval",
        title=f"Held-out users: {rise.mean():+.3f} ± {interval(rise):.3f}",
    )
    right.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)


def main(arguments: Sequence[str] | None = None) -> list[Run]:
    """Run all seeds; write ``grpo.json`` and ``grpo.png``."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=Path, default=Path(".cache/ml-100k"), help="a directory")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="one run per seed")
    parser.add_argument(
        "--service",
        choices=["ray", "local"],
        default="ray",
        help="where to rank: in an actor on Ray, or in this process",
    )
    parser.add_argument(
        "--threads",
        type=int,
        default=1,
        help="of torch; more are hardly faster for so small a model",
    )
    parser.add_argument("--out", type=Path, default=Path("grpo_out"), help="a directory")
    for name, value in asdict(Settings()).items():
        option = "--" + name.replace("_", "-")
        parser.add_argument(option, type=type(value), default=value, help=f"default {value}")
    options = parser.parse_args(arguments)
    settings = Settings(**{name: getattr(options, name) for name in asdict(Settings())})
    torch.set_num_threads(options.threads)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    for noisy in ("httpx", "sentence_transformers", "datasets"):
        logging.getLogger(noisy).setLevel(logging.WARNING)

    task = Task(options.data.resolve(), settings)
    serve(task, options.service)
    reward = rk.RecReward(dataset_name=task.name, reward_type=settings.reward_type)
    runs = [run_seed(task, reward, settings, seed) for seed in options.seeds]

    options.out.mkdir(parents=True, exist_ok=True)
    content = {"settings": asdict(settings), "runs": [asdict(run) for run in runs]}
    (options.out / "grpo.json").write_text(json.dumps(content))
    draw(runs, settings.reward_type, options.out / "grpo.png")
    for run in runs:
        rise = np.subtract(run.after, run.before)
        print(
            f"seed {run.seed}: held-out {settings.reward_type} {np.mean(run.before):.4f} -> "
            f"{np.mean(run.after):.4f}, rise {np.mean(rise):+.4f} ± {interval(rise):.4f}, "
            f"{len(rise)} users, {run.seconds:.0f} s"
        )
    return runs


if __name__ == "__main__":
    main()
