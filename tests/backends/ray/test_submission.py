"""What a task asks Ray for, and what Ray's own words become. Needs no cluster; the words are those of a Ray 2.60."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from airside import Container, Fail, Phase, Task, UsageError, kwtypes
from airside.agents.http_answer import HttpAnswer
from airside.agents.ray_job import RayJobTask, _error
from airside.agents.ray_job_states import ERRORS, STATES, resource_of
from airside.agents.ray_job_submission import body_of
from airside.model import Execution, TaskType

KEY = "ab" * 16
OWN = {"AIRSIDE_KEY": KEY, "AIRSIDE_OUTPUT_PREFIX": "s3://b/0"}
THERE = """\
Traceback (most recent call last):
  File "/ray/dashboard/modules/job/job_head.py", line 77, in _raise_error
    raise RuntimeError(f"Request failed with status code {status}: {error_text}.")
RuntimeError: Request failed with status code 400: Traceback (most recent call last):
  File "/ray/dashboard/modules/job/job_manager.py", line 553, in submit_job
    raise ValueError(
ValueError: Job with submission_id x1 already exists. Please use a different submission_id.
.
"""


def asked(config: dict[str, Any], **inputs: Any) -> dict[str, Any]:
    return body_of(Task(type=TaskType("ray_job"), config=config, inputs=inputs, key=KEY, output_prefix="s3://b/0"))


def test_inputs_are_words_that_no_shell_reads() -> None:
    task = RayJobTask(
        name="train",
        entrypoint=["python", "train.py", "--words", "{{.inputs.words}}"],
        runtime_env={"pip": ["a=={{.inputs.n}}"], "env_vars": {"N": "{{.inputs.n}}"}, "config": {"n": "{{.inputs.n}}"}},
        metadata={"n": "{{.inputs.n}}"},
        entrypoint_memory=2**30,
        entrypoint_label_selector={"zone": "a"},
        inputs=kwtypes(words=str, n=int),
    )
    body = asked(dict(task.config), words="it's; $(rm)", n=3)
    assert body["entrypoint"] == """python train.py --words 'it'"'"'s; $(rm)'"""
    assert body["runtime_env"] == {"pip": ["a==3"], "env_vars": {"N": "3", **OWN}, "config": {"n": 3}}
    assert (body["submission_id"], body["metadata"]) == (f"airside-{KEY}", {"n": "3", "airside_key": KEY})
    assert (body["entrypoint_memory"], body["entrypoint_label_selector"]) == (2**30, {"zone": "a"})


def test_what_is_wrong_with_a_task_is_said() -> None:
    wrong: dict[str, dict[str, Any]] = {
        "an input in a text for a shell": {"entrypoint": "echo {{ .inputs.n }}"},
        "config.entrypoint must be": {"entrypoint": ["a", 3]},
        "config.entrypoints: a ray_job task knows no such key": {"entrypoints": "x"},
        "config.entrypoint_num_cpus must be a number": {"entrypoint": "x", "entrypoint_num_cpus": True},
        "config.runtime_env must be an object": {"entrypoint": "x", "runtime_env": "x"},
    }
    for words, config in wrong.items():
        with pytest.raises(Fail, match=words):
            asked(config, n=1)
    with pytest.raises(UsageError, match="needs an entrypoint"):
        RayJobTask(name="nothing")
    assert asked({"entrypoint": "a | b"})["entrypoint"] == "a | b"


@pytest.mark.parametrize("form", ["runtimeEnv", "runtimeEnvYaml"])
def test_a_function_of_flyte_is_run_as_its_image_would(form: str) -> None:
    env = json.dumps({"env_vars": {"B": "c"}, "pip": ["x"]})
    config = {form: base64.b64encode(env.encode()).decode() if form == "runtimeEnv" else env, "rayCluster": {}}
    container = Container(image="img", args=("pyflyte-execute", "--to", "{{.outputPrefix}}"), env={"A": "b"})
    task = Task(
        type=TaskType("ray"), config=config, container=container, key=KEY, output_prefix="s3://b/0",
        execution=Execution(name="run-1", project="flights"),
    )  # fmt: skip
    body = body_of(task)
    assert body["entrypoint"] == "pyflyte-execute --to s3://b/0"
    assert body["runtime_env"]["pip"] == ["x"]
    flyte = {"FLYTE_FAIL_ON_ERROR": "true", "FLYTE_INTERNAL_EXECUTION_ID": "run-1"}
    assert body["runtime_env"]["env_vars"].items() >= {**flyte, "A": "b", "B": "c", **OWN}.items()
    assert body["metadata"]["flyte_project"] == "flights"
    with pytest.raises(Fail, match="needs a container with a command"):
        body_of(Task(type=TaskType("ray"), config=config, key=KEY))
    with pytest.raises(Fail, match="runtimeEnv cannot be read"):
        body_of(Task(type=TaskType("ray"), config={"runtimeEnv": "%%"}, container=container, key=KEY))


def test_errors_are_told_without_rays_traceback() -> None:
    there = _error(HttpAnswer(500, {}, THERE))
    told = "Job with submission_id x1 already exists. Please use a different submission_id."
    assert (type(there), there.message) == (Fail, f"Ray answered 400: ValueError: {told}")
    assert type(_error(HttpAnswer(500, {}, "No available agent to submit job, please try again later."))).__name__ == (
        "Retry"
    )
    assert _error(HttpAnswer(403, {}, "Forbidden: Invalid authentication token")).code == "Forbidden"  # type: ignore[attr-defined]


def test_every_state_and_every_reason_has_its_phase() -> None:
    for status, phase in STATES.items():
        assert resource_of({"status": status}).phase is phase
    for reason, (phase, code) in ERRORS.items():
        resource = resource_of({"status": "FAILED", "error_type": reason, "message": "no"})
        assert (resource.phase, resource.code, resource.message) == (phase, code, "no")
    assert resource_of({"status": "RESTING"}).phase is Phase.RUNNING
    failed = resource_of(
        {"status": "FAILED", "message": "Failed to start supervisor actor x: 'no'. Full traceback:\nT"}
    )
    assert failed.message == "Failed to start supervisor actor x: 'no'."


def test_a_function_of_flyte_2_is_told_the_names_of_run_and_action() -> None:
    env = {"ACTION_NAME": "a1", "RUN_NAME": "r1", "_U_RUN_BASE": "s3://b", "_U_ORG_NAME": "airline"}
    container = Container(image="img", args=("a0", "--outputs-path", "{{.outputPrefix}}", "--name", "a1"))
    task = Task(
        type=TaskType("ray"), config={"mainApplicationFile": "local:///opt/venv/bin/runtime.py"}, key=KEY,
        container=container, output_prefix="s3://b/0", execution=Execution(name="r1", project="flights", env=env),
    )  # fmt: skip
    body = body_of(task)
    assert body["entrypoint"] == "a0 --outputs-path s3://b/0 --name a1"
    given = body["runtime_env"]["env_vars"]
    assert given.items() >= {**env, "FLYTE_INTERNAL_EXECUTION_PROJECT": "flights"}.items()
