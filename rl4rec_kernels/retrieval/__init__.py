"""Retrieval: encoder, item index, and the service that scores texts against items."""

from rl4rec_kernels.retrieval.encoder import Encoder
from rl4rec_kernels.retrieval.item_index import ItemIndex
from rl4rec_kernels.retrieval.service import LocalRetrievalService, find_service

__all__ = ["Encoder", "ItemIndex", "LocalRetrievalService", "find_service"]
