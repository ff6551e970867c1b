"""What tests against real services share: environments for their programs, and processes that surely end."""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import json
import os
import random
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import grpc.aio
import pytest

from airside.model import Phase, TaskTemplate
from airside.testing.client import FAMILIES, RawClient, Wire, literal_map
from airside.wire.template import write_template

AIRSIDE = Path(sys.executable).with_name("airside")
collect_ignore = ["plugins"]  # programs for other environments

ROOT = Path(__file__).parents[2]
_STARTS_WITHIN = 60.0  # seconds, on a machine that does other things too
_ENDS_WITHIN = 10.0
_TEST_ENDS_WITHIN = 600

Environment = Callable[..., Path]
StartProcess = Callable[..., "Process"]


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """The first test of a service waits until its environment is made, which takes minutes on a busy machine."""
    if config.getoption("timeout", None) is not None:
        return
    for item in items:
        if Path(__file__).parent in item.path.parents and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(_TEST_ENDS_WITHIN))


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

    def kill(self) -> None:
        """End the service as a power failure would."""
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self._running.wait()

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


@dataclass(frozen=True)
class FaultProxy:
    """A proxy before an emulator; its faults are described in `fault_proxy.py`."""

    url: str
    authority: str = ""
    """The file of the certificate that it shows, if it speaks TLS."""

    def set(self, **rules: Any) -> None:
        """From now on, go wrong like this; `share=0, latency=(0, 0)` is never."""
        self._ask("PUT", json.dumps(rules).encode())

    def counts(self) -> dict[str, dict[str, int]]:
        """How many calls of each method there were, and how many faults of each kind."""
        told = json.loads(self._ask("GET"))
        return {"calls": told["calls"], "faults": told["faults"]}

    def recorded(self) -> list[dict[str, str]]:
        """The calls since `record=True`: method, target and body."""
        calls: list[dict[str, str]] = json.loads(self._ask("GET"))["recorded"]
        return calls

    def _ask(self, method: str, body: bytes | None = None) -> bytes:
        request = Request(f"{self.url}/-/faults", data=body, method=method)  # noqa: S310 - always http
        tls = ssl.create_default_context(cafile=self.authority) if self.authority else None
        with urlopen(request, timeout=30, context=tls) as answer:  # noqa: S310 - our own emulator
            return bytes(answer.read())


@pytest.fixture(scope="session")
def fault_proxies() -> list[FaultProxy]:
    """The proxies that were started."""
    return []


@pytest.fixture(scope="session")
def fault_proxy(
    start_process: StartProcess,
    free_port: Callable[[], int],
    tmp_path_factory: pytest.TempPathFactory,
    fault_proxies: list[FaultProxy],
) -> Callable[..., FaultProxy]:
    """A proxy in a process of its own before the emulator at this port; the same seed draws the same faults.

    With `upstream_authority`, the file of the certificate of a service that speaks TLS, the proxy does so, too.
    """

    def start(upstream: int, *, seed: int = 0, upstream_authority: str = "", **rules: Any) -> FaultProxy:
        port, script = free_port(), Path(__file__).with_name("fault_proxy.py")
        argv = [sys.executable, str(script), str(port), str(upstream), str(seed)]
        authority = ""
        if upstream_authority:
            authority, key = _certificate(tmp_path_factory.mktemp("fault_proxy"))
            argv += [authority, key, upstream_authority]
        start_process(argv, port=port)
        proxy = FaultProxy(f"{'https' if authority else 'http'}://127.0.0.1:{port}", authority)
        proxy.set(**rules)
        fault_proxies.append(proxy)
        return proxy

    return start


def _certificate(folder: Path) -> tuple[str, str]:
    """A certificate of its own authority for the loopback address, and its key, as PEM files."""
    certificate, key = str(folder / "proxy.pem"), str(folder / "proxy.key")
    extensions = (
        "subjectAltName=IP:127.0.0.1",
        "basicConstraints=critical,CA:TRUE",
        "keyUsage=digitalSignature,keyCertSign",
    )
    argv = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=fault proxy"]
    argv += ["-keyout", key, "-out", certificate, *(word for one in extensions for word in ("-addext", one))]
    subprocess.run(argv, check=True, capture_output=True)
    return certificate, key


class KilledService:
    """`airside serve` in a process that is killed at random instants of its creates, and the engine that goes on."""

    def __init__(self, argv: Sequence[str], env: Mapping[str, str], folder: Path, port: int, seed: int) -> None:
        self.creates, self.kills = 0, 0
        self._argv, self._env, self._log = argv, {**os.environ, **env}, folder / "service.log"
        self._port, self._random = port, random.Random(seed)  # noqa: S311 - to be repeatable
        self._in_flight = 0

    async def create(
        self,
        tasks: Sequence[TaskTemplate],
        *,
        run: str,
        kills: int,
        wire: Wire,
        inputs: Mapping[str, Any] | None = None,
        ready: Callable[[], bool] | None = None,
    ) -> list[bytes]:
        """Create every task, asking again as Flyte does when an answer is lost. Returns the handles.

        The service is killed `kills` times, each time while creates are in flight: at some instant, or as soon as
        `ready` says. `run` tells these attempts from those of other proofs. `inputs` are those of every task.
        """
        self.creates += len(tasks)
        requests = [
            _request(task, wire, f"s3://runs/{run}/{number}/0", inputs or {}) for number, task in enumerate(tasks)
        ]
        process = await self._start()
        options = [("grpc.min_reconnect_backoff_ms", 50), ("grpc.max_reconnect_backoff_ms", 200)]
        async with grpc.aio.insecure_channel(f"127.0.0.1:{self._port}", options) as channel:
            client, slots = RawClient(channel, wire), asyncio.Semaphore(6)
            creates = [asyncio.create_task(self._create(client, one, slots)) for one in requests]
            try:
                for _ in range(kills):
                    while not self._is_due(ready) and not all(one.done() for one in creates):
                        await asyncio.sleep(0.01)
                    if ready is None:
                        await asyncio.sleep(self._random.uniform(0.0, 0.5))
                    self.kills += self._in_flight > 0
                    process.kill()
                    process = await self._start()
                return await asyncio.gather(*creates)
            finally:
                process.kill()

    def _is_due(self, ready: Callable[[], bool] | None) -> bool:
        return self._in_flight > 0 and (ready is None or ready())

    async def finish(self, handles: Sequence[bytes], task_type: str, wire: Wire) -> list[Any]:
        """The end of each job, as a service that is new tells it: all have succeeded."""
        process = await self._start()
        try:
            async with grpc.aio.insecure_channel(f"127.0.0.1:{self._port}") as channel:
                client = RawClient(channel, wire, timeout=30.0)
                ends = await asyncio.gather(*(self._end(client, handle, task_type) for handle in handles))
        finally:
            process.kill()
        assert {Phase(one.phase) for one in ends} == {Phase.SUCCEEDED}, [one.message for one in ends]
        return ends

    async def _end(self, client: RawClient, handle: bytes, task_type: str) -> Any:
        while True:
            resource = await client.get(handle, task_type)
            if Phase(resource.phase).is_terminal:
                return resource
            await asyncio.sleep(0.2)

    async def _create(self, client: RawClient, request: Any, slots: asyncio.Semaphore) -> bytes:
        async with slots:
            self._in_flight += 1
            try:
                while True:
                    try:
                        answer = await client.call("CreateTask", request, timeout=10.0)
                        return bytes(answer.resource_meta)
                    except grpc.aio.AioRpcError:
                        await asyncio.sleep(0.1)
            finally:
                self._in_flight -= 1

    async def _start(self) -> Process:
        process = Process(self._argv, self._env, self._log)
        await asyncio.to_thread(process.wait_for, lambda: answers(self._port))
        return process


def _request(task: TaskTemplate, wire: Wire, prefix: str, inputs: Mapping[str, Any]) -> Any:
    """The CreateTask of an attempt whose outputs go to this prefix."""
    message = FAMILIES[wire].message("CreateTaskRequest")()
    message.inputs.MergeFromString(literal_map(inputs).SerializeToString())
    message.template.MergeFromString(write_template(task).SerializeToString())
    message.output_prefix = prefix
    return message


@pytest.fixture
def killed_service(
    free_port: Callable[[], int],
    tmp_path: Path,
    fault_proxies: list[FaultProxy],
    figures: Callable[..., None],
    request: pytest.FixtureRequest,
) -> Iterator[Callable[..., KilledService]]:
    """`airside serve` of one agent, for proofs that each attempt makes one job whatever dies.

    `options` is the agent's table of airside.toml, `env` what the process gets besides our environment.
    """
    known, began, services = len(fault_proxies), time.monotonic(), dict[str, KilledService]()

    def start(agent: str, *, env: Mapping[str, str], options: str = "", seed: int = 0) -> KilledService:
        port, settings = free_port(), tmp_path / "airside.toml"
        settings.write_text(f"[agents.{agent}]\n{options}\n")
        serve = ["serve", "--port", str(port), "--metrics-port", "-1", "--settings", str(settings), "--agent", agent]
        services[agent] = KilledService([str(AIRSIDE), *serve], env, tmp_path, port, seed)
        return services[agent]

    yield start
    faults = sum((Counter(proxy.counts()["faults"]) for proxy in fault_proxies[known:]), Counter[str]())
    for agent, service in services.items():
        told = {"creates": service.creates, "kills": service.kills, "seconds": round(time.monotonic() - began)}
        figures(f"{agent}, {request.node.name}", **told, **faults)


@dataclass(frozen=True)
class PluginTask:
    """A task as Flyte sends it: the bytes of its template and of its inputs."""

    template: bytes
    inputs: bytes


@pytest.fixture(scope="session")
def plugin_task(environment: Environment, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., PluginTask]:
    """A task made with a plugin of flytekit (`kit="flytekit"`) or of Flyte 2's SDK (`kit="flyte2"`).

    `source` is the text of a file, `name` the variable of the task in it, `packages` what it needs. Each kit and its
    packages live in an environment of their own, never in ours.
    """

    made: dict[str, PluginTask] = {}

    def make(kit: str, source: str, name: str, *packages: str, **inputs: Any) -> PluginTask:
        known = repr((kit, source, name, packages, inputs))
        if known not in made:
            made[known] = run(kit, source, name, packages, inputs)
        return made[known]

    def run(kit: str, source: str, name: str, packages: Sequence[str], inputs: Mapping[str, Any]) -> PluginTask:
        python = environment(f"{kit}-plugins", *packages) / "bin" / "python"
        folder = tmp_path_factory.mktemp(kit)
        (folder / "wf.py").write_text(source)
        script = Path(__file__).parent / "plugins" / f"make_{kit}.py"
        argv = [python, script, folder / "wf.py", name, json.dumps(inputs), folder / "template", folder / "inputs"]
        done = subprocess.run([str(one) for one in argv], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-3000:]
        return PluginTask((folder / "template").read_bytes(), (folder / "inputs").read_bytes())

    return make


@contextmanager
def _stopped(process: Process) -> Iterator[Process]:
    try:
        yield process
    finally:
        process.stop()
