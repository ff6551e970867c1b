"""The pages in `docs/conformance`: what came out, service by service, and who notices what failed."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

from airside.testing import Report, Result, Status
from conformance.services import ROOT, Service

DOCS = ROOT / "docs" / "conformance"
_MARKS = {Status.PASSED: "passed", Status.FAILED: "**failed**", Status.SKIPPED: "skipped"}
_GENERATIONS = {"v1": "Flyte 1", "v2": "Flyte 2"}

WHO_NOTICES = {
    "S06": "Nobody today: no open-source engine asks for one agent by name.",
    "S13": "Whoever pays for the jobs: an engine that crashes between the answer and its save creates once more, "
    "and two jobs run for one attempt. An agent can prevent it by a name of the job made from `output_prefix`.",
    "S15": "Tasks whose inputs are larger than 4 MiB: engines send up to 10 MiB, and the attempt fails.",
    "S28": "People who read errors: engines decide about retries by the phase alone.",
    "S36": "As S13, when the answer was lost on its way.",
    "S39": "Nobody today: engines send the header first.",
    "S44": "Nobody today: no open-source engine asks for logs or metrics.",
    "S50": "Calls that last for minutes: Flyte 2's engine pings every 30 s, and the connection is closed as abused.",
}


def overview(judged: Mapping[Service, Report]) -> str:
    """The page about all services."""
    lines = [(ROOT / "conformance" / "overview.md").read_text().rstrip(), ""]
    lines += ["| service | generation | passed | failed | skipped |", "|---|---|---|---|---|"]
    for service, report in judged.items():
        for wire in service.wires:
            results = [result for result in report.results if result.wire == wire]
            counts = [str(sum(result.status is status for result in results)) for status in Status]
            title = f"[{service.title}]({service.name}.md)"
            lines.append(f"| {title} | {_GENERATIONS[wire]} | {' | '.join(counts)} |")
    failed = sorted({result.case for report in judged.values() for result in report.failed})
    rules = {result.case: result.rule for report in judged.values() for result in report.results}
    if failed:
        lines += ["", "## Who notices", "Not every failed case hurts somebody today:", ""]
        lines += ["| case | rule | failed by | who notices |", "|---|---|---|---|"]
        for case in failed:
            by = [service.title for service, report in judged.items() if any(one.case == case for one in report.failed)]
            lines.append(f"| {case} | {_cell(rules[case])} | {', '.join(by)} | {WHO_NOTICES.get(case, '')} |")
    return "\n".join(lines) + "\n"


def page(service: Service, report: Report) -> str:
    """The page about one service: every case, and what was said where one failed."""
    versions = ", ".join(f"{name} {version}" for name, version in service.versions().items())
    command = " ".join(service.command).format(port="PORT", metrics="PORT")
    lines = [
        f"# Conformance of {service.title}",
        "Made by `make conformance SLOW=1`; [what is tried, and how](README.md).",
        "",
        f"- Versions: {versions}",
        f"- Command: `{command}`",
        f"- Result: {report.summary()}",
        "",
        f"| case | rule | {' | '.join(_GENERATIONS[wire] for wire in service.wires)} |",
        f"|---|---|{'---|' * len(service.wires)}",
    ]
    for case in sorted({result.case for result in report.results}):
        found = {result.wire: result for result in report.results if result.case == case}
        rule = _cell(next(iter(found.values())).rule)
        cells = [_MARKS[found[wire].status] if wire in found else "" for wire in service.wires]
        lines.append(f"| {case} | {rule} | {' | '.join(cells)} |")
    lines += list(_failures(report.failed))
    skipped: dict[str, list[str]] = {}
    for result in report.results:
        if result.status is Status.SKIPPED:
            skipped.setdefault(result.why, []).append(result.case)
    if skipped:
        lines += ["", "## Skipped"]
        lines += [f"- {', '.join(sorted(set(cases)))}: {why}" for why, cases in skipped.items()]
    return "\n".join(lines) + "\n"


def _failures(results: Sequence[Result]) -> Iterator[str]:
    if results:
        yield from ("", "## Failed")
    for result in results:
        yield from (f"### {result.case}, {_GENERATIONS[result.wire]}", f"{_plain(result.rule)}: {_plain(result.why)}.")
        yield from ("", "```")
        for exchange in result.exchanges:
            yield from (
                exchange.method,
                f"  sent     {_plain(exchange.sent)}",
                f"  received {_plain(exchange.received)}",
            )
        yield from ("```", "")


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _plain(text: str) -> str:
    """Without what is different at every run, or on every machine."""
    text = " ".join(text.replace(f"{ROOT}/", "").split())
    return re.sub(r"\b[0-9a-f]{32}\b", "(id)", text)
