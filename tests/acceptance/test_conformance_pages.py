"""The published report on Airside is that of Airside as it is: every case passes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from airside.testing import Status

ROOT = Path(__file__).parents[2]
# Neither agents with logs or metrics, nor five minutes of pings, are in the published check.
SKIPPED = {("S43", "v1"), ("S43", "v2"), ("S45", "v1"), ("S45", "v2"), ("S50", "v1"), ("S50", "v2")}


def rows(page: str) -> list[str]:
    return re.findall(r"^\| S\d\d .*$", page, re.MULTILINE)


def test_airside_passes_every_case_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT)
    from conformance.pages import DOCS, overview, page  # type: ignore[import-not-found]
    from conformance.services import AIRSIDE, judge  # type: ignore[import-not-found]

    report = judge(AIRSIDE)
    assert [str(result) for result in report.failed] == []
    assert {(one.case, one.wire) for one in report.results if one.status is Status.SKIPPED} == SKIPPED
    assert rows((DOCS / "airside.md").read_text()) == rows(page(AIRSIDE, report))
    counts = re.findall(r"^\| \[Airside\].*$", overview({AIRSIDE: report}), re.MULTILINE)
    assert len(counts) == 2
    assert set(counts) <= set((DOCS / "README.md").read_text().splitlines())
