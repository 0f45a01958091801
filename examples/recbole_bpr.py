"""Train BPR with RecBole, and evaluate it by RecBole and by `rl4rec_kernels`.

    pip install --no-deps recbole==1.2.1 # its pins are old, see docs/peers.md
    pip install colorama colorlog pandas scipy tensorboard texttable
    python examples/recbole_bpr.py # MovieLens-100k, which RecBole's wheel contains
    python examples/recbole_bpr.py --data path/to/beauty --epochs 10

Both evaluate the same embeddings on the same test users, among all items ("full") and among 100
random items ("uni100"). The times are those of RecBole's `Trainer.evaluate` and of an `Evaluator`;
both include drawing the negatives.

Each draws its own 100 negatives, so their uni100 differs a little: by chance, and because RecBole
draws with replacement and counts an item once, so that a user of MovieLens-100k has about 97. With
RecBole's negatives, without copies, an `Evaluator` gives RecBole's values.
"""

import argparse
import contextlib
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

import rl4rec_kernels as rk
from rl4rec_kernels.evaluation import Evaluator

K = 10
# Large batches are RecBole's fastest; its default, 4,096, evaluates one user of Beauty at a time.
BATCH = {"full": 2**20, "uni100": 2**16}
METRICS = (f"ndcg@{K}", f"hit@{K}", f"mrr@{K}")
Values = dict[str, float]
SPLIT = {"split": {"LS": "valid_and_test"}, "order": "TO", "group_by": "user"}  # leave one out


def restore_names() -> None:
    """Give NumPy 2 the names that RecBole 1.2.1 reads."""
    for new, old in (("float64", "float_"), ("complex128", "complex_"), ("str_", "unicode_")):
        setattr(np, old, getattr(np, new))


def write_atomic_file(source: Path) -> None:
    """Write a data set as RecBole's ``<name>/<name>.inter``, with places in a history as times."""
    data = rk.read_interactions(source)
    folder = Path(source.name)
    folder.mkdir()
    with open(folder / f"{source.name}.inter", "w", encoding="utf-8") as file:
        file.write("user_id:token\titem_id:token\ttimestamp:float\n")
        for user, items in zip(data.user_ids, data.sequences.to_lists(), strict=True):
            file.writelines(f"{user}\t{item}\t{place}\n" for place, item in enumerate(items))


def recbole_config(name: str, mode: str, epochs: int) -> Any:
    """The configuration of a BPR, and of its evaluation."""
    from recbole.config import Config

    options = {
        "eval_args": {**SPLIT, "mode": {"valid": mode, "test": mode}},
        "load_col": {"inter": ["user_id", "item_id", "timestamp"]},
        "metrics": ["NDCG", "Hit", "MRR"],
        "topk": [K],
        "metric_decimal_place": 9,
        "epochs": epochs,
        "train_batch_size": 8192,
        "eval_batch_size": BATCH[mode],
        "learning_rate": 0.005,
        "use_gpu": False,
        "state": "ERROR",
    }
    if name != "ml-100k":
        options["data_path"] = str(Path.cwd())
    return Config(model="BPR", dataset=name, config_dict=options)


def train(name: str, epochs: int) -> tuple[Any, dict[str, tuple[Any, Any]]]:
    """Train a BPR. Returns it, and for each mode RecBole's trainer and its loader of test users."""
    from recbole.data import create_dataset, data_preparation
    from recbole.model.general_recommender import BPR
    from recbole.trainer import Trainer
    from recbole.utils import init_seed

    model, modes = None, {}
    for mode in ("full", "uni100"):
        config = recbole_config(name, mode, epochs)
        init_seed(config["seed"], config["reproducibility"])
        data, _, test = data_preparation(config, create_dataset(config))
        if model is None:
            model = BPR(config, data.dataset)
            Trainer(config, model).fit(data, saved=False)
        modes[mode] = Trainer(config, model), test
    return model.eval(), modes


class Ours:
    """An `Evaluator` for RecBole's test users, from the embeddings of its model."""

    def __init__(self, model: Any, test: Any) -> None:
        users = test.uid_list
        self.query = model.user_embedding.weight.detach()[users]
        self.table = model.item_embedding.weight.detach()
        self.targets = [test.uid2positive_item[user].item() for user in users]
        self.histories = [test.uid2history_item[user].numpy() for user in users]
        self.valid = (
            torch.arange(len(self.table), dtype=torch.int64, device="cpu") > 0
        )  # no padding

    def evaluate(self, **options: Any) -> Values:
        """Means over all users, among all items or among `negatives`."""
        evaluator = Evaluator(self.table, METRICS, valid=self.valid)
        evaluator.update(self.query, self.targets, **options)
        return evaluator.compute()

    def full(self) -> Values:
        """Evaluate as RecBole's ``full``."""
        return self.evaluate(exclude=self.histories)

    def uni100(self) -> Values:
        """Evaluate as RecBole's ``uni100``, with negatives of our own."""
        own = zip(self.histories, self.targets, strict=True)
        seen = [np.append(history, target) for history, target in own]
        return self.evaluate(negatives=rk.sample_negatives(len(self.table), seen, 100))


def negatives_of(test: Any) -> list[np.ndarray]:
    """The negatives that RecBole's loader draws in one pass, without copies."""
    drawn = []
    for items, row_of, _, targets in test:
        rows = items[test.dataset.iid_field].numpy()
        for user, target in enumerate(targets.tolist()):
            of_user = np.unique(rows[row_of.numpy() == user])
            drawn.append(of_user[of_user != target])
    return drawn


def timed(evaluate: Callable[[], Any]) -> tuple[Any, float]:
    """The result of a call, and the seconds that it took."""
    start = time.perf_counter()
    return evaluate(), time.perf_counter() - start


def compare(model: Any, modes: dict[str, tuple[Any, Any]]) -> dict[str, Values]:
    """Evaluate by both, print values and times, and return the values."""
    ours = Ours(model, modes["full"][1])
    ours.full()  # once, to start threads
    values = {}
    for mode, evaluate in (("full", ours.full), ("uni100", ours.uni100)):
        trainer, test = modes[mode]
        np.random.seed(0)  # RecBole draws with NumPy's generator
        found, slow = timed(partial(trainer.evaluate, test, load_best_model=False))
        values[f"{mode}, RecBole"] = {name: float(found[name]) for name in METRICS}
        values[f"{mode}, here"], fast = timed(evaluate)
        print(f"{mode}: RecBole {slow:.3f} s, here {fast:.3f} s, {slow / fast:.1f} times as fast")
    np.random.seed(0)  # so that RecBole draws the same once more
    negatives = negatives_of(modes["uni100"][1])
    values["uni100, RecBole's negatives, here"] = ours.evaluate(negatives=negatives)
    for name, row in values.items():
        print(f"{name:34}" + "".join(f"  {metric} {row[metric]:.6f}" for metric in METRICS))
    return values


@contextlib.contextmanager
def quiet_folder() -> Iterator[None]:
    """Work in a temporary folder, where RecBole writes logs, and hide the command line from it."""
    arguments, sys.argv = sys.argv, sys.argv[:1]
    try:
        with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
            yield
    finally:
        sys.argv = arguments


def main(arguments: Sequence[str] | None = None) -> dict[str, Values]:
    """Train, evaluate, and print."""
    parser = argparse.ArgumentParser(
        description=__doc__.partition("\n")[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--data", type=Path, default="ml-100k", help="the folder of a data set")
    parser.add_argument("--epochs", type=int, default=20)
    options = parser.parse_args(arguments)
    warnings.simplefilter("ignore")  # of RecBole, about newer releases of pandas and torch
    restore_names()
    source = options.data.absolute()
    with quiet_folder():
        if source.name != "ml-100k":
            write_atomic_file(source)
        model, modes = train(source.name, options.epochs)
        print(f"{len(modes['full'][1].uid_list):,} users, {model.n_items - 1:,} items")
        return compare(model, modes)


if __name__ == "__main__":
    main()
