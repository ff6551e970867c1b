"""What the conformance suite found: one result for each case and wire family."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from airside.testing.conformance import junit


class Status(StrEnum):
    """How a case ended."""

    PASSED = "passed"
    FAILED = "failed"
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True)
class Exchange:
    """One call of a case: what was sent and what came back, in words, long values shortened."""

    method: str
    sent: str
    received: str

    def __str__(self) -> str:
        return f"{self.method}\n      sent {self.sent}\n      received {self.received}"


@dataclass(frozen=True, slots=True)
class Result:
    """One case on one wire family. `why` says what was wrong, or why the case was skipped."""

    case: str
    wire: str
    group: str
    rule: str
    status: Status
    why: str = ""
    exchanges: tuple[Exchange, ...] = ()
    seconds: float = 0.0

    def __str__(self) -> str:
        line = f"{_MARK[self.status]} {self.case} [{self.wire}] {self.rule}"
        return f"{line}: {self.why}" if self.why else line


@dataclass(frozen=True, slots=True)
class Report:
    """The results of one run of the suite against one target.

    >>> passed = Result("S09", "v2", "create", "an unknown task type is NOT_FOUND", Status.PASSED)
    >>> report = Report("my_module:MyAgent", (passed,))
    >>> report.ok, report.exit_code
    (True, 0)
    >>> print(report)
    my_module:MyAgent
    ✓ S09 [v2] an unknown task type is NOT_FOUND
    1 passed, 0 failed, 0 skipped
    """

    target: str
    results: tuple[Result, ...]

    @property
    def ok(self) -> bool:
        """True if no case failed."""
        return not self.failed

    @property
    def exit_code(self) -> int:
        """0 if no case failed, else 1."""
        return 0 if self.ok else 1

    @property
    def failed(self) -> tuple[Result, ...]:
        """The results of the cases that failed."""
        return tuple(result for result in self.results if result.status is Status.FAILED)

    def summary(self) -> str:
        """How many cases passed, failed and were skipped, in one line."""
        counts = Counter(result.status for result in self.results)
        return ", ".join(f"{counts[status]} {status}" for status in Status)

    def to_json(self) -> str:
        """The whole report as JSON."""
        data: dict[str, Any] = asdict(self)
        return json.dumps({"ok": self.ok, "summary": self.summary(), **data}, indent=2)

    def to_junit(self) -> str:
        """The report as JUnit XML: a suite for each wire family, the exchanges of a failed case in its text."""
        return junit.render(self)

    def __str__(self) -> str:
        """What passed and failed, a line each, then what was skipped, a line for each reason."""
        lines = [self.target]
        skipped: dict[tuple[str, str], list[str]] = {}
        for result in self.results:
            if result.status is Status.SKIPPED:
                skipped.setdefault((result.wire, result.why), []).append(result.case)
                continue
            lines.append(str(result))
            if result.status is Status.FAILED:
                lines += [f"    {exchange}" for exchange in result.exchanges]
        for (wire, why), numbers in skipped.items():
            lines.append(f"{_MARK[Status.SKIPPED]} {' '.join(numbers)} [{wire}] skipped: {why}")
        return "\n".join([*lines, self.summary()])


_MARK = {Status.PASSED: "✓", Status.FAILED: "✗", Status.SKIPPED: "·"}
