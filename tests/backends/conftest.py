"""What tests against real services share: environments for their programs, and processes that surely end."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
_STARTS_WITHIN = 60.0  # seconds, on a machine that does other things too
_ENDS_WITHIN = 10.0

Environment = Callable[..., Path]
StartProcess = Callable[..., "Process"]


class Process:
    """A service of this test: its log, and its end."""

    def __init__(self, argv: Sequence[str], env: Mapping[str, str], log: Path) -> None:
        self.name = Path(argv[0]).name
        self.log = log
        with log.open("ab") as out:
            self._running = subprocess.Popen(argv, env=env, stdout=out, stderr=out, start_new_session=True)

    @property
    def pid(self) -> int:
        return self._running.pid

    def wait_for(self, is_ready: Callable[[], bool], seconds: float = _STARTS_WITHIN) -> None:
        """Return when the service is ready; fail with the end of its log if it ends or takes too long."""
        until = time.monotonic() + seconds
        while not is_ready():
            ended = self._running.poll()
            if ended is not None or time.monotonic() > until:
                how = f"ended with {ended}" if ended is not None else f"was not ready after {seconds:.0f} s"
                pytest.fail(f"{self.name} {how}:\n{self.log.read_text(errors='replace')[-2000:]}")
            time.sleep(0.05)

    def stop(self) -> None:
        """End the service and all that it started, at last by force."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            try:
                os.killpg(self.pid, number)
                self._running.wait(_ENDS_WITHIN)
            except ProcessLookupError:
                break
            except subprocess.TimeoutExpired:
                continue
        self._running.wait()


def answers(port: int) -> bool:
    """True when something accepts connections at this port of the loopback address."""
    with socket.socket() as probe:
        probe.settimeout(1.0)
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture(scope="session")
def free_port() -> Callable[[], int]:
    """A port that nobody uses now."""

    def find() -> int:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            return int(free.getsockname()[1])

    return find


@pytest.fixture(scope="session")
def environment() -> Environment:
    """The folder of a virtual environment with these packages, made once and kept.

    `python` is a version, if it must be another than ours; `then` are further commands (`-m`, `-c` and what follows) of
    its Python. Skips, and says why, where the environment cannot be made.
    """

    def make(name: str, *packages: str, python: str = "", then: Sequence[Sequence[str]] = ()) -> Path:
        recipe = hashlib.sha256(repr((packages, python, then)).encode()).hexdigest()[:12]
        folder = ROOT / ".backends" / f"{name}-{recipe}"
        folder.parent.mkdir(exist_ok=True)
        with (folder.parent / f"{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if (folder / "ready").exists():
                return folder
            shutil.rmtree(folder, ignore_errors=True)
            try:
                _make(folder, packages, python or sys.executable, then)
            except subprocess.CalledProcessError as error:
                needs = f"Python {python} and " if python else ""
                pytest.skip(f"{name} needs {needs}{' '.join(packages)}: {error.stderr.strip()[-500:]}")
            (folder / "ready").touch()
        return folder

    return make


def _make(folder: Path, packages: Sequence[str], python: str, then: Sequence[Sequence[str]]) -> None:
    uv = str(Path(sys.executable).parent / "uv")
    interpreter = str(folder / "bin" / "python")
    commands = [
        [uv, "venv", "--quiet", "--no-python-downloads", "--python", _interpreter(python), str(folder)],
        [uv, "pip", "install", "--quiet", "--python", interpreter, *packages],
        *([interpreter, *arguments] for arguments in then),
    ]
    for command in commands:
        subprocess.run(command, check=True, capture_output=True, text=True)


def _interpreter(python: str) -> str:
    """A version's interpreter where pyenv keeps one (its shims on the PATH do not run), else what uv is to look for."""
    kept = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv") / "versions"
    found = sorted(kept.glob(f"{python}.*/bin/python")) if python[:1].isdigit() else []
    return str(found[-1]) if found else python


@pytest.fixture(scope="session")
def start_process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StartProcess]:
    """Start a service that ends with the tests; with `port`, wait until it accepts connections there."""
    with ExitStack() as stack:

        def start(argv: Sequence[str], *, port: int = 0, env: Mapping[str, str] | None = None) -> Process:
            log = tmp_path_factory.mktemp(Path(argv[0]).name) / "log"
            process = stack.enter_context(_stopped(Process(argv, {**os.environ, **(env or {})}, log)))
            if port:
                process.wait_for(lambda: answers(port))
            return process

        yield start


@contextmanager
def _stopped(process: Process) -> Iterator[Process]:
    try:
        yield process
    finally:
        process.stop()
