"""What is sent to Databricks to start a run: made of a task, as the Jobs API wants it today.

Templates of flytekit and of Flyte 2 say what Jobs API 2.1 took and 2.0 before it: one job with its task written flat
beside its compute. It is sent as a list of one task, which 2.1 and 2.2 both take.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from airside.agents.placeholders import render_value, text_of
from airside.model import Container, Fail, Task

KINDS = (
    "notebook_task",
    "spark_python_task",
    "python_wheel_task",
    "spark_jar_task",
    "spark_submit_task",
    "sql_task",
    "dbt_task",
    "pipeline_task",
    "run_job_task",
    "condition_task",
    "for_each_task",
    "dashboard_task",
    "alert_task",
    "power_bi_task",
    "dbt_cloud_task",
    "dbt_platform_task",
    "clean_rooms_notebook_task",
    "gen_ai_compute_task",
    "python_operator_task",
    "ai_function_task",
    "ai_runtime_task",
)
"""What a task may be, each a key of the Jobs API."""

TASK_KEYS = (
    *KINDS,
    "compute",
    "depends_on",
    "description",
    "disable_auto_optimization",
    "disabled",
    "environment_key",
    "environment_variables_key",
    "existing_cluster_id",
    "libraries",
    "max_retries",
    "min_retry_interval_millis",
    "new_cluster",
    "retry_on_timeout",
    "run_if",
)
"""Keys of a flat job that belong to its task."""

WITHOUT_COMPUTE = (
    "sql_task",
    "pipeline_task",
    "run_job_task",
    "condition_task",
    "for_each_task",
    "dashboard_task",
    "alert_task",
    "power_bi_task",
    "dbt_cloud_task",
    "dbt_platform_task",
    "clean_rooms_notebook_task",
    "ai_function_task",
    "ai_runtime_task",
    "gen_ai_compute_task",
)
"""Tasks that bring their compute themselves (a warehouse, a pipeline, another job)."""

PARAMETERS = ("parameters", "named_parameters", "base_parameters", "job_parameters")
"""Where a task says what it is called with."""

_FLYTETOOLS = "https://github.com/flyteorg/flytetools"
_FLYTE1_COMMIT = "572298df1f971fb58c258398bd70a6372f811c96"
_FLYTE2_COMMIT = "194364210c47c49ce66c419e8fb68d6f9c06fd7e"
_NO_COMPUTE = (
    "databricks_conf names no compute: give existing_cluster_id, new_cluster, or, for serverless, environment_key "
    "or environments."
)


def submission(task: Task, *, credential_provider: str = "") -> dict[str, Any]:
    """The body of runs/submit for a task. Raises `Fail` for one that cannot be run, in one sentence.

    `credential_provider` is the Databricks service credential for functions on serverless compute whose task names
    none.
    """
    conf = task.config.get("databricksConf") or {}
    if not isinstance(conf, Mapping):
        raise Fail("databricks_conf must be an object of the Jobs API's keys.")
    others = {"outputprefix": task.output_prefix, "perretryuniquekey": task.key}
    body: dict[str, Any] = render_value(copy.deepcopy(dict(conf)), task.inputs, others)
    if not isinstance(body.get("tasks"), list):
        body = _as_tasks(body, task, others, credential_provider)
    for one in body["tasks"]:
        _check(one)
        _parameters_as_texts(one)
    body.setdefault("run_name", _run_name(task))
    body["idempotency_token"] = task.key
    return body


def _as_tasks(body: dict[str, Any], task: Task, others: Mapping[str, str], credential_provider: str) -> dict[str, Any]:
    """A flat job as a job of one task."""
    one = {key: body.pop(key) for key in TASK_KEYS if key in body}
    key = str(body.pop("task_key", ""))
    serverless = _is_serverless(one, body)
    environment = container_env(task.container)
    if task.config.get("notebookPath"):
        key = key or "flyte_notebook_task"
        one = {**_without_kind(one), "notebook_task": _notebook(task, body, others)}
    elif not any(kind in one for kind in KINDS):
        key = key or "flyte_task"
        provider = str(task.config.get("databricksServiceCredentialProvider") or credential_provider)
        one["spark_python_task"] = _function(task.container, body, serverless=serverless, provider=provider)
        if _is_flyte1(task.container):
            environment["FLYTE_FAIL_ON_ERROR"] = "true"
    body.pop("python_file", None)
    if serverless:
        one["environment_key"] = _environment(one, body, environment)
    elif isinstance(one.get("new_cluster"), dict):
        _complete_cluster(one["new_cluster"], task, environment)
    body["tasks"] = [{"task_key": key or "task", **one}]
    return body


def _without_kind(one: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in one.items() if key not in KINDS}


def _notebook(task: Task, body: Mapping[str, Any], others: Mapping[str, str]) -> dict[str, Any]:
    notebook: dict[str, Any] = {"notebook_path": render_value(task.config["notebookPath"], task.inputs, others)}
    parameters = task.config.get("notebookBaseParameters")
    if parameters:
        notebook["base_parameters"] = render_value(dict(parameters), task.inputs, others)
    if body.get("git_source"):
        notebook["source"] = "GIT"
    return notebook


def _function(container: Container | None, body: dict[str, Any], *, serverless: bool, provider: str) -> dict[str, Any]:
    """A Python function of Flyte: its entrypoint script, which Databricks takes from a Git repository."""
    if container is None or not container.args:
        raise Fail(
            f"databricks_conf does not say what to run: give one of {', '.join(KINDS[:6])}, a notebook_path, or tasks."
        )
    flyte1 = _is_flyte1(container)
    script = "flytekitplugins/databricks/entrypoint" if flyte1 else "flyteplugins/databricks/entrypoint"
    suffix = "_serverless.py" if serverless and flyte1 else ".py"
    body.setdefault(
        "git_source",
        {
            "git_url": _FLYTETOOLS,
            "git_provider": "gitHub",
            "git_commit": _FLYTE1_COMMIT if flyte1 else _FLYTE2_COMMIT,
        },
    )
    parameters = list(container.args)
    if serverless and provider:
        parameters.append(f"--flyte-credential-provider={provider}")
    return {"python_file": body.pop("python_file", script + suffix), "source": "GIT", "parameters": parameters}


def _is_flyte1(container: Container | None) -> bool:
    words = () if container is None else (*container.command, *container.args)
    return bool(words) and words[0].startswith("pyflyte")


def container_env(container: Container | None) -> dict[str, str]:
    """The environment that the template gives to its container."""
    return {} if container is None else dict(container.env)


def _is_serverless(one: Mapping[str, Any], body: Mapping[str, Any]) -> bool:
    has_cluster = one.get("existing_cluster_id") is not None or one.get("new_cluster") is not None
    return not has_cluster and bool(one.get("environment_key") or body.get("environments"))


def _environment(one: Mapping[str, Any], body: dict[str, Any], variables: Mapping[str, str]) -> str:
    """The key of the task's serverless environment, which is made if it is not there."""
    environments = body.setdefault("environments", [])
    named = one.get("environment_key")
    key = str(named or (environments[0].get("environment_key") if len(environments) == 1 else "") or "default")
    mine = next((entry for entry in environments if entry.get("environment_key") == key), None)
    if mine is None:
        mine = {"environment_key": key, "spec": {"client": "1"}}
        environments.append(mine)
    spec = mine.setdefault("spec", {})
    if variables:
        spec["environment_vars"] = {**(spec.get("environment_vars") or {}), **variables}
    return key


def _complete_cluster(cluster: dict[str, Any], task: Task, variables: Mapping[str, str]) -> None:
    """What the template says elsewhere: the image, the Spark settings, the environment."""
    if not cluster.get("docker_image") and task.container is not None and task.container.image:
        cluster["docker_image"] = {"url": task.container.image}
    hadoop = {f"spark.hadoop.{name}": value for name, value in (task.config.get("hadoopConf") or {}).items()}
    spark = {**hadoop, **(task.config.get("sparkConf") or {})}
    if not cluster.get("spark_conf") and spark:
        cluster["spark_conf"] = spark
    if variables:
        cluster["spark_env_vars"] = {**(cluster.get("spark_env_vars") or {}), **variables}


def _check(one: Any) -> None:
    """Raise `Fail` for a task that Databricks would refuse after minutes, or run as something else."""
    if not isinstance(one, Mapping):
        raise Fail("databricks_conf.tasks must be a list of the Jobs API's tasks.")
    if not one.get("task_key"):
        raise Fail("databricks_conf.tasks: a task needs a task_key.")
    kinds = [kind for kind in KINDS if kind in one]
    if len(kinds) > 1:
        raise Fail(f"databricks_conf: one task cannot be {' and '.join(kinds)}; keep one of them.")
    compute = ("existing_cluster_id", "new_cluster", "environment_key", "job_cluster_key", "compute")
    needs_none = any(kind in one for kind in WITHOUT_COMPUTE)
    on_serverless = "notebook_task" in one  # a notebook without compute runs on serverless compute
    if kinds and not needs_none and not on_serverless and not any(one.get(key) for key in compute):
        raise Fail(_NO_COMPUTE)


def _parameters_as_texts(one: Mapping[str, Any]) -> None:
    """Databricks takes parameters as texts only; an input may be a number."""
    for kind in KINDS:
        inner = one.get(kind)
        if not isinstance(inner, dict):
            continue
        for name in PARAMETERS:
            match inner.get(name):
                case list() as given:
                    inner[name] = [text_of(value) for value in given]
                case dict() as given:
                    inner[name] = {key: text_of(value) for key, value in given.items()}


def _run_name(task: Task) -> str:
    """Which task of which execution this is, for people who look at Databricks."""
    run = task.execution
    where = ":".join(part for part in (run.project, run.domain, run.name, run.node_id) if part)
    name = run.task_name or "airside"
    return f"{name} ({where})" if where else name
