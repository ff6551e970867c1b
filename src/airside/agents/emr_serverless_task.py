"""Tasks of EMR Serverless as their author writes them: the names and arguments of flytekit's plugin."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from airside.model import TaskTemplate, UsageError


@dataclass(frozen=True)
class EMRServerlessSparkJobDriver:
    """A Spark application: its file in S3, its arguments, and what else `spark-submit` gets.

    `{{.inputs.name}}` in an argument stands for an input, `{{.outputPrefix}}` for the place of the outputs.

    >>> EMRServerlessSparkJobDriver("s3://flights/load.py", ["--day", "{{.inputs.day}}"]).to_dict()["entryPoint"]
    's3://flights/load.py'
    """

    entry_point: str
    entry_point_arguments: Sequence[str] | None = None
    spark_submit_parameters: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """As the API wants it."""
        told = {
            "entryPoint": self.entry_point,
            "entryPointArguments": list(self.entry_point_arguments or ()),
            "sparkSubmitParameters": self.spark_submit_parameters,
        }
        return {name: value for name, value in told.items() if value}


@dataclass(frozen=True)
class EMRServerlessHiveJobDriver:
    """A Hive query, or the file in S3 that it is in; nothing in it stands for an input.

    >>> EMRServerlessHiveJobDriver("s3://flights/load.hql", parameters="--hivevar day=monday").to_dict()["query"]
    's3://flights/load.hql'
    """

    query: str
    init_query_file: str | None = None
    parameters: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """As the API wants it."""
        told = {"query": self.query, "initQueryFile": self.init_query_file, "parameters": self.parameters}
        return {name: value for name, value in told.items() if value}


@dataclass(frozen=True, kw_only=True)
class EMRServerless:
    """Where a job runs and what it is.

    execution_role_arn: the role of the job.
    application_id: the application, or its name; or else application_name, which is made if the agent may do so:
        with release_label, application_type, architecture ("ARM64"), image_configuration, runtime_configuration,
        scheduler_configuration, auto_stop_config, network_configuration, initial_capacity and maximum_capacity, as
        the API has them.
    spark_job_driver, hive_job_driver: the job. Without either, the task's container is run on the driver.
    spark_submit_parameters: such as "--conf spark.executor.memory=4g".
    application_configuration, configuration_overrides, retry_policy, tags: as the API has them.
    sync_image: give the application the image of the task's container. Only while it is stopped.
    inject_flyte_env: tell driver and executors Flyte's ids in their environment.
    region: such as "eu-west-1". Empty: the service's.

    >>> EMRServerless(
    ...     application_id="00fab", execution_role_arn="arn:aws:iam::123456789012:role/job",
    ...     spark_job_driver=EMRServerlessSparkJobDriver("s3://flights/load.py"),
    ... ).execution_timeout_minutes
    60
    """

    execution_role_arn: str
    application_id: str | None = None
    application_name: str | None = None
    spark_job_driver: EMRServerlessSparkJobDriver | None = None
    hive_job_driver: EMRServerlessHiveJobDriver | None = None
    spark_submit_parameters: str | None = None
    application_configuration: Sequence[Mapping[str, Any]] | None = None
    configuration_overrides: Mapping[str, Any] | None = None
    retry_policy: Mapping[str, Any] | None = None
    tags: Mapping[str, str] | None = None
    execution_timeout_minutes: int = 60
    sync_image: bool = True
    inject_flyte_env: bool = True
    region: str | None = None
    release_label: str = "emr-7.0.0"
    application_type: str = "SPARK"
    architecture: str | None = None
    image_configuration: Mapping[str, Any] | None = None
    runtime_configuration: Sequence[Mapping[str, Any]] | None = None
    scheduler_configuration: Mapping[str, Any] | None = None
    auto_stop_config: Mapping[str, Any] | None = None
    network_configuration: Mapping[str, Any] | None = None
    initial_capacity: Mapping[str, Any] | None = None
    maximum_capacity: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        if not self.execution_role_arn:
            raise UsageError("EMRServerless needs execution_role_arn, the role of the job.")
        if not (self.application_id or self.application_name):
            raise UsageError("EMRServerless needs application_id, or application_name.")
        if self.spark_job_driver and self.hive_job_driver:
            raise UsageError("EMRServerless takes one of spark_job_driver and hive_job_driver.")
        if self.application_type not in ("SPARK", "HIVE"):
            raise UsageError("EMRServerless: application_type is SPARK or HIVE.")
        if self.architecture not in (None, "X86_64", "ARM64"):
            raise UsageError("EMRServerless: architecture is X86_64 or ARM64.")
        if self.execution_timeout_minutes < 1:
            raise UsageError("EMRServerless: execution_timeout_minutes is a number from 1.")

    def to_dict(self) -> dict[str, Any]:
        """As a template has it."""
        told = {one.name: getattr(self, one.name) for one in dataclasses.fields(self)}
        for name in ("spark_job_driver", "hive_job_driver"):
            told[name] = None if told[name] is None else told[name].to_dict()
        return {name: value for name, value in told.items() if value is not None}


@dataclass(frozen=True, kw_only=True)
class EMRServerlessTask(TaskTemplate):
    """A task that is a job of EMR Serverless.

    The outputs of a job with a driver are what it leaves in `outputs.json`, an object of values by name, under
    `{{.outputPrefix}}`; or in `outputs.pb`, Flyte's own format, as the command of a container made for Flyte does.

    >>> place = EMRServerless(
    ...     application_id="00fab", execution_role_arn="arn:aws:iam::123456789012:role/job",
    ...     spark_job_driver=EMRServerlessSparkJobDriver("s3://flights/load.py"),
    ... )
    >>> EMRServerlessTask(name="load", task_config=place).config["application_id"]
    '00fab'
    """

    task_type: str = "emr_serverless"
    task_config: EMRServerless | None = None

    def __post_init__(self) -> None:
        asked = self.task_config
        if asked is None:
            raise UsageError(f"Task {self.name!r} needs task_config=EMRServerless(...).")
        if not (asked.spark_job_driver or asked.hive_job_driver or self.container):
            raise UsageError(f"Task {self.name!r} needs a job driver, or a container.")
        object.__setattr__(self, "config", {**asked.to_dict(), **self.config})
        super().__post_init__()
