"""Only the tests of the examples are collected: an example's agent registers itself when it is imported.

Services in other languages are started, killed and stopped by the fixture `start_service`.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import pytest

_STARTS_WITHIN = 30.0  # seconds
StartService = Callable[[Sequence[str], int], subprocess.Popen[bytes]]


def pytest_ignore_collect(collection_path: Path) -> bool | None:
    """Leave out Python files that are no tests; None leaves the choice to pytest."""
    is_other = collection_path.suffix == ".py" and not collection_path.name.startswith("test_")
    return True if is_other else None


@pytest.fixture
def free_port() -> int:
    """A port that nobody uses now."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@pytest.fixture
def start_service(tmp_path: Path) -> Iterator[StartService]:
    """Start a service and wait until it listens; it ends with the test."""
    started: list[subprocess.Popen[bytes]] = []

    def start(command: Sequence[str], port: int) -> subprocess.Popen[bytes]:
        with (tmp_path / "service.log").open("ab") as log:
            service = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        started.append(service)
        until = time.monotonic() + _STARTS_WITHIN
        while not _listens(port):
            if service.poll() is not None or time.monotonic() > until:
                pytest.fail(f"{command[0]} does not serve:\n{(tmp_path / 'service.log').read_text()}")
            time.sleep(0.02)
        return service

    yield start
    for service in started:
        with suppress(ProcessLookupError):
            os.killpg(service.pid, signal.SIGKILL)
        service.wait()


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
