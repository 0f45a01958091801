"""The retrieval service, in this process or on Ray."""

from rl4rec_kernels.service.actor import RetrievalService
from rl4rec_kernels.service.base import RetrievalBackend
from rl4rec_kernels.service.batcher import ServiceOverloadedError
from rl4rec_kernels.service.calls import Ranked
from rl4rec_kernels.service.client import RetrievalClient, ServiceUnavailableError
from rl4rec_kernels.service.deploy import start_service, stop_service
from rl4rec_kernels.service.local import LocalRetrievalService, find_service

__all__ = [
    "LocalRetrievalService",
    "Ranked",
    "RetrievalBackend",
    "RetrievalClient",
    "RetrievalService",
    "ServiceOverloadedError",
    "ServiceUnavailableError",
    "find_service",
    "start_service",
    "stop_service",
]
