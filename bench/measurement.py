"""One measured comparison: the samples of both sides, their ratio, and whether it keeps its bound."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import median


@dataclass(frozen=True, slots=True)
class Bound:
    """How the ratio ours / theirs must lie: at most `limit`, or at least."""

    limit: float
    least: bool = False

    def holds(self, ratio: float) -> bool:
        return ratio >= self.limit if self.least else ratio <= self.limit

    def __str__(self) -> str:
        return f"{'≥' if self.least else '≤'} {self.limit:g}"


@dataclass(frozen=True, slots=True)
class Measurement:
    """Samples of ours and of a rival, taken in turns. The ratio is the median over the turns, which cancels drift.

    With `best` it is the ratio of the smallest samples instead: right for cold starts, where all noise adds time.
    Without a bound it is told for information.
    """

    figure: str
    what: str
    rival: str
    unit: str
    ours: Sequence[float]
    theirs: Sequence[float]
    bound: Bound | None
    best: bool = False

    @property
    def ratios(self) -> list[float]:
        return sorted(our / their for our, their in zip(self.ours, self.theirs, strict=True))

    @property
    def ratio(self) -> float:
        return min(self.ours) / min(self.theirs) if self.best else median(self.ratios)

    @property
    def passed(self) -> bool:
        return self.bound is None or self.bound.holds(self.ratio)

    def typical(self, samples: Sequence[float]) -> float:
        return min(samples) if self.best else median(samples)


def in_turns(rounds: int, sides: Mapping[str, Callable[[], float]]) -> dict[str, list[float]]:
    """Samples of every side, one each per round, the order turned round by round (A B, B A, A B, …)."""
    samples: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(rounds):
        for name in _turned(list(sides), number):
            samples[name].append(sides[name]())
    return samples


def _turned(names: list[str], number: int) -> Iterator[str]:
    return iter(names if number % 2 == 0 else reversed(names))
