"""A report as JUnit XML, which CI systems read."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from xml.etree.ElementTree import Element, SubElement, indent, tostring

if TYPE_CHECKING:
    from airside.testing.conformance.report import Report, Result

_UNPRINTABLE = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")  # XML has no way to write these


def render(report: Report) -> str:
    """One `testsuite` for each wire family, one `testcase` for each case."""
    root = Element("testsuites", {"name": "airside check", **_counts(report.results)})
    for wire in dict.fromkeys(result.wire for result in report.results):
        results = tuple(result for result in report.results if result.wire == wire)
        suite = SubElement(root, "testsuite", {"name": _plain(f"{report.target} {wire}"), **_counts(results)})
        for result in results:
            _add(suite, result)
    indent(root)
    return tostring(root, encoding="unicode", xml_declaration=True) + "\n"


def _add(suite: Element, result: Result) -> None:
    case = SubElement(
        suite,
        "testcase",
        classname=f"conformance.{result.wire}.{result.group}",
        name=_plain(f"{result.case} {result.rule}"),
        time=f"{result.seconds:.3f}",
    )
    match result.status:
        case "failed":
            SubElement(case, "failure", message=_plain(result.why)).text = _plain("\n".join(map(str, result.exchanges)))
        case "skipped":
            SubElement(case, "skipped", message=_plain(result.why))


def _counts(results: tuple[Result, ...]) -> dict[str, str]:
    return {
        "tests": str(len(results)),
        "failures": str(sum(result.status == "failed" for result in results)),
        "errors": "0",
        "skipped": str(sum(result.status == "skipped" for result in results)),
        "time": f"{sum(result.seconds for result in results):.3f}",
    }


def _plain(text: str) -> str:
    return _UNPRINTABLE.sub("\N{REPLACEMENT CHARACTER}", text)
