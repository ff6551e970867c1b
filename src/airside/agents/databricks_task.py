"""`DatabricksTask`, to write a task for the Databricks agent, with the arguments of flytekit's plugin."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from airside.model import TaskTemplate, UsageError

TYPE = "databricks"


@dataclass(frozen=True, kw_only=True)
class DatabricksTask(TaskTemplate):
    """A task that Databricks runs. The arguments are those of flytekit's `DatabricksV2`.

    databricks_conf: the job as the Jobs API takes it, either flat (one task beside its compute: `spark_python_task`
    and `new_cluster`) or with a list of `tasks`. `{{.inputs.NAME}}` stands for an input in any text of it; a text
    that is only that becomes the input's value.
    databricks_instance: the host of the workspace; empty: the service's default.
    databricks_token_secret: the name of a secret with a token; in Flyte 2's `Databricks` it is `databricks_token`.
    databricks_auth_type: `pat`, or `oauth_m2m`: then databricks_oauth_secret is the group of the secrets `client_id`
    and `client_secret`, and databricks_client_id, if given, the id. An operator allows secrets by their names.
    notebook_path, notebook_base_parameters: a notebook, and its parameters.
    spark_conf, hadoop_conf: settings of a new cluster that has none in `databricks_conf`.
    databricks_service_credential_provider: with which a function on serverless compute reaches its data.
    executor_path, applications_path, driver_pod, executor_pod, databricks_oidc_token_file and databricks_oidc_audience
    are taken so that a task of the plugin can be kept as it is; Databricks, or this agent, has no use for them.

    What a notebook hands to `dbutils.notebook.exit` is the task's one output; with several, it is JSON of an object
    with their names.

    >>> from airside import kwtypes
    >>> task = DatabricksTask(
    ...     name="count", databricks_instance="dbc-1.cloud.databricks.com", notebook_path="/Shared/count",
    ...     notebook_base_parameters={"table": "{{.inputs.table}}"}, databricks_conf={"existing_cluster_id": "0923-x"},
    ...     inputs=kwtypes(table=str), outputs=kwtypes(rows=int),
    ... )
    >>> task.config["databricksConf"]
    {'existing_cluster_id': '0923-x'}
    """

    task_type: str = TYPE
    databricks_conf: Mapping[str, Any] = field(default_factory=dict)
    databricks_instance: str = ""
    notebook_path: str = ""
    notebook_base_parameters: Mapping[str, str] = field(default_factory=dict)
    spark_conf: Mapping[str, str] = field(default_factory=dict)
    hadoop_conf: Mapping[str, str] = field(default_factory=dict)
    executor_path: str = ""
    applications_path: str = ""
    driver_pod: Any = None
    executor_pod: Any = None
    databricks_service_credential_provider: str = ""
    databricks_token_secret: str = ""
    databricks_token: str = ""
    databricks_auth_type: str = ""
    databricks_client_id: str = ""
    databricks_oauth_secret: str = ""
    databricks_oidc_token_file: str = ""
    databricks_oidc_audience: str = ""

    def __post_init__(self) -> None:
        if not self.databricks_conf and not self.notebook_path:
            raise UsageError(f"Task {self.name!r} needs databricks_conf or a notebook_path.")
        if self.databricks_token and self.databricks_token_secret:
            raise UsageError(f"Task {self.name!r} has databricks_token and databricks_token_secret; keep one of them.")
        told = {
            "databricksConf": dict(self.databricks_conf),
            "databricksInstance": self.databricks_instance,
            "notebookPath": self.notebook_path,
            "notebookBaseParameters": dict(self.notebook_base_parameters),
            "sparkConf": dict(self.spark_conf),
            "databricksServiceCredentialProvider": self.databricks_service_credential_provider,
            "hadoopConf": dict(self.hadoop_conf),
            "executorPath": self.executor_path,
            "mainApplicationFile": self.applications_path,
            "databricksTokenSecret": self.databricks_token_secret,
            "databricksAuthType": self.databricks_auth_type,
            "databricksClientId": self.databricks_client_id,
            "databricksOauthSecret": self.databricks_oauth_secret,
            "databricksOidcTokenFile": self.databricks_oidc_token_file,
            "databricksOidcAudience": self.databricks_oidc_audience,
            "secrets": {"databricks_token": self.databricks_token} if self.databricks_token else {},
        }
        object.__setattr__(self, "config", {**self.config, **{key: value for key, value in told.items() if value}})
        super().__post_init__()
