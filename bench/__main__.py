"""Measure the figures, print them beside their bounds, and exit with 1 if one is missed."""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from bench.errors import BenchError
from bench.figures import FIGURES, FULL, SHORT
from bench.load import CONNECTIONS, STREAMS
from bench.measurement import Measurement
from bench.services import THEIRS

LOADED = ("get", "create", "def")
BUSY = 0.5  # load average above which others take a share of the processors that shows


def main() -> int:
    parser = argparse.ArgumentParser(prog="bench", description=__doc__)
    parser.add_argument("--only", choices=FIGURES, nargs="+", default=list(FIGURES), help="measure these figures alone")
    parser.add_argument("--short", action="store_true", help="fewer and shorter samples: for a look, not for a verdict")
    parser.add_argument("--json", type=Path, default=Path("build/bench.json"), help="where the results go as JSON")
    given = parser.parse_args()
    try:
        prepare(given.only)
        machine = describe_machine()
        print(machine)
        if os.getloadavg()[0] > BUSY:
            print("The machine is busy with other work: take the calls per second for a hint, not for a verdict.")
        measurements = []
        for name in given.only:
            print(f"measuring {name} …", file=sys.stderr, flush=True)
            measurements += FIGURES[name](name, SHORT if given.short else FULL)
    except BenchError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 2
    report(measurements)
    write_json(given.json, machine, measurements)
    return 0 if all(one.passed for one in measurements) else 1


def prepare(names: list[str]) -> None:
    """What must be there: flytekit's environment, and h2load for the figures under load (installed where we may)."""
    if not (THEIRS / "pyflyte").exists():
        raise BenchError("flytekit's environment is missing; `make bench` makes it.")
    if not set(names) & set(LOADED) or shutil.which("h2load"):
        return
    advice = "h2load is missing: install it with `apt-get install nghttp2-client` (Debian, Ubuntu) and run again."
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        raise BenchError(advice)
    print("installing nghttp2-client for h2load …", file=sys.stderr, flush=True)
    for command in (("apt-get", "update", "-qq"), ("apt-get", "install", "-y", "-qq", "nghttp2-client")):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode or shutil.which("h2load") is None:
        raise BenchError(f"{advice}\n{done.stderr[-500:]}")


def describe_machine() -> str:
    """One line on where this ran: numbers compare within a run, hardly between machines."""
    cpu = next((line.split(":")[1].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")), "")
    packages = ", ".join(f"{name} {_version(name)}" for name in ("grpcio", "protobuf", "uvloop"))
    flytekit = subprocess.run(
        (THEIRS / "python", "-c", "from importlib.metadata import version; print(version('flytekit'))"),
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    return (
        f"{os.cpu_count()} x {cpu or platform.machine()}, {platform.system()}, Python {platform.python_version()}, "
        f"{packages}; flytekit {flytekit}; h2load -c {CONNECTIONS} -m {STREAMS}; load average {os.getloadavg()[0]:.1f}"
    )


def report(measurements: list[Measurement]) -> None:
    """The table: medians of the samples, the ratio with its spread over the rounds, the bound, the verdict."""
    rows = [("figure", "what", "ours", "theirs", "rival", "ratio", "spread", "bound", "")]
    for one in measurements:
        ratios = one.ratios
        rows.append(
            (
                one.figure,
                one.what,
                f"{_number(one.typical(one.ours))} {one.unit}",
                f"{_number(one.typical(one.theirs))} {one.unit}",
                one.rival,
                f"{one.ratio:.3f}",
                f"{ratios[0]:.3f} to {ratios[-1]:.3f}",
                str(one.bound or "none"),
                "" if one.bound is None else "pass" if one.passed else "MISSED",
            )
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def write_json(path: Path, machine: str, measurements: list[Measurement]) -> None:
    results = [{**asdict(one), "ratio": one.ratio, "passed": one.passed} for one in measurements]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"machine": machine, "results": results}, indent=2) + "\n")


def _number(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "absent"


def _lines(path: str) -> list[str]:
    file = Path(path)
    return file.read_text().splitlines() if file.exists() else []


if __name__ == "__main__":
    sys.exit(main())
