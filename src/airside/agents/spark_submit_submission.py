"""What is asked of a Spark master for one task: its settings, read, checked, and made into a submission."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from airside.agents.flyte_container import environment_of, words_of
from airside.agents.placeholders import render
from airside.model import Fail, Task, TaskTemplate, UsageError

SPARK = "spark"
"""The type of flytekit's and Flyte 2's Spark tasks, whose container says what runs."""
ATTEMPT = "spark.airside.attempt"
"""The property that holds the key of the attempt, by which its driver is found again."""

_SUBMIT = "org.apache.spark.deploy.SparkSubmit"  # runs what is not Java, inside the driver
_LISTS = ("args", "py_files", "jars", "files")
_KEYS = ("cluster", "application", "main_class", "spark_conf", "env", *_LISTS)
_CONNECTION_KEYS = ("secrets", "configs")  # Flyte 2 puts the connection into the same place


@dataclass(frozen=True, kw_only=True)
class SparkSubmitTask(TaskTemplate):
    """A task that runs an application on a standalone Spark cluster, as `spark-submit --deploy-mode cluster` does.

    application: a Python file or a JAR, as the workers see it: a path on them, or a URI that they can read.
    main_class: the class of a JAR that is run. args: its arguments; `{{.inputs.NAME}}` stands for an input.
    cluster: the name of a cluster in the service's settings; empty: the service's own.
    spark_conf: Spark's properties. env: the driver's environment. In both, too, `{{.inputs.NAME}}` stands for an input.
    py_files, jars, files: what goes along, as the workers see it.

    What the application prints after `AIRSIDE_OUTPUTS=`, a JSON object by name, are the task's outputs.

    >>> from airside import kwtypes
    >>> task = SparkSubmitTask(
    ...     name="count", application="/opt/jobs/count.py", args=["--table", "{{.inputs.table}}"],
    ...     spark_conf={"spark.executor.memory": "2g"}, inputs=kwtypes(table=str), outputs=kwtypes(n=int),
    ... )
    >>> task.config["args"]
    ['--table', '{{.inputs.table}}']
    """

    task_type: str = "spark_submit"
    application: str = ""
    main_class: str = ""
    args: Sequence[str] = ()
    cluster: str = ""
    spark_conf: Mapping[str, str] = field(default_factory=dict)
    env: Mapping[str, str] = field(default_factory=dict)
    py_files: Sequence[str] = ()
    jars: Sequence[str] = ()
    files: Sequence[str] = ()

    def __post_init__(self) -> None:
        if not self.application:
            raise UsageError(f"Task {self.name!r} needs an application.")
        told = {
            "application": self.application,
            "main_class": self.main_class,
            "cluster": self.cluster,
            "spark_conf": dict(self.spark_conf),
            "env": dict(self.env),
            **{name: list(getattr(self, name)) for name in _LISTS},
        }
        object.__setattr__(self, "config", {**self.config, **{name: value for name, value in told.items() if value}})
        super().__post_init__()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Application:
    path: str
    main_class: str = ""
    args: Sequence[str] = ()
    properties: Mapping[str, str] = field(default_factory=dict)
    env: Mapping[str, str] = field(default_factory=dict)
    along: Mapping[str, str] = field(default_factory=dict)  # py_files, jars, files: lists with commas


def body_of(task: Task) -> dict[str, Any]:
    """The body of a submission. Reads inputs, so it may block. `Fail` names what is wrong."""
    told = _of_plugin(task) if task.type.name == SPARK else _of_config(task)
    if not told.path or told.path.startswith("-"):
        raise Fail(f"config.application: {told.path!r} is no path or URI of an application.")
    properties = {
        "spark.app.name": task.execution.task_name or "airside",
        "spark.submit.deployMode": "cluster",
        **told.properties,
        "spark.driver.supervise": "false",  # attempts are the engine's business
        ATTEMPT: task.key,
    }
    env = {**told.env, "AIRSIDE_KEY": task.key, "AIRSIDE_OUTPUT_PREFIX": task.output_prefix}
    common = {
        "action": "CreateSubmissionRequest",
        "clientSparkVersion": "3.5.0",  # the master wants some
        "environmentVariables": env,
    }
    if told.main_class:
        lists = {"spark.jars": told.along.get("jars", ""), "spark.files": told.along.get("files", "")}
        properties |= {name: value for name, value in lists.items() if value}
        what = {"appResource": told.path, "mainClass": told.main_class, "appArgs": list(told.args)}
    else:
        options = [
            word for name, value in told.along.items() if value for word in (f"--{name.replace('_', '-')}", value)
        ]
        what = {"appResource": "", "mainClass": _SUBMIT, "appArgs": [*options, told.path, *told.args]}
    return {**common, **what, "sparkProperties": properties}


def told_master(body: Mapping[str, Any], url: str) -> dict[str, Any]:
    """The body with the name of the master: a driver that is not told it would work alone, on its own worker.

    >>> body = {"mainClass": "x.Y", "appArgs": ["9"], "sparkProperties": {}}
    >>> told_master(body, "spark://m:7077")["sparkProperties"]
    {'spark.master': 'spark://m:7077'}
    """
    properties = {**({"spark.master": url} if url else {}), **body["sparkProperties"]}
    args = body["appArgs"]
    if body["mainClass"] == _SUBMIT and properties.get("spark.master"):
        args = ["--master", properties["spark.master"], *args]
    return {**body, "sparkProperties": properties, "appArgs": args}


def _of_config(task: Task) -> _Application:
    config = {key: value for key, value in task.config.items() if key not in _CONNECTION_KEYS}
    for key in config:
        if key not in _KEYS:
            raise Fail(f"config.{key}: a spark_submit task knows no such key (known: {', '.join(_KEYS)}).")
    lists: dict[str, list[str]] = {}
    for name in _LISTS:
        value = config.get(name) or []
        if not isinstance(value, (list, tuple)) or not all(isinstance(one, str) for one in value):
            raise Fail(f"config.{name} must be a list of texts.")
        lists[name] = [_filled(one, task) for one in value]
    for name in ("application", "main_class"):
        if not isinstance(config.get(name, ""), str):
            raise Fail(f"config.{name} must be a text.")
    application, main_class = _filled(config.get("application", ""), task), config.get("main_class", "")
    if application.partition("?")[0].endswith(".jar") and not main_class:
        raise Fail("config.main_class: a JAR needs the name of its class that is run.")
    return _Application(
        path=application,
        main_class=main_class,
        args=lists["args"],
        properties=_texts(config.get("spark_conf"), "config.spark_conf", task),
        env=_texts(config.get("env"), "config.env", task),
        along={name: ",".join(lists[name]) for name in _LISTS[1:]},
    )


def _of_plugin(task: Task) -> _Application:
    """What a task of flytekit's or Flyte 2's Spark plugin runs: its application, with the container's command."""
    config = task.config
    application = str(config.get("mainApplicationFile") or "")
    python = str(config.get("executorPath") or "")
    pythons = {"PYSPARK_PYTHON": python, "PYSPARK_DRIVER_PYTHON": python} if python else {}
    hadoop = _texts(config.get("hadoopConf"), "custom.hadoopConf", task)
    return _Application(
        path="/" + application.removeprefix("local:").lstrip("/") if application.startswith("local:") else application,
        main_class=str(config.get("mainClass") or ""),
        args=words_of(task),
        properties={
            **{f"spark.hadoop.{name}": value for name, value in hadoop.items()},
            **_texts(config.get("sparkConf"), "custom.sparkConf", task),
        },
        env={**environment_of(task), **pythons},
    )


def _texts(told: Any, where: str, task: Task) -> dict[str, str]:
    if told is None:
        return {}
    if not isinstance(told, Mapping):
        raise Fail(f"{where} must map names to texts.")
    return {name: _filled(_text(value), task) for name, value in told.items()}


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _filled(text: str, task: Task) -> str:
    return render(text, task.inputs, {"outputprefix": task.output_prefix, "perretryuniquekey": task.key})
