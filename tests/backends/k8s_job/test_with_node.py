"""The k8s_job agent against a whole Kubernetes: containers that run."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import pytest
from tests.backends.conftest import AIRSIDE

from airside import Container, kwtypes
from airside.agents.k8s_job import K8sJobAgent, K8sJobTask
from airside.model import Phase
from airside.testing import harness

Wire = Literal["v1", "v2"]
Options = Mapping[str, Any]

pytestmark = [
    pytest.mark.backend,
    pytest.mark.may_block,
    pytest.mark.filterwarnings("ignore:Unverified HTTPS request"),
]


class K8s(K8sJobAgent):
    """The same, asked more often."""

    poll_interval = 0.2


@pytest.fixture
def options(plane: Any, namespace: str, node: str) -> Options:
    return {
        "kubeconfig": plane.kubeconfig,
        "namespace": namespace,
        "host_network": True,
        "image_pull_policy": "Never",
    }


def shell(image: str, line: str, **more: Any) -> K8sJobTask:
    container = Container(image=image, command=("sh", "-c", line), **more.pop("container", {}))
    return K8sJobTask(name="shell", container=container, **more)


async def test_a_container_runs_and_leaves_its_outputs(wire: Wire, options: Options, node: str) -> None:
    line = 'echo "hello $WHO"; printf "{\\"n\\": %d}" ${#WHO} > /dev/termination-log'
    task = shell(
        node, line, container={"env": {"WHO": "{{.inputs.who}}"}}, inputs=kwtypes(who=str), outputs=kwtypes(n=int)
    )
    async with harness(K8s(), wire=wire, options=options) as h:
        job = await h.create(task=task, inputs={"who": 'the "sea"'})
        resource = await h.finish(job, timeout=100)
        assert resource.phase is Phase.SUCCEEDED, resource.message
        assert dict(resource.outputs or {}) == {"n": 9}
        assert [line.message async for line in h.logs(job)] == ['hello the "sea"']


async def test_failures_are_told_in_the_words_of_container_and_node(options: Options, node: str) -> None:
    cases = {
        "exited with 3: no such table: trips": shell(node, "echo one; echo 'no such table: trips'; exit 3"),
        "it cannot be started": K8sJobTask(name="none", container=Container(image=node, command=("no-such-program",))),
        "it used more memory than its limit of 16Mi": shell(
            node, "tail /dev/zero", container={"limits": {"memory": "16Mi"}}
        ),
        "ErrImageNeverPull": shell("localhost/none:1", "true"),
    }
    async with harness(K8s(), options={**options, "pending_timeout": 5.0}) as h:
        jobs = {words: await h.create(task=task) for words, task in cases.items()}
        told = {words: await h.finish(job, timeout=100) for words, job in jobs.items()}
    for words, resource in told.items():
        assert words in resource.message
    assert [one.code for one in told.values()] == ["ContainerFailed", "CannotStart", "OutOfMemory", "ImagePullFailed"]


async def test_a_log_is_followed_and_read_page_by_page(options: Options, node: str) -> None:
    task = shell(node, "for i in 1 2 3; do echo line $i; done; sleep 3; echo end")
    async with harness(K8s(), options=options) as h:
        job = await h.create(task=task)
        first = [line async for line in h.logs(job, limit=2)]
        assert [line.message for line in first] == ["line 1", "line 2"]
        assert [line.message async for line in h.logs(job, after=first[-1].cursor)] == ["line 3", "end"]


async def test_a_running_job_is_cancelled_with_its_pod(plane: Any, options: Options, namespace: str, node: str) -> None:
    async with harness(K8s(), options=options) as h:
        job = await h.create(task=shell(node, "trap 'exit 0' TERM; while true; do sleep 0.1; done"))
        async with asyncio.timeout(100):
            while (await h.get(job)).phase is not Phase.RUNNING:
                await asyncio.sleep(0.2)
            await h.delete(job)
            while plane.core.list_namespaced_pod(namespace).items:
                await asyncio.sleep(0.2)
        assert (await h.finish(job, timeout=60)).phase.is_failure


def test_the_example_of_the_documentation_runs(plane: Any, options: Options, node: str, tmp_path: Path) -> None:
    page = (Path(__file__).parents[3] / "docs" / "agents" / "k8s_job.md").read_text()
    [example] = re.findall(r"```python file=wf\.py\n(.*?)```", page, re.DOTALL)
    [settings] = re.findall(r"```toml\n(.*?)```", page, re.DOTALL)
    assert '"flights"' in settings
    space = options["namespace"]
    (tmp_path / "wf.py").write_text(example.replace("busybox:1.36", node).replace('"flights"', f'"{space}"'))
    node_of_the_test = f'kubeconfig = "{plane.kubeconfig}"\nhost_network = true\nimage_pull_policy = "Never"\n'
    (tmp_path / "airside.toml").write_text(settings.replace('"flights"', f'"{space}"') + node_of_the_test)
    argv = [AIRSIDE, "run", "--json", "wf.py", "count", "--word", "sea"]
    env = {**os.environ, "AIRSIDE_STATE": str(tmp_path / "state")}
    done = subprocess.run(argv, cwd=tmp_path, env=env, capture_output=True, text=True, check=False, timeout=200)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["outputs"] == {"n": 3}


BOXED = r"""
from airside import Container, TaskTemplate, kwtypes

container = Container(
    image="{image}",
    command=("sh", "-c", 'echo "{{\\"n\\": $1}}" > /dev/termination-log; test "$FLYTE_FAIL_ON_ERROR" = true', "sh"),
    args=("{{{{.inputs.x}}}}",),
)
boxed = TaskTemplate(
    name="boxed", task_type="boxed", container=container, inputs=kwtypes(x=int), outputs=kwtypes(n=int)
)
"""


def test_any_task_with_a_container_runs_as_a_job(plane: Any, options: Options, node: str, tmp_path: Path) -> None:
    (tmp_path / "wf.py").write_text(BOXED.format(image=node))
    (tmp_path / "routes.yaml").write_text(
        "tasks: {task-plugins: {default-for-task-types: [{boxed: container}]}}\nplugins: {agent-service: {}}\n"
    )
    table = "".join(f"{name} = {json.dumps(value)}\n" for name, value in options.items())
    (tmp_path / "airside.toml").write_text(f"[agents.k8s_job]\n{table}")
    argv = [
        AIRSIDE,
        "run",
        "--json",
        "--config",
        "routes.yaml",
        "--containers",
        "k8s_job",
        "wf.py",
        "boxed",
        "--x",
        "7",
    ]
    env = {**os.environ, "AIRSIDE_STATE": str(tmp_path / "state")}
    done = subprocess.run(argv, cwd=tmp_path, env=env, capture_output=True, text=True, check=False, timeout=200)
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(done.stdout)["outputs"] == {"n": 7}
    [job] = plane.batch.list_namespaced_job(options["namespace"]).items
    assert job.spec.template.spec.containers[0].args == ["7"]
