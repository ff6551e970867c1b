"""The docker_container agent against a real Podman."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

import pytest
from flyteidl2.core import tasks_pb2
from tests.backends.conftest import AIRSIDE

from airside import Container, File, kwtypes
from airside.agents.docker_container import ContainerJob, ContainerTask, DockerContainerAgent
from airside.model import Call, Execution, NotFound, OutputsAt, Phase
from airside.sdk.adapt import AsyncFace, adapt
from airside.sdk.options import read_options
from airside.testing import harness

Wire = Literal["v1", "v2"]
Options = Mapping[str, Any]
IMAGE = "localhost/busybox:1"
PLUGIN = "flytekitplugins-bigquery==1.16.*"

pytestmark = [pytest.mark.backend, pytest.mark.may_block]


class Quick(DockerContainerAgent):
    """The same, asked more often."""

    poll_interval = 0.1


def shell(line: str, *, image: str = IMAGE, **more: Any) -> ContainerTask:
    given = more.pop("container", {})
    return ContainerTask(
        name="flights.shell", container=Container(image=image, command=("sh", "-c", line), **given), **more
    )


async def test_a_container_reads_its_inputs_and_leaves_its_outputs(wire: Wire, options: Options) -> None:
    task = shell(
        'cat "$AIRSIDE_INPUTS"; echo; echo "$WHO"; printf "{\\"n\\": %d}" 8 > "$AIRSIDE_OUTPUT_DIR/n.json"; '
        'echo 8 > "$AIRSIDE_OUTPUT_DIR/n"; echo a,b > "$AIRSIDE_OUTPUT_DIR/table"',
        container={"env": {"WHO": "it's {{.inputs.who}}"}},
        inputs=kwtypes(who=str, n=int),
        outputs=kwtypes(n=int, table=File),
    )
    async with harness(Quick(), wire=wire, options=options) as h:
        job = await h.create(task=task, inputs={"who": '"me"; exit 1', "n": 7})
        resource = await h.finish(job, timeout=60)
        assert resource.phase is Phase.SUCCEEDED, resource.message
        outputs = dict(resource.outputs or {})
        assert outputs["n"] == 8
        assert Path(outputs["table"].uri).read_text() == "a,b\n"
        lines = [line.message async for line in h.logs(job)]
        assert json.loads(lines[0]) == {"who": '"me"; exit 1', "n": 7}
        assert lines[1] == 'it\'s "me"; exit 1'
        assert resource.info is not None
        assert resource.info["image"] == IMAGE


@pytest.mark.parametrize(
    ("task", "phase", "code", "words"),
    [
        (shell("echo one; echo 'no such table: trips' >&2; exit 3"), Phase.RETRYABLE_FAILED, "ContainerFailed",
         "exited with 3: no such table: trips"),
        (shell("exec tail /dev/zero", container={"limits": {"memory": "16Mi"}}), Phase.RETRYABLE_FAILED,
         "ContainerFailed", "killed by SIGKILL, as one is that uses more memory than its limit of 16Mi"),
        (shell("exit 137"), Phase.RETRYABLE_FAILED, "ContainerFailed", "killed by SIGKILL"),
        (ContainerTask(name="none", container=Container(image=IMAGE, command=("no-such-program",))), Phase.FAILED,
         "CannotStart", "no-such-program"),
        (shell("true", image="localhost/none:1"), Phase.FAILED, "ImageNotFound", "none:1 is not on this machine"),
        (shell("true", image="evil.example.net/x"), Phase.FAILED, "Forbidden", "may not be run here"),
        (shell("true", container={"limits": {"memory": "much"}}), Phase.FAILED, "UserError", "limits cannot be read"),
        (shell("true", container={"limits": {"gpu": "some"}}), Phase.FAILED, "UserError", "limits cannot be read"),
        (shell("true", container={"env": {"A": "b\0"}}), Phase.FAILED, "UserError", "has a NUL character"),
        (shell("true", image="localhost/x y"), Phase.FAILED, "InvalidRequest", "invalid reference format"),
        (shell("true", outputs=kwtypes(n=int)), Phase.FAILED, "OutputsNotFound", "left no output 'n'"),
    ],
)  # fmt: skip
async def test_a_failure_is_told_in_words(
    task: ContainerTask, phase: Phase, code: str, words: str, options: Options
) -> None:
    async with harness(Quick(), options={**options, "images": ["localhost/*"]}) as h:
        resource = await h.finish(await h.create(task=task), timeout=60)
    assert (resource.phase, resource.code) == (phase, code), resource.message
    assert words in resource.message


async def test_a_container_of_flytekit_is_told_where_it_runs_and_heard(podman: Any, options: Options) -> None:
    line = 'env; test "$FLYTE_FAIL_ON_ERROR" != true  # flytekit: end with an error, do not just write error.pb'
    words = ("sh", "-c", line, "pyflyte-execute", "--output-prefix", "s3://runs/0")
    task = ContainerTask(name="t", container=Container(image=IMAGE, command=words))
    agent = AsyncFace(DockerContainerAgent())
    await agent.open(read_options(agent.options_type, options, "agents.docker_container"))
    try:
        async with harness(Quick(), options=options) as h:
            run = Execution(project="flights", domain="production", name="f1", env={"B": "b"})
            work = replace(h.task(task=task, output_prefix="s3://runs/0"), execution=run)
        meta = await agent.create(work, Call())
        async with asyncio.timeout(60):
            while not (resource := await agent.get(meta, Call())).phase.is_terminal:
                await asyncio.sleep(0.1)
        assert (resource.code, resource.outputs) == ("ContainerFailed", OutputsAt("s3://runs/0"))
        lines = podman.run("logs", f"airside-{work.key}").splitlines()
        assert {"FLYTE_INTERNAL_EXECUTION_ID=f1", "FLYTE_INTERNAL_EXECUTION_PROJECT=flights", "B=b"} <= set(lines)
        away = agent.codec.decode(meta)
        podman.run("rm", f"airside-{work.key}")
        podman.run("run", "--detach", "--name", away.name, IMAGE, "true")
        async with asyncio.timeout(60):
            while not (resource := await agent.get(meta, Call())).phase.is_terminal:
                await asyncio.sleep(0.1)
        assert (resource.phase, resource.outputs) == (Phase.SUCCEEDED, OutputsAt("s3://runs/0"))
    finally:
        await agent.close()


FLYTEKITS = """
from flytekit import task


@task(container_image="flights:1")
def double(n: int) -> int:
    return 2 * n


@task(container_image="flights:1")
def refuse(n: int):
    raise ValueError(f"{n} is refused")
"""


async def test_a_task_of_flytekit_runs_in_its_container(
    options: Options, environment: Callable[..., Path], plugin_task: Callable[..., Any], tmp_path: Path, wire: Wire
) -> None:
    """Its own entry point runs it, in a container that sees flytekit's environment on this machine."""
    python = environment("flytekit-plugins", PLUGIN)
    (tmp_path / "wf.py").write_text(FLYTEKITS)
    seen = (sys.base_prefix, str(python), "/usr/lib", "/lib", "/lib64", str(tmp_path))
    given = {**options, "volumes": {f"{one}:rw" if one == str(tmp_path) else one: one for one in seen}}
    told = {}
    async with harness(Quick(), wire=wire, options=given) as h:
        for name in ("double", "refuse"):
            made, prefix = plugin_task("flytekit", FLYTEKITS, name, PLUGIN, n=21), f"{tmp_path}/{name}/0"
            (tmp_path / name).mkdir()
            (tmp_path / name / "inputs.pb").write_bytes(made.inputs)
            template = tasks_pb2.TaskTemplate.FromString(made.template)
            template.type = "docker_container"
            container = template.container
            container.image = IMAGE
            for key, value in {"PATH": f"{python}/bin:/bin", "PYTHONPATH": str(tmp_path), "HOME": "/tmp"}.items():
                container.env.add(key=key, value=value)
            places = {
                "input": f"{tmp_path}/{name}/inputs.pb",
                "outputPrefix": prefix,
                "rawOutputDataPrefix": f"{prefix}/raw",
                "checkpointOutputPrefix": f"{prefix}/c",
                "prevCheckpointPrefix": '""',
            }
            container.args[:] = [places.get(word.strip("{.}"), word) for word in container.args]  # Flyte's engine does
            request = h.client.create_request(
                "docker_container", template=template.SerializeToString(), inputs=made.inputs, prefix=prefix
            )
            handle = (await h.client.call("CreateTask", request)).resource_meta
            async with asyncio.timeout(120):
                while not Phase((resource := await h.client.get(handle, "docker_container")).phase).is_terminal:
                    await asyncio.sleep(0.2)
            told[name] = resource
    assert Phase(told["double"].phase) is Phase.SUCCEEDED, told["double"].message
    literals = told["double"].outputs.literals
    found = literals["o0"] if wire == "v1" else literals[0].value
    assert found.scalar.primitive.integer == 42
    assert Phase(told["refuse"].phase) in (Phase.FAILED, Phase.RETRYABLE_FAILED), told["refuse"]
    assert "21 is refused" in told["refuse"].message


def test_any_task_with_a_container_runs_here(podman: Any, tmp_path: Path) -> None:
    (tmp_path / "wf.py").write_text(BOXED)
    (tmp_path / "routes.yaml").write_text(
        "tasks: {task-plugins: {default-for-task-types: [{boxed: container}]}}\nplugins: {agent-service: {}}\n"
    )
    argv = [AIRSIDE, "run", "--config", "routes.yaml", "--containers", "docker_container", "wf.py", "boxed", "--x", "7"]
    env = {**os.environ, "DOCKER_HOST": podman.url, "XDG_STATE_HOME": str(tmp_path / "state")}
    done = subprocess.run(argv, cwd=tmp_path, env=env, capture_output=True, text=True, check=False, timeout=100)
    assert (done.returncode, done.stdout) == (0, "n: 7\n"), done.stderr


BOXED = f"""
from airside import Container, TaskTemplate, kwtypes

container = Container(
    image="{IMAGE}",
    command=("sh", "-c", 'echo "$1" > "$2/n"', "sh"),
    args=("{{{{.inputs.x}}}}", "{{{{.outputPrefix}}}}"),
)
boxed = TaskTemplate(
    name="boxed", task_type="boxed", container=container, inputs=kwtypes(x=int), outputs=kwtypes(n=int)
)
"""


async def test_limits_reach_the_engine(podman: Any, options: Options, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "x").write_text("seen")
    given = {**options, "memory": "32Mi", "pids": 50, "volumes": {"/data": str(tmp_path / "data")}}
    async with harness(Quick(), options=given) as h:
        line = "cat /data/x; echo; touch /data/y; sleep 60"
        job = await h.create(task=shell(line, container={"limits": {"memory": "1Gi", "cpu": "500m"}}))
        found = json.loads(podman.run("inspect", f"airside-{job.task.key}"))[0]
        assert found["HostConfig"]["Memory"] == 32 * 2**20
        assert found["HostConfig"]["NanoCpus"] == 500_000_000
        assert found["HostConfig"]["PidsLimit"] == 50
        assert found["HostConfig"]["Privileged"] is False
        first = [line.message async for line in h.logs(job, limit=2)]
        assert "seen" in first[0]
        assert "Read-only" in first[1]
        await h.delete(job)


async def test_a_log_is_followed_and_read_page_by_page(options: Options, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    gate.mkdir()
    task = shell("for i in 1 2 3; do echo line $i; done; until [ -e /gate/open ]; do sleep 0.1; done; echo end")
    async with harness(Quick(), options={**options, "volumes": {"/gate": str(gate)}}) as h:
        job = await h.create(task=task)
        first = [line async for line in h.logs(job, limit=2)]
        assert [line.message for line in first] == ["line 1", "line 2"]
        following = h.logs(job, after=first[-1].cursor)
        assert (await anext(following)).message == "line 3"
        (gate / "open").touch()
        assert [line.message async for line in following] == ["end"]


async def test_a_container_is_cancelled_and_outlives_the_service(wire: Wire, podman: Any, options: Options) -> None:
    async with harness(DockerContainerAgent, wire=wire, process=True, options=options) as h:
        job = await h.create(task=shell("sleep 600"))
        await h.restart(kill=True)
        assert (await h.get(job)).phase is Phase.RUNNING
        await h.delete(job)
        assert (await h.finish(job, timeout=60)).phase.is_failure
        async with asyncio.timeout(30):
            while "Exited" not in podman.run("ps", "-a", "--filter", f"name={job.task.key}", "--format", "{{.Status}}"):
                await asyncio.sleep(0.1)


async def test_a_handle_reaches_no_container_but_airsides_own(podman: Any, options: Options) -> None:
    podman.run("run", "--detach", "--name", "theirs", IMAGE, "sleep", "600")
    agent = AsyncFace(DockerContainerAgent())
    await agent.open(read_options(agent.options_type, options, "agents.docker_container"))
    try:
        forged = agent.codec.encode(ContainerJob(name="theirs"))
        await agent.delete(forged, Call())
        with pytest.raises(NotFound):
            await agent.get(forged, Call())
        assert podman.run("inspect", "--format", "{{.State.Status}}", "theirs").strip() == "running"
    finally:
        await agent.close()
        podman.run("rm", "--force", "--time", "0", "theirs")


async def test_a_container_that_somebody_paused_can_be_cancelled(podman: Any, options: Options) -> None:
    async with harness(Quick(), options=options) as h:
        job = await h.create(task=shell("sleep 600"))
        podman.run("pause", f"airside-{job.task.key}")
        async with asyncio.timeout(30):
            while (resource := await h.get(job)).message != "paused":
                await asyncio.sleep(0.1)
        assert resource.phase is Phase.RUNNING
        await h.delete(job)
        assert (await h.finish(job, timeout=60)).phase.is_failure


async def test_a_service_killed_in_a_create_leaves_one_container(podman: Any, options: Options) -> None:
    async with harness(DockerContainerAgent, process=True, options=options) as h:
        prefixes = [f"{options['state_dir']}/prefix/{number}/0" for number in range(5)]
        creating = [asyncio.create_task(h.create(task=shell("true"), output_prefix=one)) for one in prefixes]
        await asyncio.sleep(0.4)
        await h.kill()
        await asyncio.gather(*creating, return_exceptions=True)
        await h.restart()
        jobs = [await h.create(task=shell("true"), output_prefix=one) for one in prefixes]
        resources = [await h.finish(job, timeout=60) for job in jobs]
    assert [one.phase for one in resources] == [Phase.SUCCEEDED] * 5
    names = [f"airside-{job.task.key}" for job in jobs]
    assert sorted(name for name in podman.names() if name in names) == sorted(names)


async def test_a_container_that_was_made_but_not_started_is_started(podman: Any, options: Options) -> None:
    agent = adapt(author := DockerContainerAgent())
    await agent.open(read_options(agent.options_type, options, "agents.docker_container"))
    try:
        async with harness(Quick(), options=options) as h:
            task = h.task(task=shell("true"))
            author._engine.create(f"airside-{task.key}", author._settings(task), pull="never")
            assert await agent.find(task, task.key, Call()) is None
            meta = await agent.create(task, Call())
            assert await agent.find(task, task.key, Call()) == meta
            [told] = await agent.get_many([meta], Call())
            assert told.phase in (Phase.RUNNING, Phase.SUCCEEDED)
            unknown = await agent.get_many([meta.replace(task.key.encode(), b"0" * 32)], Call())
            assert "no container" in str(unknown[0])
    finally:
        await agent.close()


async def test_finished_containers_are_removed_after_the_retention(podman: Any, options: Options) -> None:
    async with harness(Quick(), options=options) as h:
        job = await h.create(task=shell("true"))
        await h.finish(job, timeout=60)
    await asyncio.sleep(1.1)
    async with harness(Quick(), options={**options, "retention": 1.0}) as h:
        await h.finish(await h.create(task=shell("true")), timeout=60)
    assert f"airside-{job.task.key}" not in podman.names()


async def test_a_long_job_is_kept_for_the_retention_after_its_end(podman: Any, options: Options) -> None:
    agent = adapt(author := DockerContainerAgent())
    await agent.open(read_options(agent.options_type, options, "agents.docker_container"))
    try:
        async with harness(Quick(), options=options) as h:
            job = await h.create(task=shell("sleep 3"))
            await h.finish(job, timeout=60)
        told = json.loads(podman.run("inspect", f"airside-{job.task.key}"))[0]
        made, ended = (datetime.fromisoformat(one) for one in (told["Created"], told["State"]["FinishedAt"]))
        between = (made + (ended - made) / 2).timestamp()
        author._engine.prune("airside.key", time.time() - between)
        assert f"airside-{job.task.key}" in podman.names()
        author._engine.prune("airside.key", time.time() - ended.timestamp() - 0.1)
        assert f"airside-{job.task.key}" not in podman.names()
    finally:
        await agent.close()


async def test_why_an_image_cannot_be_pulled_is_told(podman: Any, options: Options, registry: str) -> None:
    async with harness(Quick(), options={**options, "pull": "missing"}) as h:
        good = await h.finish(await h.create(task=shell("true", image=f"{registry}/busybox:1")), timeout=60)
        assert good.phase is Phase.SUCCEEDED, good.message
        missing = await h.finish(await h.create(task=shell("true", image=f"{registry}/none:1")), timeout=60)
        assert (missing.phase, missing.code) == (Phase.FAILED, "ImageNotFound")
        assert "manifest unknown" in missing.message
        away = await h.create(task=shell("true", image="127.0.0.1:1/none:1"))
        async with asyncio.timeout(60):
            while "connection refused" not in (resource := await h.get(away)).message:
                await asyncio.sleep(0.1)
        assert not resource.phase.is_terminal
        await h.delete(away)


def test_the_example_of_the_documentation_runs(podman: Any, tmp_path: Path) -> None:
    page = (Path(__file__).parents[3] / "docs" / "agents" / "docker_container.md").read_text()
    [example] = re.findall(r"```python file=wf\.py\n(.*?)```", page, re.DOTALL)
    (tmp_path / "wf.py").write_text(example)
    podman.run("tag", IMAGE, "docker.io/library/busybox:1.36")
    env = {**os.environ, "DOCKER_HOST": podman.url, "XDG_STATE_HOME": str(tmp_path / "state")}
    argv = [AIRSIDE, "run", "--json", "wf.py", "count", "--word", "sea"]
    done = subprocess.run(argv, cwd=tmp_path, env=env, capture_output=True, text=True, check=False, timeout=100)
    assert done.returncode == 0, done.stderr
    outputs = json.loads(done.stdout)["outputs"]
    assert outputs["n"] == 3
    copy = outputs["copy"]
    assert Path(copy["uri"] if isinstance(copy, dict) else copy).read_text() == "sea\n"
