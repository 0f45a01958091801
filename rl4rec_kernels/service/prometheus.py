"""A service's load as Ray metrics, which Ray exports to Prometheus."""

import asyncio
from collections.abc import Callable
from typing import Any

from rl4rec_kernels._utils.imports import require

_EVERY_S = 1.0

_COUNTERS = {
    "calls": "Calls",
    "errors": "Calls that ended in an error",
    "texts": "Texts in calls",
    "encoded_texts": "Texts encoded, without those cached or shared by concurrent calls",
}
_GAUGES = {
    "inflight_texts": "Texts being processed",
    "queued_calls": "Calls waiting in the admission queue",
    "encode_batch_size": "Mean texts per encoding batch",
    "rank_batch_size": "Mean texts per ranking batch",
    "cache_hit_ratio": "Share of texts whose encoding was cached",
    "cache_mib": "Memory of the cached encodings in MiB",
}


class PrometheusMetrics:
    """Publishes a service's load once per second, so that calls do not pay for it.

    Parameters
    ----------
    load : callable
        Returns the load, see `BatchingService.load`.
    service : str
        Tag that tells the metrics of several services and replicas apart.
    """

    def __init__(self, load: Callable[[], dict[str, Any]], service: str) -> None:
        metrics = require("ray.util.metrics", "ray")

        def make(kind: Any, name: str, description: str, *tags: str) -> Any:
            metric = kind(f"rl4rec_{name}", description, tag_keys=("service", *tags))
            metric.set_default_tags({"service": service})
            return metric

        self._load = load
        self._counters = {name: make(metrics.Counter, name, _COUNTERS[name]) for name in _COUNTERS}
        self._gauges = {name: make(metrics.Gauge, name, _GAUGES[name]) for name in _GAUGES}
        self._latency = make(metrics.Gauge, "latency_ms", "Latency of the latest calls", "quantile")
        self._published = dict.fromkeys(_COUNTERS, 0)

    async def run(self) -> None:
        """Publish the load from now on."""
        while True:
            self.publish()
            await asyncio.sleep(_EVERY_S)

    def publish(self) -> None:
        """Publish the current load."""
        load = self._load()
        for name, counter in self._counters.items():
            if more := load[name] - self._published[name]:
                counter.inc(more)
                self._published[name] = load[name]
        for name, gauge in self._gauges.items():
            gauge.set(load[name])
        for quantile, value in load["latency_ms"].items():
            if value is not None:
                self._latency.set(value, tags={"quantile": quantile})
