"""Write the training and validation samples of a data set in a trainer's columns.

python examples/export_data.py beauty verl data/beauty_verl
"""

import argparse
from pathlib import Path

import rl4rec_kernels as rk
from rl4rec_kernels.adapters import TRAINERS

parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
parser.add_argument("dataset", help="name of the data set in $RL4REC_DATA")
parser.add_argument("trainer", choices=TRAINERS)
parser.add_argument("out", type=Path, help="a directory")
parser.add_argument("--ending", choices=(".parquet", ".jsonl"), default=".parquet")
parser.add_argument("--num-negs", type=int, default=99, help="0: rank among all items")
options = parser.parse_args()

items = rk.load_item_metadata(options.dataset)
prompts = rk.PromptGenerator(items)
for split in ("train", "valid"):
    samples = rk.RecommendationDataset(
        options.dataset, items, prompts, split, num_negs=options.num_negs, num_items=max(items) + 1
    )
    path = options.out / f"{split}{options.ending}"
    rk.export_dataset(samples, options.trainer, path)
    print(f"{len(samples)} samples in {path}")
