"""What a task asks a Spark master for. Needs no cluster."""

from __future__ import annotations

from typing import Any

import pytest

from airside import Container, Fail, Task, UsageError, kwtypes
from airside.agents.spark_submit import SparkSubmitTask
from airside.agents.spark_submit_submission import body_of
from airside.model import Execution, TaskType

KEY = "ab" * 16


def asked(task: SparkSubmitTask, **inputs: Any) -> dict[str, Any]:
    return body_of(Task(type=task.type, config=task.config, inputs=inputs, key=KEY, output_prefix="s3://b/0"))


def test_a_python_application_is_run_by_spark_submit_in_the_driver() -> None:
    task = SparkSubmitTask(
        name="count",
        application="/opt/count.py",
        args=["--table", "{{.inputs.table}}"],
        spark_conf={"spark.executor.memory": "2g", "spark.airside.attempt": "mine", "spark.driver.supervise": "true"},
        env={"N": "{{.inputs.n}}"},
        py_files=["/opt/a.zip", "/opt/b.zip"],
        inputs=kwtypes(table=str, n=int),
    )
    body = asked(task, table="it's --py-files x; $(rm)", n=3)
    assert (body["appResource"], body["mainClass"]) == ("", "org.apache.spark.deploy.SparkSubmit")
    options = ["--py-files", "/opt/a.zip,/opt/b.zip"]
    assert body["appArgs"] == [*options, "/opt/count.py", "--table", "it's --py-files x; $(rm)"]
    assert body["sparkProperties"] == {
        "spark.app.name": "airside",
        "spark.submit.deployMode": "cluster",
        "spark.executor.memory": "2g",
        "spark.driver.supervise": "false",
        "spark.airside.attempt": KEY,
    }
    assert body["environmentVariables"] == {"N": "3", "AIRSIDE_KEY": KEY, "AIRSIDE_OUTPUT_PREFIX": "s3://b/0"}


def test_a_jar_is_run_by_its_class() -> None:
    task = SparkSubmitTask(name="pi", application="s3a://b/pi.jar", main_class="x.Pi", args=["9"], jars=["/a", "/b"])
    body = asked(task)
    assert (body["appResource"], body["mainClass"], body["appArgs"]) == ("s3a://b/pi.jar", "x.Pi", ["9"])
    assert body["sparkProperties"]["spark.jars"] == "/a,/b"


def test_what_is_wrong_with_a_task_is_said() -> None:
    wrong: dict[str, dict[str, Any]] = {
        "no path or URI": {"application": "--master"},
        "config.application must be a text": {"application": 3},
        "config.main_class: a JAR needs": {"application": "/a.jar"},
        "config.args must be a list of texts": {"application": "/a.py", "args": "x"},
        "config.spark_conf must map names": {"application": "/a.py", "spark_conf": ["x"]},
        "config.adress: a spark_submit task knows no such key": {"application": "/a.py", "adress": "x"},
    }
    for words, config in wrong.items():
        with pytest.raises(Fail, match=words):
            body_of(Task(type=TaskType("spark_submit"), config=config, key=KEY))
    with pytest.raises(UsageError, match="needs an application"):
        SparkSubmitTask(name="nothing")


def test_a_function_of_flyte_is_run_as_its_image_would() -> None:
    config = {
        "mainApplicationFile": "local:///usr/local/bin/entrypoint.py",
        "executorPath": "/usr/bin/python3",
        "sparkConf": {"spark.executor.cores": "1"},
        "hadoopConf": {"fs.s3a.path.style.access": "true"},
        "applicationType": "PYTHON",
    }
    container = Container(image="img", args=("pyflyte-execute", "--output-prefix", "{{.outputPrefix}}"), env={"A": "b"})
    execution = Execution(name="run-1", project="flights", domain="development")
    task = Task(
        type=TaskType("spark"), config=config, container=container, key=KEY, execution=execution, output_prefix="/o/0"
    )
    body = body_of(task)
    assert body["appArgs"] == ["/usr/local/bin/entrypoint.py", "pyflyte-execute", "--output-prefix", "/o/0"]
    assert body["sparkProperties"]["spark.hadoop.fs.s3a.path.style.access"] == "true"
    assert body["sparkProperties"]["spark.executor.cores"] == "1"
    env = body["environmentVariables"]
    assert env["PYSPARK_PYTHON"] == env["PYSPARK_DRIVER_PYTHON"] == "/usr/bin/python3"
    assert (env["A"], env["FLYTE_FAIL_ON_ERROR"], env["FLYTE_INTERNAL_EXECUTION_ID"]) == ("b", "true", "run-1")


def test_a_function_of_flyte_2_is_told_the_names_of_run_and_action() -> None:
    env = {"ACTION_NAME": "a1", "RUN_NAME": "r1", "_U_RUN_BASE": "s3://b", "_U_ORG_NAME": "airline"}
    container = Container(image="img", args=("a0", "--outputs-path", "{{.outputPrefix}}", "--name", "a1"))
    task = Task(
        type=TaskType("spark"), config={"mainApplicationFile": "local:///opt/venv/bin/runtime.py"}, key=KEY,
        container=container, output_prefix="s3://b/0", execution=Execution(name="r1", project="flights", env=env),
    )  # fmt: skip
    body = body_of(task)
    assert body["appArgs"] == ["/opt/venv/bin/runtime.py", "a0", "--outputs-path", "s3://b/0", "--name", "a1"]
    given = body["environmentVariables"]
    assert given.items() >= {**env, "FLYTE_INTERNAL_EXECUTION_PROJECT": "flights"}.items()
