"""The published report on Airside is that of Airside as it is: every case passes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from airside.testing import Status

ROOT = Path(__file__).parents[2]
# The agent has neither logs nor metrics. Five minutes of pings (S50) are published, but not repeated here.
SKIPPED = {(case, wire) for case in ("S43", "S45", "S50") for wire in ("v1", "v2")}


def rows(page: str) -> list[str]:
    return [row for row in re.findall(r"^\| S\d\d .*$", page, re.MULTILINE) if not row.startswith("| S50 ")]


def test_airside_passes_every_case_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT)
    from conformance.pages import DOCS, page  # type: ignore[import-not-found]  # a package beside this one
    from conformance.services import AIRSIDE, judge  # type: ignore[import-not-found]  # a package beside this one

    report = judge(AIRSIDE)
    assert [str(result) for result in report.failed] == []
    assert {(one.case, one.wire) for one in report.results if one.status is Status.SKIPPED} == SKIPPED
    assert rows((DOCS / "airside.md").read_text()) == rows(page(AIRSIDE, report))
    assert "**failed**" not in (DOCS / "airside.md").read_text()
    counts = re.findall(
        r"^\| \[Airside\].*\| (\d+) \| (\d+) \| (\d+) \|$", (DOCS / "README.md").read_text(), re.MULTILINE
    )
    passed = len(report.results) - len(SKIPPED) + 2  # S50, twice
    assert sum(int(one[0]) for one in counts) == passed
    assert [one[1:] for one in counts] == [("0", "2"), ("0", "2")]
