"""What is sent to Databricks, held against the classes that its own SDK is generated with."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Mapping
from enum import Enum
from typing import Any

import pytest
from databricks.sdk.environments import ALL_ENVS
from databricks.sdk.service import jobs

from airside import Container, Execution, Fail, Interface, Task
from airside.agents import databricks_states as states
from airside.agents.databricks_run import KINDS, TASK_KEYS, submission
from airside.agents.databricks_workspaces import VENDOR_HOSTS
from airside.model import Phase, TaskType

CLUSTER = {"spark_version": "15.4.x-scala2.12", "node_type_id": "i3.xlarge", "num_workers": 2}
FLYTE1 = Container(image="img:1", args=("pyflyte-execute", "--inputs", "s3://b/inputs.pb"), env={"A": "b"})
FLYTE2 = Container(image="img:2", args=("a0", "--inputs", "s3://b/inputs.pb"))


def body_of(config: Mapping[str, Any], container: Container | None = None, **inputs: Any) -> dict[str, Any]:
    run = Execution(project="flights", domain="development", name="a1b2", node_id="n0", task_name="wf.count")
    task = Task(
        type=TaskType("databricks"),
        inputs=inputs,
        config=config,
        container=container,
        interface=Interface(),
        key="0123456789abcdef0123456789abcdef",
        execution=run,
    )
    return submission(task)


def sdk_takes(body: Mapping[str, Any]) -> None:
    """Every key of the body is one that the SDK's own classes read and write again."""
    arguments = inspect.signature(jobs.JobsAPI.submit).parameters
    assert set(body) <= set(arguments), set(body) - set(arguments)
    for task in body["tasks"]:
        assert jobs.SubmitTask.from_dict(task).as_dict() == task
    for environment in body.get("environments", ()):
        assert jobs.JobEnvironment.from_dict(environment).as_dict() == environment
    if "git_source" in body:
        assert jobs.GitSource.from_dict(body["git_source"]).as_dict() == body["git_source"]
    assert len(body["idempotency_token"]) <= 64


@pytest.mark.parametrize(
    ("conf", "kind"),
    [
        ({"notebook_task": {"notebook_path": "/n", "base_parameters": {"a": "1"}}}, "notebook_task"),
        ({"spark_python_task": {"python_file": "/a.py", "parameters": ["1"]}}, "spark_python_task"),
        ({"python_wheel_task": {"package_name": "p", "entry_point": "main"}}, "python_wheel_task"),
        ({"spark_jar_task": {"main_class_name": "org.Main"}, "libraries": [{"jar": "/a.jar"}]}, "spark_jar_task"),
        ({"spark_submit_task": {"parameters": ["--class", "x"]}}, "spark_submit_task"),
        ({"sql_task": {"warehouse_id": "w", "query": {"query_id": "q"}, "parameters": {"a": "1"}}}, "sql_task"),
        ({"dbt_task": {"commands": ["dbt run"]}}, "dbt_task"),
    ],
)
@pytest.mark.parametrize(
    "compute",
    [{"new_cluster": CLUSTER}, {"existing_cluster_id": "0923-x"}, {"environment_key": "default"}],
    ids=["new", "existing", "serverless"],
)
def test_a_flat_job_of_any_kind_becomes_a_task_on_any_compute(
    conf: dict[str, Any], kind: str, compute: dict[str, Any]
) -> None:
    body = body_of({"databricksConf": {**conf, **compute, "timeout_seconds": 60, "max_retries": 1}})
    sdk_takes(body)
    (one,) = body["tasks"]
    assert kind in one
    assert compute.items() <= one.items()
    assert (body["timeout_seconds"], one["max_retries"]) == (60, 1)
    assert body["idempotency_token"] == "0123456789abcdef0123456789abcdef"
    assert body["run_name"] == "wf.count (flights:development:a1b2:n0)"


def test_several_tasks_go_as_they_are() -> None:
    tasks = [
        {"task_key": "a", "notebook_task": {"notebook_path": "/a"}, "existing_cluster_id": "c"},
        {
            "task_key": "b",
            "sql_task": {"warehouse_id": "w", "file": {"path": "/b.sql"}},
            "depends_on": [{"task_key": "a"}],
        },
    ]
    body = body_of({"databricksConf": {"run_name": "mine", "tasks": tasks}})
    sdk_takes(body)
    assert (body["tasks"], body["run_name"]) == (tasks, "mine")


def test_inputs_are_filled_in_and_the_references_of_databricks_are_left_alone() -> None:
    conf = {
        "spark_python_task": {"python_file": "/a.py", "parameters": ["{{.inputs.n}} rows", "{{job.run_id}}"]},
        "new_cluster": {**CLUSTER, "num_workers": "{{.inputs.n}}", "spark_env_vars": {"K": "{{secrets/s/k}}"}},
    }
    (one,) = body_of({"databricksConf": conf}, n=3)["tasks"]
    assert one["spark_python_task"]["parameters"] == ["3 rows", "{{job.run_id}}"]
    assert one["new_cluster"]["num_workers"] == 3
    assert one["new_cluster"]["spark_env_vars"] == {"K": "{{secrets/s/k}}"}


def test_a_function_of_flytekit_on_a_new_cluster() -> None:
    body = body_of({"databricksConf": {"new_cluster": CLUSTER}, "sparkConf": {"spark.a": "1"}}, FLYTE1)
    sdk_takes(body)
    (one,) = body["tasks"]
    assert one["spark_python_task"] == {
        "python_file": "flytekitplugins/databricks/entrypoint.py",
        "source": "GIT",
        "parameters": ["pyflyte-execute", "--inputs", "s3://b/inputs.pb"],
    }
    assert one["new_cluster"] == {
        **CLUSTER,
        "docker_image": {"url": "img:1"},
        "spark_conf": {"spark.a": "1"},
        "spark_env_vars": {"A": "b", "FLYTE_FAIL_ON_ERROR": "true"},
    }
    assert body["git_source"]["git_url"] == "https://github.com/flyteorg/flytetools"


def test_a_function_of_flytekit_on_serverless_compute() -> None:
    body = body_of(
        {
            "databricksConf": {"environment_key": "e"},
            "databricksServiceCredentialProvider": "lake",
        },
        FLYTE1,
    )
    (one,) = body["tasks"]
    assert one["environment_key"] == "e"
    assert one["spark_python_task"]["python_file"].endswith("entrypoint_serverless.py")
    assert one["spark_python_task"]["parameters"][-1] == "--flyte-credential-provider=lake"
    (environment,) = body["environments"]
    assert environment["spec"]["environment_vars"] == {"A": "b", "FLYTE_FAIL_ON_ERROR": "true"}


def test_a_function_of_flyte_2_has_its_own_entrypoint() -> None:
    body = body_of({"databricksConf": {"new_cluster": CLUSTER}}, FLYTE2)
    sdk_takes(body)
    assert body["tasks"][0]["spark_python_task"]["python_file"] == "flyteplugins/databricks/entrypoint.py"
    assert "spark_env_vars" not in body["tasks"][0]["new_cluster"]


def test_a_function_with_a_repository_of_its_own() -> None:
    source = {"git_url": "https://git.example.org/x", "git_provider": "gitLab", "git_branch": "main"}
    conf = {"existing_cluster_id": "c", "git_source": source, "python_file": "run.py"}
    body = body_of({"databricksConf": conf}, FLYTE1)
    sdk_takes(body)
    assert body["git_source"] == source
    assert body["tasks"][0]["spark_python_task"]["python_file"] == "run.py"


def test_a_notebook_of_flytekit() -> None:
    config = {
        "databricksConf": {"existing_cluster_id": "c", "git_source": {"git_url": "u", "git_provider": "gitHub"}},
        "notebookPath": "/Shared/n",
        "notebookBaseParameters": {"n": "{{.inputs.n}}"},
    }
    body = body_of(config, FLYTE1, n=3)
    sdk_takes(body)
    (one,) = body["tasks"]
    assert one["notebook_task"] == {"notebook_path": "/Shared/n", "base_parameters": {"n": "3"}, "source": "GIT"}


@pytest.mark.parametrize(
    ("conf", "container", "says"),
    [
        ({"new_cluster": CLUSTER}, None, "does not say what to run"),
        ({"run_name": "x"}, FLYTE1, "names no compute"),
        ({"spark_python_task": {"python_file": "a"}}, None, "names no compute"),
        ({"notebook_task": {}, "sql_task": {}}, None, "one task cannot be notebook_task and sql_task"),
        ({"tasks": [{"notebook_task": {}}]}, None, "needs a task_key"),
        ({"tasks": ["a"]}, None, "list of the Jobs API's tasks"),
        ("text", None, "must be an object"),
    ],
)
def test_what_cannot_run_is_refused_in_one_sentence(conf: Any, container: Container | None, says: str) -> None:
    with pytest.raises(Fail, match=says):
        body_of({"databricksConf": conf}, container)


def test_every_key_of_a_task_is_known() -> None:
    run_level = set(inspect.signature(jobs.JobsAPI.submit).parameters)
    keys = {one.name for one in dataclasses.fields(jobs.SubmitTask)} - run_level - {"task_key"}
    assert keys <= set(TASK_KEYS)
    assert {key for key in keys if key.endswith("_task")} <= set(KINDS)
    assert set(KINDS) <= set(TASK_KEYS)


@pytest.mark.parametrize(
    ("enum", "table"),
    [
        (jobs.RunLifeCycleState, {*states.ACTIVE, *states.OVER}),
        (jobs.RunLifecycleStateV2State, {*states.ACTIVE, *states.OVER}),
        (jobs.RunResultState, set(states.RESULTS)),
        (jobs.TerminationCodeCode, set(states.REASONS)),
        (jobs.TerminationTypeType, set(states.BLAME)),
    ],
    ids=lambda one: getattr(one, "__name__", ""),
)
def test_every_state_of_the_sdk_is_in_a_table(enum: type[Enum], table: set[str]) -> None:
    assert {one.value for one in enum} <= table


def test_the_domains_of_the_vendor_are_those_of_the_sdk() -> None:
    zones = {one.dns_zone for one in ALL_ENVS if not one.dns_zone.startswith((".dev.", ".staging."))}
    assert {host.removeprefix("*") for host in VENDOR_HOSTS} == zones


def test_a_state_or_result_that_nobody_knows_yet_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    states.phase_of({"state": {"life_cycle_state": "DREAMING"}})
    states.phase_of({"state": {"life_cycle_state": "TERMINATED", "result_state": "SHRUGGED"}})
    assert ["DREAMING" in caplog.messages[0], "SHRUGGED" in caplog.messages[1]] == [True, True]


@pytest.mark.parametrize(
    ("run", "phase", "code"),
    [
        ({"state": {"life_cycle_state": "SKIPPED"}}, Phase.FAILED, "RunSkipped"),
        ({"state": {"life_cycle_state": "INTERNAL_ERROR"}}, Phase.RETRYABLE_FAILED, "SystemError"),
        ({"state": {"life_cycle_state": "INTERNAL_ERROR", "result_state": "FAILED"}}, Phase.FAILED, "RunFailed"),
        ({"state": {"life_cycle_state": "TERMINATED", "result_state": "CANCELED"}}, Phase.ABORTED, "Canceled"),
        ({"state": {"life_cycle_state": "TERMINATED"}}, Phase.RETRYABLE_FAILED, "SystemError"),
        ({"state": {"life_cycle_state": "DREAMING"}}, Phase.RUNNING, ""),
        ({}, Phase.RUNNING, ""),
        (
            {
                "state": {"life_cycle_state": "TERMINATED", "result_state": "FAILED"},
                "status": {"state": "TERMINATED", "termination_details": {"code": "CLUSTER_ERROR"}},
            },
            Phase.RETRYABLE_FAILED,
            "ClusterError",
        ),
        (
            {
                "state": {"life_cycle_state": "TERMINATED", "result_state": "FAILED"},
                "status": {"termination_details": {"code": "NEW_IN_2030", "type": "CLOUD_FAILURE"}},
            },
            Phase.RETRYABLE_FAILED,
            "SystemError",
        ),
        (
            {
                "state": {"life_cycle_state": "TERMINATED", "result_state": "SUCCESS"},
                "status": {"termination_details": {"code": "NEW_IN_2030", "type": "CLOUD_FAILURE"}},
            },
            Phase.SUCCEEDED,
            "",
        ),
    ],
)
def test_what_a_run_says_of_itself(run: dict[str, Any], phase: Phase, code: str) -> None:
    assert states.phase_of(run) == (phase, code)
