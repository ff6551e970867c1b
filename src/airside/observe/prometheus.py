"""Prometheus metrics, under the names of Flyte's own connector service where it has them."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from importlib.util import find_spec
from itertools import accumulate
from typing import Any, Literal, NamedTuple

from airside.model import MissingExtra
from airside.observe.events import Event, What
from airside.observe.readings import Gauge, Reading

_MAX_TYPES = 256  # series for more task types than that are kept under "other"
_LATENCIES = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_AGES = (0.1, 0.5, 1.0, 2.0, 5.0, 10.0, 15.0, 30.0, 60.0, 120.0, 300.0, 900.0)
_SIZES = (1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0)

Labels = tuple[str, ...]

_CALL, _BACKEND = What.CALL, What.BACKEND  # looking a member up takes longer than counting


class Metric(NamedTuple):
    """One metric: its name as Prometheus stores it, its type, its labels, and what it tells."""

    name: str
    kind: Literal["counter", "histogram", "summary", "gauge"]
    labels: Labels
    text: str


SUCCESSES = Metric("flyte_connector_requests_success_total", "counter", ("task_type", "operation"), "Calls answered.")
FAILURES = Metric(
    "flyte_connector_requests_failure_total", "counter", ("task_type", "operation", "error_code"), "Calls refused."
)
LATENCY = Metric(
    "flyte_connector_request_latency_seconds", "histogram", ("task_type", "operation"), "How long answered calls took."
)
INPUTS = Metric("flyte_connector_input_literal_bytes", "summary", ("task_type",), "Size of create requests.")
AGE = Metric("airside_answer_age_seconds", "histogram", ("task_type",), "How old GetTask's answers were.")
BACKEND = Metric(
    "airside_backend_latency_seconds", "histogram", ("task_type", "operation"), "How long calls of agents took."
)
BACKEND_ERRORS = Metric(
    "airside_backend_errors_total", "counter", ("task_type", "operation", "error"), "Calls of agents that failed."
)
BATCH = Metric("airside_batch_size", "histogram", ("task_type",), "How many jobs one call of get_many was for.")
DECISIONS = Metric("airside_decisions_total", "counter", ("task_type", "decision"), "What the service decided.")
LAG = Metric("airside_loop_lag_seconds", "histogram", (), "The longest that the loop made others wait, each second.")
_GAUGES = tuple(Metric(gauge.value, "gauge", gauge.labels, gauge.text) for gauge in Gauge)

METRICS: tuple[Metric, ...] = (
    *(SUCCESSES, FAILURES, LATENCY, INPUTS),
    *(AGE, BACKEND, BACKEND_ERRORS, BATCH, DECISIONS, LAG),
    *_GAUGES,
)
"""Every metric that the page /metrics shows."""


class Tally:
    """How many, their sum, and how many up to each bound."""

    __slots__ = ("bounds", "buckets", "count", "total")

    def __init__(self, bounds: Sequence[float] = _LATENCIES) -> None:
        self.bounds = bounds
        self.count = 0
        self.total = 0.0
        self.buckets = [0] * (len(bounds) + 1)

    def add(self, value: float) -> None:
        """Count one."""
        self.count += 1
        self.total += value
        self.buckets[bisect_left(self.bounds, value)] += 1

    def cumulative(self) -> list[tuple[str, float]]:
        """The counts up to each bound, as Prometheus wants them."""
        return list(zip((*map(str, self.bounds), "+Inf"), accumulate(self.buckets), strict=True))


class Metrics:
    """A hook that counts events. `render` gives the text that Prometheus scrapes.

    Every call is counted, and few are scraped: counting is a plain addition, and the library comes in for the scrape
    alone. Raises `MissingExtra` without the extra `metrics`.
    """

    def __init__(self) -> None:
        if find_spec("prometheus_client") is None:
            raise MissingExtra("metrics", "The page /metrics")
        self._answers: defaultdict[Labels, Tally] = defaultdict(Tally)
        self._refusals: Counter[Labels] = Counter()
        self._sizes: Counter[str] = Counter()
        self._ages: defaultdict[Labels, Tally] = defaultdict(lambda: Tally(_AGES))
        self._backend: defaultdict[Labels, Tally] = defaultdict(Tally)
        self._backend_errors: Counter[Labels] = Counter()
        self._batches: defaultdict[Labels, Tally] = defaultdict(lambda: Tally(_SIZES))
        self._decisions: Counter[Labels] = Counter()
        self._lag = Tally()
        self._types: set[str] = set()

    def __call__(self, event: Event) -> None:
        """Count one event."""
        what, kind = event.what, event.task_type
        if kind not in self._types:
            kind = self._bounded(kind)
        if what is _CALL:
            self._count_call(kind, event)
        elif what is _BACKEND:
            self._count_backend(kind, event)
        elif what is What.LOOP_LAG:
            self._lag.add(event.seconds)
        else:
            self._decisions[kind, what.value] += 1

    def _count_call(self, kind: str, event: Event) -> None:
        if event.code:
            self._refusals[kind, event.operation, event.code] += 1
            return
        self._answers[kind, event.operation].add(event.seconds)
        if event.operation == "create":
            self._sizes[kind] += event.size
        elif event.age is not None:
            self._ages[(kind,)].add(event.age)

    def _count_backend(self, kind: str, event: Event) -> None:
        self._backend[kind, event.operation].add(event.seconds)
        if event.code:
            self._backend_errors[kind, event.operation, event.code] += 1
        if event.operation == "get_many":
            self._batches[(kind,)].add(event.size)

    def render(self, readings: Iterable[Reading] = ()) -> bytes:
        """Every metric, as Prometheus reads it; `readings` say how things stand right now."""
        from prometheus_client import generate_latest

        return generate_latest(_Page([*self._counted(), *_read(readings)]))

    def _counted(self) -> Iterator[Any]:
        inputs = {
            labels[:1]: (tally.count, self._sizes[labels[0]])
            for labels, tally in self._answers.items()
            if labels[1] == "create"
        }
        yield _counter(SUCCESSES, {labels: tally.count for labels, tally in self._answers.items()})
        yield _counter(FAILURES, self._refusals)
        yield _histogram(LATENCY, self._answers)
        yield _family(INPUTS, inputs)
        yield _histogram(AGE, self._ages)
        yield _histogram(BACKEND, self._backend)
        yield _counter(BACKEND_ERRORS, self._backend_errors)
        yield _histogram(BATCH, self._batches)
        yield _counter(DECISIONS, self._decisions)
        yield _histogram(LAG, {(): self._lag})

    def _bounded(self, task_type: str) -> str:
        if len(self._types) >= _MAX_TYPES:
            return "other"
        self._types.add(task_type)
        return task_type


class _Page:
    """Families of series for the library's exposition."""

    def __init__(self, families: Sequence[Any]) -> None:
        self._families = families

    def collect(self) -> Sequence[Any]:
        return self._families


def _read(readings: Iterable[Reading]) -> Iterator[Any]:
    by_gauge: dict[str, dict[Labels, tuple[float]]] = {metric.name: {} for metric in _GAUGES}
    for reading in readings:
        by_gauge[reading.gauge][reading.labels] = (reading.value,)
    for metric in _GAUGES:
        yield _family(metric, by_gauge[metric.name])


def _counter(metric: Metric, counts: dict[Labels, int]) -> Any:
    return _family(metric, {labels: (count,) for labels, count in counts.items()})


def _histogram(metric: Metric, tallies: dict[Labels, Tally]) -> Any:
    return _family(metric, {labels: (tally.cumulative(), tally.total) for labels, tally in tallies.items()})


def _family(metric: Metric, series: dict[Labels, tuple[Any, ...]]) -> Any:
    """The library's family of a metric; each of its series has what the library wants for the type."""
    from prometheus_client import core

    make = {
        "counter": core.CounterMetricFamily,
        "histogram": core.HistogramMetricFamily,
        "summary": core.SummaryMetricFamily,
        "gauge": core.GaugeMetricFamily,
    }[metric.kind]
    family = make(metric.name.removesuffix("_total"), metric.text, labels=metric.labels)
    for labels, values in series.items():
        family.add_metric(labels, *values)
    return family
