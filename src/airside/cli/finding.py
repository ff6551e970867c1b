"""What `airside doctor` found: one line for each thing that it looked at."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeVar

from airside.model.redaction import redact
from airside.sdk.discovery import explain

Status = Literal["ok", "warning", "problem"]
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Finding:
    """What was looked at, what was found, and what to do about it; `do` is empty if there is nothing to do."""

    status: Status
    what: str
    found: str
    do: str = ""

    def __str__(self) -> str:
        line = f"{self.status:<8} {self.what}: {self.found}"
        return f"{line.rstrip('.')}. {self.do}" if self.do else line


class Findings(list[Finding]):
    """The findings so far.

    >>> findings = Findings()
    >>> findings.problem("port", "taken", "Choose another.")
    >>> print(findings[0])
    problem  port: taken. Choose another.
    """

    def ok(self, what: str, found: str) -> None:
        """Nothing is wrong with it."""
        self.add("ok", what, found, "")

    def warning(self, what: str, found: str, do: str = "") -> None:
        """It works, and may surprise."""
        self.add("warning", what, found, do)

    def problem(self, what: str, found: str, do: str) -> None:
        """It does not work; `do` is one sentence."""
        self.add("problem", what, found, do)

    def attempt(self, what: str, do: str, work: Callable[[], T], status: Status = "problem") -> T | None:
        """What `work` returns; None, and a finding of this status, if it raises."""
        try:
            return work()
        except Exception as exc:  # noqa: BLE001 - whatever it raises is what was found
            self.add(status, what, explain(exc), do)
        return None

    def add(self, status: Status, what: str, found: str, do: str = "") -> None:
        """One more, without secrets, on one line."""
        self.append(Finding(status, *(redact(" ".join(text.split())) for text in (what, found, do))))
