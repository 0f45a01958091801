"""A service's load as Ray's metrics, which Ray offers to Prometheus."""

import asyncio
from collections.abc import Callable
from typing import Any

from rl4rec_kernels._utils.imports import require

_EVERY_S = 1.0

_COUNTERS = {
    "calls": "Calls so far",
    "errors": "Calls that ended in an error",
    "texts": "Texts of the calls so far",
    "texts_encoded": "Texts encoded: neither remembered nor doubled",
}
_GAUGES = {
    "texts_in_work": "Texts that are worked on or queued",
    "calls_in_line": "Calls that wait to get in",
    "texts_per_encoding": "Texts encoded at once, mean",
    "calls_per_ranking": "Calls ranked at once, mean",
    "texts_remembered_share": "Share of texts whose encoding was remembered",
    "cache_mib": "Memory of the remembered encodings",
}


class PrometheusMetrics:
    """Publishes a service's load once a second, so that a call pays nothing for it.

    Parameters
    ----------
    load : callable
        Returns the load, see `BatchingService.load`.
    service : str
        The tag by which the metrics of several services and replicas are told apart.
    """

    def __init__(self, load: Callable[[], dict[str, Any]], service: str) -> None:
        metrics = require("ray.util.metrics", "ray")
        self._load = load
        self._counters = {
            name: metrics.Counter(f"rl4rec_{name}", description=text, tag_keys=("service",))
            for name, text in _COUNTERS.items()
        }
        self._gauges = {
            name: metrics.Gauge(f"rl4rec_{name}", description=text, tag_keys=("service",))
            for name, text in _GAUGES.items()
        }
        self._latency = metrics.Gauge(
            "rl4rec_latency_ms",
            description="Time of the latest calls",
            tag_keys=("service", "quantile"),
        )
        for metric in (*self._counters.values(), *self._gauges.values(), self._latency):
            metric.set_default_tags({"service": service})
        self._published = dict.fromkeys(_COUNTERS, 0)
        self._task: asyncio.Task[None] | None = None

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Publish from now on."""
        self._task = loop.create_task(self._run())

    async def _run(self) -> None:
        while True:
            self.publish()
            await asyncio.sleep(_EVERY_S)

    def publish(self) -> None:
        """Publish the load as it is now."""
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
