"""Prometheus metrics, under the names of Flyte's own connector service where it has them."""

from __future__ import annotations

from airside.model import MissingExtra
from airside.observe.events import Event, What

_MAX_TYPES = 256  # series for more task types than that are kept under "other"
_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


class Metrics:
    """A hook that counts events. `render` gives the text that Prometheus scrapes.

    Raises `MissingExtra` without the extra `metrics`.
    """

    def __init__(self) -> None:
        try:
            import prometheus_client as prometheus
        except ImportError:
            raise MissingExtra("metrics", "The page /metrics") from None
        self._render = prometheus.generate_latest
        self._registry = prometheus.CollectorRegistry()
        labels = ("task_type", "operation")
        self._successes = prometheus.Counter(
            "flyte_connector_requests_success", "Calls answered.", labels, registry=self._registry
        )
        self._failures = prometheus.Counter(
            "flyte_connector_requests_failure", "Calls refused.", (*labels, "error_code"), registry=self._registry
        )
        self._latency = prometheus.Histogram(
            "flyte_connector_request_latency_seconds",
            "How long calls took.",
            labels,
            buckets=_BUCKETS,
            registry=self._registry,
        )
        self._inputs = prometheus.Summary(
            "flyte_connector_input_literal_bytes", "Size of create requests.", ("task_type",), registry=self._registry
        )
        self._backend = prometheus.Histogram(
            "airside_backend_latency_seconds",
            "How long agents took to say how a job is.",
            ("task_type",),
            buckets=_BUCKETS,
            registry=self._registry,
        )
        self._decisions = prometheus.Counter(
            "airside_decisions", "What the service decided.", ("task_type", "decision"), registry=self._registry
        )
        self._lag = prometheus.Histogram(
            "airside_loop_lag_seconds",
            "The longest that the event loop made others wait, each second.",
            buckets=_BUCKETS,
            registry=self._registry,
        )
        self._types: set[str] = set()

    def __call__(self, event: Event) -> None:
        """Count one event."""
        kind = self._bounded(event.task_type)
        match event.what:
            case What.CALL if not event.code:
                self._successes.labels(kind, event.operation).inc()
                self._latency.labels(kind, event.operation).observe(event.seconds)
                if event.operation == "create":
                    self._inputs.labels(kind).observe(event.size)
            case What.CALL:
                self._failures.labels(kind, event.operation, event.code).inc()
            case What.REFRESH:
                self._backend.labels(kind).observe(event.seconds)
            case What.LOOP_LAG:
                self._lag.observe(event.seconds)
            case _:
                self._decisions.labels(kind, event.what.value).inc()

    def render(self) -> bytes:
        """Every metric, as Prometheus reads it."""
        return self._render(self._registry)

    def _bounded(self, task_type: str) -> str:
        if task_type in self._types:
            return task_type
        if len(self._types) >= _MAX_TYPES:
            return "other"
        self._types.add(task_type)
        return task_type
