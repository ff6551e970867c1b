"""The duckdb_query agent: real DuckDB in real processes, over real files, against real attempts to get out."""

from __future__ import annotations

import asyncio
import ctypes
import json
import os
import re
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import pyarrow.parquet as pq
import pytest
import requests

from airside import kwtypes
from airside.agents import duckdb_worker
from airside.agents.duckdb_query import DuckDBAgent, DuckDBQuery
from airside.model import Fail, File, MissingExtra, Phase, StructuredDataset, UsageError

Open = Callable[..., Awaitable[Any]]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A directory with a Parquet file of three flights and a CSV file of two carriers."""
    folder = tmp_path / "data"
    folder.mkdir()
    rows = "(VALUES ('UA', 11, DATE '2013-01-01'), ('UA', -3, DATE '2013-01-02'), ('DL', 5, DATE '2013-01-02'))"
    duckdb.sql(f"FROM {rows} t(carrier, delay, day)").write_parquet(f"{folder}/flights.parquet")
    (folder / "carriers.csv").write_text("carrier,name\nUA,United\nDL,Delta\n")
    return folder


@pytest.fixture
async def db(open_agent: Open, tmp_path: Path, data: Path) -> Any:
    return await open_agent(
        DuckDBAgent(), state_dir=str(tmp_path / "jobs"), allowed_directories=[str(data)], grace=1.0, threads=1
    )


def landlock_is_there() -> bool:
    return ctypes.CDLL(None).syscall(444, None, 0, 1) > 0


def ask(query: str, tmp_path: Path, data: Path, outputs: dict[str, Any] | None = None, **values: Any) -> dict[str, Any]:
    """What the job's process would leave in its output directory, by running its program here."""
    out = tmp_path / "out"
    out.mkdir(exist_ok=True)
    for name in ("outputs.json", "error.json"):
        (out / name).unlink(missing_ok=True)
    request = {
        "query": query,
        "values": values,
        "outputs": {"results": "dataset"} if outputs is None else outputs,
        "result": str(out / "results.parquet"),
        "output_dir": str(out),
        "allowed": [str(data)],
        "temporary": str(tmp_path / "tmp"),
        "limits": {"memory_limit": "100MB", "max_temp_directory_size": "10MB", "threads": 1},
    }
    (tmp_path / "request.json").write_text(json.dumps(request))
    code = duckdb_worker.main(tmp_path / "request.json")
    answer: dict[str, Any] = json.loads((out / ("outputs.json", "error.json")[code]).read_text())
    return answer


async def test_a_query_answers_with_a_table_and_a_count(db: Any, data: Path, tmp_path: Path) -> None:
    query = DuckDBQuery(
        name="late",
        query="""CREATE TEMP TABLE late AS FROM read_parquet($flights) WHERE delay > $least;
                 SELECT carrier, name, count(*) AS n, sum(delay) AS total
                 FROM late JOIN 'CARRIERS' USING (carrier) GROUP BY ALL ORDER BY carrier""".replace(
            "CARRIERS", f"{data}/carriers.csv"
        ),
        inputs=kwtypes(flights=File, least=int),
        defaults={"flights": File((data / "flights.parquet").as_uri())},
    )
    resource = await db.run_template(query, least=-10, output_prefix=str(tmp_path / "prefix"))
    assert resource.phase is Phase.SUCCEEDED, resource
    table = f"{tmp_path}/prefix/results.parquet"
    columns = {"carrier": str, "name": str, "n": int, "total": int}
    assert resource.outputs == {"results": StructuredDataset(table, columns=columns), "rows": 2}
    assert pq.read_table(table).to_pylist() == [
        {"carrier": "DL", "name": "Delta", "n": 1, "total": 5},
        {"carrier": "UA", "name": "United", "n": 2, "total": 8},
    ]


async def test_one_row_gives_its_columns_by_name(db: Any, data: Path) -> None:
    query = "SELECT count(*) AS n, avg(delay) AS mean, min(day) AS first FROM read_parquet($path), range(2)"
    resource = await db.run(
        {"query": query},
        inputs={"path": f"{data}/flights.parquet"},
        outputs=kwtypes(n=int, mean=float, first=date, row_count=int),
    )
    assert resource.outputs == {"n": 6, "mean": 13 / 3, "first": date(2013, 1, 1), "row_count": 1}


def test_rows_are_counted_whatever_is_in_them(tmp_path: Path, data: Path) -> None:
    assert ask("FROM test_all_types()", tmp_path, data, {"rows": "int"}) == {"rows": 3}
    assert ask("SELECT 1 AS n, 2 AS n", tmp_path, data, {"n": "int"}) == {"n": 1}


def test_values_keep_their_types(tmp_path: Path, data: Path) -> None:
    at, took = datetime(2024, 1, 2, 3, tzinfo=UTC), timedelta(hours=1)
    answer = ask(
        """SELECT $n + 1 AS n, $x / 2 AS x, $s || '!' AS s, NOT $ok AS ok, $at AS at, $took AS took, $day AS day,
                  list_sum($list) AS list, $AT + INTERVAL 1 DAY AS next, NULL AS nothing, {'a': [1.5]} AS struct,
                  MAP {'k': 2} AS map, 1.5::DECIMAL(5, 2) AS money, TIMESTAMP '2024-01-01' AS naive, TIME '10:00' AS t
        """,
        tmp_path,
        data,
        {
            **dict.fromkeys(("n", "list"), "int"),
            **dict.fromkeys(("x", "money"), "float"),
            **dict.fromkeys(("at", "next", "naive"), "datetime"),
            **dict.fromkeys(("s", "t"), "str"),
            "ok": "bool",
            "took": "duration",
            "day": "date",
            "nothing": ["optional", "int"],
            "struct": "any",
            "map": ["dict", "int"],
        },
        n=["int", 2],
        x=["float", 3.0],
        s=["str", "it's"],
        ok=["bool", False],
        at=["datetime", at.isoformat()],
        took=["duration", took.total_seconds()],
        day=["date", "2024-01-02"],
        list=["any", [1, 2, 3]],
        unused=["str", "is no mistake"],
    )
    assert answer == {
        "n": 3,
        "list": 6,
        "x": 1.5,
        "money": 1.5,
        "s": "it's!",
        "ok": True,
        "took": 3600.0,
        "day": "2024-01-02",
        "nothing": None,
        "at": at.isoformat(),
        "next": (at + timedelta(days=1)).isoformat(),
        "naive": "2024-01-01T00:00:00+00:00",
        "struct": {"a": [1.5]},
        "map": {"k": 2},
        "t": "10:00:00",
    }


@pytest.mark.parametrize(
    ("query", "outputs", "code", "message"),
    [
        ("SELECT nope FROM range(1)", None, "BinderException", 'Referenced column "nope" not found'),
        ("SELEC 1", None, "ParserException", 'syntax error at or near "SELEC"'),
        ("SELECT error('boom')", None, "InvalidInputException", "boom"),
        ("FROM 'DATA/none*.parquet'", None, "IOException", "No files found"),
        ("SELECT $m", None, "MissingParameter", "asks for $m, which is no input (inputs: none)"),
        (" ; ", None, "ParserException", "The query is empty"),
        ("SELECT 1 AS n", {"m": "int"}, "OutputsNotFound", "'m' is no column of the result (columns: n)"),
        ("FROM range(3) t(n)", {"n": "int"}, "NotOneRow", "'n' is one value, but the result has 3 rows"),
        (
            "SELECT DATE '0044-03-15 (BC)' AS d",
            {"d": "date"},
            "OutputConversionError",
            "Output 'd' is a value that Python cannot hold",
        ),
        ("SELECT INTERVAL 1 DAY AS i", None, "ArrowNotImplementedError", "month_day_nano_interval"),
        ("SELECT sum(9e18::HUGEINT) AS n FROM range(3)", None, "ArrowInvalid", "out of bounds"),
        (
            "SELECT list(range) AS l FROM range(50000000)",
            {"l": "any"},
            "OutOfMemoryException",
            "Out of Memory",
        ),
    ],
)
def test_a_wrong_query_fails_in_duckdbs_words(
    query: str, outputs: dict[str, Any] | None, code: str, message: str, tmp_path: Path, data: Path
) -> None:
    answer = ask(query.replace("DATA", str(data)), tmp_path, data, outputs)
    assert answer["code"] == code, answer
    assert message in answer["message"]
    assert answer["retryable"] is False
    assert "\n" not in answer["message"]


async def test_a_wrong_query_fails_the_task_for_good(db: Any) -> None:
    meta = await db.create({"query": "SELECT nope"})
    resource = await db.finish(meta)
    assert (resource.phase, resource.code) == (Phase.FAILED, "BinderException")
    assert 'Referenced column "nope" was not found' in resource.message
    assert "nope" in (await db.logs(meta))[0].message


@pytest.mark.parametrize(
    "query",
    [
        "FROM read_text('/etc/passwd')",
        "FROM read_csv('/etc/passwd', sep=':')",
        "FROM read_csv(['DATA/carriers.csv', '/etc/passwd'])",
        "FROM read_blob('DATA/../secret.csv')",
        "FROM 'DATA/sub/../../secret.csv'",
        "FROM read_text('DATA/link.csv')",
        "FROM read_text('DATA/linked/passwd')",
        "FROM read_csv($path)",
        "FROM glob('/etc/*')",
        "FROM sniff_csv('/etc/passwd')",
        "FROM read_text('/proc/self/environ')",
        "FROM read_parquet('http://127.0.0.1:9/x.parquet')",
        "FROM read_text('TMP/request.json')",
        "ATTACH '/etc/passwd' AS p; FROM p.t",
        "ATTACH 'DATA/other.db' AS o",
        "ATTACH 'TMP/some.sqlite' AS s (TYPE sqlite)",
        "COPY (SELECT 1) TO 'TMP/stolen.csv'",
        "COPY (SELECT 1) TO 'DATA/carriers.csv'",
        "EXPORT DATABASE 'DATA/copy'",
        "INSTALL httpfs",
        "LOAD httpfs",
        "LOAD 'DATA/carriers.csv'",
        "SET enable_external_access = true",
        "SET allowed_directories = ['/']; FROM read_text('/etc/passwd')",
        "RESET lock_configuration",
        "PREPARE p AS COPY (SELECT 1) TO 'DATA/x.csv'; EXECUTE p",
        "PRAGMA enable_profiling = 'json'",
        "CALL enable_logging(storage = 'file', storage_path = 'TMP/log')",
        "CREATE PERSISTENT SECRET s (TYPE http)",
        "CREATE TABLE t (a VARCHAR); COPY t FROM '/etc/passwd'",
        "FROM request",
        "FROM query('COPY (SELECT 1) TO ''DATA/x.csv''')",
    ],
)
def test_sql_does_not_get_out(query: str, tmp_path: Path, data: Path) -> None:
    (tmp_path / "secret.csv").write_text("a\n1\n")
    (data / "sub").mkdir()
    (data / "link.csv").symlink_to("/etc/passwd")
    (data / "linked").symlink_to("/etc")
    with sqlite3.connect(tmp_path / "some.sqlite") as sqlite:
        sqlite.execute("CREATE TABLE t (a)")
    sqlite.close()
    before = sorted(tmp_path.rglob("*")), (data / "carriers.csv").read_text()
    answer = ask(
        query.replace("DATA", str(data)).replace("TMP", str(tmp_path)),
        tmp_path,
        data,
        path=["file", "file:///etc/passwd"],
    )
    assert "message" in answer, answer
    assert "root:" not in json.dumps(answer)
    assert (data / "carriers.csv").read_text() == before[1]
    new = {file.name for file in tmp_path.rglob("*")} - {file.name for file in before[0]}
    assert new <= {"out", "request.json", "error.json", "tmp"}
    if "passwd" in query and query.startswith("FROM"):
        assert f"SQL may read files below the agent's allowed_directories ({data})" in answer["message"]


async def test_the_password_file_cannot_be_read(db: Any, open_agent: Open, tmp_path: Path) -> None:
    resource = await db.run({"query": "SELECT content FROM read_text('/etc/passwd')"}, outputs=kwtypes(content=str))
    assert (resource.phase, resource.code) == (Phase.FAILED, "PermissionException")
    assert "Cannot access file" in resource.message
    closed = await open_agent(DuckDBAgent(), state_dir=str(tmp_path / "closed"))
    (tmp_path / "private").mkdir()
    (tmp_path / "private" / "secret.csv").write_text("a\n1\n")
    prefix = await closed.run(
        {"query": "FROM read_csv($path)"},
        inputs={"path": f"{tmp_path}/private/secret.csv"},
        outputs=kwtypes(a=int),
        output_prefix=str(tmp_path / "private"),
    )
    assert (prefix.phase, prefix.code) == (Phase.FAILED, "PermissionException")
    assert [file.name for file in (tmp_path / "private").iterdir()] == ["secret.csv"]


@pytest.mark.skipif(not landlock_is_there(), reason="needs a kernel with Landlock")
@pytest.mark.parametrize(
    "query",
    [
        "COPY (PIVOT (SELECT 1 AS a, 'x' AS b) ON b) TO 'DATA/carriers.csv'",
        "EXPLAIN ANALYZE COPY (SELECT 1) TO 'DATA/new.csv'",
        "WITH x AS (COPY (SELECT 1) TO 'DATA/new.csv') SELECT 1",
    ],
)
async def test_sql_writes_nothing_into_the_allowed_directories(db: Any, data: Path, query: str) -> None:
    before = {file.name: file.read_bytes() for file in data.iterdir()}
    resource = await db.run({"query": query.replace("DATA", str(data))}, outputs=kwtypes(results=StructuredDataset))
    assert resource.phase is Phase.FAILED, resource
    assert re.search("Permission denied|COPY is not allowed here|A CTE needs a SELECT", resource.message)
    assert {file.name: file.read_bytes() for file in data.iterdir()} == before


async def test_a_query_outlives_its_service_and_can_be_cancelled(db: Any, open_agent: Open, tmp_path: Path) -> None:
    endless = "SELECT count(*) AS n FROM range(100000000000) a WHERE range % 7 = hash(range) % 11"
    meta = await db.create({"query": endless}, outputs=kwtypes(n=int))
    await db.running(meta)
    other = await open_agent(DuckDBAgent(), state_dir=str(tmp_path / "jobs"))
    pid = await other.running(meta)
    started = time.monotonic()
    await other.delete(meta)
    assert (await db.finish(meta)).phase is Phase.ABORTED
    assert time.monotonic() - started < 5
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


async def test_a_query_that_is_killed_may_be_tried_again(db: Any) -> None:
    meta = await db.create({"query": "SELECT count(*) FROM range(100000000000) a WHERE range % 7 = hash(range)"})
    os.kill(await db.running(meta), signal.SIGKILL)
    resource = await db.finish(meta)
    assert (resource.phase, resource.message) == (Phase.RETRYABLE_FAILED, "killed by SIGKILL")


async def test_wrong_tasks_and_options_are_told_in_a_sentence(
    db: Any, open_agent: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(Fail, match="needs a query: the template's sql, or config"):
        await db.create({})
    with pytest.raises(Fail, match=r"config\.sql: a duckdb_query task knows no such key"):
        await db.create({"sql": "SELECT 1"})
    with pytest.raises(UsageError, match="Task 'q' needs a query"):
        DuckDBQuery(name="q")
    with pytest.raises(UsageError, match=r"agents\.duckdb_query\.threads: expected int, got 'many'"):
        await open_agent(DuckDBAgent(), threads="many")
    with pytest.raises(UsageError, match="threads is a number from 0"):
        await open_agent(DuckDBAgent(), threads=-1)
    monkeypatch.setitem(sys.modules, "duckdb", None)
    with pytest.raises(MissingExtra, match=r"^The duckdb_query agent needs .*: pip install 'airside\[duckdb\]'$"):
        await open_agent(DuckDBAgent(), state_dir=str(tmp_path))


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A bucket of an S3 server of its own process, reached by the usual variables."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        last = time.monotonic() + 20
        while True:
            try:
                requests.put(f"http://127.0.0.1:{port}/bucket", timeout=10).raise_for_status()
                break
            except requests.ConnectionError:
                assert server.poll() is None
                assert time.monotonic() < last
                time.sleep(0.05)
        for name, value in zip(
            S3_VARIABLES, (f"http://127.0.0.1:{port}", "test", "test-secret", "us-east-1"), strict=True
        ):
            monkeypatch.setenv(name, value)
        yield "s3://bucket"
        server.terminate()


S3_VARIABLES = ("AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_DEFAULT_REGION")


async def test_a_result_goes_to_a_bucket_if_the_prefix_is_one(open_agent: Open, tmp_path: Path, bucket: str) -> None:
    db = await open_agent(DuckDBAgent(), state_dir=str(tmp_path / "jobs"), env_allow=list(S3_VARIABLES))
    outputs = kwtypes(t=StructuredDataset, rows=int)
    resource = await db.run({"query": "FROM range(3)"}, outputs=outputs, output_prefix=f"{bucket}/run/0")
    place = f"{bucket}/run/0/results.parquet"
    assert resource.outputs == {"t": StructuredDataset(place, columns={"range": int}), "rows": 3}
    read = (
        "from pyarrow import fs, parquet; f, p = fs.FileSystem.from_uri(%r); print(parquet.read_table(p, filesystem=f))"
    )
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", read % place, stdout=subprocess.PIPE)
    assert b"range: [[0,1,2]]" in (await process.communicate())[0]


async def test_many_queries_at_once(db: Any, data: Path) -> None:
    jobs = [
        db.run(
            {"query": "SELECT $m + count(*) AS n FROM read_csv($p)"},
            inputs={"m": m, "p": f"{data}/carriers.csv"},
            outputs=kwtypes(n=int),
        )
        for m in range(4)
    ]
    assert [resource.outputs for resource in await asyncio.gather(*jobs)] == [{"n": m + 2} for m in range(4)]
