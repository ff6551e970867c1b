"""The spark_submit agent against a real standalone cluster."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Callable
from contextlib import aclosing, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from airside import Fail, NotFound, Phase, Retry, Task, kwtypes
from airside.agents.spark_submit import SparkJob, SparkSubmitAgent, SparkSubmitTask
from airside.agents.spark_submit_cluster import Cluster
from airside.agents.spark_submit_states import STATES
from airside.model import Call, TaskType
from airside.testing import harness

pytestmark = [pytest.mark.backend, pytest.mark.may_block, pytest.mark.timeout(900)]
PATIENCE = 240.0
SMALL = {"spark.driver.memory": "512m", "spark.executor.memory": "512m", "spark.cores.max": "1"}
COUNT = """
import json, sys
from pyspark.sql import SparkSession
spark = SparkSession.builder.getOrCreate()
n = spark.range(int(sys.argv[1])).filter("id % 2 = 0").count()
print("counted für " + sys.argv[2])
print("AIRSIDE_OUTPUTS=" + json.dumps({"n": n, "master": spark.sparkContext.master, "words": sys.argv[2]}))
spark.stop()
"""


class Spark(SparkSubmitAgent):
    """The same, asked more often than a cluster of many users should be."""

    poll_interval = 0.3


def python(spark: Any, name: str, text: str, **more: Any) -> SparkSubmitTask:
    more.setdefault("env", {"PATH": f"{spark.bin}:/usr/bin:/bin"})
    return SparkSubmitTask(name=f"spark.{name}", application=spark.write(f"{name}.py", text), spark_conf=SMALL, **more)


def version(**more: Any) -> SparkSubmitTask:
    """The smallest application that there is: Spark tells its version and ends."""
    return SparkSubmitTask(name="version", application="/x.jar", main_class="x.Y", spark_conf=SMALL, **more)


async def opened(spark: Any, **more: Any) -> SparkSubmitAgent:
    agent = Spark()
    await agent.open(SparkSubmitAgent.Options(**{**spark.options, **more}))
    return agent


def task_of(task: SparkSubmitTask, key: str) -> Task:
    return Task(type=task.type, config=task.config, key=key, interface=task.interface)


async def test_an_application_runs_on_the_cluster_to_its_outputs(spark: Any, wire: Any) -> None:
    words = """it's "$HOME"; $(touch /tmp/pwned) `id`"""
    task = python(
        spark, "count", COUNT, args=["{{.inputs.n}}", "{{.inputs.words}}"],
        inputs=kwtypes(n=int, words=str), outputs=kwtypes(n=int, master=str, words=str),
    )  # fmt: skip
    async with harness(Spark(), options=dict(spark.options), wire=wire) as h:
        job = await h.create(task=task, inputs={"n": 100, "words": words})
        first = await h.get(job)
        done = await h.finish(job, timeout=PATIENCE)
        lines = [line.message async for line in h.logs(job)]
    assert first.links[0].uri == spark.options["ui"]
    assert done.phase is Phase.SUCCEEDED, done
    assert dict(done.outputs or {}) == {"n": 50, "master": f"spark://127.0.0.1:{spark.port}", "words": words}
    assert f"counted für {words}" in lines
    assert any("SparkContext" in line for line in lines)  # stderr
    assert any(link.name == "Driver log" for link in done.links)


async def test_failures_are_told_with_the_last_words_of_the_log(spark: Any) -> None:
    broken = python(spark, "broken", "raise ValueError('no such table: trips')")
    async with harness(Spark(), options=dict(spark.options)) as h:
        failed, missing = await h.create(task=broken), await h.create(task=version())
        one, two = await h.finish(failed, timeout=PATIENCE), await h.finish(missing, timeout=PATIENCE)
    assert (one.phase, one.code) == (Phase.RETRYABLE_FAILED, "DriverFailed")
    assert one.message.startswith("The driver failed:\n")
    assert "ValueError: no such table: trips" in one.message
    assert (two.phase, two.code) == (Phase.FAILED, "CannotStart")
    assert "/x.jar" in two.message
    assert "\tat " not in two.message


async def test_a_driver_is_killed_and_its_log_followed(spark: Any) -> None:
    task = python(
        spark, "slow", "import time\nfor i in range(9999):\n    print(f'line {i}', flush=True)\n    time.sleep(.1)"
    )
    async with harness(Spark(), options=dict(spark.options)) as h:
        job = await h.create(task=task)
        while (await h.get(job)).phase is not Phase.RUNNING:
            await asyncio.sleep(0.2)
        async with aclosing(h.logs(job)) as lines:
            seen = [line.message async for line in lines_until(lines, "line 7")]
        assert [line for line in seen if line.startswith("line")] == [f"line {n}" for n in range(8)]
        await h.delete(job)
        end = await h.finish(job, timeout=PATIENCE)
    assert end.phase in (Phase.ABORTED, Phase.FAILED)
    until = asyncio.get_running_loop().time() + PATIENCE
    while not any(one["state"] == "KILLED" for one in spark.drivers()):
        assert asyncio.get_running_loop().time() < until
        await asyncio.sleep(0.2)


async def lines_until(lines: Any, last: str) -> Any:
    async for line in lines:
        yield line
        if line.message == last:
            return


async def test_the_log_goes_on_where_a_page_ended(spark: Any) -> None:
    task = python(spark, "few", "for i in range(5): print('zeile ü', i)")
    agent = await opened(spark)
    job = await agent.create(task_of(task, "f1" * 16))
    while not (await agent.get(job, Call())).phase.is_terminal:
        await asyncio.sleep(0.2)
    whole = [line async for line in agent.logs(job, after="", limit=1000, call=Call())]
    page = [line async for line in agent.logs(job, after="", limit=2, call=Call())]
    rest = [line async for line in agent.logs(job, after=page[-1].cursor, limit=1000, call=Call())]
    assert [line.message for line in whole if line.originator == "user"] == [f"zeile ü {n}" for n in range(5)]
    assert [*page, *rest] == whole
    with pytest.raises(Fail, match="is no place in this log"):
        [line async for line in agent.logs(job, after="7", limit=1, call=Call())]
    await agent.close()


async def test_an_attempt_is_found_again_by_its_drivers_command(spark: Any) -> None:
    first, second = await opened(spark), await opened(spark)
    task, other = task_of(version(), "0a" * 16), task_of(version(), "0b" * 16)
    assert await first.find(task, task.key) is None
    made = await first.create(task)
    assert await first.create(task) == made
    while not (await first.get(made, Call())).phase.is_terminal:
        await asyncio.sleep(0.1)
    assert await first.find(other, other.key) is None
    # a driver that Spark could not start was never launched: another process does not see whose it was, and it is over
    assert await second.find(task, task.key) is None
    app = task_of(python(spark, "idle", "import time; time.sleep(60)"), "0c" * 16)
    running = await first.create(app)
    found = None
    while found is None:
        with suppress(Retry):  # until its log shows whose it is
            found = await second.find(app, app.key)
        await asyncio.sleep(0.2)
    assert found == running == await second.create(app)
    await second.delete(found, Call())
    for agent in (first, second):
        await agent.close()


async def test_a_create_waits_while_it_cannot_be_told_whose_a_driver_is(spark: Any) -> None:
    huge = SparkSubmitTask(
        name="huge", application=spark.write("huge.py", ""), spark_conf={**SMALL, "spark.driver.memory": "900g"}
    )
    first, second = await opened(spark), await opened(spark)
    waiting = await first.create(task_of(huge, "1a" * 16))
    assert (await first.get(waiting, Call())).phase is Phase.QUEUED
    small = task_of(python(spark, "empty", ""), "1b" * 16)
    with pytest.raises(Retry, match="1 drivers wait for workers"):
        await second.create(small)
    await second.create(task_of(version(), "1c" * 16))  # of another class: it cannot be that one
    mine = await first.create(small)  # the one that waits was made here, so it is known
    await first.delete(waiting, Call())
    found = None
    while found is None:
        with suppress(Retry):  # until its log shows whose it is
            found = await second.create(small)
        await asyncio.sleep(0.2)
    assert found == mine
    for agent in (first, second):
        await agent.close()


async def test_one_list_answers_for_many_drivers(spark: Any, fault_proxy: Callable[..., Any]) -> None:
    rest, ui = fault_proxy(spark.rest, record=True), fault_proxy(spark.ui, record=True)
    agent = await opened(spark, address=rest.url, ui=ui.url)
    app = python(spark, "sleeper", "import time; time.sleep(600)")
    jobs = [await agent.create(task_of(app, f"{n:032x}")) for n in range(4)]
    unknown = replace(jobs[0], driver="driver-20200101000000-0000")
    asked, listed = len(rest.recorded()), len(ui.recorded())
    answers = await agent.get_many([*jobs, unknown], Call())
    assert len(rest.recorded()) == asked
    assert len(ui.recorded()) == listed + 1
    assert [one.phase in (Phase.QUEUED, Phase.RUNNING) for one in answers[:4]] == [True] * 4, answers
    assert isinstance(answers[4], NotFound)
    [known, missing] = await agent.get_many([jobs[0], unknown], Call())
    assert not isinstance(known, Exception)
    assert isinstance(missing, NotFound)
    with pytest.raises(NotFound):
        await agent.delete(unknown, Call())
    for job in jobs:
        await agent.delete(job, Call())
    await agent.close()


async def test_faults_and_clusters_are_told_apart(
    spark: Any, free_port: Callable[[], int], fault_proxy: Callable[..., Any]
) -> None:
    agent = await opened(spark)
    with pytest.raises(Fail, match="There is no Spark cluster 'big'"):
        await agent.create(Task(type=TaskType("spark_submit"), config={"application": "/a.py", "cluster": "big"}))
    assert await agent.probe() == f"Spark answers at {spark.options['ui']}"
    assert await agent.check_credentials() == "no token: the master must do without"
    proxy = fault_proxy(spark.rest, share=1.0, kinds=["503"])
    named = await opened(spark, clusters={"big": Cluster(address=proxy.url, ui=spark.options["ui"])})
    with pytest.raises(Retry, match="Spark answered 503: injected"):
        await named.get(SparkJob(driver="driver-x", cluster="big"), Call())
    proxy.set(kinds=["malformed"])
    with pytest.raises(Retry, match="without JSON"):
        await named.get(SparkJob(driver="driver-x", cluster="big"), Call())
    nobody = await opened(spark, address=f"http://127.0.0.1:{free_port()}")
    with pytest.raises(Retry, match="cannot be reached"):
        await nobody.create(task_of(version(), "cd" * 16))
    for one in (agent, named, nobody):
        await one.close()


def test_the_table_knows_every_state_of_spark(spark_home: Path) -> None:
    jar = next(spark_home.glob("jars/spark-core_*.jar"))
    words = ["javap", "-cp", str(jar), "-constants", "org.apache.spark.deploy.master.DriverState"]
    try:
        told = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    except FileNotFoundError:
        pytest.skip("Spark: no javap; on Debian: apt-get install --no-install-recommends openjdk-17-jdk-headless")
    names = {line.split()[-1].removesuffix("();") for line in told.splitlines() if "Enumeration$Value" in line}
    assert {name for name in names if name.isupper()} == set(STATES)
