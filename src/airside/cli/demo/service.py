"""The demo's agent service: `airside serve` in a process of its own, as a platform engineer would start it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from airside.model import UsageError

PATIENCE = 30.0  # seconds for the service to stop

SETTINGS = """\
[agents.duckdb_query]
allowed_directories = [{data}, {state}]
state_dir = {state}

[agents.local_process]
state_dir = {state}

[agents.webhook]
private_hosts = ["127.0.0.1"]
"""


@contextmanager
def serving(data: Path, state: Path) -> Iterator[str]:
    """The endpoint of a service with the agents of this machine; it is stopped at the end, and leaves nothing."""
    settings = state / "airside.toml"
    settings.write_text(SETTINGS.format(data=json.dumps(str(data)), state=json.dumps(str(state))))
    command = [sys.executable, "-m", "airside.cli.demo.attached", str(state.parent)]
    command += ["serve", "agent", "--port", "0", "--metrics-port", "-1"]
    command += ["--enable", "duckdb_query", "--enable", "local_process"]
    command += ["--settings", str(settings), "--log-format", "json", "--drain-delay", "0"]
    life, held = os.pipe()
    try:
        process = subprocess.Popen(command, stdin=life, stderr=subprocess.PIPE, text=True)
    finally:
        os.close(life)
    try:
        yield f"127.0.0.1:{_port(process)}"
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.communicate(timeout=PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
        os.close(held)


def _port(process: subprocess.Popen[str]) -> int:
    """The port that the service says it serves on."""
    assert process.stderr is not None  # noqa: S101 - it is a pipe
    said = []
    for line in process.stderr:
        said.append(line)
        if line.startswith("{") and "port" in (fields := json.loads(line)):
            return int(fields["port"])
    raise UsageError("The demo's service did not start: " + " ".join("".join(said).split()))
