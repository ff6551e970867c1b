"""`[isolate.NAME]`: `airside serve` with agents in processes of their own."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

AIRSIDE = str(Path(sys.executable).with_name("airside"))
COMMAND = (AIRSIDE, "serve", "--port", "0", "--metrics-port", "-1", "--drain-delay", "0")
MODULE = """
import os
from pathlib import Path
from airside import AgentRegistry, AsyncAgent, Phase, Resource

Path("imported-by").open("a").write(f"{os.getpid()} ")

class Mine(AsyncAgent[str]):
    task_type = "mine"

    def create(self, task): return "job"
    def get(self, job): return Resource(Phase.RUNNING)
    def delete(self, job): pass

AgentRegistry.register(Mine())
"""


def environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("AIRSIDE_")}


@contextmanager
def serving(folder: Path, **env: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A running service and what it said until it served. Killed at the end."""
    service = subprocess.Popen(COMMAND, cwd=folder, env=environment() | env, text=True, stderr=subprocess.PIPE)
    assert service.stderr is not None
    said = ""
    try:
        for line in service.stderr:
            said += line
            if "serving on port" in line:
                yield service, said
                break
        else:
            pytest.fail(said)
    finally:
        service.kill()
        service.wait()
        service.stderr.close()


def children(pid: int) -> set[int]:
    threads = Path(f"/proc/{pid}/task").iterdir()
    return {int(child) for thread in threads for child in (thread / "children").read_text().split()}


def until(condition: object, seconds: float = 10.0) -> None:
    assert callable(condition)
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def is_gone(pid: int) -> bool:
    try:
        return "State:\tZ" in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return True


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "mine.py").write_text(MODULE)
    (tmp_path / "airside.toml").write_text(
        '[serve]\nagents = ["mine", "echo"]\n[isolate.mine]\nmodules = ["mine"]\n[isolate.echo]\n'
    )
    return tmp_path


def test_each_isolated_agent_has_a_process_and_the_service_does_not_import_it(folder: Path) -> None:
    with serving(folder) as (service, said):
        assert re.search(r"serving on port \d+: mine, echo", said)
        assert len(children(service.pid)) == 2
        imported = {int(pid) for pid in (folder / "imported-by").read_text().split()}
        assert imported < children(service.pid)


def test_a_killed_process_is_replaced_and_all_end_with_the_service(folder: Path) -> None:
    with serving(folder) as (service, _):
        before = children(service.pid)
        victim = min(before)
        os.kill(victim, signal.SIGKILL)
        until(lambda: len(children(service.pid) - {victim}) == 2)
        after = children(service.pid)
        service.kill()
        service.wait()
        until(lambda: all(map(is_gone, after)))


def test_processes_end_with_a_gentle_stop(folder: Path) -> None:
    with serving(folder) as (service, _):
        before = children(service.pid)
        service.send_signal(signal.SIGTERM)
        assert service.wait(timeout=20) == 0
        assert all(map(is_gone, before))


def test_one_that_does_not_start_is_shown_and_the_others_are_served(folder: Path) -> None:
    (folder / "mine.py").write_text("import os\nos._exit(7)")
    with serving(folder) as (_, said):
        assert re.search(r"serving on port \d+: echo", said)
        assert re.search(r"not served: airside\.toml: isolate\.mine: .* ended with status 7 before", said)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ("[isolate.echo]\npyton = 'x'", "airside.toml: isolate.echo.pyton: unknown key (known: python, modules, env)"),
        ("[isolate.echo]\npython = '/none'", "isolate.echo: /none cannot be run: No such file or directory."),
        ("[isolate.ecko]", "has no such agent (it has: "),
        ("[isolate.echo]\n[agents.echo]\nx = 1", "agents.echo: this agent has no options, but x is set"),
        (
            "[isolate.mine]\nmodules = ['mine']\n[agents.Mine]\nx = 1",
            "airside.toml: write the options of Mine as [agents.mine], like [isolate.mine].",
        ),
    ],
)
def test_mistakes_are_one_sentence(tmp_path: Path, settings: str, sentence: str) -> None:
    (tmp_path / "mine.py").write_text(MODULE)
    (tmp_path / "airside.toml").write_text(settings)
    done = subprocess.run(
        COMMAND, cwd=tmp_path, env=environment(), text=True, capture_output=True, timeout=30, check=False
    )
    assert done.returncode == 2, done.stderr
    said = [line for line in done.stderr.splitlines() if " info " not in line]
    assert len(said) == 1, done.stderr
    assert sentence in said[0]


SDK = """
import json, os, pathlib

if os.environ.get("OTEL_SERVICE_NAME"):
    from opentelemetry import trace
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter, SpanExportResult

    class Write(SpanExporter):
        def export(self, spans):
            with pathlib.Path(__file__).with_name("spans").open("a") as out:
                out.writelines(span.to_json(indent=None) + "\\n" for span in spans)
            return SpanExportResult.SUCCESS

    trace.set_tracer_provider(TracerProvider())
    trace.get_tracer_provider().add_span_processor(SimpleSpanProcessor(Write()))
"""
TRACED = """
from airside import AgentRegistry, AsyncAgent, Phase, Resource
from opentelemetry import trace

class Mine(AsyncAgent[str]):
    task_type = "mine"

    def create(self, task):
        with trace.get_tracer("a client").start_as_current_span("POST /jobs"):
            return "job"
    async def get(self, job):
        with trace.get_tracer("a client").start_as_current_span("GET /jobs"):
            return Resource(Phase.SUCCEEDED)
    def delete(self, job): pass

AgentRegistry.register(Mine())
"""


def test_a_trace_leads_from_the_engines_call_to_the_clients_of_an_isolated_agent(folder: Path) -> None:
    """As `opentelemetry-instrument` sets the SDK up: by a module that Python imports first, in each process."""
    (folder / "sitecustomize.py").write_text(SDK)
    (folder / "mine.py").write_text(TRACED)
    (folder / "wf.py").write_text("from airside import TaskTemplate\nt = TaskTemplate(name='t', task_type='mine')")
    (folder / "airside.toml").write_text(
        '[serve]\nagents = ["mine"]\ntracing = true\n[isolate.mine]\nmodules = ["mine"]\n'
    )
    env = {"PYTHONPATH": str(folder), "OTEL_SERVICE_NAME": "airside"}
    with serving(folder, **env) as (_, said):
        port = re.search(r"serving on port (\d+)", said)
        assert port, said
        run = [AIRSIDE, "run", "--endpoint", f"localhost:{port[1]}", "wf.py", "t"]
        subprocess.run(run, check=True, capture_output=True, timeout=30, cwd=folder, env=environment())
        until((folder / "spans").exists)
        until(lambda: (folder / "spans").read_text().count("AsyncAgentService") >= 2)
    spans = {span["name"]: span for span in map(json.loads, (folder / "spans").read_text().splitlines())}
    for method, verb, client in (("CreateTask", "create", "POST /jobs"), ("GetTask", "get", "GET /jobs")):
        call = spans[f"flyteidl.service.AsyncAgentService/{method}"]
        agent, inner = spans[f"Mine {verb}"], spans[client]
        assert agent["parent_id"] == call["context"]["span_id"]
        assert inner["parent_id"] == agent["context"]["span_id"]
        assert call["context"]["trace_id"] == agent["context"]["trace_id"] == inner["context"]["trace_id"]
