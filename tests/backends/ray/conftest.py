"""One Ray cluster for all tests here: a head node that asks for a token, and ends with the tests."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import Request, urlopen

import pytest

TOKEN = "0123456789abcdef0123456789abcdef"
PLUGIN = ("flytekitplugins-ray==1.16.*", "ray[default]==2.60.0")
HERE = Path(__file__).parent
_STARTS_WITHIN = 180.0
_TRIES = 3


@dataclass(frozen=True)
class Cluster:
    """A running cluster: where its dashboard is, which Python its jobs have, and a folder that they see."""

    port: int
    bin: Path
    folder: Path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def ask(self, path: str) -> bytes:
        request = Request(f"{self.url}{path}", headers={"Authorization": f"Bearer {TOKEN}"})  # noqa: S310 - always http
        with urlopen(request, timeout=30) as answer:  # noqa: S310 - our own cluster
            return bytes(answer.read())

    def answers(self) -> bool:
        try:
            self.ask("/api/jobs/")
        except (URLError, OSError):
            return False
        return True


@pytest.fixture(scope="session")
def cluster(
    environment: Callable[..., Path], start_process: Callable[..., Any], free_port: Callable[[], int]
) -> Iterator[Cluster]:
    python = environment("ray", *PLUGIN)
    folders = []
    try:
        for left in range(_TRIES, 0, -1):
            folders.append(Path(tempfile.mkdtemp(prefix="ray-", dir="/tmp")))  # short, for sockets
            one = Cluster(free_port(), python / "bin", folders[-1])
            process = start_process(["/bin/sh", "-c", _command(one, free_port)], env=_settings(python))
            try:
                process.wait_for(lambda p=process, c=one: _is_up(p, c), _STARTS_WITHIN)
            except pytest.fail.Exception:  # its daemons give each other up after some seconds, if the machine is busy
                if left == 1:
                    raise
                _end_those_of(one.folder)
                continue
            break
        yield one
        process.kill()
    finally:
        for folder in folders:
            _end_those_of(folder)
            shutil.rmtree(folder, ignore_errors=True)


def _is_up(process: Any, cluster: Cluster) -> bool:
    return b"Ray runtime started" in process.log.read_bytes() and cluster.answers()


def _settings(python: Path) -> Mapping[str, str]:
    return {"PATH": f"{python}/bin:/usr/bin:/bin", "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN}


def _command(cluster: Cluster, free_port: Callable[[], int]) -> str:
    options = {
        "port": free_port(),
        "dashboard-host": "127.0.0.1",
        "dashboard-port": cluster.port,
        "dashboard-agent-listen-port": free_port(),
        "dashboard-agent-grpc-port": free_port(),
        "metrics-export-port": free_port(),
        "runtime-env-agent-port": free_port(),
        "ray-client-server-port": free_port(),
        "node-ip-address": "127.0.0.1",
        "num-cpus": 2,
        "min-worker-port": 0,
        "max-worker-port": 0,
        "temp-dir": cluster.folder,
    }
    words = " ".join(f"--{name}={value}" for name, value in options.items())
    place = (
        cluster.folder / "place"
    )  # a function of flytekit's plugin uploads all that is in the folder it is started in
    place.mkdir()
    return f"cd {place} && exec {cluster.bin}/ray start --head --block --disable-usage-stats {words}"


def _end_those_of(folder: Path) -> None:
    """Ray's daemons have sessions of their own: end those that this cluster's folder is named in."""
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        with suppress(OSError):
            if str(folder).encode() in (entry / "cmdline").read_bytes():
                os.kill(int(entry.name), signal.SIGKILL)


@pytest.fixture
def options(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> Mapping[str, Any]:
    """The settings of an agent for this cluster, with the token as the service's secret."""
    monkeypatch.setenv("_FSEC_RAY_AUTH_TOKEN", TOKEN)
    for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    return {"address": cluster.url}
