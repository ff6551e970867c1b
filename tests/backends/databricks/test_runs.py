"""The databricks agent against minilake, which runs the scripts that it is sent."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import time
from base64 import b64decode
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.backends.conftest import AIRSIDE
from tests.backends.databricks.conftest import TOKEN

from airside import Connection, Fail, NotFound, Phase, Resource, Retry, Task, TaskType, UsageError, kwtypes
from airside.agents.databricks import DatabricksAgent, DatabricksTask, Run
from airside.agents.databricks_run import submission
from airside.agents.databricks_workspaces import Workspace
from airside.model import Call
from airside.sdk.adapt import adapt
from airside.testing import check_agent, harness

CLUSTER = {"spark_version": "15.4.x-scala2.12", "node_type_id": "i3.xlarge", "num_workers": 1}
WAIT = "import os, sys, time\nwhile not os.path.exists(sys.argv[1]): time.sleep(0.02)\n"


def script(path: str, *parameters: str, **more: Any) -> DatabricksTask:
    conf = {"spark_python_task": {"python_file": path, "parameters": list(parameters)}, "new_cluster": CLUSTER}
    return DatabricksTask(name="script", databricks_conf=conf, **more)


def options(door: Any, **more: Any) -> dict[str, Any]:
    return {"host": door.url, **more}


async def opened(**table: Any) -> Any:
    agent = adapt(DatabricksAgent())
    await agent.open(DatabricksAgent.Options(**table))
    return agent


async def test_a_script_runs_with_the_inputs_of_its_task(door: Any, wire: Any) -> None:
    place = door.upload("/Shared/sum.py", "import sys\nprint('sum', sum(map(int, sys.argv[1:])))\n")
    task = script(place, "{{.inputs.a}}", "{{.inputs.b}}", inputs=kwtypes(a=int, b=int))
    async with harness(DatabricksAgent, wire=wire, options=options(door)) as h:
        job = await h.create(task=task, inputs={"a": 3, "b": 4})
        first = await h.get(job)
        done = await h.finish(job)
        lines = [line.message async for line in h.logs(job)]
    assert done.phase is Phase.SUCCEEDED, done
    assert lines == ["sum 7"]
    assert [link.name for link in first.links] == [link.name for link in done.links] == ["Databricks run"]
    assert f"/run/{done.info['run_id']}" in done.links[0].uri
    assert {one.authorization for one in door.asked if "/jobs/" in one.path} == {"Bearer dapi-0123456789abcdef"}


async def test_a_failing_task_is_told_with_its_error_and_trace(door: Any) -> None:
    place = door.upload("/Shared/bad.py", "def load():\n    raise KeyError('no such table: trips')\nload()\n")
    async with harness(DatabricksAgent, options=options(door)) as h:
        done = await h.finish(await h.create(task=script(place)))
    assert (done.phase, done.code) == (Phase.FAILED, "RunFailed")
    assert "task: Task exited with code 1" in done.message
    assert "KeyError: 'no such table: trips'" in done.message


async def test_a_script_that_is_not_there_fails_with_the_words_of_databricks(door: Any) -> None:
    async with harness(DatabricksAgent, options=options(door)) as h:
        done = await h.finish(await h.create(task=script("/Shared/none.py")))
    assert done.phase is Phase.FAILED
    assert "'/Shared/none.py' not found" in done.message


async def test_a_notebook_and_the_sql_of_a_warehouse(door: Any) -> None:
    place = door.upload("/Shared/notebook", "import sys\nprint(sys.argv[1:])\n")
    notebook = DatabricksTask(
        name="n",
        notebook_path=place,
        notebook_base_parameters={"table": "{{.inputs.table}}"},
        databricks_conf={"existing_cluster_id": "0923-x"},
        inputs=kwtypes(table=str),
    )
    warehouse = door.ask("POST", "/api/2.0/sql/warehouses", {"name": "w", "cluster_size": "Small"})["id"]
    query = door.ask(
        "POST", "/api/2.0/sql/queries", {"query": {"display_name": "q", "query_text": "SELECT 6 * 7 AS n"}}
    )
    sql = DatabricksTask(
        name="s", databricks_conf={"sql_task": {"warehouse_id": warehouse, "query": {"query_id": query["id"]}}}
    )
    async with harness(DatabricksAgent, options=options(door)) as h:
        jobs = [await h.create(task=notebook, inputs={"table": "trips"}), await h.create(task=sql)]
        assert [(await h.finish(job)).phase for job in jobs] == [Phase.SUCCEEDED] * 2
        lines = [[line.message async for line in h.logs(job)] for job in jobs]
    assert lines[0] == ["['table=trips']"]
    assert any("42" in line for line in lines[1])


async def test_tasks_that_depend_on_each_other_and_their_log_page_by_page(door: Any) -> None:
    place = door.upload("/Shared/say.py", "import sys\nfor word in sys.argv[1:]: print(word)\n")
    tasks = [
        {"task_key": key, "spark_python_task": {"python_file": place, "parameters": words}, "new_cluster": CLUSTER}
        for key, words in (("a", ["1", "2", "3"]), ("b", ["4", "5"]))
    ]
    tasks[1]["depends_on"] = [{"task_key": "a"}]
    async with harness(DatabricksAgent, options=options(door)) as h:
        job = await h.create(task=DatabricksTask(name="two", databricks_conf={"tasks": tasks}))
        done = await h.finish(job)
        pages, after = [], ""
        while True:
            lines = [line async for line in h.logs(job, after=after, limit=2)]
            pages.append([line.message for line in lines])
            if len(lines) < 2:
                break
            after = lines[-1].cursor
    assert (done.info["tasks"], done.info["tasks_over"]) == (2, 2)
    assert pages == [["1", "2"], ["3", "4"], ["5"]]


async def test_a_run_is_cancelled(door: Any, tmp_path: Any) -> None:
    place = door.upload("/Shared/wait.py", WAIT)
    async with harness(DatabricksAgent, options=options(door)) as h:
        job = await h.create(task=script(place, str(tmp_path / "go")))
        await h.delete(job)
        assert len(door.calls("/runs/cancel")) == 1
        (tmp_path / "go").touch()  # the emulator lets the script end by itself
        done = await h.finish(job)
    assert done.phase in (Phase.ABORTED, Phase.FAILED)
    run_id = door.calls("/runs/cancel")[0].body["run_id"]
    while door.ask("GET", f"/api/2.2/jobs/runs/get?run_id={run_id}")["state"]["result_state"] != "CANCELED":
        await asyncio.sleep(0.02)


async def test_a_service_that_dies_in_a_create_makes_one_run(door: Any) -> None:
    place = door.upload("/Shared/quick.py", "print(1)")
    conf = {"run_name": f"killed at {door.port}", "spark_python_task": {"python_file": place}, "new_cluster": CLUSTER}
    task = DatabricksTask(name="killed", databricks_conf=conf)
    async with harness(DatabricksAgent, process=True, options=options(door)) as h:
        prefix = f"/tmp/airside-killed/{door.port}/0"
        door.keep_back.add("/runs/submit")
        creating = asyncio.create_task(h.create(task=task, output_prefix=prefix))
        assert await asyncio.to_thread(door.kept.wait, 30)  # Databricks has made the run; nobody knows of it
        await h.kill()
        with pytest.raises(Retry):
            await creating
        door.keep_back.clear()
        door.released.set()
        await h.restart()
        done = await h.finish(await h.create(task=task, output_prefix=prefix))
    assert done.phase is Phase.SUCCEEDED
    assert len(door.calls("/runs/submit")) == 2
    runs = [one["run_id"] for one in door.runs() if one["run_name"] == conf["run_name"]]
    assert runs == [done.info["run_id"]]


async def test_one_list_answers_for_many_runs(door: Any, tmp_path: Any) -> None:
    place = door.upload("/Shared/wait.py", WAIT)
    quick = door.upload("/Shared/quick.py", "print(1)")
    agent = await opened(host=door.url)
    async with harness(DatabricksAgent, options=options(door)) as h:
        waiting = [h.task(task=script(place, str(tmp_path / "go"))) for _ in range(5)]
        metas = [await agent.create(task, Call()) for task in (*waiting, h.task(task=script(quick)))]
        while (await agent.get(metas[-1], Call())).phase is not Phase.SUCCEEDED:
            await asyncio.sleep(0.02)
        door.asked.clear()
        answers = await agent.get_many(metas, Call())
        (tmp_path / "go").touch()
    phases = [one.phase for one in answers if isinstance(one, Resource)]
    assert phases[-1] is Phase.SUCCEEDED
    assert not any(phase.is_terminal for phase in phases[:-1])
    asked = [one.path.rpartition("/")[2] for one in door.asked]
    assert asked == ["list", "get"]
    assert door.asked[0].query == {"active_only": "true", "run_type": "SUBMIT_RUN", "limit": "24"}
    await agent.close()


async def test_a_run_that_is_not_known(door: Any) -> None:
    agent = await opened(host=door.url)
    unknown = agent.codec.encode(Run(door.url, 99_999_999))
    with pytest.raises(NotFound, match="Run 99999999 not found"):
        await agent.get(unknown, Call())
    with pytest.raises(NotFound):
        await agent.delete(unknown, Call())
    answers = await agent.get_many([unknown, unknown], Call())
    assert [type(one) for one in answers] == [NotFound, NotFound]
    await agent.close()


async def test_two_workspaces_each_with_its_own_token(
    door: Any, second_door: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("_FSEC_SECOND_TOKEN", "dapi-second")
    place = door.upload("/Shared/quick.py", "print(1)")
    table = options(door, workspaces={second_door.url: {"token": "second/token"}})
    async with harness(DatabricksAgent, options=table) as h:
        jobs = [await h.create(task=script(place, databricks_instance=url)) for url in ("", second_door.url)]
        assert [(await h.finish(job)).phase for job in jobs] == [Phase.SUCCEEDED] * 2
        assert "dapi-second" not in h.log
        assert not any(b"dapi" in job.handle for job in jobs)
    for one, token in ((door, "dapi-0123456789abcdef"), (second_door, "dapi-second")):
        assert {call.authorization for call in one.asked if "/jobs/" in call.path} == {f"Bearer {token}"}


async def test_a_connection_brings_token_and_host(door: Any, second_door: Any) -> None:
    place = door.upload("/Shared/quick.py", "print(1)")
    connection = Connection(secrets={"databricks_token": "dapi-theirs"}, configs={"host": second_door.url})
    async with harness(DatabricksAgent, options=options(door, allowed_hosts=[second_door.url])) as h:
        job = await h.create(task=script(place), connection=connection)
        assert (await h.finish(job)).phase is Phase.SUCCEEDED
        elsewhere = script(place, databricks_instance="dbc-1.cloud.databricks.com")
        refused = await h.finish(await h.create(task=elsewhere, connection=connection))
    assert {call.authorization for call in second_door.asked if "/jobs/" in call.path} == {"Bearer dapi-theirs"}
    assert not door.asked
    assert refused.code == "HostNotAllowed"


@pytest.mark.parametrize(
    ("instance", "code", "says"),
    [
        ("databricks.evil.example", "HostNotAllowed", "not sent to databricks.evil.example"),
        ("dbc-1.cloud.databricks.com.evil.example", "HostNotAllowed", "not sent to"),
        ("http://dbc-1.cloud.databricks.com", "HostNotAllowed", "without encryption"),
        ("dbc-1.cloud.databricks.com", "NoCredentials", "no credentials for https://dbc-1.cloud.databricks.com"),
        ("user:pw@dbc-1.cloud.databricks.com", "HostNotAllowed", "not the address of a workspace"),
    ],
)
async def test_a_host_that_a_task_names_gets_no_credentials(door: Any, instance: str, code: str, says: str) -> None:
    async with harness(DatabricksAgent, options=options(door)) as h:
        done = await h.finish(await h.create(task=script("/a.py", databricks_instance=instance)))
    assert (done.phase, done.code) == (Phase.FAILED, code)
    assert says in done.message
    assert not door.asked


async def test_a_secret_that_a_task_asks_for_must_be_listed(door: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("_FSEC_TEAM_A", "dapi-team-a")
    place = door.upload("/Shared/quick.py", "print(1)")
    task = script(place, databricks_token_secret="team_a")
    async with harness(DatabricksAgent, options=options(door)) as h:
        refused = await h.finish(await h.create(task=task))
    assert refused.code == "CredentialNotAllowed"
    async with harness(DatabricksAgent, options=options(door, token_secrets=["team_a"])) as h:
        assert (await h.finish(await h.create(task=task))).phase is Phase.SUCCEEDED
    assert {one.authorization for one in door.asked if "/jobs/" in one.path} == {"Bearer dapi-team-a"}


async def test_a_task_may_sign_in_as_a_service_principal(door: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("_FSEC_TEAM_A_CLIENT_ID", "the-id-of-a")
    monkeypatch.setenv("_FSEC_TEAM_A_CLIENT_SECRET", "the-secret-of-a")
    for _ in range(20):  # the SDK asks again as it likes
        door.answer("/oidc/v1/token", {"access_token": "oauth-of-a", "token_type": "Bearer", "expires_in": 3600})
        places = {
            "token_endpoint": f"{door.url}/oidc/v1/token",
            "authorization_endpoint": f"{door.url}/oidc/v1/authorize",
        }
        door.answer("/oidc/.well-known/oauth-authorization-server", places)
        door.answer("/.well-known/databricks-config", {"oidc_endpoint": f"{door.url}/oidc"})
    place = door.upload("/Shared/quick.py", "print(1)")
    task = script(place, databricks_auth_type="oauth_m2m", databricks_oauth_secret="team_a")
    async with harness(DatabricksAgent, options=options(door)) as h:
        refused = await h.finish(await h.create(task=task))
    assert refused.code == "CredentialNotAllowed"
    async with harness(DatabricksAgent, options=options(door, token_secrets=["team_a"])) as h:
        assert (await h.finish(await h.create(task=task))).phase is Phase.SUCCEEDED
        other = await h.finish(await h.create(task=script(place, databricks_auth_type="oidc_federation")))
    assert other.code == "CredentialNotAllowed"
    assert {one.authorization for one in door.asked if "/jobs/" in one.path} == {"Bearer oauth-of-a"}
    (asked, *_) = door.calls("/oidc/v1/token")
    assert b64decode(asked.authorization.removeprefix("Basic ")) == b"the-id-of-a:the-secret-of-a"


def test_a_task_takes_every_argument_of_the_plugins() -> None:
    conf = {"new_cluster": {"num_workers": 1}, "spark_jar_task": {"main_class_name": "A"}}
    task = DatabricksTask(
        name="all",
        databricks_conf=conf,
        databricks_instance="dbc-1.cloud.databricks.com",
        spark_conf={"spark.a": "1"},
        hadoop_conf={"fs.s3a.b": "2"},
        executor_path="/usr/bin/python3",
        applications_path="local:///entrypoint.py",
        driver_pod=None,
        executor_pod=None,
        databricks_service_credential_provider="p",
        databricks_auth_type="oauth_m2m",
        databricks_client_id="i",
        databricks_oauth_secret="o",
        databricks_oidc_token_file="/f",
        databricks_oidc_audience="a",
        databricks_token="team_a",
    )
    assert task.config == {
        "databricksConf": conf,
        "databricksInstance": "dbc-1.cloud.databricks.com",
        "sparkConf": {"spark.a": "1"},
        "hadoopConf": {"fs.s3a.b": "2"},
        "executorPath": "/usr/bin/python3",
        "mainApplicationFile": "local:///entrypoint.py",
        "databricksServiceCredentialProvider": "p",
        "databricksAuthType": "oauth_m2m",
        "databricksClientId": "i",
        "databricksOauthSecret": "o",
        "databricksOidcTokenFile": "/f",
        "databricksOidcAudience": "a",
        "secrets": {"databricks_token": "team_a"},
    }
    sent = submission(Task(type=TaskType("databricks"), config=task.config, key="0a" * 16))
    assert sent["tasks"][0]["new_cluster"]["spark_conf"] == {"spark.hadoop.fs.s3a.b": "2", "spark.a": "1"}
    with pytest.raises(UsageError, match="keep one of them"):
        DatabricksTask(name="two", notebook_path="/n", databricks_token="a", databricks_token_secret="b")


@pytest.mark.parametrize("version", ["2.1", "2.2"])
async def test_a_run_lives_its_life_in_each_version_of_the_api(version: str, door: Any, tmp_path: Path) -> None:
    place = door.upload("/Shared/wait.py", WAIT + "print('gone')\n")
    agent = await opened(host=door.url, api_version=version)
    async with harness(DatabricksAgent, options=options(door)) as h:
        made = [h.task(task=script(place, str(tmp_path / "go"))) for _ in range(3)]
    metas = [await agent.create(task, Call()) for task in made]
    assert await agent.create(made[0], Call()) == metas[0]  # the token is known there
    assert not any(one.phase.is_terminal for one in await agent.get_many(metas, Call()))
    await agent.delete(metas[2], Call())
    (tmp_path / "go").touch()
    for meta in metas[:2]:
        while not (end := await agent.get(meta, Call())).phase.is_terminal:
            await asyncio.sleep(0.02)
        assert end.phase is Phase.SUCCEEDED, end
    assert [line.message async for line in agent.logs(metas[0], after="", limit=9, call=Call())] == ["gone"]
    asked = {one.path for one in door.asked if "/jobs/" in one.path}
    words = ("submit", "get", "list", "cancel", "get-output")
    assert asked == {f"/api/{version}/jobs/runs/{word}" for word in words}
    await agent.close()


def over(result: str = "SUCCESS", **more: Any) -> dict[str, Any]:
    """A run of one task that is over, as Jobs API 2.2 tells it."""
    state = {"life_cycle_state": "TERMINATED", "result_state": result, "state_message": more.pop("message", "")}
    task = {"task_key": "t", "run_id": 71, "state": state, "notebook_task": {"notebook_path": "/n"}}
    return {"run_id": 7, "job_id": 1, "run_page_url": "https://x/1/7", "state": state, "tasks": [task], **more}


async def test_what_a_notebook_exits_with_is_the_output(door: Any) -> None:
    task = DatabricksTask(name="n", notebook_path="/n", outputs=kwtypes(rows=int, name=str))
    one = DatabricksTask(name="n", notebook_path="/n", outputs=kwtypes(text=str))
    exits = [(task, '{"rows": 3, "name": "a", "more": 1}'), (one, "12"), (task, "oops")]
    seen = []
    async with harness(DatabricksAgent, options=options(door)) as h:
        for number, (template, text) in enumerate(exits):
            door.answer("/runs/submit", {"run_id": 7 + number})
            door.answer("/runs/get", {"run_id": 7, "state": {"life_cycle_state": "RUNNING"}})
            job = await h.create(task=template)
            door.answer("/runs/get", over(execution_duration=1500))
            door.answer("/runs/get-output", {"notebook_output": {"result": text}})
            seen.append(await h.finish(job))
    assert [dict(one.outputs or {}) for one in seen[:2]] == [{"rows": 3, "name": "a"}, {"text": "12"}]
    assert seen[0].info["execution_duration"] == 1.5
    assert (seen[2].phase, seen[2].code) == (Phase.FAILED, "OutputConversionError")
    assert "'oops'" in seen[2].message


async def test_an_exit_value_that_databricks_has_cut_off_is_no_output(door: Any) -> None:
    agent = await opened(host=door.url)
    door.answer("/runs/get", over())
    door.answer("/runs/get-output", {"notebook_output": {"result": "the beginning of it", "truncated": True}})
    resource = await agent.get(agent.codec.encode(Run(door.url, 7, outputs={"text": "str"})), Call())
    assert (resource.phase, resource.code) == (Phase.FAILED, "OutputConversionError")
    assert "more than Databricks keeps" in resource.message
    await agent.close()


async def test_only_a_notebook_that_ran_is_asked_for_its_exit_value(door: Any) -> None:
    agent = await opened(host=door.url)
    ran = {"life_cycle_state": "TERMINATED", "result_state": "SUCCESS"}
    left_out = {"life_cycle_state": "TERMINATED", "result_state": "EXCLUDED"}
    tasks = [
        {"task_key": "a", "run_id": 71, "state": ran, "notebook_task": {"notebook_path": "/n"}},
        {"task_key": "b", "run_id": 72, "state": ran, "condition_task": {"op": "EQUAL_TO"}},
        {"task_key": "c", "run_id": 73, "state": left_out, "notebook_task": {"notebook_path": "/n"}},
    ]
    door.answer("/runs/get", over(tasks=tasks))
    door.answer("/runs/get-output", {"notebook_output": {"result": "3"}})
    resource = await agent.get(agent.codec.encode(Run(door.url, 7, outputs={"rows": "int"})), Call())
    assert (resource.phase, resource.outputs) == (Phase.SUCCEEDED, {"rows": 3})
    assert [one.query for one in door.calls("/runs/get-output")] == [{"run_id": "71"}]
    await agent.close()


async def test_the_reason_of_an_end_tells_faults_apart(door: Any) -> None:
    agent = await opened(host=door.url)
    meta = agent.codec.encode(Run(door.url, 7))
    details = {"code": "CLUSTER_REQUEST_LIMIT_EXCEEDED", "type": "CLIENT_ERROR", "message": "Too many clusters."}
    door.answer("/runs/get", over("FAILED", status={"state": "TERMINATED", "termination_details": details}))
    door.answer(
        "/runs/get-output",
        {"error": "ZeroDivisionError", "error_trace": "\x1b[0;31mZeroDivisionError\x1b[0m: division by zero"},
    )
    resource = await agent.get(meta, Call())
    assert (resource.phase, resource.code) == (Phase.RETRYABLE_FAILED, "QuotaExceeded")
    assert resource.message == "Too many clusters.\nt: ZeroDivisionError\nZeroDivisionError: division by zero"
    await agent.close()


async def test_pages_of_runs_and_of_tasks_are_read_on(door: Any) -> None:
    agent = await opened(host=door.url)
    metas = [agent.codec.encode(Run(door.url, number)) for number in (1, 2, 3, 4)]
    running = {"life_cycle_state": "RUNNING"}
    door.answer("/runs/list", {"runs": [{"run_id": 1, "state": running}], "next_page_token": "p2"})
    door.answer("/runs/list", {"runs": [{"run_id": 2, "state": running}, {"run_id": 9, "state": running}]})
    failed = {"life_cycle_state": "TERMINATED", "result_state": "FAILED"}
    door.answer("/runs/get", {"run_id": 3, "state": failed, "tasks": [], "next_page_token": "t2"})
    door.answer("/runs/get", {"tasks": [{"task_key": "late", "run_id": 31, "state": failed}]})
    door.answer("/runs/get-output", {"error": "boom"})
    door.answer("/runs/get", {"run_id": 4, "state": {"life_cycle_state": "TERMINATED", "result_state": "SUCCESS"}})
    answers = await agent.get_many(metas, Call())
    assert [one.phase for one in answers] == [Phase.RUNNING, Phase.RUNNING, Phase.FAILED, Phase.SUCCEEDED]
    assert answers[2].message == "late: boom"
    assert [one.query.get("page_token") for one in door.calls("/runs/list")] == [None, "p2"]
    await agent.close()


async def test_a_workspace_that_is_away_costs_the_runs_of_another_nothing(
    door: Any, free_port: Callable[[], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("_FSEC_SECOND_TOKEN", "dapi-second")
    away = f"http://127.0.0.1:{free_port()}"
    agent = await opened(host=door.url, workspaces={away: Workspace(token="second_token")})
    running = {"life_cycle_state": "RUNNING"}
    door.answer("/runs/list", {"runs": [{"run_id": number, "state": running} for number in (1, 2)]})
    metas = [
        agent.codec.encode(Run(url, number)) for url, number in ((away, 1), (door.url, 1), (away, 2), (door.url, 2))
    ]
    told = await agent.get_many(metas, Call())
    assert [type(one) for one in told] == [Retry, Resource, Retry, Resource]
    door.answer("/runs/list", refusal("ENDPOINT_NOT_FOUND", "no such path"), 404)
    told = await agent.get_many(metas[1::2], Call())
    assert [type(one) for one in told] == [Retry, Retry]  # it says nothing of the runs
    await agent.close()


async def test_runs_that_there_is_no_time_for_are_left_for_later(door: Any) -> None:
    agent = DatabricksAgent()
    agent.open(agent.Options(host=door.url))
    door.answer("/runs/list", {"runs": [{"run_id": 1, "state": {"life_cycle_state": "RUNNING"}}]})
    call = Call(deadline=time.monotonic())
    active, over = await asyncio.to_thread(agent.get_many, [Run(door.url, 1), Run(door.url, 2)], call)
    assert isinstance(active, Resource)
    assert "no time left" in str(over)
    assert not door.calls("/runs/get")


async def test_whatever_is_refused_while_a_run_is_there_may_pass(door: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("_FSEC_TEAM_A", "dapi-team-a")
    agent = await opened(host=door.url)  # no longer may tasks use the token that the run was made with
    meta = agent.codec.encode(Run(door.url, 7, secret="team_a"))
    for ask in (agent.get, agent.delete):
        with pytest.raises(Retry, match="token_secrets"):
            await ask(meta, Call())
    door.answer("/runs/cancel", refusal("PERMISSION_DENIED"), 403)
    with pytest.raises(Retry, match="PERMISSION_DENIED"):
        await agent.delete(agent.codec.encode(Run(door.url, 7)), Call())
    for status, code in ((400, "INVALID_STATE"), (501, "NOT_IMPLEMENTED"), (401, "UNAUTHENTICATED")):
        door.answer("/runs/cancel", refusal(code), status)
        with pytest.raises(Retry, match=code):
            await agent.delete(agent.codec.encode(Run(door.url, 7)), Call())
    for status, code in ((400, "INVALID_PARAMETER_VALUE"), (403, "PERMISSION_DENIED"), (404, "ENDPOINT_NOT_FOUND")):
        door.answer("/runs/get-output", refusal(code), status)
        door.answer("/runs/get", over())
        with pytest.raises(Retry, match=code):  # of the call that follows: the notebook's exit value
            await agent.get(agent.codec.encode(Run(door.url, 7, outputs={"text": "str"})), Call())
        door.answer("/runs/get-output", refusal(code), status)
        door.answer("/runs/get", over("FAILED", message="It failed."))
        end = await agent.get(agent.codec.encode(Run(door.url, 7)), Call())
        assert (end.phase, end.message.partition("\n")[0]) == (Phase.FAILED, "It failed.")
    door.answer("/runs/cancel", refusal("INVALID_PARAMETER_VALUE", "Run 7 does not exist."), 400)
    with pytest.raises(NotFound):
        await agent.delete(agent.codec.encode(Run(door.url, 7)), Call())
    await agent.close()


def refusal(code: str, message: str = "because") -> dict[str, str]:
    return {"error_code": code, "message": message}


@pytest.mark.parametrize(
    ("status", "code", "expected", "says"),
    [
        (400, "INVALID_PARAMETER_VALUE", "InvalidRun", "INVALID_PARAMETER_VALUE: because"),
        (403, "PERMISSION_DENIED", "Forbidden", "PERMISSION_DENIED: because"),
        (404, "RESOURCE_DOES_NOT_EXIST", "ResourceNotFound", "RESOURCE_DOES_NOT_EXIST: because"),
    ],
)
async def test_a_create_that_cannot_succeed_fails_with_the_code_of_databricks(
    door: Any, status: int, code: str, expected: str, says: str
) -> None:
    door.answer("/runs/submit", refusal(code), status)
    async with harness(DatabricksAgent, options=options(door)) as h:
        done = await h.finish(await h.create(task=script("/a.py")))
    assert (done.phase, done.code) == (Phase.FAILED, expected)
    assert done.message.startswith(f"{door.url}: {says} ({expected}, id ")


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (429, "REQUEST_LIMIT_EXCEEDED"),
        (500, "INTERNAL_ERROR"),
        (503, "TEMPORARILY_UNAVAILABLE"),
        (401, "x"),
        (403, "y"),
    ],
)
async def test_a_poll_that_fails_is_repeated_when_databricks_says(door: Any, status: int, code: str) -> None:
    agent = await opened(host=door.url)
    meta = agent.codec.encode(Run(door.url, 7))
    door.answer("/runs/get", refusal(code), status, **({"Retry_After": "77"} if status in (429, 503) else {}))
    with pytest.raises(Retry, match=f"{code}: because$") as caught:
        await agent.get(meta, Call())
    assert caught.value.after == (77 if status in (429, 503) else None)
    assert len(door.calls("/runs/get")) == 1  # no hidden repeats
    await agent.close()


async def test_a_token_that_was_renewed_is_used_from_the_next_call_on(
    door: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent = await opened(host=door.url)
    meta = agent.codec.encode(Run(door.url, 7))
    for token in ("dapi-old", "dapi-new"):
        monkeypatch.setenv("_FSEC_FLYTE_DATABRICKS_ACCESS_TOKEN", token)
        door.answer("/runs/get", over())
        await agent.get(meta, Call())
    assert [one.authorization for one in door.calls("/runs/get")] == ["Bearer dapi-old", "Bearer dapi-new"]
    await agent.close()


async def test_a_client_is_made_once_for_many_polls(door: Any) -> None:
    agent = await opened(host=door.url)
    meta = agent.codec.encode(Run(door.url, 7))
    for _ in range(5):
        door.answer("/runs/get", over())
        await agent.get(meta, Call())
    assert [one.path for one in door.asked if "/jobs/" not in one.path] == ["/.well-known/databricks-config"]
    await agent.close()


async def test_one_client_is_made_for_many_at_once(door: Any) -> None:
    agent = await opened(host=door.url)
    metas = [agent.codec.encode(Run(door.url, number)) for number in range(6)]
    for _ in metas:
        door.answer("/runs/get", over())
    await asyncio.gather(*(agent.get(meta, Call()) for meta in metas))
    assert len([one.path for one in door.asked if "/jobs/" not in one.path]) == 1
    await agent.close()


async def test_an_answer_that_is_no_json_is_told_without_the_words_of_the_sdk(door: Any) -> None:
    agent = await opened(host=door.url)
    door.answer("/runs/get", "<p>Sign in</p>", 401)
    with pytest.raises(Retry, match=r"unable to parse response\.$"):
        await agent.get(agent.codec.encode(Run(door.url, 7)), Call())
    await agent.close()


async def test_a_workspace_that_is_gone_is_a_fault_that_may_pass(free_port: Callable[[], int], door: Any) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    agent = await opened(host=url)
    with pytest.raises(Retry, match=url):
        await agent.get(agent.codec.encode(Run(url, 7)), Call())
    await agent.close()


def test_runs_of_the_plugins_own_connectors_are_taken_over() -> None:
    theirs = json.dumps({"databricks_instance": "dbc-1.cloud.databricks.com", "run_id": "42", "auth_token": "dapi-x"})
    assert DatabricksAgent().read_handle(theirs.encode()) == Run("https://dbc-1.cloud.databricks.com", 42)
    for other in (b"", b"[]", b"{}", b'{"databricks_instance": "", "run_id": "x"}'):
        assert DatabricksAgent().read_handle(other) is None


async def test_a_bad_cursor_and_bad_options_are_told(door: Any) -> None:
    agent = await opened(host=door.url)
    with pytest.raises(Fail, match="no place in this log"):
        [line async for line in agent.logs(agent.codec.encode(Run(door.url, 7)), after="x", limit=1, call=Call())]
    await agent.close()
    with pytest.raises(ValueError, match="go together"):
        Workspace(client_id="x")
    with pytest.raises(ValueError, match="one of token"):
        Workspace(token="x", profile="y")


@pytest.mark.backend
def test_the_conformance_suite_holds(door: Any) -> None:
    place = door.upload("/Shared/quick.py", "print(1)")
    report = check_agent(DatabricksAgent, task=script(place), options=options(door), wires=("v2",))
    assert report.ok, str(report)


async def test_whether_it_is_ready_is_told(door: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    agent = DatabricksAgent()
    agent.open(DatabricksAgent.Options(host=door.url))
    assert await asyncio.to_thread(agent.check_credentials) == f"pat for {door.url}"
    assert await asyncio.to_thread(agent.probe) == f"{door.url} answers"
    agent.open(DatabricksAgent.Options())
    with pytest.raises(Fail, match="set host"):
        agent.check_credentials()


@pytest.mark.backend
def test_the_example_of_the_documentation_runs(door: Any, tmp_path: Path) -> None:
    page = (Path(__file__).parents[3] / "docs" / "agents" / "databricks.md").read_text()
    example = re.findall(r"```python run\n(.*?)```", page, re.DOTALL)[0]
    settings = re.findall(r"```toml\n(.*?)```", page, re.DOTALL)[0]
    theirs = "dbc-a1b2345c-d6e7.cloud.databricks.com"
    assert theirs in example
    assert theirs in settings
    door.upload("/Workspace/Shared/count.py", "import sys\nprint('counting', sys.argv[1])\n")
    (tmp_path / "tasks.py").write_text(example.replace(theirs, door.url))
    (tmp_path / "airside.toml").write_text(settings.replace(theirs, door.url))
    argv = [AIRSIDE, "run", "tasks.py", "count_trips", "--table", "trips"]
    env = {**os.environ, "AIRSIDE_STATE": str(tmp_path / "state")}
    done = subprocess.run(argv, cwd=tmp_path, env=env, capture_output=True, text=True, check=False, timeout=100)
    assert done.returncode == 0, done.stderr
    assert door.calls("/runs/submit")[0].body["tasks"][0]["spark_python_task"]["parameters"] == ["trips"]
    assert TOKEN not in done.stdout + done.stderr
