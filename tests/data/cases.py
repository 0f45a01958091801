"""Small datasets that the data tests write to disk."""

import json
from pathlib import Path
from typing import Any

from rl4rec_kernels.data import PromptGenerator, RecommendationDataset, load_item_metadata

SEQUENCES = "1 3 1 2 4 5\n2 5 4 3 2\n7 1 2 3 4 5 6\n"
ITEMS: dict[str, dict[str, Any]] = {
    "1": {"title": "Soap {mild}", "brand": "Acme", "category": "Bath, Soap"},
    "2": {"title": "100% Oil", "category": "Hair"},
    "3": {"brand": "Acme"},
    "4": {"title": "Comb", "brand": None, "price": 2.5},
    "5": {"title": "Brush\nred"},
    "6": {"title": "Towel"},
    "7": {"title": "Cap"},
    "8": {"title": "Bag"},
    "9": {"title": "Box"},
}
INTER = (
    "user_id:token\titem_id:token\trating:float\ttimestamp:float\n"
    "ann\tx\t1\t30\nbob\ty\t2\t5\nann\ty\t3\t10\nann\tz\t4\t20\nbob\tz\t5\t5\nann\tw\t5\t30\n"
    "bob\tx\t3\t4\n"
)
ITEM = (
    "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq\n"
    "x\tX Men\t2000\tAction Drama\nz\tZulu\tunkonwn\t\ny\tYes\t1999\tComedy\n"
    "v\tVertigo\t1958\tDrama\nw\tWest\t1961\tMusical\n"
)


def write(root: Path, name: str = "tiny", **files: str | bytes) -> Path:
    """Write files (``__`` in a keyword is a dot) into ``root/name`` and return `root`."""
    directory = root / name
    directory.mkdir(exist_ok=True)
    for key, content in files.items():
        path = directory / key.replace("__", ".")
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return root


def write_tiny(root: Path, sequences: str = SEQUENCES, items: Any = None) -> Path:
    return write(
        root,
        sequential_data__txt=sequences,
        item_metadata__json=json.dumps(ITEMS if items is None else items),
    )


def dataset(root: Path, split: str = "train", name: str = "tiny", **options: Any):
    metadata = load_item_metadata(name, root)
    return RecommendationDataset(
        data_name=name,
        item_metadata=metadata,
        prompt_generator=PromptGenerator(item_metadata=metadata),
        split=split,
        data_dir=root,
        **options,
    )
