"""`airside serve` in a process of its own: what it serves, what it refuses, and how it says so."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

AIRSIDE = str(Path(sys.executable).with_name("airside"))
FREE = ("--port", "0", "--metrics-port", "-1", "--drain-delay", "0")
PLUGIN = """
from airside import AsyncAgent, Phase, Resource

class Mine(AsyncAgent[str]):
    task_type = "mine"

    def create(self, task): return "job"
    def get(self, job): return Resource(Phase.SUCCEEDED)
    def delete(self, job): pass
"""

PAIR = (
    PLUGIN.replace('task_type = "mine"', 'task_types = ("one", "two")')
    + """
from airside import AgentRegistry
AgentRegistry.register(Mine())
"""
)


def environment(**more: str) -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("AIRSIDE_")} | more


def install(folder: Path, name: str, module: str, text: str) -> Mapping[str, str]:
    """A plugin package in `folder`, as pip would put it there; the environment that finds it."""
    folder.mkdir(exist_ok=True)
    (folder / f"{module}.py").write_text(text)
    info = folder / f"{name}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[airside.agents]\n{name} = {module}:Mine\n")
    return environment(PYTHONPATH=str(folder))


@contextmanager
def serving(folder: Path, *flags: str, env: Mapping[str, str] | None = None) -> Iterator[tuple[int, str, list[str]]]:
    """A running service: its port, the task types that it says it serves, and its lines until then."""
    service = subprocess.Popen(
        [AIRSIDE, "serve", *FREE, *flags], cwd=folder, env=env or environment(), text=True, stderr=subprocess.PIPE
    )
    assert service.stderr is not None
    lines: list[str] = []
    try:
        for line in service.stderr:
            lines.append(line)
            if found := re.search(r"serving on port (\d+): (.*) port=", line):
                yield int(found[1]), found[2], lines
                break
        else:
            pytest.fail("".join(lines))
        service.send_signal(signal.SIGTERM)
        assert service.wait(timeout=20) == 0
    finally:
        service.kill()
        service.wait()
        service.stderr.close()


def refused(folder: Path, *flags: str, env: Mapping[str, str] | None = None) -> str:
    """What a service that must not start says. It ends at once, with the code for wrong usage."""
    done = subprocess.run(
        [AIRSIDE, "serve", *FREE, *flags],
        cwd=folder,
        env=env or environment(),
        text=True,
        capture_output=True,
        timeout=20,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    said = [line for line in done.stderr.splitlines() if " info " not in line]
    assert len(said) == 1, done.stderr
    return said[0]


# --- which agents ----------------------------------------------------------------------------------------------------


def test_chosen_agents_are_served_and_no_other(tmp_path: Path) -> None:
    with serving(tmp_path, "--agent", "echo", "--agent", "sleep") as (_, types, _):
        assert types == "echo, sleep"


def test_the_settings_choose_and_a_flag_wins(tmp_path: Path) -> None:
    (tmp_path / "airside.toml").write_text('[serve]\nagents = ["echo"]\n')
    with serving(tmp_path) as (port, types, _):
        assert types == "echo"
        done = subprocess.run(
            [AIRSIDE, "agents", "--endpoint", f"127.0.0.1:{port}", "--json"],
            capture_output=True,
            text=True,
            check=True,
            env=environment(),
        )
        assert [agent["name"] for agent in json.loads(done.stdout)["agents"]] == ["echo"]
    with serving(tmp_path, "--agent", "sleep") as (_, types, _):
        assert types == "sleep"


def test_two_services_on_one_machine_have_different_agents(tmp_path: Path) -> None:
    with (
        serving(tmp_path, "--agent", "echo") as (first, one, _),
        serving(tmp_path, "--agent", "sleep") as (second, two, _),
    ):
        assert (one, two) == ("echo", "sleep")
        assert first != second


def test_choosing_does_not_enable(tmp_path: Path) -> None:
    with serving(tmp_path, "--agent", "echo", "--agent", "local_process") as (_, types, lines):
        assert types == "echo"
        assert any("serve it with --enable local_process" in line for line in lines)
    with serving(tmp_path, "--agent", "local_process", "--enable", "local_process") as (_, types, _):
        assert types == "local_process"
    assert "not among the agents to serve; add --agent local_process" in refused(
        tmp_path, "--agent", "echo", "--enable", "local_process"
    )
    assert "No agent is left to serve" in refused(tmp_path, "--agent", "local_process")


def test_a_module_that_takes_a_task_type_says_from_whom(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "from airside import AgentRegistry, SyncAgent\nclass Mine(SyncAgent):\n    task_type = 'echo'\n"
        "    def do(self, task): ...\nAgentRegistry.register(Mine())\n"
    )
    with serving(tmp_path, "--modules", "mine", "--agent", "echo") as (_, types, lines):
        assert types == "echo"
        assert any("Mine (mine:Mine) takes echo from echo (entry point echo = " in line for line in lines)


LACKING = """
import sys
from importlib import abc
class Without(abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name in ("httpx2", "boto3"):
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Without())
"""


def test_agents_without_their_library_take_one_line_unless_they_were_asked_for(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(LACKING)
    env = environment(PYTHONPATH=str(tmp_path))
    with serving(tmp_path, env=env) as (_, types, lines):
        assert "webhook" not in types
        assert "echo" in types
        [line] = [line for line in lines if "for want of a library" in line]
        assert "athena" in line
        assert "webhook; `airside agents` says what to install" in line
        assert not [line for line in lines if "pip install" in line]
    with serving(tmp_path, "--agent", "webhook", "--agent", "echo", env=env) as (_, types, lines):
        assert types == "echo"
        assert any("not served: webhook: " in line and "pip install 'airside[webhook]'" in line for line in lines)
    assert "pip install 'airside[webhook]'" in refused(tmp_path, "--agent", "webhook", env=env)


def test_a_plugin_that_raises_is_named_and_the_others_are_served(tmp_path: Path) -> None:
    env = install(tmp_path / "site", "mine", "mine_agent", "raise RuntimeError('no licence')")
    with serving(tmp_path, env=env) as (_, types, lines):
        assert {"echo", "sleep", "webhook"} <= set(types.split(", "))
        assert any("not served: entry point mine = mine_agent:Mine: RuntimeError: no licence" in line for line in lines)
    assert "no licence" in refused(tmp_path, "--strict", env=env)
    with serving(tmp_path, "--strict", "--agent", "echo", env=env) as (_, types, _):
        assert types == "echo", "a broken plugin that nobody asked for stops nothing"
    assert "no licence" in refused(tmp_path, "--strict", "--agent", "echo", "--agent", "mine", env=env)


def test_an_installed_plugin_is_found_by_itself(tmp_path: Path) -> None:
    env = install(tmp_path / "site", "mine", "mine_agent", PLUGIN)
    with serving(tmp_path, "--agent", "mine", env=env) as (_, types, _):
        assert types == "mine"


SDK = """
import atexit, pathlib
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import ConsoleSpanExporter, SimpleSpanProcessor

out = pathlib.Path(__file__).with_name("spans").open("w", buffering=1)
trace.set_tracer_provider(TracerProvider())
trace.get_tracer_provider().add_span_processor(SimpleSpanProcessor(ConsoleSpanExporter(out=out)))
"""


def test_spans_go_to_the_sdk_that_is_set_up_in_the_process(tmp_path: Path) -> None:
    """As `opentelemetry-instrument` does it: by a module that Python imports before the command."""
    (tmp_path / "sitecustomize.py").write_text(SDK)
    env = environment(PYTHONPATH=str(tmp_path))
    with serving(tmp_path, "--tracing", "--agent", "echo", env=env) as (port, _, _):
        address = f"localhost:{port}"
        subprocess.run([AIRSIDE, "agents", "--endpoint", address], check=True, capture_output=True, timeout=30)
        (tmp_path / "wf.py").write_text(
            "from airside import TaskTemplate\nt = TaskTemplate(name='t', task_type='echo')"
        )
        subprocess.run(
            [AIRSIDE, "run", "--endpoint", address, "wf.py", "t"],
            check=True,
            capture_output=True,
            timeout=30,
            cwd=tmp_path,
        )
    spans = (tmp_path / "spans").read_text()
    assert '"name": "flyteidl.service.AgentMetadataService/ListAgents"' in spans
    assert '"name": "echo do"' in spans


SPY = """
import pathlib, sys
from airside import AgentRegistry, Resource, SyncAgent

class Spy(SyncAgent):
    task_type = "spy"

    async def do(self, task) -> Resource: ...

    async def close(self):
        pathlib.Path("loaded").write_text(" ".join(sys.modules))

AgentRegistry.register(Spy())
"""
SDKS = (
    "anthropic boto3 databricks.sdk duckdb google.cloud.bigquery httpx2 kubernetes openai pyarrow snowflake.connector"
)


def test_an_agent_that_nobody_set_up_is_loaded_with_its_first_job(tmp_path: Path) -> None:
    (tmp_path / "spy.py").write_text(SPY)
    with serving(tmp_path, "--modules", "spy") as (_, types, _):
        assert {"spark", "ray", "bigquery_query_job_task"} <= set(types.split(", "))
    loaded = set((tmp_path / "loaded").read_text().split())
    assert not loaded & {*SDKS.split(), "airside.agents.bigquery", "airside.agents.ray_job"}
    (tmp_path / "airside.toml").write_text('[agents.bigquery]\nlocation = "EU"\n')
    with serving(tmp_path, "--modules", "spy"):
        pass
    loaded = set((tmp_path / "loaded").read_text().split())
    assert "airside.agents.bigquery" in loaded, "what is set up is looked at when the service starts"
    assert "airside.agents.ray_job" not in loaded


# --- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("toml", "flags", "message"),
    [
        ("", ["--agent", "nope"], "There is no agent 'nope' to serve (installed: "),
        ("", ["--enable", "nope"], "--enable nope: no such agent (installed: "),
        ("", ["--modules", "nope"], "Module 'nope' cannot be imported: ModuleNotFoundError: No module named 'nope'"),
        ("", ["--settings", "nope.toml"], "Settings file nope.toml does not exist."),
        ("", ["--tracing"], "Tracing needs an OpenTelemetry SDK in this process: start the service with"),
        ("", ["--host", "0.0.0.0"], "Listening on 0.0.0.0 without TLS needs --insecure"),
        ("[serve]\nhost_access = ['typo']", [], "[serve] host_access: there is no agent 'typo' (installed: "),
        ("", ["--enable", "local_process", "--insecure"], 'allow it in airside.toml with [serve] host_access = ["'),
        ("[serve]\nagents = []", [], "names no agent; leave the key out to serve all"),
        ("[serve]\nagents = 'echo'", [], "airside.toml: serve.agents: expected a list, got 'echo'"),
        ("[serve]\nprot = 8000", [], "airside.toml: serve.prot: unknown key (known: host, port,"),
        ("[serve]\nport = '8000'", [], "airside.toml: serve.port: expected int, got '8000'"),
        ("[serve]\nport = 99999", [], "airside.toml: serve.port: expected 0 to 65535, got 99999"),
        ("[serve]\nmetrics_port = -2", [], "airside.toml: serve.metrics_port: expected -1 to 65535, got -2"),
        ("[serve]\ndrain_delay = -1", [], "airside.toml: serve.drain_delay: expected 0 or more, got -1"),
        ("[serve]\nlog_format = 'xml'", [], "airside.toml: serve.log_format: expected console or json, got 'xml'"),
        ("[serve]\nlog_level = 'loud'", [], "airside.toml: serve.log_level: expected debug, info, warning or error"),
        ("[agents.nope]\nx = 1", [], "airside.toml: agents.nope: no such agent (installed: "),
        ("[agents.webhook]\nhost = 1", [], "airside.toml: agents.webhook.host: unknown key (known: "),
        (
            "[serve]\nmodules = ['pair']\n[agents.one]\n[agents.two]",
            [],
            "[agents.one] and [agents.two] are for the same agent",
        ),
        ("[agents.echo]\nx = 1", [], "airside.toml: agents.echo: this agent has no options, but x is set"),
    ],
)
def test_a_mistake_stops_the_start_with_one_sentence(toml: str, flags: list[str], message: str, tmp_path: Path) -> None:
    if toml:
        (tmp_path / "airside.toml").write_text(toml)
    (tmp_path / "pair.py").write_text(PAIR)
    assert message in refused(tmp_path, *flags)


def test_a_port_in_use_is_named(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        said = refused(tmp_path, "--port", port)
        assert f"Port {port} on 127.0.0.1 cannot be listened on" in said
        assert "--port" in said
        said = refused(tmp_path, "--metrics-port", port)
        assert f"Metrics port {port} on 127.0.0.1 cannot be listened on" in said
        assert "--metrics-port" in said


# --- signals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_stops_at_once(number: int, tmp_path: Path) -> None:
    command = [AIRSIDE, "serve", *FREE[:-1], "60", "--agent", "echo"]
    with subprocess.Popen(command, cwd=tmp_path, env=environment(), text=True, stderr=subprocess.PIPE) as service:
        assert service.stderr is not None
        try:
            for awaited in ("serving on port", "a second signal stops at once"):
                for line in service.stderr:
                    if awaited in line:
                        break
                else:
                    pytest.fail(f"it never said {awaited!r}")
                service.send_signal(number)
            began = time.monotonic()
            assert service.wait(timeout=20) == 0
            assert time.monotonic() - began < 15
        finally:
            service.kill()
