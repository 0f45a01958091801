"""Item embeddings: the encoder, the index of a data set's items, and its files."""

from rl4rec_kernels.index.encoder import Encoder
from rl4rec_kernels.index.item_index import ItemIndex

__all__ = ["Encoder", "ItemIndex"]
