"""The sensor agent: real files, a real HTTP server, DuckDB and SQLite, through the raw protocol and the service."""

from __future__ import annotations

import asyncio
import http.server
import json
import sqlite3
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal

import duckdb
import pytest

from airside import File, TaskTemplate, kwtypes
from airside.agents.sensor import FileSensor, HttpSensor, SensorAgent, SqlSensor, TimeSensor
from airside.agents.sensor_job import Waiting
from airside.model import Call, Connection, Fail, Phase, Resource, Retry, Task, TaskType, UsageError
from airside.testing import check_agent, harness

Open = Callable[..., Awaitable[Any]]
Wire = Literal["v1", "v2"]
QUICK = {"least_poke_interval": 0.05, "poke_interval": 0.05}


class Site(http.server.ThreadingHTTPServer):
    """Answers with what the test has put there: a status and a text by path."""

    daemon_threads = True

    def __init__(self) -> None:
        self.pages: dict[str, tuple[int, str]] = {}
        self.asked: list[tuple[str, str | None]] = []

        class Handler(http.server.BaseHTTPRequestHandler):
            server: Site

            def log_message(self, *args: Any) -> None:
                pass

            def do_GET(self) -> None:
                self.server.asked.append((self.path, self.headers.get("Authorization")))
                status, text = self.server.pages.get(self.path, (404, ""))
                data = text.encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

        super().__init__(("127.0.0.1", 0), Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


@pytest.fixture
def site() -> Iterator[Site]:
    with Site() as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        yield running
        running.shutdown()
        thread.join()


async def start(sensor: Any, task: TaskTemplate, **inputs: Any) -> bytes:
    made: bytes = await sensor.create(task.config, inputs=task.complete(inputs), outputs=task.outputs, key="0a" * 16)
    return made


async def refused(sensor: Any, task: TaskTemplate, **inputs: Any) -> Fail:
    with pytest.raises(Fail) as caught:
        await start(sensor, task, **inputs)
    return caught.value


def waits(resource: Resource, *words: str) -> bool:
    """True for a sensor that goes on waiting, and says for what."""
    return resource.phase is Phase.RUNNING and all(word in resource.message for word in words)


# -- files


async def test_a_file_is_waited_for(open_agent: Open, tmp_path: Path) -> None:
    sensor = await open_agent(SensorAgent(), allowed_directories=[str(tmp_path)], **QUICK)
    task = FileSensor(
        name="t", path=f"{tmp_path}/{{{{.inputs.day}}}}/_SUCCESS", inputs=kwtypes(day=str),
        outputs=kwtypes(marker=File, at=str, met=bool),
    )  # fmt: skip
    job = await start(sensor, task, day="monday")
    first = await sensor.get(job)
    assert waits(first, f"{tmp_path}/monday/_SUCCESS is not there yet; waiting until ")
    assert first.poll_after == pytest.approx(0.05)
    (tmp_path / "monday").mkdir()
    assert waits(await sensor.get(job))
    (tmp_path / "monday" / "_SUCCESS").touch()
    done = await sensor.get(job)
    place = f"{tmp_path}/monday/_SUCCESS"
    assert (done.phase, done.outputs) == (Phase.SUCCEEDED, {"marker": File(place), "at": place, "met": True})


async def test_the_path_may_be_an_input_and_the_place_a_folder(open_agent: Open, tmp_path: Path) -> None:
    sensor = await open_agent(SensorAgent(), allowed_directories=[str(tmp_path)])
    job = await start(sensor, FileSensor(name="t"), path=f"file://{tmp_path}/day")
    assert waits(await sensor.get(job))
    (tmp_path / "day").mkdir()
    assert (await sensor.get(job)).phase is Phase.SUCCEEDED


@pytest.mark.parametrize("path", ["/etc/passwd", "{here}/../x", "file:///etc/passwd"])
async def test_a_path_elsewhere_is_not_looked_at(open_agent: Open, tmp_path: Path, path: str) -> None:
    sensor = await open_agent(SensorAgent(), allowed_directories=[str(tmp_path)])
    job = await start(sensor, FileSensor(name="t", path=path.format(here=tmp_path)))
    with pytest.raises(Fail, match="an operator may add its folder to `allowed_directories`") as caught:
        await sensor.get(job)
    assert caught.value.code == "PathNotAllowed"


async def test_a_place_of_no_known_kind_fails(open_agent: Open) -> None:
    sensor = await open_agent(SensorAgent())
    job = await start(sensor, FileSensor(name="t", path="ftp://host/file"))
    with pytest.raises(Fail, match="use a local path"):
        await sensor.get(job)


# -- time


async def test_the_time_that_is_up_is_a_failure_also_after_a_restart(open_agent: Open, tmp_path: Path) -> None:
    options = {"allowed_directories": [str(tmp_path)], **QUICK}
    first = await open_agent(SensorAgent(), **options)
    task = FileSensor(name="t", path=f"{tmp_path}/never", timeout=0.5)
    job = await start(first, task)
    begun = json.loads(job)["until"]
    await asyncio.sleep(max(0.0, begun - time.time()))
    again = await open_agent(SensorAgent(), **options)  # as after a restart: all that is known is the handle
    resource = await again.get(job)
    assert (resource.phase, resource.code) == (Phase.FAILED, "SensorTimeout")
    assert resource.message.startswith("Gave up at ")
    assert resource.message.endswith(f"{tmp_path}/never is not there yet")
    (tmp_path / "never").touch()
    assert (await again.get(job)).phase is Phase.SUCCEEDED  # the last look counts


async def test_a_soft_end_is_a_success_that_was_not_met(open_agent: Open, tmp_path: Path) -> None:
    sensor = await open_agent(SensorAgent(), allowed_directories=[str(tmp_path)], **QUICK)
    outputs = kwtypes(met=bool, file=File | None)
    task = FileSensor(name="t", path=f"{tmp_path}/never", timeout=0.05, soft_fail=True, outputs=outputs)
    job = await start(sensor, task)
    resource = await sensor.finish(job)
    assert (resource.phase, resource.outputs) == (Phase.SUCCEEDED, {"met": False, "file": None})
    hard = FileSensor(name="t", path="/x", soft_fail=True, outputs=kwtypes(file=File))
    assert "declare it as optional" in (await refused(sensor, hard)).message


async def test_a_point_in_time_is_waited_for(open_agent: Open) -> None:
    sensor = await open_agent(SensorAgent())
    soon = datetime.now(UTC) + timedelta(seconds=0.5)
    at_input = await start(sensor, TimeSensor(name="t"), at=soon)
    after = await start(sensor, TimeSensor(name="t", after=timedelta(seconds=0.3), outputs=kwtypes(met=bool)))
    late = await start(sensor, TimeSensor(name="t", at="2999-01-01T01:00:00+01:00"))
    resource = await sensor.get(at_input)
    assert waits(resource, "it is not ")
    assert resource.poll_after is not None
    assert resource.poll_after <= 0.5
    assert waits(await sensor.get(late), "it is not 2999-01-01 00:00:00 UTC yet")
    assert (await sensor.finish(at_input)).phase is Phase.SUCCEEDED
    assert time.time() >= soon.timestamp()
    assert (await sensor.finish(after)).outputs == {"met": True}


async def test_a_time_that_cannot_come_is_refused(open_agent: Open) -> None:
    sensor = await open_agent(SensorAgent())
    assert "not a time in ISO 8601" in (await refused(sensor, TimeSensor(name="t", at="noon"))).message
    beyond = TimeSensor(name="t", at="2999-01-01", timeout=60)
    assert "waits for 2999-01-01 00:00:00 UTC, but gives up at" in (await refused(sensor, beyond)).message


# -- HTTP


async def test_an_endpoint_is_waited_for(open_agent: Open, site: Site) -> None:
    sensor = await open_agent(SensorAgent(), private_hosts=["127.0.0.1"], **QUICK)
    task = HttpSensor(
        name="t", url=f"{site.url}/builds/{{{{.inputs.id}}}}", json_path="$.state", equals="{{.inputs.wanted}}",
        inputs=kwtypes(id=int, wanted=str), outputs=kwtypes(artifact=str, status=int, met=bool),
    )  # fmt: skip
    job = await start(sensor, task, id=7, wanted="passed")
    assert waits(await sensor.get(job), "GET 127.0.0.1 answered 404 Not Found")
    site.pages["/builds/7"] = (200, "starting")
    assert waits(await sensor.get(job), "answered 200, but not with JSON")
    site.pages["/builds/7"] = (200, '{"state": "running"}')
    assert waits(await sensor.get(job), '$.state is not "passed" yet')
    site.pages["/builds/7"] = (200, '{"state": "passed", "artifact": "s3://a/7"}')
    done = await sensor.get(job)
    assert (done.phase, done.outputs) == (Phase.SUCCEEDED, {"artifact": "s3://a/7", "status": 200, "met": True})


@pytest.mark.parametrize(
    ("wanted", "unmet", "met"),
    [
        ({"expected": [204]}, (200, ""), (204, "")),
        ({"contains": "rea{{.inputs.y}}"}, (200, "not yet"), (200, "I am ready")),
        ({"json_path": "$.items[?@.n > 2]"}, (200, '{"items": [{"n": 1}]}'), (200, '{"items": [{"n": 3}]}')),
        ({"json_path": "$.done"}, (200, '{"done": false}'), (200, '{"done": true}')),
        ({"json_path": "$.left", "equals": 0}, (200, '{"left": 2}'), (200, '{"left": 0}')),
    ],
)
async def test_what_an_answer_must_be(
    open_agent: Open, site: Site, wanted: dict[str, Any], unmet: tuple[int, str], met: tuple[int, str]
) -> None:
    sensor = await open_agent(SensorAgent(), private_hosts=["127.0.0.1"])
    task = HttpSensor(name="t", url=f"{site.url}/x", inputs=kwtypes(y=str), **wanted)
    job = await start(sensor, task, y="dy")
    site.pages["/x"] = unmet
    assert waits(await sensor.get(job))
    site.pages["/x"] = met
    assert (await sensor.get(job)).phase is Phase.SUCCEEDED


async def test_an_endpoint_that_is_not_there_yet_is_waited_for(open_agent: Open) -> None:
    sensor = await open_agent(SensorAgent(), private_hosts=["127.0.0.1"])
    job = await start(sensor, HttpSensor(name="t", url="http://127.0.0.1:9/health"))
    assert waits(await sensor.get(job), "GET 127.0.0.1: ")


async def test_requests_go_only_where_they_may(open_agent: Open, site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("_FSEC_TOKEN", "the-token-value")
    inside = await open_agent(SensorAgent())
    job = await start(inside, HttpSensor(name="t", url=f"{site.url}/x"))
    with pytest.raises(Fail, match="an operator may allow it in the sensor agent's `private_hosts`"):
        await inside.get(job)
    some = await open_agent(SensorAgent(), hosts=["api.example.org"])
    with pytest.raises(Fail, match="not among the sensor agent's `hosts`"):
        await some.get(await start(some, HttpSensor(name="t", url="https://elsewhere.example.org/")))
    secret = HttpSensor(
        name="t", url=f"{site.url}/x", headers={"Authorization": {"secret": "token", "prefix": "Bearer "}}
    )
    assert "in the sensor agent's `credentials`" in (await refused(inside, secret)).message
    both = {"private_hosts": ["127.0.0.1"], "credentials": {"token": ["127.0.0.1"]}}
    allowed = await open_agent(SensorAgent(), **both)
    job = await start(allowed, secret)
    assert b"the-token-value" not in job
    await allowed.get(job)
    assert site.asked == [("/x", "Bearer the-token-value")]


async def test_a_sensor_is_not_given_up_because_a_secret_is_missing_for_a_while(
    open_agent: Open, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"private_hosts": ["127.0.0.1"], "credentials": {"token": ["127.0.0.1"]}, **QUICK}
    sensor = await open_agent(SensorAgent(), **options)
    monkeypatch.setenv("_FSEC_TOKEN", "the-token-value")
    task = HttpSensor(name="t", url=f"{site.url}/x", headers={"X": {"secret": "token"}}, timeout=0.5)
    job = await start(sensor, task)
    monkeypatch.delenv("_FSEC_TOKEN")
    with pytest.raises(Retry, match="token"):
        await sensor.get(job)
    assert "token" in (await refused(sensor, task)).message  # but no new one is begun
    unaware = await open_agent(SensorAgent(), private_hosts=["127.0.0.1"])  # a service with older settings
    monkeypatch.setenv("_FSEC_TOKEN", "the-token-value")
    with pytest.raises(Retry, match="`credentials`"):
        await unaware.get(job)
    monkeypatch.delenv("_FSEC_TOKEN")
    await asyncio.sleep(max(0.0, json.loads(job)["until"] - time.time()))
    late = await sensor.get(job)
    assert (late.phase, late.code) == (Phase.FAILED, "SensorTimeout")
    assert "token" in late.message


# -- SQL


@pytest.fixture
def flights(tmp_path: Path) -> str:
    """A SQLite database with a table of flights, and another file beside it."""
    for name in ("flights", "other"):
        with closing(sqlite3.connect(tmp_path / f"{name}.db")) as made, made:
            made.execute("CREATE TABLE flights (id INTEGER, delay REAL)")
    return f"sqlite:///{tmp_path}/flights.db"


def insert(url: str, *rows: tuple[int, float]) -> None:
    with closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as opened, opened:
        opened.executemany("INSERT INTO flights VALUES (?, ?)", rows)


LATE = SqlSensor(
    name="t", database="ops", query="SELECT id, delay FROM flights WHERE delay > :least",
    inputs=kwtypes(least=float), outputs=kwtypes(rows=int, all=list[dict], met=bool),
)  # fmt: skip


async def test_rows_are_waited_for(open_agent: Open, flights: str) -> None:
    sensor = await open_agent(SensorAgent(), databases={"ops": {"url": flights}})
    job = await start(sensor, LATE, least=10.0)
    assert waits(await sensor.get(job), "the query has no rows yet")
    insert(flights, (1, 5.0), (2, 12.5), (3, 30.0))
    done = await sensor.get(job)
    told = [{"id": 2, "delay": 12.5}, {"id": 3, "delay": 30.0}]
    assert (done.phase, done.outputs) == (Phase.SUCCEEDED, {"rows": 2, "all": told, "met": True})


@pytest.mark.parametrize(
    "query",
    [
        "DELETE FROM flights",
        "DELETE FROM flights RETURNING id",
        "CREATE TABLE more (id INTEGER)",
        "ATTACH '{other}' AS other",
    ],
)
async def test_a_query_changes_nothing(open_agent: Open, flights: str, tmp_path: Path, query: str) -> None:
    insert(flights, (1, 5.0))
    sensor = await open_agent(SensorAgent(), databases={"ops": {"url": flights}}, **QUICK)
    text = query.format(other=tmp_path / "other.db")
    job = await start(sensor, SqlSensor(name="t", database="ops", query=text, timeout=0.1))
    await asyncio.sleep(0.11)
    try:
        resource = await sensor.get(job)
        assert (resource.phase, resource.code) == (Phase.FAILED, "SensorTimeout")
    except Fail as exc:
        assert exc.code == "InvalidQuery"  # noqa: PT017 - either will do
    with closing(sqlite3.connect(tmp_path / "flights.db")) as opened:
        assert opened.execute("SELECT count(*) FROM flights").fetchone() == (1,)
        assert opened.execute("SELECT count(*) FROM sqlite_master").fetchone() == (1,)


async def test_a_service_that_does_not_know_the_database_ends_no_sensor(open_agent: Open, flights: str) -> None:
    sensor = await open_agent(SensorAgent(), databases={"ops": {"url": flights}})
    job = await start(sensor, LATE, least=10.0)
    with pytest.raises(Retry, match="There is no database 'ops'"):
        await (await open_agent(SensorAgent())).get(job)


async def test_what_a_query_may_not_be_is_said(open_agent: Open, flights: str) -> None:
    sensor = await open_agent(SensorAgent(), databases={"ops": {"url": flights}})
    unknown = SqlSensor(name="t", database="hr", query="SELECT 1")
    assert "There is no database 'hr' (known: ops)" in (await refused(sensor, unknown)).message
    nowhere = SqlSensor(name="t", query="SELECT 1")
    assert "name a database, or a connection" in (await refused(sensor, nowhere)).message
    job = await start(sensor, SqlSensor(name="t", database="ops", query="SELECT :n AS n"))
    with pytest.raises(Fail, match=r"asks for n, which is no input \(inputs: none\)"):
        await sensor.get(job)


@pytest.mark.parametrize(
    "url",
    ["sqlite:////etc/x.db", "postgresql+psycopg://u@evil.example.org/x", "postgresql+psycopg://u@db.example.org/x?host=y",
     "duckdb:///etc/passwd", "no url at all"],
)  # fmt: skip
async def test_a_connection_leads_to_allowed_hosts_only(open_agent: Open, url: str) -> None:
    sensor = await open_agent(SensorAgent(), allowed_hosts=["db.example.org"])
    connection = Connection("mine", {"password": "p"}, {"url": url})
    with pytest.raises(Fail) as caught:
        await sensor.create(SqlSensor(name="t", query="SELECT 1").config, connection=connection)
    assert caught.value.code in ("HostNotAllowed", "NoSuchDatabase")


async def test_duckdb_sees_files_of_the_allowed_folders_only(open_agent: Open, tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    (tmp_path / "private.csv").write_text("n\n1\n")
    options = {"databases": {"files": {"url": "duckdb://"}}, "allowed_directories": [str(data)]}
    sensor = await open_agent(SensorAgent(), **options, **QUICK)
    task = SqlSensor(
        name="t", database="files", query="SELECT sum(n)::INT AS total FROM read_csv($path) HAVING sum(n) > $least",
        inputs=kwtypes(path=str, least=int), outputs=kwtypes(total=int),
    )  # fmt: skip
    job = await start(sensor, task, path=f"{data}/*.csv", least=3)
    assert waits(await sensor.get(job), "the query has no rows yet")
    (data / "a.csv").write_text("n\n1\n")
    assert waits(await sensor.get(job), "the query has no rows yet")
    (data / "b.csv").write_text("n\n7\n")
    done = await sensor.get(job)
    assert (done.phase, done.outputs) == (Phase.SUCCEEDED, {"total": 8})
    with pytest.raises(Fail, match="disabled by configuration"):
        await sensor.get(await start(sensor, task, path=f"{tmp_path}/private.csv", least=0))
    for query in (f"COPY (SELECT 1) TO '{data}/c.csv'", "SELECT 1; SELECT 2", "INSTALL httpfs"):
        with pytest.raises(Fail, match="a SQL sensor asks one SELECT"):
            await sensor.get(await start(sensor, SqlSensor(name="t", database="files", query=query)))
    assert not (data / "c.csv").exists()


async def test_a_file_of_duckdb_is_read(open_agent: Open, tmp_path: Path) -> None:
    file = tmp_path / "x.duckdb"
    sensor = await open_agent(SensorAgent(), databases={"x": {"url": f"duckdb:///{file}"}}, **QUICK)
    job = await start(sensor, SqlSensor(name="t", database="x", query="FROM trips", outputs=kwtypes(rows=int)))
    with duckdb.connect(str(file)) as made:
        made.execute("CREATE TABLE trips AS SELECT 1 AS n WHERE false")
    assert waits(await sensor.get(job))
    with duckdb.connect(str(file)) as made:
        made.execute("INSERT INTO trips VALUES (1), (2)")
    assert (await sensor.get(job)).outputs == {"rows": 2}


# -- all together


async def test_sensors_that_wait_for_the_same_share_a_look(site: Site) -> None:
    agent = SensorAgent()
    await asyncio.to_thread(agent.open, agent.Options(private_hosts=("127.0.0.1",)))
    site.pages["/a"] = (200, "")
    tasks = [HttpSensor(name="t", url=f"{site.url}/{path}") for path in ("a", "b", "a", "a", "b")]
    made = [
        Task(type=TaskType("sensor"), config=task.config, key=f"{number:032x}") for number, task in enumerate(tasks)
    ]
    jobs = [await asyncio.to_thread(agent.create, task, Call()) for task in made]
    answers = await agent.get_many(jobs, Call())
    assert [one.phase for one in answers if isinstance(one, Resource)] == [
        *(Phase.SUCCEEDED, Phase.RUNNING, Phase.SUCCEEDED, Phase.SUCCEEDED, Phase.RUNNING),
    ]
    assert sorted(path for path, _ in site.asked) == ["/a", "/b"]
    await asyncio.to_thread(agent.close)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({}, "a sensor is one of file, http, sql, time"),
        ({"sensor": "flytekit", "sensor_module": 3}, "has a sensor_module and a sensor_name"),
        ({"sensor": "file", "url": "x"}, "config.url: a file sensor knows no such key"),
        ({"sensor": "file", "path": ""}, "a file sensor needs a place"),
        ({"sensor": "file", "path": "/x", "timeout": "soon"}, "config.timeout is a number of seconds"),
        ({"sensor": "file", "path": "x" * 20_000}, "16 KiB"),
        ({"sensor": "http", "url": "ftp://x"}, "config.url"),
        ({"sensor": "http", "url": "https://x.example", "json_path": "state"}, "it begins with $"),
        ({"sensor": "sql", "query": " "}, "needs a query"),
        ({"sensor_module": "os", "sensor_name": "system"}, "in the sensor agent's `modules`"),
        ({"sensor_module": "acme.x; import os", "sensor_name": "A"}, "in the sensor agent's `modules`"),
    ],
)
async def test_what_cannot_be_waited_for_is_refused(open_agent: Open, config: Mapping[str, Any], words: str) -> None:
    sensor = await open_agent(SensorAgent())
    with pytest.raises(Fail) as caught:
        await sensor.create(config)
    assert words in caught.value.message


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: FileSensor(name="t", timeout=-1),
        lambda: FileSensor(name="t", poke_interval=0),
        lambda: HttpSensor(name="t"),
        lambda: HttpSensor(name="t", url="https://x.example", equals=3),
        lambda: SqlSensor(name="t"),
        lambda: TimeSensor(name="t", at="x", after=3),
    ],
)
def test_a_task_that_makes_no_sense_is_refused_where_it_is_written(wrong: Callable[[], Any]) -> None:
    with pytest.raises(UsageError):
        wrong()


async def test_a_sensor_made_by_another_service_waits_for_the_same() -> None:
    task = Task(type=TaskType("sensor"), config=FileSensor(name="t", path="/x").config, key="0b" * 16)
    made: list[Waiting] = []
    for _ in range(2):
        agent = SensorAgent()
        await asyncio.to_thread(agent.open, agent.Options())
        made.append(await asyncio.to_thread(agent.create, task, Call()))
        await asyncio.to_thread(agent.close)
    assert made[0].id == made[1].id == task.key


async def test_a_sensor_outlives_the_killed_service(wire: Wire, tmp_path: Path) -> None:
    options = {"allowed_directories": [str(tmp_path)], **QUICK}
    task = FileSensor(name="t", path=f"{tmp_path}/x", outputs=kwtypes(met=bool))
    async with harness(SensorAgent, wire=wire, process=True, options=options) as h:
        job = await h.create(task=task)
        assert (await h.get(job)).phase is Phase.RUNNING
        await h.restart(kill=True)
        (tmp_path / "x").touch()
        resource = await h.finish(job)
        assert (resource.phase, dict(resource.outputs or {})) == (Phase.SUCCEEDED, {"met": True})


async def test_a_sensor_is_cancelled(wire: Wire, tmp_path: Path) -> None:
    options = {"allowed_directories": [str(tmp_path)], **QUICK}
    async with harness(SensorAgent(), wire=wire, options=options) as h:
        job = await h.create(task=FileSensor(name="t", path=f"{tmp_path}/x"))
        assert (await h.get(job)).phase is Phase.RUNNING
        await h.delete(job)
        assert (await h.finish(job)).phase is Phase.ABORTED


def test_the_conformance_suite_holds() -> None:
    task = TimeSensor(name="t", after=0.3, outputs=kwtypes(met=bool))
    report = check_agent(SensorAgent(), task=task, options=QUICK, wires=("v2",))
    assert report.ok, str(report)
