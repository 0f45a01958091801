"""Retrieval: encoder, item index, and the services that score texts against items."""

from rl4rec_kernels.retrieval.actor import RetrievalService
from rl4rec_kernels.retrieval.client import RetrievalClient, ServiceUnavailableError
from rl4rec_kernels.retrieval.coalescer import ServiceOverloadedError
from rl4rec_kernels.retrieval.encoder import Encoder
from rl4rec_kernels.retrieval.item_index import ItemIndex
from rl4rec_kernels.retrieval.service import LocalRetrievalService, find_service
from rl4rec_kernels.retrieval.start import start_service, stop_service

__all__ = [
    "Encoder",
    "ItemIndex",
    "LocalRetrievalService",
    "RetrievalClient",
    "RetrievalService",
    "ServiceOverloadedError",
    "ServiceUnavailableError",
    "find_service",
    "start_service",
    "stop_service",
]
