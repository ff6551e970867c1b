"""The services that are tried, each with the same agent, and how the suite tries them."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from airside import TaskTemplate, kwtypes
from airside.testing import Report, Result, check_endpoint
from airside.testing.client import Wire

ROOT = Path(__file__).parents[1]
AGENTS = Path(__file__).parent / "agents"

NAP = TaskTemplate(name="nap", task_type="nap", inputs=kwtypes(seconds=float, word=str), outputs=kwtypes(said=str))
WORD = TaskTemplate(name="word", task_type="word", inputs=kwtypes(word=str), outputs=kwtypes(said=str))
NAPPING = {"seconds": 1.0, "word": "mug"}
_SYNC_CASES = ("S03", "S37", "S38", "S40")  # the cases that only a sync agent can show


@dataclass(frozen=True, slots=True)
class Service:
    """A service: the environment it is installed in, its command (`{port}`, `{metrics}`), what it is made of."""

    name: str
    title: str
    environment: Path
    command: tuple[str, ...]
    packages: tuple[str, ...]
    wires: tuple[Wire, ...]
    has_sync: bool

    def versions(self) -> Mapping[str, str]:
        """The versions of its packages, and of its Python."""
        code = (
            "import json, platform, sys; from importlib.metadata import version; "
            "print(json.dumps({'Python': platform.python_version()} | {name: version(name) for name in sys.argv[1:]}))"
        )
        argv = [self.environment / "bin" / "python", "-c", code, *self.packages]
        found: dict[str, str] = json.loads(subprocess.run(argv, check=True, capture_output=True, text=True).stdout)
        return found


_PORT = ("--port", "{port}")
AIRSIDE = Service(
    "airside",
    "Airside",
    Path(sys.executable).parents[1],
    ("airside", "serve", "agent", *_PORT, "--metrics-port", "-1", "--drain-delay", "0", "--modules", "naps_airside"),
    ("airside", "grpcio", "flyteidl", "flyteidl2", "protobuf"),
    ("v1", "v2"),
    has_sync=True,
)
FLYTEKIT = Service(
    "flytekit",
    "flytekit",
    ROOT / ".venv-flytekit",
    ("pyflyte", "serve", "agent", *_PORT, "--prometheus_port", "{metrics}", "--modules", "naps_flytekit"),
    ("flytekit", "grpcio", "flyteidl", "protobuf"),
    ("v1",),
    has_sync=True,
)
FLYTE2 = Service(
    "flyte2",
    "Flyte 2's SDK",
    ROOT / ".venv-flyte2",
    ("c0", *_PORT, "--prometheus_port", "{metrics}", "--modules", "naps_flyte2"),
    ("flyte", "grpcio", "flyteidl2", "protobuf"),
    ("v2",),
    has_sync=False,
)
SERVICES = (AIRSIDE, FLYTEKIT, FLYTE2)


def judge(service: Service, *, slow: bool = False) -> Report:
    """The report on a service, which the suite starts and stops: on naps, then on what other tasks show.

    With `slow` also the case that takes five minutes, for all generations at once.
    """
    with ThreadPoolExecutor() as threads:
        pinged = [
            threads.submit(_check, service, task_type="nap", wires=[wire], only=["S50"], slow=True)
            for wire in service.wires
            if slow
        ]
        reports = _quick(service)
        return Report(service.title, _best([*reports, *(one.result() for one in pinged)]))


def _quick(service: Service) -> list[Report]:
    reports = [_check(service, task=NAP, inputs=NAPPING, bad_inputs={"seconds": -1.0})]
    reports.append(_check(service, task=NAP, inputs=NAPPING, bad_inputs={"seconds": 1e12}, only=["S10"]))
    reports.append(_check(service, task_type="nap", only=["S11"]))
    if service.has_sync:
        reports.append(_check(service, task=WORD, inputs={"word": "mug"}, wires=["v1"], only=_SYNC_CASES))
    return reports


def _best(reports: Iterable[Report]) -> tuple[Result, ...]:
    """One result for each case: failed if it failed once, and skipped only if no report has more to say."""
    found: dict[tuple[str, str], Result] = {}
    for result in (result for report in reports for result in report.results):
        before = found.get((result.case, result.wire))
        if before is None or before.status == "skipped" or result.status == "failed":
            found[result.case, result.wire] = result
    return tuple(found.values())


def _check(service: Service, **arguments: object) -> Report:
    port, metrics = _free_ports(2)
    program, *rest = (part.format(port=port, metrics=metrics) for part in service.command)
    with TemporaryDirectory(prefix="naps-") as folder:
        return check_endpoint(
            f"localhost:{port}",
            command=[
                "env",
                f"NAPS={folder}",
                f"PYTHONPATH={AGENTS}",
                str(service.environment / "bin" / program),
                *rest,
            ],
            prefix="s3://bucket/runs",
            **arguments,  # type: ignore[arg-type]
        )


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()
