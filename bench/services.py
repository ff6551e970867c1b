"""The services side by side: start one, know when it serves, weigh it, stop it."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import grpc
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub

from bench.errors import BenchError

HERE = Path(__file__).parent
OURS = Path(sys.executable).parent
THEIRS = HERE.parent / ".venv-flytekit" / "bin"
THEIRS_WITH_BIGQUERY = HERE.parent / ".venv-flytekit-bigquery" / "bin"
# Nothing of the caller's Python settings: without bytecode files, say, every start would compile all it imports.
ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
_START_LIMIT = 60.0


@dataclass(frozen=True, slots=True)
class Service:
    """A command that serves Flyte's agent API; `{port}` and `{metrics}` stand for two free ports."""

    name: str
    command: tuple[str, ...]

    def with_modules(self, module: str) -> Service:
        """The same service with the agents of one more module."""
        return Service(self.name, (*self.command, "--modules", module))


AIRSIDE = Service(
    "airside", (str(OURS / "airside"), "serve", "agent", "--port", "{port}", "--metrics-port", "{metrics}")
)
FLYTEKIT = Service(
    "flytekit", (str(THEIRS / "pyflyte"), "serve", "agent", "--port", "{port}", "--prometheus_port", "{metrics}")
)
FLYTEKIT_BIGQUERY = Service("flytekit with bigquery", (str(THEIRS_WITH_BIGQUERY / "pyflyte"), *FLYTEKIT.command[1:]))
BARE = Service("bare", (sys.executable, str(HERE / "bare_servicer.py"), "{port}"))


class Memory(NamedTuple):
    """Memory in MiB: all that is resident, and of that what is shared with no other process."""

    resident: float
    private: float


@dataclass(frozen=True, slots=True)
class Served:
    """A service that answers SERVING: where, since how many seconds after its start, as which process."""

    port: int
    start_seconds: float
    process: subprocess.Popen[bytes]

    def memory(self) -> Memory:
        """What the process and its children hold now."""
        parts = [_memory(pid) for pid in _family(self.process.pid)]
        return Memory(sum(one.resident for one in parts), sum(one.private for one in parts))


@contextmanager
def serving(service: Service) -> Iterator[Served]:
    """Start the service, wait until it is SERVING, and kill it at the end."""
    port, metrics = _free_ports(2)
    command = [part.format(port=port, metrics=metrics) for part in service.command]
    if shutil.which(command[0]) is None:
        raise BenchError(f"{command[0]} is not there; `make bench` installs it.")
    with tempfile.TemporaryFile() as log:
        begun = time.perf_counter()
        process = subprocess.Popen(command, cwd=HERE, env=ENVIRONMENT, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        try:
            seconds = _wait_until_serving(process, port, begun)
            yield Served(port, seconds, process)
        except (BenchError, grpc.RpcError) as error:
            log.seek(0)
            tail = log.read()[-2000:].decode(errors="replace")
            raise BenchError(f"{service.name}: {error}\n{tail}") from error
        finally:
            process.kill()
            process.wait()


def _wait_until_serving(process: subprocess.Popen[bytes], port: int, begun: float) -> float:
    while not _listens(port):
        if process.poll() is not None:
            raise BenchError(f"exited with {process.returncode} before it listened.")
        if time.perf_counter() - begun > _START_LIMIT:
            raise BenchError(f"did not listen within {_START_LIMIT:.0f} s.")
        time.sleep(0.002)
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        check = HealthStub(channel).Check
        while check(HealthCheckRequest(), timeout=_START_LIMIT).status != HealthCheckResponse.SERVING:
            time.sleep(0.002)
    return time.perf_counter() - begun


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()


def _family(pid: int) -> Iterator[int]:
    yield pid
    for thread in Path(f"/proc/{pid}/task").iterdir():
        for child in (thread / "children").read_text().split():
            yield from _family(int(child))


def _memory(pid: int) -> Memory:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    mib = {name: int(kib) / 1024 for name, kib, *_ in (line.split() for line in lines)}
    return Memory(mib["Rss:"], mib["Private_Clean:"] + mib["Private_Dirty:"])
