"""The agent for Amazon ECS behind the real service, against moto."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from botocore.session import get_session
from tests.backends.aws.conftest import connect, outputs_pb, write_log
from tests.backends.aws.contract import departures, enum_of
from tests.backends.aws.examples import code_on, run_example
from tests.backends.aws.killing import FAULTS, end_all, end_untold

from airside import kwtypes
from airside.agents import cloudwatch_logs
from airside.agents.ecs_task import ECSConfig, ECSJob, ECSTask, ECSTaskAgent
from airside.agents.ecs_task_states import STATES, STOPS
from airside.model import (
    Call,
    Connection,
    Container,
    Fail,
    Interface,
    NotFound,
    OutputsAt,
    Phase,
    Retry,
    Task,
    TaskType,
)
from airside.testing import harness
from airside.testing.client import Wire

MODEL = get_session().get_service_model("ecs")
ROLE = "arn:aws:iam::123456789012:role/flights"

pytestmark = pytest.mark.may_block


@pytest.fixture(scope="session")
def ecs(moto: int) -> Any:
    """ECS as another user sees it, with the cluster `flights`, whose tasks end at the second look."""
    client = connect("ecs", f"http://127.0.0.1:{moto}")
    client.create_cluster(clusterName="flights")
    return client


@pytest.fixture(scope="session")
def settings(moto: int) -> dict[str, Any]:
    """The agent's settings."""
    ec2 = connect("ec2", f"http://127.0.0.1:{moto}")
    subnets = [one["SubnetId"] for one in ec2.describe_subnets()["Subnets"]][:1]
    groups = [one["GroupId"] for one in ec2.describe_security_groups()["SecurityGroups"]][:1]
    return {"cluster": "flights", "subnets": subnets, "security_groups": groups, "execution_role": ROLE}


@pytest.fixture
def agent(ecs: Any, settings: dict[str, Any], door: Any) -> Any:
    made = ECSTaskAgent()
    made.open(made.Options(**settings))
    yield made
    made.close()


def task_of(container: Container | None = None, config: ECSConfig | None = None, **more: Any) -> Task:
    image = Container(image="busybox:1", command=("true",)) if container is None else container
    made = ECSTask(name="late", container=image, task_config=config)
    given = {"key": f"{time.time_ns():032x}", **more}
    return Task(type=TaskType("ecs_task"), container=made.container, config=made.config, **given)


def told(job: ECSJob, status: str, **more: Any) -> dict[str, Any]:
    """A task as ECS describes it; its container's facts are `main`."""
    main = {"name": job.container, **more.pop("main", {})}
    return {"tasks": [{"taskArn": job.arn, "lastStatus": status, "containers": [main], **more}], "failures": []}


async def test_a_container_runs_to_its_end(ecs: Any, settings: dict[str, Any], door: Any, wire: Wire) -> None:
    task = ECSTask(
        name="late",
        container=Container(
            image="registry/late:1",
            command=("late", "--least"),
            args=("{{.inputs.least}}",),
            env={"CITY": "{{.inputs.city}}"},
            limits={"cpu": "1500m", "memory": "3Gi"},
        ),
        inputs=kwtypes(least=int, city=str),
        outputs=kwtypes(n=int),
        task_config=ECSConfig(cluster="flights", tags={"team": "a"}, task_role=ROLE),
    )
    async with harness(ECSTaskAgent(), wire=wire, options=settings) as h:
        job = await h.create(task=task, inputs={"least": 3, "city": "Kiel"})
        Path(job.output_prefix).mkdir(parents=True)  # what the container would write there
        (Path(job.output_prefix) / "outputs.pb").write_bytes(outputs_pb(n=4))
        first = await h.get(job)
        resource = await h.finish(job)
    assert (resource.phase, dict(resource.outputs)) == (Phase.SUCCEEDED, {"n": 4})
    [asked] = door.calls("RunTask")
    [overrides] = asked["overrides"].pop("containerOverrides")
    environment = {one["name"]: one["value"] for one in overrides.pop("environment")}
    assert environment.items() >= {"CITY": "Kiel", "AIRSIDE_KEY": job.task.key}.items()
    assert overrides == {"name": "main", "command": ["--least", "3"]}
    assert asked["overrides"] == {"cpu": "2048", "memory": "4096"}
    assert (asked["clientToken"], asked["cluster"], asked["count"]) == (job.task.key, "flights", 1)
    assert (asked["launchType"], asked["tags"]) == ("FARGATE", [{"key": "team", "value": "a"}])
    assert asked["networkConfiguration"]["awsvpcConfiguration"] == {
        "subnets": settings["subnets"],
        "securityGroups": settings["security_groups"],
        "assignPublicIp": "DISABLED",
    }
    definition = ecs.describe_task_definition(taskDefinition=asked["taskDefinition"])["taskDefinition"]
    [container] = definition["containerDefinitions"]
    assert (container["image"], container["entryPoint"]) == ("registry/late:1", ["late"])
    assert (definition["taskRoleArn"], definition["executionRoleArn"]) == (ROLE, ROLE)
    task_id = resource.info["task_arn"].rpartition("/")[2]
    assert first.links[0].uri.endswith(f"/ecs/v2/clusters/flights/tasks/{task_id}?region=eu-west-1")
    assert first.links[1].uri.endswith(f"$252Fecs$252Fairside/log-events/airside$252Fmain$252F{task_id}")


def test_tasks_of_one_image_share_a_definition(agent: ECSTaskAgent, door: Any) -> None:
    image = f"registry/shared:{time.time_ns()}"
    jobs = [agent.create(task_of(Container(image=image, limits={"cpu": "2"}))) for _ in range(3)]
    assert len({job.arn for job in jobs}) == 3
    assert len(door.calls("RegisterTaskDefinition")) == 1


def test_a_definition_that_is_there_is_used_as_it_is(agent: ECSTaskAgent, ecs: Any, door: Any) -> None:
    options = {"awslogs-group": "theirs", "awslogs-stream-prefix": "p", "awslogs-region": "eu-west-1"}
    ecs.register_task_definition(
        family="theirs",
        networkMode="awsvpc",
        containerDefinitions=[
            {"name": "proxy", "image": "proxy:1", "memory": 64, "essential": False},
            {"name": "app", "image": "app:1", "memory": 64,
             "logConfiguration": {"logDriver": "awslogs", "options": options}},
        ],
    )  # fmt: skip
    made = ECSTask(name="theirs", task_config=ECSConfig(task_definition="theirs"))
    job = agent.create(Task(type=TaskType("ecs_task"), config=made.config, key=f"{time.time_ns():032x}"))
    [asked] = door.calls("RunTask")
    assert asked["taskDefinition"] == "theirs"
    assert set(asked["overrides"]) == {"containerOverrides"}
    assert (job.container, job.log_group, job.log_prefix) == ("app", "theirs", "p")
    assert door.calls("RegisterTaskDefinition") == []
    wrong = {**made.config, "container": "main"}
    with pytest.raises(Fail, match=r"no container 'main' \(it has: proxy, app\)"):
        agent.create(Task(type=TaskType("ecs_task"), config=wrong, key=f"{time.time_ns():032x}"))


def test_machines_of_ones_own_and_other_capacity(agent: ECSTaskAgent, door: Any) -> None:
    asked = Container(image="busybox:1", limits={"cpu": "500m", "memory": "300Mi", "gpu": "1"})
    for config in (ECSConfig(launch_type="EC2"), ECSConfig(capacity_provider="FARGATE_SPOT", public_ip=True)):
        door.answer("RunTask", 200, {"tasks": [], "failures": [{"reason": "RESOURCE:GPU"}]})
        container = asked if config.launch_type else Container(image="busybox:1")
        with pytest.raises(Retry, match="starts no task: RESOURCE:GPU"):
            agent.create(task_of(container, config))
    machine, spot = door.calls("RunTask")
    assert (machine["launchType"], machine["overrides"]["cpu"], machine["overrides"]["memory"]) == ("EC2", "512", "300")
    [overrides] = machine["overrides"]["containerOverrides"]
    assert overrides["resourceRequirements"] == [{"type": "GPU", "value": "1"}]
    assert "assignPublicIp" not in machine["networkConfiguration"]["awsvpcConfiguration"]
    assert spot["capacityProviderStrategy"] == [{"capacityProvider": "FARGATE_SPOT", "weight": 1}]
    assert spot["networkConfiguration"]["awsvpcConfiguration"]["assignPublicIp"] == "ENABLED"
    assert "launchType" not in spot


@pytest.mark.parametrize(
    ("container", "config", "options", "message"),
    [
        (Container(image="busybox:1"), {"launchType": "MOON"}, {}, "is FARGATE, EC2 or EXTERNAL"),
        (Container(image="busybox:1"), {"subnet": "a"}, {}, "config.subnet: an ecs_task task knows no such key"),
        (Container(image="busybox:1"), {"subnets": "a"}, {}, "config.subnets: 'a' is not what belongs there"),
        (Container(image="busybox:1"), {"taskDefinition": "theirs"}, {}, "and not both"),
        (None, {}, {}, "needs a container with an image"),
        (Container(image="busybox:1", limits={"gpu": "1"}), {}, {}, "Fargate has no GPUs"),
        (Container(image="busybox:1"), {}, {"subnets": ()}, "needs subnets"),
        (Container(image="busybox:1"), {}, {"execution_role": ""}, "needs an execution role"),
        (Container(image="busybox:1"), {"cluster": "nowhere"}, {}, "[Cc]luster not found"),
    ],
)
def test_a_task_that_cannot_be_asked_for_fails_for_good(
    ecs: Any,
    settings: dict[str, Any],
    door: Any,
    container: Container | None,
    config: dict[str, Any],
    options: dict[str, Any],
    message: str,
) -> None:
    agent = ECSTaskAgent()
    agent.open(agent.Options(**{**settings, **options}))
    with pytest.raises(Fail, match=message):
        agent.create(Task(type=TaskType("ecs_task"), container=container, config=config, key=f"{time.time_ns():032x}"))
    agent.close()


def test_a_repeated_create_is_the_same_task(agent: ECSTaskAgent, door: Any) -> None:
    task = task_of()
    assert agent.create(task) == agent.create(task)
    assert door.repeats == 1
    with pytest.raises(Fail, match="Idempotent parameters do not match") as raised:
        agent.create(task_of(Container(image="busybox:2"), key=task.key))
    assert raised.value.code == "Conflict"


def test_many_tasks_are_a_hundred_a_call(agent: ECSTaskAgent, door: Any) -> None:
    job = agent.create(task_of())
    arn = job.arn.rpartition("/")[0]
    unknown = [
        ECSJob(arn=f"{arn}/{number:032x}", cluster=job.cluster, region=job.region, container="main")
        for number in range(120)
    ]
    resources = agent.get_many([job, *unknown, job], Call())
    assert [len(one["tasks"]) for one in door.calls("DescribeTasks")] == [100, 21]
    assert isinstance(getattr(resources[0], "phase", None), Phase)
    assert resources[0] == resources[-1]
    assert all(isinstance(one, NotFound) for one in resources[1:-1])


def test_the_tasks_of_one_cluster_do_not_suffer_from_another(agent: ECSTaskAgent, door: Any) -> None:
    job = agent.create(task_of())
    elsewhere = ECSJob(arn=f"{job.arn}0", cluster="elsewhere", region=job.region, container="main")
    door.answer("DescribeTasks", 500, {"message": "no"})
    resources = agent.get_many([elsewhere, job], Call())
    assert isinstance(resources[0], Retry)
    assert isinstance(getattr(resources[1], "phase", None), Phase)


JOB = ECSJob(arn="arn:aws:ecs:eu-west-1:1:task/flights/0a", cluster="flights", region="eu-west-1", container="main")
EXITED = {"stopCode": "EssentialContainerExited", "stoppedReason": "Essential container in task exited"}


@pytest.mark.parametrize(
    ("status", "more", "phase", "code", "message"),
    [
        ("PROVISIONING", {}, Phase.WAITING_FOR_RESOURCES, "", ""),
        ("ACTIVATING", {}, Phase.INITIALIZING, "", ""),
        ("DEPROVISIONING", {**EXITED, "main": {"exitCode": 1}}, Phase.RUNNING, "", "Essential container"),
        ("PAUSED", {}, Phase.RUNNING, "", ""),
        ("STOPPED", {**EXITED, "main": {"exitCode": 0}}, Phase.SUCCEEDED, "", ""),
        ("STOPPED", {**EXITED, "main": {"exitCode": 3}}, Phase.RETRYABLE_FAILED, "ContainerFailed", "exited with 3"),
        (
            "STOPPED",
            {**EXITED, "main": {"exitCode": 137, "reason": "OutOfMemoryError: container killed"}},
            Phase.RETRYABLE_FAILED,
            "OutOfMemory",
            "container killed",
        ),
        (
            "STOPPED",
            {"stopCode": "TaskFailedToStart", "stoppedReason": "CannotPullContainerError: access denied"},
            Phase.FAILED,
            "ImagePullFailed",
            "access denied",
        ),
        (
            "STOPPED",
            {"stopCode": "TaskFailedToStart", "stoppedReason": "ResourceInitializationError: no such log group"},
            Phase.RETRYABLE_FAILED,
            "CannotStart",
            "no such log group",
        ),
        (
            "STOPPED",
            {"stopCode": "SpotInterruption", "stoppedReason": "reclaimed", "main": {"exitCode": 143}},
            Phase.RETRYABLE_FAILED,
            "Preempted",
            "SpotInterruption",
        ),
        (
            "STOPPED",
            {"stopCode": "UserInitiated", "stoppedReason": "Cancelled by Airside", "main": {"exitCode": 0}},
            Phase.ABORTED,
            "Cancelled",
            "Cancelled by Airside",
        ),
        ("STOPPED", {"stopCode": "Whatever", "main": {"exitCode": 0}}, Phase.RETRYABLE_FAILED, "JobFailed", "Whatever"),
    ],
)
def test_what_a_task_says_of_itself(
    agent: ECSTaskAgent, door: Any, status: str, more: dict[str, Any], phase: Phase, code: str, message: str
) -> None:
    door.answer("DescribeTasks", 200, told(JOB, status, **more))
    resource = agent.get(JOB, Call())
    assert (resource.phase, resource.code) == (phase, code)
    assert message in resource.message


def test_outputs_are_where_the_container_was_told_to_leave_them(agent: ECSTaskAgent, door: Any) -> None:
    words = ("pyflyte-execute", "--output-prefix", "{{.outputPrefix}}", "--", "task")
    made = agent.create(task_of(Container(image="flyte:1", args=words), output_prefix="s3://runs/a/0"))
    assert made.place == "s3://runs/a/0"
    for code in (0, 1):
        door.answer("DescribeTasks", 200, told(made, "STOPPED", **EXITED, main={"exitCode": code}))
        assert agent.get(made, Call()).outputs == OutputsAt("s3://runs/a/0")


@pytest.mark.parametrize(
    ("left", "body", "phase", "code"),
    [
        ("outputs.json", b'{"n": 7}', Phase.SUCCEEDED, ""),
        ("outputs.json", b"7", Phase.FAILED, "OutputConversionError"),
        ("outputs.pb", b"", Phase.SUCCEEDED, ""),
        ("log.txt", b"", Phase.FAILED, "OutputConversionError"),
    ],
)
def test_a_container_may_tell_its_outputs_in_json(
    agent: ECSTaskAgent, moto: int, door: Any, left: str, body: bytes, phase: Phase, code: str
) -> None:
    s3, run = connect("s3", f"http://127.0.0.1:{moto}"), f"ecs-{time.time_ns()}"
    s3.create_bucket(Bucket=run, CreateBucketConfiguration={"LocationConstraint": "eu-west-1"})
    made = agent.create(task_of(output_prefix=f"s3://{run}/0", interface=Interface(outputs={"n": int})))
    s3.put_object(Bucket=run, Key=f"0/{left}", Body=body)
    door.answer("DescribeTasks", 200, told(made, "STOPPED", **EXITED, main={"exitCode": 0}))
    resource = agent.get(made, Call())
    assert (resource.phase, resource.code) == (phase, code)
    if phase is Phase.SUCCEEDED:
        assert resource.outputs == ({"n": 7} if body else OutputsAt(f"s3://{run}/0"))


def test_a_task_is_stopped_and_told_so(agent: ECSTaskAgent, door: Any) -> None:
    job = agent.create(task_of())
    agent.delete(job, Call())
    assert door.calls("StopTask") == [{"cluster": job.cluster, "task": job.arn, "reason": "Cancelled by Airside"}]
    door.answer(
        "StopTask", 400, {"__type": "InvalidParameterException", "message": "The referenced task was not found."}
    )
    with pytest.raises(NotFound):
        agent.delete(job, Call())


@pytest.mark.parametrize("prefix", ["airside", ""])
def test_log_lines_and_last_words_come_from_cloudwatch(
    agent: ECSTaskAgent, moto: int, door: Any, monkeypatch: pytest.MonkeyPatch, prefix: str
) -> None:
    monkeypatch.setattr(cloudwatch_logs, "SETTLES", 0.0)
    monkeypatch.setattr(cloudwatch_logs, "_PAUSE", 0.01)
    group = f"ecs-{time.time_ns()}"
    job = ECSJob(
        arn=JOB.arn, cluster="flights", region="eu-west-1", container="main", log_group=group, log_prefix=prefix
    )
    write_log(moto, group, "airside/main/0a" if prefix else "0b-runtime", "reading", "ValueError: no wings")
    failed = told(job, "STOPPED", **EXITED, main={"exitCode": 1, "runtimeId": "0b-runtime"}, stoppedAt=1.0)
    door.answer("DescribeTasks", 200, failed)
    lines = list(agent.logs(job, after="", limit=9, call=Call()))
    assert [line.message for line in lines] == ["reading", "ValueError: no wings"]
    door.answer("DescribeTasks", 200, failed)
    assert agent.get(job, Call()).message == "exited with 1: ValueError: no wings"


def test_a_task_that_cannot_be_placed_for_good_fails(agent: ECSTaskAgent, door: Any) -> None:
    door.answer("RunTask", 200, {"tasks": [], "failures": [{"arn": "a", "reason": "ATTRIBUTE"}]})
    with pytest.raises(Fail, match="starts no task: ATTRIBUTE"):
        agent.create(task_of())


def test_a_connection_may_name_the_cluster(agent: ECSTaskAgent, ecs: Any, door: Any) -> None:
    ecs.create_cluster(clusterName="theirs")
    job = agent.create(task_of(connection=Connection(configs={"cluster": "theirs"})))
    assert job.cluster.endswith(":cluster/theirs")


def test_the_tables_of_states_are_complete() -> None:
    assert set(enum_of(MODEL, "TaskStopCode")) == set(STOPS)
    assert set(enum_of(MODEL, "DesiredStatus")) <= set(STATES)  # the last status has no list in the API


def test_every_error_of_the_service_is_known() -> None:
    asked = ("RunTask", "DescribeTasks", "StopTask", "RegisterTaskDefinition", "DescribeTaskDefinition")
    shapes = {shape.name for name in asked for shape in MODEL.operation_model(name).error_shapes}
    assert shapes <= {
        *("AccessDeniedException", "BlockedException", "ClientException", "ClusterNotFoundException"),
        *("ConflictException", "InvalidParameterException", "LimitExceededException", "ServerException"),
        *("PlatformTaskDefinitionIncompatibilityException", "PlatformUnknownException", "UnsupportedFeatureException"),
    }


def test_every_request_is_one_that_the_api_describes(agent: ECSTaskAgent, door: Any) -> None:
    everything = ECSConfig(
        cpu_architecture="ARM64", ephemeral_storage=50, public_ip=True, tags={"team": "a"}, task_role=ROLE,
        region="eu-west-1",
    )  # fmt: skip
    container = Container(image=f"registry/all:{time.time_ns()}", command=("a", "b"), limits={"cpu": "2"})
    job = agent.create(task_of(container, everything))
    agent.get_many([job], Call())
    agent.delete(job, Call())
    agent.probe()
    assert {name for name, _ in door.asked} == {
        *("DescribeTaskDefinition", "RegisterTaskDefinition", "RunTask", "DescribeTasks", "StopTask"),
        "DescribeClusters",
    }
    assert [problem for name, body in door.asked for problem in departures(MODEL, name, body)] == []


async def test_a_service_killed_before_it_is_told_leaves_one_task(
    ecs: Any, settings: dict[str, Any], door: Any, killed_service: Callable[..., Any]
) -> None:
    run = f"untold{time.time_ns()}"
    image = Container(image=f"{run}:1", args=("true",))
    await end_untold(
        "ecs_task",
        [ECSTask(name=f"{run}-{number}", container=image) for number in range(3)],
        door=door,
        operation="RunTask",
        run=run,
        killed_service=killed_service,
        options=toml(settings),
    )
    asked = door.calls("RunTask")
    assert (len(asked), len({repr(one) for one in asked}), door.repeats) == (6, 3, 3)


def toml(settings: dict[str, Any]) -> str:
    return "\n".join(f"{name} = {json.dumps(value)}" for name, value in settings.items())


@pytest.mark.backend  # a create that died with the service is left to it for up to a minute
async def test_the_service_is_killed_during_creates_and_each_attempt_has_one_task(
    ecs: Any, settings: dict[str, Any], door: Any, fault_proxy: Callable[..., Any], killed_service: Callable[..., Any]
) -> None:
    run = f"once{time.time_ns()}"
    await end_all(
        "ecs_task",
        [
            ECSTask(name=f"{run}-{number}", container=Container(image=f"{run}:1", args=("true",)))
            for number in range(10)
        ],
        run=run,
        upstream=door.port,
        fault_proxy=fault_proxy,
        killed_service=killed_service,
        wire="v2",
        kills=2,
        least_faults=2,
        options=toml(settings),
        faults={**FAULTS, "share": 0.15},  # a create is two calls here, or three
    )
    asked = door.calls("RunTask")
    assert len({one["clientToken"] for one in asked}) == 10
    assert len({repr(one) for one in asked}) == 10  # a repeated create is the same to the letter


def test_the_example_of_the_documentation_runs(ecs: Any, settings: dict[str, Any], door: Any, tmp_path: Path) -> None:
    table = code_on("ecs_task", "toml")
    for named, ours in {"subnet-0a1b2c3d": "subnets", "sg-0a1b2c3d": "security_groups"}.items():
        table = table.replace(named, settings[ours][0])
    words = ("wf.py", "convert", "--video", "s3://flights/landing.mov")
    assert run_example("ecs_task", tmp_path, *words, settings=table)["phase"] == "SUCCEEDED"
    [asked] = door.calls("RunTask")
    assert "s3://flights/landing.mov" in asked["overrides"]["containerOverrides"][0]["command"]
