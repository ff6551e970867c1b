"""`airside run --config` and `airside engine --routes`: Flyte's own YAML, against real services."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.acceptance.commands import Call, Start, serving
from tests.acceptance.test_cli_secure import self_signed

FILE = '''
from airside import AgentRegistry, AsyncAgent, Container, LogLine
from airside import Phase, Resource, SyncAgent, Task, TaskTemplate, kwtypes

class Talker(AsyncAgent[str]):
    task_type = "talker"
    poll_interval = 0.1
    create_is_idempotent = True

    def create(self, task: Task) -> str:
        return task.key

    def get(self, job: str) -> Resource:
        return Resource(Phase.SUCCEEDED)

    def delete(self, job: str) -> None: ...

    async def logs(self, job: str, *, after, limit, call):
        import os
        yield LogLine(f"told by {os.environ['SERVICE']}")

class Where(SyncAgent):
    """Tells which service it is, and whose task it runs."""

    task_type = "where"

    def do(self, task: Task) -> Resource:
        import os
        name = f"{os.environ['SERVICE']} {task.execution.project}/{task.execution.domain}"
        return Resource(Phase.SUCCEEDED, outputs={"name": name})

where = TaskTemplate(name="where", task_type="where", outputs=kwtypes(name=str))
talker = TaskTemplate(name="talker", task_type="talker")
nobodys = TaskTemplate(name="nobodys", task_type="nobodys")
boxed = TaskTemplate(
    name="boxed", task_type="boxed", inputs=kwtypes(x=int), outputs=kwtypes(n=int),
    container=Container(
        image="example.org/none", command=("/bin/sh", "-c"), args=("echo {{.inputs.x}} > $AIRSIDE_OUTPUT_DIR/n",)
    ),
)
'''
SERVED = ("--modules", "served", "--agent", "where", "--agent", "talker")
AGENT = "AgentRegistry.register(Where())\nAgentRegistry.register(Talker())\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("routes")
    certificate, key = self_signed()
    (folder / "wf.py").write_text(FILE)
    (folder / "served.py").write_text(FILE + AGENT)
    (folder / "tls.crt").write_bytes(certificate)
    (folder / "tls.key").write_bytes(key)
    return folder


@pytest.fixture(scope="module")
def one(folder: Path) -> Iterator[str]:
    with serving(folder, *SERVED, SERVICE="one") as address:
        yield address


@pytest.fixture(scope="module")
def two(folder: Path) -> Iterator[str]:
    """A service that speaks TLS."""
    flags = ("--host", "127.0.0.1", "--tls-cert", "tls.crt", "--tls-key", "tls.key")
    with serving(folder, *SERVED, *flags, SERVICE="two") as address:
        yield address


@pytest.fixture(autouse=True)
def own_roots(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GRPC_DEFAULT_SSL_ROOTS_FILE_PATH", raising=False)


def write(folder: Path, text: str) -> str:
    (folder / "flyte.yaml").write_text(text)
    return "flyte.yaml"


def test_a_task_goes_where_the_file_says(folder: Path, one: str, two: str, call: Call) -> None:
    config = write(
        folder,
        f"""
plugins:
  connector-service:
    defaultConnector: {{endpoint: {one}, insecure: true, defaultTimeout: 20s, colour: blue}}
    connectors:
      secured: {{endpoint: {two}, domain: production, timeouts: {{ListAgents: 20s, createtask: 20s, getTask: 20s}}}}
""",
    )
    trusted = {"SSL_CERT_FILE": str(folder / "tls.crt")}
    done = call("run", "--config", config, "wf.py", "where", **trusted)
    assert (done.returncode, done.stdout) == (0, "name: one local/local\n"), done.stderr
    assert "Warning: flyte.yaml: plugins.connector-service.defaultConnector.colour is not known and is ignored." in (
        done.stderr
    )
    mine = ("--project", "flights", "--domain", "production")
    done = call("run", "--config", config, *mine, "wf.py", "where", **trusted)
    assert (done.returncode, done.stdout) == (0, "name: two flights/production\n"), done.stderr
    (record,) = json.loads(call("jobs", "list", "-n", "1", "--json").stdout)
    assert (record["task"], record["phase"]) == ("where", "SUCCEEDED")


def test_a_service_whose_certificate_is_not_trusted(folder: Path, two: str, call: Call) -> None:
    config = write(folder, f"plugins: {{connector-service: {{connectors: {{a: {{endpoint: {two}}}}}}}}}")
    done = call("run", "--config", config, "wf.py", "where")
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == (
        "Error: No agent serves task type where, and there is no default (served: none; connector-service/a: "
        f"No agent service answers at {two}: its certificate cannot be verified.)."
    )


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("plugins: {}", "has neither plugins.agent-service nor plugins.connector-service"),
        ("plugins: [", "is no YAML"),
        ("plugins: {agent-service: {defaultAgent: {endpoint: 'x:1', insecure: maybe}}}", "must be true or false"),
        (
            "plugins: {agent-service: {defaultAgent: {endpoint: 'x:1', defaultServiceConfig: '{'}}}",
            "defaultServiceConfig: is no JSON",
        ),
    ],
)
def test_a_file_that_cannot_be_used(text: str, problem: str, folder: Path, call: Call) -> None:
    config = write(folder, text)
    for command in (
        ("run", "--config", config, "wf.py", "where"),
        ("run", "--detach", "--config", config, "wf.py", "where"),
        ("engine", "--routes", config),
    ):
        done = call(*command)
        assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
        assert problem in done.stderr


def test_a_file_that_is_not_there(call: Call) -> None:
    done = call("engine", "--routes", "none.yaml")
    assert (done.returncode, done.stderr) == (2, "Error: none.yaml cannot be read: No such file or directory.\n")


def test_where_to_run_is_said_once(call: Call) -> None:
    done = call("run", "--config", "a.yaml", "--endpoint", "localhost:1", "wf.py", "where")
    assert (done.returncode, done.stderr) == (
        2,
        "Error: --config and --endpoint both say where to run it: give one of them.\n",
    )


def test_detached_tasks_follow_their_own_file_and_others_the_engines(
    folder: Path, one: str, two: str, engine: Start, call: Call
) -> None:
    (folder / "mine.yaml").write_text(
        f"plugins: {{agent-service: {{defaultAgent: {{endpoint: {two}, insecure: false, defaultTimeout: 20s}}}}}}"
    )
    (folder / "routes.yaml").write_text(
        f"plugins: {{agent-service: {{defaultAgent: {{endpoint: {one}, defaultTimeout: 20s}}}}}}"
    )
    engine("--routes", str(folder / "routes.yaml"), SSL_CERT_FILE=str(folder / "tls.crt"))
    for flags, name in ((("--config", "mine.yaml"), "two"), ((), "one")):
        job = call("run", "--detach", *flags, "wf.py", "where").stdout.strip()
        waited = call("jobs", "wait", job)
        assert waited.stdout == f"name: {name} local/local\n", waited.stderr
    job = call("run", "--detach", "wf.py", "talker").stdout.strip()
    assert call("jobs", "wait", job).returncode == 0
    assert call("jobs", "logs", "--routes", "routes.yaml", job).stdout == "told by one\n"


def test_the_log_of_a_routed_job(folder: Path, one: str, call: Call) -> None:
    config = write(folder, f"plugins: {{agent-service: {{defaultAgent: {{endpoint: {one}, defaultTimeout: 20s}}}}}}")
    done = call("run", "--json", "--config", config, "wf.py", "talker")
    assert done.returncode == 0, done.stderr
    logs = call("jobs", "logs", json.loads(done.stdout)["job"])
    assert logs.stdout == "told by one\n", (logs, done)
    here = call("run", "--json", "served.py", "talker", SERVICE="here")
    job = json.loads(here.stdout)["job"]
    assert call("jobs", "logs", job, SERVICE="here").stdout == "told by here\n"
    missing = call("jobs", "logs", "--routes", write(folder, "plugins: {agent-service: {}}"), job)
    assert (missing.returncode, missing.stderr) == (
        2,
        "Error: No agent serves task type talker, and there is no default (served: none).\n",
    )


def test_a_route_to_the_container_plugin(folder: Path, one: str, call: Call) -> None:
    config = write(
        folder,
        f"""
tasks: {{task-plugins: {{default-for-task-types: [{{boxed: container}}, {{nobodys: k8s-array}}]}}}}
plugins: {{agent-service: {{defaultAgent: {{endpoint: {one}}}}}}}
""",
    )
    run = ("run", "--config", config, "wf.py", "boxed", "--x", "3")
    done = call(*run)
    assert done.returncode == 2
    assert "Task type boxed is routed to the plugin 'container'" in done.stderr
    assert "--containers docker_container runs it here by Docker or Podman, --containers local_process" in done.stderr
    done = call(*run, "--containers", "local_process")
    assert (done.returncode, done.stdout) == (0, "n: 3\n"), done.stderr
    job = call(*run, "--containers", "local_process", "--detach").stdout.strip()
    assert call("jobs", "wait", job).stdout == "n: 3\n"
    other = call("run", "--config", config, "wf.py", "nobodys")
    assert other.returncode == 2
    assert "Task type nobodys is routed to the plugin 'k8s-array'" in other.stderr
