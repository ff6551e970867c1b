"""What EMR Serverless is asked for a task: the same for every create of one attempt."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from airside.agents.config_keys import text_at
from airside.agents.flyte_container import environment_of, place_of, rendered
from airside.agents.json_values import kind_of
from airside.agents.s3_outputs import place_in_s3
from airside.model import Fail, Task

log = logging.getLogger("airside.agents.emr_serverless")

ENTRY = "airside_entry.py"
_TAGS = {"Application": "flyte", "ManagedBy": "airside"}
_SPARK, _HIVE = "spark_job_driver", "hive_job_driver"
_RELEASE = "emr-7.0.0"  # the plugin's
_OF_APPLICATIONS = {  # of a task's config, and what the API calls them
    "initial_capacity": "initialCapacity",
    "maximum_capacity": "maximumCapacity",
    "network_configuration": "networkConfiguration",
    "scheduler_configuration": "schedulerConfiguration",
    "auto_stop_config": "autoStopConfiguration",
}
_PYTHON = "/usr/bin/python3"  # of the images of EMR
_PYTHONS = {
    "spark.emr-serverless.driverEnv.PYSPARK_DRIVER_PYTHON": _PYTHON,
    "spark.emr-serverless.driverEnv.PYSPARK_PYTHON": _PYTHON,
    "spark.executorEnv.PYSPARK_PYTHON": _PYTHON,
}
_BREAKING = re.compile(r"[\s='\"\\]")  # in a value of spark-submit's parameters, which know no quotes here


@dataclass(frozen=True, slots=True)
class Asked:
    """A task as the API takes it.

    The application is told by its id, or by something that may be either, or by its name.
    `entry` is where the file is to be that the driver begins with, if that is ours; `image` what the application is to
    run then; `making` how it is made if it is not there. `place` and `outputs`: where outputs will be, and what
    `outputs.json` may hold there.
    """

    application: str
    application_name: str
    run: Mapping[str, Any]
    region: str = ""
    entry: str = ""
    image: str = ""
    making: Mapping[str, Any] = field(default_factory=dict)
    place: str = ""
    outputs: dict[str, Any] = field(default_factory=dict)


def asked_of(task: Task) -> Asked:
    """What is asked for a task. Raises `Fail` for one that cannot run."""
    config = task.config
    application, named = text_at(config, "application_id"), text_at(config, "application_name")
    role = text_at(config, "execution_role_arn")
    if not application and not named:
        raise Fail("config.application_id must be the id or the name of an application of EMR Serverless.")
    if not role:
        raise Fail("config.execution_role_arn must be the ARN of the job's role.")
    is_script = bool(config.get(_SPARK) or config.get(_HIVE))
    entry = "" if is_script else _entry(task)
    run: dict[str, Any] = {
        "executionRoleArn": role,
        "jobDriver": _driver(task) if is_script else _container_driver(task, entry),
        "executionTimeoutMinutes": _minutes(config),
        "tags": {**_TAGS, **_texts(config, "tags"), "airside-key": task.key},
    }
    if task.execution.task_name.strip():
        run["name"] = task.execution.task_name[:256]
    if overrides := _overrides(config):
        run["configurationOverrides"] = overrides
    if policy := _object(config, "retry_policy"):
        run["retryPolicy"] = policy
    outputs = {name: kind_of(annotation) for name, annotation in task.interface.outputs.items()} if is_script else {}
    return Asked(
        application,
        named,
        run,
        region=text_at(config, "region"),
        entry=entry,
        image=_image(task, is_script=is_script) if config.get("sync_image", True) is True else "",
        making=_making(task, is_script=is_script),
        place=place_in_s3(task) if is_script else place_of(task, _command(task)),
        outputs=outputs,
    )


# -- the job itself ---------------------------------------------------------------------------------------------------


def _driver(task: Task) -> dict[str, Any]:
    config = task.config
    if config.get(_SPARK) and config.get(_HIVE):
        raise Fail("A task of EMR Serverless has one of config.spark_job_driver and config.hive_job_driver.")
    if hive := _object(config, _HIVE):
        return {"hive": {name: hive[name] for name in ("query", "initQueryFile", "parameters") if hive.get(name)}}
    spark = _object(config, _SPARK)
    words = spark.get("entryPointArguments") or []
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        raise Fail("config.spark_job_driver.entryPointArguments must be a list of texts.")
    parameters = f"{text_at(spark, 'sparkSubmitParameters')} {text_at(config, 'spark_submit_parameters')}".strip()
    return _submit(text_at(spark, "entryPoint"), rendered(task, words), _with(parameters, _environment(task)))


def _container_driver(task: Task, entry: str) -> dict[str, Any]:
    parameters = text_at(task.config, "spark_submit_parameters")
    return _submit(entry, _command(task), _with(parameters, {**_PYTHONS, **_environment(task)}))


def _submit(entry: str, words: Sequence[str], parameters: str) -> dict[str, Any]:
    told = {"entryPoint": entry, "entryPointArguments": list(words), "sparkSubmitParameters": parameters}
    return {"sparkSubmit": {name: value for name, value in told.items() if value}}


def _environment(task: Task) -> dict[str, str]:
    """Variables of driver and executors, as properties of Spark; not those that spark-submit would tear apart."""
    if task.config.get("inject_flyte_env", True) is not True:
        return {}
    properties = {}
    for name, value in sorted(environment_of(task).items()):
        if _BREAKING.search(value) or not value:
            log.debug("the variable %s is left out: spark-submit would tear it apart", name)
            continue
        properties[f"spark.emr-serverless.driverEnv.{name}"] = value
        properties[f"spark.executorEnv.{name}"] = value
    return properties


def _with(parameters: str, properties: Mapping[str, str]) -> str:
    """The parameters with these properties, unless they have them."""
    more = [f"--conf {name}={value}" for name, value in properties.items() if f"{name}=" not in parameters]
    return " ".join([parameters, *more]).strip()


def _command(task: Task) -> list[str]:
    container = task.container
    return [] if container is None else rendered(task, [*container.command, *container.args])


def _entry(task: Task) -> str:
    if not _command(task):
        raise Fail("A task of EMR Serverless needs config.spark_job_driver or config.hive_job_driver, or a container.")
    if not task.output_prefix.startswith("s3://"):
        raise Fail(
            f"EMR Serverless begins with a file in S3, which cannot be put into {task.output_prefix!r}: run the task "
            "with --outputs s3://bucket/prefix.",
            code="OutputsNotReachable",
        )
    return f"{task.output_prefix.rstrip('/')}/{ENTRY}"


def _making(task: Task, *, is_script: bool) -> Mapping[str, Any]:
    """How the application is made, if it has to be."""
    config = task.config
    made: dict[str, Any] = {
        "releaseLabel": text_at(config, "release_label") or _RELEASE,
        "type": text_at(config, "application_type") or "SPARK",
        "tags": {**_TAGS, **_texts(config, "tags")},
    }
    if architecture := text_at(config, "architecture"):
        made["architecture"] = architecture
    if image := _image(task, is_script=is_script):
        made["imageConfiguration"] = {"imageUri": image}
    if classifications := _objects(config, "runtime_configuration"):
        made["runtimeConfiguration"] = classifications
    return made | {known_as: told for name, known_as in _OF_APPLICATIONS.items() if (told := _object(config, name))}


def _image(task: Task, *, is_script: bool) -> str:
    """The image that the application is to have; empty if any will do."""
    named = text_at(_object(task.config, "image_configuration"), "imageUri")
    if is_script:
        return named
    return (task.container.image if task.container is not None else "") or named


# -- reading a template -----------------------------------------------------------------------------------------------


def _overrides(config: Mapping[str, Any]) -> dict[str, Any]:
    made, more = dict(_object(config, "configuration_overrides")), _objects(config, "application_configuration")
    if more:
        made["applicationConfiguration"] = [*(made.get("applicationConfiguration") or []), *more]
    return made


def _objects(config: Mapping[str, Any], name: str) -> list[Any]:
    value = config.get(name) or []
    if not isinstance(value, list):
        raise Fail(f"config.{name} must be a list of classifications.")
    return value


def _minutes(config: Mapping[str, Any]) -> int:
    value = config.get("execution_timeout_minutes", 60)
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise Fail(f"config.execution_timeout_minutes must be a number from 1, not {value!r}.")
    return value


def _texts(config: Mapping[str, Any], name: str) -> Mapping[str, str]:
    found = _object(config, name)
    if not all(isinstance(value, str) for value in found.values()):
        raise Fail(f"config.{name} must map names to texts.")
    return found


def _object(config: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = config.get(name) or {}
    if not isinstance(value, Mapping):
        raise Fail(f"config.{name} must be an object, not {value!r}.")
    return value
