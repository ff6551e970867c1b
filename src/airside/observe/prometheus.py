"""Prometheus metrics, under the names of Flyte's own connector service where it has them."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Iterator
from importlib.util import find_spec
from itertools import accumulate
from typing import Any

from airside.model import MissingExtra
from airside.observe.events import Event, What

_MAX_TYPES = 256  # series for more task types than that are kept under "other"
_BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


class Tally:
    """How many, their sum, and how many up to each bound."""

    __slots__ = ("buckets", "count", "total")

    def __init__(self) -> None:
        self.count = 0
        self.total = 0.0
        self.buckets = [0] * (len(_BOUNDS) + 1)

    def add(self, seconds: float) -> None:
        self.count += 1
        self.total += seconds
        self.buckets[bisect_left(_BOUNDS, seconds)] += 1


class Metrics:
    """A hook that counts events. `render` gives the text that Prometheus scrapes.

    Every call is counted, and few are scraped: counting is a plain addition, and the library comes in for the scrape
    alone. Raises `MissingExtra` without the extra `metrics`.
    """

    def __init__(self) -> None:
        if find_spec("prometheus_client") is None:
            raise MissingExtra("metrics", "The page /metrics")
        self._answers: defaultdict[tuple[str, str], Tally] = defaultdict(Tally)
        self._refusals: Counter[tuple[str, str, str]] = Counter()
        self._sizes: Counter[str] = Counter()
        self._backend: defaultdict[str, Tally] = defaultdict(Tally)
        self._decisions: Counter[tuple[str, str]] = Counter()
        self._lag = Tally()
        self._types: set[str] = set()

    def __call__(self, event: Event) -> None:
        """Count one event."""
        kind = self._bounded(event.task_type)
        if event.what is What.CALL and not event.code:
            self._answers[kind, event.operation].add(event.seconds)
            if event.operation == "create":
                self._sizes[kind] += event.size
        elif event.what is What.CALL:
            self._refusals[kind, event.operation, event.code] += 1
        elif event.what is What.REFRESH:
            self._backend[kind].add(event.seconds)
        elif event.what is What.LOOP_LAG:
            self._lag.add(event.seconds)
        else:
            self._decisions[kind, event.what.value] += 1

    def render(self) -> bytes:
        """Every metric, as Prometheus reads it."""
        from prometheus_client import generate_latest

        return generate_latest(self)

    def collect(self) -> Iterator[Any]:
        """The families of series, for the library's exposition."""
        from prometheus_client import core

        labels = ("task_type", "operation")
        successes = core.CounterMetricFamily("flyte_connector_requests_success", "Calls answered.", labels=labels)
        latency = core.HistogramMetricFamily(
            "flyte_connector_request_latency_seconds", "How long calls took.", labels=labels
        )
        inputs = core.SummaryMetricFamily(
            "flyte_connector_input_literal_bytes", "Size of create requests.", labels=("task_type",)
        )
        for series, tally in self._answers.items():
            successes.add_metric(series, tally.count)
            latency.add_metric(series, _buckets(tally), tally.total)
            if series[1] == "create":
                inputs.add_metric(series[:1], tally.count, self._sizes[series[0]])
        failures = core.CounterMetricFamily(
            "flyte_connector_requests_failure", "Calls refused.", labels=(*labels, "error_code")
        )
        for refusal, count in self._refusals.items():
            failures.add_metric(refusal, count)
        backend = core.HistogramMetricFamily(
            "airside_backend_latency_seconds", "How long agents took to say how a job is.", labels=("task_type",)
        )
        for kind, tally in self._backend.items():
            backend.add_metric((kind,), _buckets(tally), tally.total)
        decisions = core.CounterMetricFamily(
            "airside_decisions", "What the service decided.", labels=("task_type", "decision")
        )
        for decision, count in self._decisions.items():
            decisions.add_metric(decision, count)
        lag = core.HistogramMetricFamily(
            "airside_loop_lag_seconds", "The longest that the event loop made others wait, each second."
        )
        lag.add_metric((), _buckets(self._lag), self._lag.total)
        yield from (successes, failures, latency, inputs, backend, decisions, lag)

    def _bounded(self, task_type: str) -> str:
        if task_type in self._types:
            return task_type
        if len(self._types) >= _MAX_TYPES:
            return "other"
        self._types.add(task_type)
        return task_type


def _buckets(tally: Tally) -> list[tuple[str, float]]:
    """The counts up to each bound, as Prometheus wants them: cumulative."""
    names = (*map(str, _BOUNDS), "+Inf")
    return list(zip(names, accumulate(tally.buckets), strict=True))
