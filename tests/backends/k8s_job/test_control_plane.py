"""The k8s_job agent against a real API server and the real Job controller."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest
import yaml
from kubernetes import client

from airside import Container, kwtypes
from airside.agents.k8s_job import K8sJob, K8sJobAgent, K8sJobTask
from airside.model import Call, Connection, Execution, NotFound, OutputsAt, Phase, Resource, Retry
from airside.sdk.adapt import AsyncFace, adapt
from airside.sdk.options import read_options
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

    poll_interval = 0.1


@asynccontextmanager
async def opened(options: Options) -> AsyncIterator[AsyncFace]:
    """The agent as a service uses it, without the service."""
    agent = AsyncFace(K8sJobAgent())
    await agent.open(read_options(agent.options_type, options, "agents.k8s_job"))
    try:
        yield agent
    finally:
        await agent.close()


def echo(**more: Any) -> K8sJobTask:
    container = Container(
        image="busybox:1",
        command=("echo", "{{.inputs.n}}"),
        env={"WHO": "me {{.inputs.n}}"},
        requests={"cpu": "100m"},
        limits={"memory": "64Mi", "gpu": "1"},
    )
    return K8sJobTask(name="flights.echo", container=container, inputs=kwtypes(n=int), **more)


async def test_a_job_goes_from_queued_to_its_outputs(wire: Wire, plane: Any, options: Options, namespace: str) -> None:
    url = "https://k8s.example.org/{namespace}/{name}"
    async with harness(K8s(), wire=wire, options={**options, "job_url": url}) as h:
        job = await h.create(task=echo(outputs=kwtypes(total=int), ttl=600), inputs={"n": 7})
        first = await _until(h, job, lambda resource: "not scheduled" in resource.message)
        assert first.phase is Phase.WAITING_FOR_RESOURCES
        assert first.links[0].uri == f"https://k8s.example.org/{namespace}/airside-{job.task.key}"
        pod = plane.pod_of(namespace)
        main = pod.spec.containers[0]
        assert main.command == ["echo", "7"]
        assert {one.name: one.value for one in main.env}["WHO"] == "me 7"
        assert main.resources.limits == {"memory": "64Mi", "nvidia.com/gpu": "1"}
        assert pod.metadata.labels["task-name"] == "flights.echo"
        made = plane.batch.read_namespaced_job(f"airside-{job.task.key}", namespace)
        assert (made.spec.backoff_limit, made.spec.ttl_seconds_after_finished) == (0, 600)
        plane.report(namespace, {"phase": "Running", "containerStatuses": [container(running={})]})
        assert (await _until(h, job, lambda resource: resource.phase is Phase.RUNNING)).info["pod"] == pod.metadata.name
        plane.ended(namespace, 0, message='{"total": 42}')
        resource = await h.finish(job)
        assert (resource.phase, dict(resource.outputs or {})) == (Phase.SUCCEEDED, {"total": 42})


@pytest.mark.parametrize(
    ("status", "phase", "code", "words"),
    [
        ({"reason": "Evicted", "message": "The node was low on resource: memory."}, Phase.RETRYABLE_FAILED, "Evicted",
         "evicted from its node: The node was low on resource: memory."),
        ({"reason": "NodeLost", "message": "Node n1 is gone"}, Phase.RETRYABLE_FAILED, "NodeFailed", "Node n1 is gone"),
        ({"reason": "Preempting", "message": "for another"}, Phase.RETRYABLE_FAILED, "Preempted", "took its place"),
        ({"conditions": [{"type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI"}]},
         Phase.RETRYABLE_FAILED, "Evicted", "as when one is drained"),
        ({"code": 137, "more": {"reason": "OOMKilled"}}, Phase.RETRYABLE_FAILED, "OutOfMemory",
         "it used more memory than its limit of 64Mi"),
        ({"code": 3, "more": {"reason": "Error", "message": "one\nno such table: trips\n"}}, Phase.RETRYABLE_FAILED,
         "ContainerFailed", "exited with 3: no such table: trips"),
        ({"code": 137, "more": {"signal": 9}}, Phase.RETRYABLE_FAILED, "ContainerFailed", "killed by signal 9"),
        ({"code": 127, "more": {"reason": "ContainerCannotRun", "message": "exec: nope: not found"}}, Phase.FAILED,
         "CannotStart", "it cannot be started: exec: nope: not found"),
    ],
)  # fmt: skip
async def test_why_a_pod_failed_is_told_in_words(
    status: Mapping[str, Any], phase: Phase, code: str, words: str, plane: Any, options: Options, namespace: str
) -> None:
    async with harness(K8s(), options=options) as h:
        job = await h.create(task=echo(), inputs={"n": 7})
        await asyncio.to_thread(plane.pod_of, namespace)
        if "code" in status:
            plane.ended(namespace, status["code"], **status["more"])
        else:
            plane.report(namespace, {"phase": "Failed", **status})
        resource = await h.finish(job)
    assert (resource.phase, resource.code) == (phase, code)
    assert words in resource.message


async def test_an_image_that_cannot_be_pulled_is_told_and_given_up(
    plane: Any, options: Options, namespace: str
) -> None:
    waiting = {"reason": "ImagePullBackOff", "message": 'Back-off pulling image "busybox:1"'}
    async with harness(K8s(), options=options) as h:
        job = await h.create(task=echo(), inputs={"n": 7})
        plane.report(
            namespace,
            {"phase": "Pending", "conditions": [{"type": "PodScheduled", "status": "True"}],
             "containerStatuses": [container(waiting=waiting)]},
        )  # fmt: skip
        shown = await _until(h, job, lambda resource: "ImagePullBackOff" in resource.message)
        assert shown.phase is Phase.INITIALIZING
    async with harness(K8s(), options={**options, "pending_timeout": 1.0}) as h:
        resource = await h.finish(job, timeout=60)
        assert (resource.phase, resource.code) == (Phase.FAILED, "ImagePullFailed")
        assert 'Back-off pulling image "busybox:1"' in resource.message
        await h.restart()
        assert (await h.finish(job)).code == "ImagePullFailed"


async def test_a_deadline_is_a_failure_for_good(plane: Any, options: Options, namespace: str) -> None:
    async with harness(K8s(), options=options) as h:
        job = await h.create(task=echo(deadline=1), inputs={"n": 7})
        plane.report(namespace, {"phase": "Running", "startTime": "2024-01-02T03:04:05Z"})
        resource = await h.finish(job, timeout=60)
    assert (resource.phase, resource.code) == (Phase.FAILED, "TimeLimit")
    assert "deadline of 1 s" in resource.message


async def test_a_cancelled_job_is_deleted_with_its_pods(
    wire: Wire, plane: Any, options: Options, namespace: str
) -> None:
    async with harness(K8s(), wire=wire, options=options) as h:
        job = await h.create(task=echo(), inputs={"n": 7})
        await asyncio.to_thread(plane.pod_of, namespace)
        await h.delete(job)
        assert (await h.finish(job, timeout=60)).phase.is_failure
        async with asyncio.timeout(60):
            while plane.batch.list_namespaced_job(namespace).items or plane.core.list_namespaced_pod(namespace).items:
                await asyncio.sleep(0.1)


async def test_a_service_killed_in_a_create_leaves_one_job(plane: Any, options: Options, namespace: str) -> None:
    async with harness(K8sJobAgent, process=True, options=options) as h:
        prefixes = [f"s3://runs/{namespace}/{number}/0" for number in range(6)]
        creating = [asyncio.create_task(h.create(task=echo(), inputs={"n": 1}, output_prefix=one)) for one in prefixes]
        await asyncio.sleep(0.2)
        await h.kill()
        await asyncio.gather(*creating, return_exceptions=True)
        await h.restart()
        jobs = [await h.create(task=echo(), inputs={"n": 1}, output_prefix=one) for one in prefixes]
        await asyncio.gather(*(h.get(job) for job in jobs))
        made = plane.batch.list_namespaced_job(namespace).items
    assert sorted(one.metadata.name for one in made) == sorted(f"airside-{job.task.key}" for job in jobs)


async def test_many_jobs_are_asked_for_with_one_list_of_each(plane: Any, options: Options, namespace: str) -> None:
    agent = adapt(author := K8sJobAgent())
    await agent.open(read_options(agent.options_type, options, "agents.k8s_job"))
    try:
        async with harness(K8s(), options=options) as h:
            tasks = [h.task(task=echo(), inputs={"n": number}) for number in range(5)]
            metas = [await agent.create(task, Call()) for task in tasks]
            again = await agent.create(tasks[0], Call())
            asked: list[str] = []
            client = author._clients.get(None)
            call = client.call_api

            def counted(method: str, url: str, *arguments: Any, **more: Any) -> Any:
                asked.append(f"{method} {url.partition('?')[0].rpartition('/')[2]}")
                return call(method, url, *arguments, **more)

            client.call_api = counted
            plane.batch.delete_namespaced_job(f"airside-{tasks[4].key}", namespace, propagation_policy="Background")
            await asyncio.sleep(0.5)
            told = await agent.get_many(metas, Call())
    finally:
        await agent.close()
    assert again == metas[0]
    assert asked == ["GET jobs", "GET pods"]
    assert all(one.phase in (Phase.QUEUED, Phase.WAITING_FOR_RESOURCES, Phase.INITIALIZING) for one in told[:4])
    assert "no Job" in str(told[4])


@pytest.mark.parametrize(
    ("config", "code", "words"),
    [
        ({"namespace": "kube-system"}, "Forbidden", "may not use the namespace 'kube-system'"),
        ({"namespace": "../x"}, "UserError", "no name of a namespace"),
        ({"job": {"spec": {}}}, "Forbidden", "takes no manifests"),
        ({"ttl": "long"}, "UserError", "config.ttl"),
        ({"privileged": True}, "UserError", "knows no such key"),
    ],
)
async def test_what_cannot_work_fails_for_good(
    config: Mapping[str, Any], code: str, words: str, options: Options
) -> None:
    async with harness(K8s(), options=options) as h:
        resource = await h.finish(await h.create(config=config, container=Container(image="busybox:1")))
    assert (resource.phase, resource.code) == (Phase.FAILED, code)
    assert words in resource.message


async def test_a_manifest_is_taken_where_it_is_allowed_and_checked_by_kubernetes(
    plane: Any, options: Options, namespace: str
) -> None:
    pod = {"containers": [{"name": "side", "image": "s"}, {"name": "main", "image": "m"}], "nodeSelector": {"a": "b"}}
    job = {"metadata": {"labels": {"team": "x"}}, "spec": {"template": {"spec": pod}, "completions": 2}}
    async with harness(K8s(), options={**options, "manifests": True}) as h:
        good = await h.create(task=K8sJobTask(name="m", job=job, service_account="default"))
        made = plane.batch.read_namespaced_job(f"airside-{good.task.key}", namespace)
        assert made.metadata.labels["team"] == "x"
        assert (made.spec.completions, made.spec.template.spec.node_selector) == (2, {"a": "b"})
        assert made.spec.template.spec.service_account_name == "default"
        bad = {"spec": {"template": {"spec": {"containers": [{"name": "Main!", "image": "m"}]}}}}
        resource = await h.finish(await h.create(task=K8sJobTask(name="m", job=bad)))
        assert (resource.phase, resource.code) == (Phase.FAILED, "InvalidRequest")
        assert "spec.template.spec.containers[0].name" in resource.message
        nowhere = {**options, "namespace": "no-such-place"}
    async with harness(K8s(), options=nowhere) as h:
        resource = await h.finish(await h.create(task=echo(), inputs={"n": 1}))
        assert (resource.phase, resource.code) == (Phase.FAILED, "NamespaceNotFound")


async def test_an_account_without_rights_is_told_so(plane: Any, options: Options) -> None:
    plain = {**options, "kubeconfig": plane.kubeconfig.replace("admin", "plain")}
    async with harness(K8s(), options=plain) as h:
        resource = await h.finish(await h.create(task=echo(), inputs={"n": 1}))
    assert (resource.phase, resource.code) == (Phase.FAILED, "Forbidden")
    assert 'User "plain" cannot' in resource.message


async def test_an_account_that_is_refused_for_a_while_ends_no_job(
    plane: Any, options: Options, namespace: str, tmp_path: Path
) -> None:
    config, good = tmp_path / "config", Path(plane.kubeconfig).read_text()
    async with harness(K8s(), options=options) as h, opened({**options, "kubeconfig": plane.kubeconfig}) as admin:
        meta = await admin.create(h.task(task=echo(), inputs={"n": 1}), Call())
    for token, words in (("plain-token", 'User "plain" cannot'), ("expired", "Unauthorized")):
        config.write_text(good.replace("token: admin-token", f"token: {token}"))
        async with opened({**options, "kubeconfig": str(config)}) as agent:
            for ask in (agent.get, agent.delete):
                with pytest.raises(Retry, match=words):
                    await ask(meta, Call())
            config.write_text(good)
            if token == "expired":  # a client that was refused is made anew
                assert not (await agent.get(meta, Call())).phase.is_terminal


async def test_only_the_jobs_that_are_asked_about_are_listed(options: Options) -> None:
    async with harness(K8s(), options=options) as h, opened(options) as agent:
        metas = [await agent.create(h.task(task=echo(), inputs={"n": number}), Call()) for number in range(8)]
        client, listed = agent.author._clients.get(None), []
        call = client.call_api

        def counted(*arguments: Any, **more: Any) -> Any:
            response = call(*arguments, **more)
            listed.append(len(json.loads(response.read())["items"]))
            return response

        client.call_api = counted
        await agent.get_many(metas[:5], Call())
        assert listed[0] == 5
        elsewhere = metas[0].replace(b'"airside-', b'"airside-x) , y in (')
        told = await agent.get_many([elsewhere, *metas[1:3]], Call())
    assert isinstance(told[0], NotFound | Resource)
    assert all(isinstance(one, Resource) for one in told[1:])


async def test_a_handle_reaches_no_job_but_airsides_own(plane: Any, options: Options, namespace: str) -> None:
    pod = {"containers": [{"name": "c", "image": "i"}], "restartPolicy": "Never"}
    theirs = {"metadata": {"name": "theirs"}, "spec": {"template": {"spec": pod}}}
    uid = plane.batch.create_namespaced_job(namespace, theirs).metadata.uid
    async with opened(options) as agent:
        for forged in (
            K8sJob(name="theirs", namespace=namespace, uid=uid),
            K8sJob(name="theirs", namespace=namespace, uid=""),
        ):
            await agent.delete(agent.codec.encode(forged), Call())
        elsewhere = agent.codec.encode(K8sJob(name=f"airside-{'0' * 32}", namespace="kube-system", uid=uid))
        for ask in (agent.get, agent.delete):
            with pytest.raises(Retry, match="may not use the namespace 'kube-system'"):
                await ask(elsewhere, Call())
    assert plane.batch.read_namespaced_job("theirs", namespace).metadata.deletion_timestamp is None


async def test_a_job_that_cannot_be_given_up_leaves_the_others_alone(
    plane: Any, options: Options, namespace: str
) -> None:
    async with harness(K8s(), options=options) as h, opened(options) as admin:
        stuck = await admin.create(h.task(task=echo(), inputs={"n": 1}), Call())
        waiting = {"reason": "ErrImagePull", "message": "no such image"}
        plane.report(namespace, {"phase": "Pending", "containerStatuses": [container(waiting=waiting)]})
        good = await admin.create(h.task(task=echo(), inputs={"n": 2}), Call())
    name = f"reader-{time.time_ns()}"
    rules = [{"apiGroups": ["", "batch"], "resources": ["jobs", "pods"], "verbs": ["list"]}]
    subjects = [{"kind": "User", "name": "plain", "apiGroup": "rbac.authorization.k8s.io"}]
    role = {"kind": "Role", "name": name, "apiGroup": "rbac.authorization.k8s.io"}
    plane.rbac.create_namespaced_role(namespace, {"metadata": {"name": name}, "rules": rules})
    binding = {"metadata": {"name": name}, "subjects": subjects, "roleRef": role}
    plane.rbac.create_namespaced_role_binding(namespace, binding)
    reader = {**options, "kubeconfig": plane.kubeconfig.replace("admin", "plain"), "pending_timeout": 0.5}
    async with opened(reader) as agent, asyncio.timeout(60):
        while "cannot be ended" not in str((told := await agent.get_many([stuck, good], Call()))[0]):
            await asyncio.sleep(0.2)
    assert isinstance(told[0], Retry)
    assert isinstance(told[1], Resource)


async def test_the_least_permissions_of_the_documentation_are_enough(
    plane: Any, options: Options, namespace: str
) -> None:
    page = (Path(__file__).parents[3] / "docs" / "agents" / "k8s_job.md").read_text()
    [text] = re.findall(r"### Least permissions\n.*?```yaml\n(.*?)```", page, re.DOTALL)
    name = f"least-{time.time_ns()}"
    subjects = [{"kind": "User", "name": "plain", "apiGroup": "rbac.authorization.k8s.io"}]
    role = {"kind": "Role", "name": name, "apiGroup": "rbac.authorization.k8s.io"}
    plane.rbac.create_namespaced_role(namespace, {"metadata": {"name": name}, **yaml.safe_load(text)})
    plane.rbac.create_namespaced_role_binding(
        namespace, {"metadata": {"name": name}, "subjects": subjects, "roleRef": role}
    )
    least = {**options, "kubeconfig": plane.kubeconfig.replace("admin", "plain"), "pending_timeout": 0.5}
    async with harness(K8s(), options=options) as h, opened(least) as agent:
        stuck = h.task(task=echo(), inputs={"n": 1})
        meta = await agent.create(stuck, Call())
        assert await agent.create(stuck, Call()) == meta  # it reads the one that is there
        waiting = {"reason": "ErrImagePull", "message": "no such image"}
        status = {"phase": "Pending", "containerStatuses": [container(waiting=waiting)]}
        await asyncio.to_thread(plane.report, namespace, status)
        assert (await _end(agent, meta)).code == "ImagePullFailed"  # it has ended the Job
        async with asyncio.timeout(60):
            while plane.core.list_namespaced_pod(namespace).items:
                await asyncio.sleep(0.2)
            with pytest.raises(NotFound, match="gone, and its log with it"):
                [line async for line in agent.logs(meta, after="", limit=1, call=Call())]
        await agent.delete(meta, Call())
        async with asyncio.timeout(60):
            while plane.batch.list_namespaced_job(namespace).items:
                await asyncio.sleep(0.2)
    log = {"namespace": namespace, "verb": "get", "resource": "pods", "subresource": "log"}  # there is no node to ask
    review = client.AuthorizationV1Api(plane.api).create_subject_access_review(
        {"spec": {"user": "plain", "resourceAttributes": log}}
    )
    assert review.status.allowed


async def test_a_clock_that_is_ahead_of_the_clusters_gives_up_nothing(
    plane: Any, options: Options, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = time.time
    async with harness(K8s(), options=options) as h, opened(options) as agent:
        meta = await agent.create(h.task(task=echo(), inputs={"n": 1}), Call())
        waiting = {"reason": "ErrImagePull", "message": "no such image"}
        plane.report(namespace, {"phase": "Pending", "containerStatuses": [container(waiting=waiting)]})
        monkeypatch.setattr(time, "time", lambda: now() + 3600)
        assert (await agent.get(meta, Call())).phase is Phase.INITIALIZING
        monkeypatch.undo()
    [job] = plane.batch.list_namespaced_job(namespace).items
    assert job.spec.active_deadline_seconds is None


async def test_outputs_are_those_of_the_tasks_container_whatever_its_name(
    plane: Any, options: Options, namespace: str
) -> None:
    pod = {"containers": [{"name": "worker", "image": "w"}, {"name": "agent", "image": "a"}]}
    task = K8sJobTask(name="m", job={"spec": {"template": {"spec": pod}}}, outputs=kwtypes(n=int))
    async with harness(K8s(), options={**options, "manifests": True}) as h:
        job = await h.create(task=task)
        ended = {"exitCode": 0, "startedAt": None, "finishedAt": None}
        statuses = [  # a kubelet tells them in the order of their names
            {**container(terminated={**ended, "message": '{"n": 1}'}), "name": "agent"},
            {**container(terminated={**ended, "message": '{"n": 2}'}), "name": "worker"},
        ]
        await asyncio.to_thread(plane.report, namespace, {"phase": "Succeeded", "containerStatuses": statuses})
        resource = await h.finish(job, timeout=60)
    assert dict(resource.outputs or {}) == {"n": 2}, resource.message


async def test_a_container_of_flytekit_leaves_files_also_if_it_has_no_outputs(
    plane: Any, options: Options, namespace: str
) -> None:
    words = ("pyflyte-execute", "--output-prefix", "{{.outputPrefix}}", "--", "task")
    flytekits = Container(image="i", args=words, env={"A": "{{.inputs.n}}"})
    task = K8sJobTask(name="t", container=flytekits, inputs=kwtypes(n=int))
    async with harness(K8s(), options=options) as h, opened(options) as agent:
        good = h.task(task=task, inputs={"n": 7}, output_prefix="s3://runs/good/0")
        run = Execution(project="flights", domain="production", name="f1", task_name="t", attempt=1, env={"B": "b"})
        meta = await agent.create(replace(good, execution=run), Call())
        variables = {one.name: one.value for one in plane.pod_of(namespace).spec.containers[0].env}
        await asyncio.to_thread(plane.ended, namespace, 0)
        assert (await _end(agent, meta)).outputs == OutputsAt("s3://runs/good/0")
        plain = h.task(task=echo(), inputs={"n": 7}, output_prefix="s3://runs/plain/0")
        assert agent.codec.decode(await agent.create(plain, Call())).output_prefix == ""
    told = {
        "A": "7",
        "B": "b",
        "AIRSIDE_KEY": good.key,
        "AIRSIDE_OUTPUT_PREFIX": "s3://runs/good/0",
        "FLYTE_FAIL_ON_ERROR": "true",  # else a task without outputs that fails would be taken for a success
        "FLYTE_INTERNAL_EXECUTION_ID": "f1",
        "FLYTE_INTERNAL_EXECUTION_PROJECT": "flights",
        "FLYTE_INTERNAL_EXECUTION_DOMAIN": "production",
        "FLYTE_ATTEMPT_NUMBER": "1",
    }
    assert variables | told == variables


async def test_a_failure_is_told_in_error_pb_if_flytekit_ran(plane: Any, options: Options, namespace: str) -> None:
    words = ("pyflyte-execute", "--output-prefix", "s3://runs/bad/0", "--", "task")
    async with harness(K8s(), options=options) as h, opened(options) as agent:
        task = K8sJobTask(name="t", container=Container(image="i", args=words))
        meta = await agent.create(h.task(task=task, output_prefix="s3://runs/bad/0"), Call())
        await asyncio.to_thread(plane.ended, namespace, 1)
        assert (await _end(agent, meta)).outputs == OutputsAt("s3://runs/bad/0")


async def test_a_variable_of_the_manifest_and_one_of_the_container(
    plane: Any, options: Options, namespace: str
) -> None:
    field = {"fieldRef": {"apiVersion": "v1", "fieldPath": "status.podIP"}}
    main = {"name": "main", "env": [{"name": "IP", "valueFrom": field}, {"name": "A", "value": "old"}]}
    job = {"spec": {"template": {"spec": {"containers": [main]}}}}
    task = K8sJobTask(name="t", job=job, container=Container(image="i", env={"A": "new"}))
    async with harness(K8s(), options={**options, "manifests": True}) as h:
        await h.create(task=task)
        variables = {one.name: one for one in (await asyncio.to_thread(plane.pod_of, namespace)).spec.containers[0].env}
    assert variables["IP"].value_from.field_ref.field_path == "status.podIP"
    assert variables["A"].value == "new"


async def test_a_finished_job_is_gone_after_its_ttl(plane: Any, options: Options, namespace: str) -> None:
    async with harness(K8s(), options=options) as h, opened(options) as agent:
        meta = await agent.create(h.task(task=echo(ttl=1), inputs={"n": 7}), Call())
        await asyncio.to_thread(plane.ended, namespace, 0)
        async with asyncio.timeout(60):
            while plane.batch.list_namespaced_job(namespace).items:
                await asyncio.sleep(0.2)
        with pytest.raises(NotFound, match="any more"):
            await agent.get(meta, Call())


async def _end(agent: AsyncFace, meta: bytes) -> Resource:
    async with asyncio.timeout(60):
        while not (resource := await agent.get(meta, Call())).phase.is_terminal:
            await asyncio.sleep(0.1)
    return resource


async def test_a_connection_brings_cluster_and_token(plane: Any, options: Options, namespace: str) -> None:
    server = f"https://127.0.0.1:{plane.port}"
    configs = {"server": server, "ca": plane.authority, "namespace": namespace}
    mine = Connection("mine", {"token": "admin-token"}, configs)
    plain = {**options, "kubeconfig": plane.kubeconfig.replace("admin", "plain")}
    async with harness(K8s(), options={**plain, "allowed_hosts": [f"127.0.0.1:{plane.port}"]}) as h:
        job = await h.create(task=echo(), inputs={"n": 1}, connection=mine)
        assert not (await h.get(job)).phase.is_terminal
        assert plane.batch.read_namespaced_job(f"airside-{job.task.key}", namespace)
        assert "admin-token" not in h.log
    async with harness(K8s(), options=plain) as h:
        resource = await h.finish(await h.create(task=echo(), inputs={"n": 1}, connection=mine))
        assert (resource.phase, resource.code) == (Phase.FAILED, "HostNotAllowed")


def container(**state: Any) -> Mapping[str, Any]:
    """The status of the main container."""
    return {"name": "main", "image": "img", "imageID": "", "ready": False, "restartCount": 0, "state": state}


async def _until(h: Any, job: Any, so: Callable[[Any], bool], within: float = 60.0) -> Any:
    async with asyncio.timeout(within):
        while not so(resource := await h.get(job)):
            await asyncio.sleep(0.1)
    return resource
