"""What is left when statements, servers, lines and processes go away."""

from __future__ import annotations

import asyncio
import json
import re
import zipfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.backends.conftest import _certificate
from tests.backends.spark_connect.conftest import TOKEN, line_to
from tests.backends.spark_connect.test_spark_connect import SLOW, ended, opened, sql, task_of

from airside import Connection, Fail, NotFound, Phase, Retry, StructuredDataset, kwtypes
from airside.agents.spark_connect import ConnectJob
from airside.agents.spark_connect_states import HANDLES, SQL_STATES
from airside.model import Call
from airside.model.redaction import redact

pytestmark = [pytest.mark.backend, pytest.mark.may_block, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def hasty(connect_server: Callable[..., Any]) -> Any:
    """A server that drops operations within seconds when nobody asks for them."""
    return connect_server(
        spark_connect_execute_manager_detachedTimeout="8s",
        spark_connect_execute_manager_maintenanceInterval="200ms",
        spark_connect_execute_reattachable_senderMaxStreamDuration="2s",
    )


async def test_an_attempt_is_found_again_and_runs_once(server: Any) -> None:
    first, second = await opened(server.options), await opened(server.options)
    await ended(first, await first.create(task_of(sql("CREATE TABLE once (n INT) USING parquet"), "e0" * 16)))
    task = task_of(sql("INSERT INTO once VALUES (1)"), "e1" * 16)
    assert await second.find(task, task.key) is None
    made = [await agent.create(task) for agent in (first, second, first, second)]
    assert made == [made[0]] * 4
    assert (await ended(second, made[0])).phase is Phase.SUCCEEDED
    assert await second.find(task, task.key) == await second.create(task) == made[0]
    count = task_of(sql("SELECT count(*) AS n FROM once", outputs=kwtypes(n=int)), "e2" * 16)
    assert dict((await ended(first, await first.create(count))).outputs or {}) == {"n": 1}
    broken = task_of(sql("SELECT raise_error('x') AS n FROM range(9)", outputs=kwtypes(n=str)), "e3" * 16)
    with suppress(Fail):  # if it is quick
        await first.create(broken)
    found = await second.find(broken, broken.key)
    assert found is not None
    assert (await ended(second, found)).code == "UserRaisedException"  # the server keeps how it ended
    for agent in (first, second):
        await agent.close()


async def test_rows_that_nobody_asked_for_are_lost_and_tables_are_not(hasty: Any) -> None:
    agent = await opened(hasty.options)
    table = task_of(sql("SELECT id FROM range(7)", outputs=kwtypes(t=StructuredDataset, rows=int)), "f3" * 16)
    written = await agent.create(table)
    assert (await ended(agent, written)).phase is Phase.SUCCEEDED
    mark = Path(written.results.removeprefix("file://")) / "_SUCCESS"
    rows = await agent.create(task_of(sql("SELECT 1 AS n", outputs=kwtypes(n=int)), "f1" * 16))
    slow = await agent.create(task_of(sql(SLOW, outputs=kwtypes(n=int)), "f2" * 16))
    jobs = (rows, slow, replace(written, results="", outputs={}))
    for lost in await asyncio.gather(*(dropped(agent, job) for job in jobs)):
        assert (lost.phase, lost.code) == (Phase.RETRYABLE_FAILED, "ResultLost"), lost
        assert "detachedTimeout" in lost.message
    kept = await agent.get(written, Call())
    assert kept.phase is Phase.SUCCEEDED, kept
    assert dict(kept.outputs or {})["rows"] == 7
    before = mark.stat().st_mtime_ns
    assert await agent.create(table) == written
    assert mark.stat().st_mtime_ns == before
    await agent.close()


async def dropped(agent: Any, job: ConnectJob) -> Any:
    """What is told of a job that nobody has asked for long enough. Asking keeps it alive for as long."""
    until = asyncio.get_running_loop().time() + 300.0
    while asyncio.get_running_loop().time() < until:
        await asyncio.sleep(15.0)
        told = await agent.get(job, Call())
        if told.phase.is_failure:
            return told
    raise TimeoutError(f"never dropped: {told}")


async def test_a_running_statement_that_is_asked_for_is_not_dropped(hasty: Any) -> None:
    agent = await opened(hasty.options)
    job = await agent.create(task_of(sql(SLOW, outputs=kwtypes(n=int)), "f4" * 16))
    until = asyncio.get_running_loop().time() + 20.0
    while asyncio.get_running_loop().time() < until:
        running = await agent.get(job, Call())
        assert running.phase is Phase.RUNNING, running
        await asyncio.sleep(0.2)
    await agent.delete(job, Call())
    assert (await ended(agent, job)).phase is Phase.ABORTED
    await agent.close()


async def test_a_server_that_was_restarted_knows_tables_and_no_rows(hasty: Any) -> None:
    agent = await opened(hasty.options)
    rows = task_of(sql("SELECT 1 AS n", outputs=kwtypes(n=int)), "a7" * 16)
    table = task_of(sql("SELECT id FROM range(7)", outputs=kwtypes(t=StructuredDataset)), "a8" * 16)
    made, written = await agent.create(rows), await agent.create(table)
    assert (await ended(agent, written)).phase is Phase.SUCCEEDED
    hasty.kill()
    with pytest.raises(Retry, match="Spark cannot be reached"):
        await agent.get(made, Call())
    await asyncio.to_thread(hasty.run)
    other = await opened(hasty.options)
    while True:
        with suppress(Retry):  # until the line is open again
            with pytest.raises(NotFound, match="it has been restarted"):
                await other.get(made, Call())
            break
        await asyncio.sleep(0.2)
    with pytest.raises(NotFound):
        await other.delete(made, Call())
    assert await other.find(rows, rows.key) is None
    assert await other.find(table, table.key) == written
    assert (await ended(other, written)).phase is Phase.SUCCEEDED
    for one in (agent, other):
        await one.close()


async def test_faults_and_refusals_are_told_apart(server: Any, free_port: Callable[[], int]) -> None:
    agent = await opened(server.options)
    task = task_of(sql("SELECT 1 AS n", outputs=kwtypes(n=int)), "b7" * 16)
    job = await agent.create(task)
    secret = "wrong-token-wrong-token"
    wrong = Connection(secrets={"token": secret})
    for call in (agent.create(replace(task, connection=wrong)), agent.get(job, Call(connection=wrong))):
        with pytest.raises(Retry, match="Spark answered UNAUTHENTICATED"):
            await call
    assert secret not in redact(f"told: {secret}")
    with pytest.raises(Fail, match=r"Credentials are not sent to 10\.9\.8\.7"):
        await agent.get(replace(job, server="sc://10.9.8.7:15002/"), Call())
    assert re.fullmatch(rf"Spark 4\.1\.\d+ answers at 127\.0\.0\.1:{server.port}", await agent.probe())
    assert await agent.check_credentials() == "the secret spark_connect_token"
    nobody = await opened({"server": f"sc://127.0.0.1:{free_port()}"})
    with pytest.raises(Retry, match="Spark cannot be reached"):
        await nobody.create(task)
    async with line_to(server.port, hangs=True) as line:
        silent = await opened({"server": f"sc://127.0.0.1:{line.port}"}, timeout=2.0)
        with pytest.raises(Retry):
            await silent.create(task)
        with pytest.raises(Retry):
            await silent.get(replace(job, server=f"sc://127.0.0.1:{line.port}"), Call())
        await silent.close()
    for one in (agent, nobody):
        await one.close()


async def test_tasks_and_connections_name_servers_that_are_allowed(server: Any) -> None:
    there = f"127.0.0.1:{server.port}"
    agent = await opened({"allowed_hosts": (f"http://{there}",)})
    task = sql("SELECT 1 AS n", outputs=kwtypes(n=int))
    with pytest.raises(Fail, match="since the service has no default"):
        await agent.create(task_of(task, "c7" * 16))
    named = Connection(configs={"server": f"sc://{there}"}, secrets={"token": TOKEN})
    job = await agent.create(replace(task_of(task, "c7" * 16), connection=named))
    done = await agent.get(job, Call(connection=named))
    assert done.phase in (Phase.RUNNING, Phase.SUCCEEDED)
    assert TOKEN not in repr(job)
    encrypted_only = await opened({"allowed_hosts": (there,)})
    with pytest.raises(Fail, match="without encryption"):
        await encrypted_only.create(replace(task_of(task, "c8" * 16), connection=named))
    for one in (agent, encrypted_only):
        await one.close()


async def test_a_server_behind_tls_is_checked(server: Any, tmp_path: Path) -> None:
    certificate, key = _certificate(tmp_path)
    async with line_to(server.port, certificate=certificate, key=key) as line:
        options = {"server": f"sc://127.0.0.1:{line.port}/;use_ssl=true"}
        agent = await opened(options, ca_file=certificate)
        job = await agent.create(task_of(sql("SELECT 1 AS n", outputs=kwtypes(n=int)), "d7" * 16))
        assert dict((await ended(agent, job)).outputs or {}) == {"n": 1}
        stranger = await opened(options)
        with pytest.raises(Retry, match="Spark cannot be reached"):
            await stranger.create(task_of(sql("SELECT 1"), "d8" * 16))
        for one in (agent, stranger):
            await one.close()


def test_the_tables_know_every_error_of_spark(spark_home: Path) -> None:
    [jar] = spark_home.glob("jars/spark-common-utils_*.jar")
    with zipfile.ZipFile(jar) as archive:
        conditions = json.loads(archive.read("error/error-conditions.json"))
    ours = {f"{name}.{one}" for name in ("INVALID_HANDLE", "INVALID_CURSOR") for one in conditions[name]["subClass"]}
    assert set(HANDLES) == ours
    assert {one["sqlState"][:2] for one in conditions.values() if "sqlState" in one} == set(SQL_STATES)
