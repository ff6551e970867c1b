"""What the emulator cannot show: answers in the form that Google documents, from a server that has nothing else."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from airside.agents.bigquery import BigQueryAgent, BigQueryConfig, BigQueryTask, Query
from airside.agents.bigquery_clients import SECRET
from airside.model import Call, Connection, Interface, NotFound, Phase, Retry, Sql, StructuredDataset, Task, TaskType
from airside.testing import harness

KEY = "0b" * 16
JOB = f"airside_{KEY}"

Answer = Callable[[str, str, dict[str, list[str]], Any], tuple[int, Any]]


class Canned:
    """A server whose answers the test gives; `asked` are the requests."""

    def __init__(self) -> None:
        self.answer: Answer = lambda *_: (404, error("notFound", "nothing here"))
        self.asked: list[tuple[str, str, dict[str, list[str]], Any]] = []
        self.tokens: list[str] = []
        canned = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                length = int(self.headers.get("Content-Length") or 0)
                text = self.rfile.read(length).decode()
                url = urlsplit(self.path)
                body = json.loads(text) if text.startswith("{") else text
                told = (self.command, url.path, parse_qs(url.query), body)
                canned.asked.append(told)
                canned.tokens.append(self.headers.get("Authorization", ""))
                status, answer = canned.answer(*told)
                data = json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            do_POST = do_GET

            def log_message(self, *_: Any) -> None: ...

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"


def error(reason: str, message: str) -> Any:
    return {"error": {"message": message, "errors": [{"reason": reason, "message": message}]}}


def job(state: str = "DONE", location: str = "europe-west1", **more: Any) -> Any:
    """A job as jobs.get answers."""
    return {
        "jobReference": {"projectId": "flights", "jobId": JOB, "location": location},
        "configuration": {"jobType": "QUERY", "query": {"query": "SELECT 1"}, **more.pop("configuration", {})},
        "status": {"state": state, **more.pop("status", {})},
        "statistics": {"creationTime": "1700000000000", **more.pop("statistics", {})},
    }


@pytest.fixture
def canned() -> Iterator[Canned]:
    made = Canned()
    thread = threading.Thread(target=made.server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield made
    made.server.shutdown()
    thread.join()
    made.server.server_close()


@pytest.fixture
def agent(canned: Canned, monkeypatch: pytest.MonkeyPatch) -> Iterator[BigQueryAgent]:
    monkeypatch.setenv("BIGQUERY_EMULATOR_HOST", canned.url)
    made = BigQueryAgent()
    made.open(made.Options())
    yield made
    made.close()


def task(**config: str) -> Task:
    return Task(
        type=TaskType("bigquery_query_job_task"),
        key=KEY,
        sql=Sql("SELECT 1"),
        config={"ProjectID": "flights", **config},
        interface=Interface(outputs={"results": StructuredDataset}),
    )


def test_a_job_elsewhere_is_found_without_its_location(canned: Canned, agent: BigQueryAgent) -> None:
    def answer(method: str, path: str, query: dict[str, list[str]], body: Any) -> tuple[int, Any]:
        if method == "POST" and body["configuration"].get("dryRun"):
            return 200, job()
        if method == "POST":
            return 409, error("duplicate", f"Already Exists: Job flights:{JOB}")
        return (200, job()) if query.get("location") == ["europe-west1"] else (404, error("notFound", "Not found: Job"))

    canned.answer = answer
    found = agent.find(task(), KEY)
    assert found is not None
    assert (found.job_id, found.location) == (JOB, "europe-west1")
    assert agent.create(task()) == found
    assert agent.find(task(Location="US"), KEY) is None


def test_a_job_that_is_there_and_not_shown_is_asked_for_again(canned: Canned, agent: BigQueryAgent) -> None:
    def answer(method: str, *_: Any) -> tuple[int, Any]:
        return (
            (409, error("duplicate", "Already Exists")) if method == "POST" else (404, error("notFound", "Not found"))
        )

    canned.answer = answer
    with pytest.raises(Retry, match="does not show it"):
        agent.create(task(Location="US"))


def test_an_account_that_may_not_ask_says_nothing_of_the_job(canned: Canned, agent: BigQueryAgent) -> None:
    canned.answer = lambda method, *_: (403, error("accessDenied", "Denied")) if method == "POST" else (404, {})
    with pytest.raises(Retry, match="Denied"):
        agent.find(task(), KEY)
    canned.answer = lambda method, *_: (400, error("invalidQuery", "Wrong")) if method == "POST" else (404, {})
    assert agent.find(task(), KEY) is None


def test_a_dry_run_tells_the_estimate_and_the_location(canned: Canned, agent: BigQueryAgent) -> None:
    def answer(_method: str, _path: str, _query: Any, body: Any) -> tuple[int, Any]:
        return 200, job("PENDING", statistics={"totalBytesProcessed": "123456"} if "dryRun" in str(body) else {})

    canned.answer = answer
    made = agent.create(task(DryRun=True))
    assert (made.estimate, made.location) == (123456, "europe-west1")
    assert canned.asked[-1][3]["jobReference"] == {"projectId": "flights", "jobId": JOB, "location": "europe-west1"}


def test_a_query_over_its_limit_fails_with_the_words_of_bigquery(canned: Canned, agent: BigQueryAgent) -> None:
    message = "Query exceeded limit for bytes billed: 1000. 10485760 or higher required."
    fatal = {"reason": "bytesBilledLimitExceeded", "message": message}
    canned.answer = lambda *_: (200, job(status={"errorResult": fatal, "errors": [fatal]}))
    resource = agent.get(Query(JOB, "flights", "EU"), Call())
    assert (resource.phase, resource.code, resource.message) == (Phase.FAILED, "BytesBilledLimitExceeded", message)


def test_a_job_that_ran_out_of_its_own_time_is_no_cancelled_one(canned: Canned, agent: BigQueryAgent) -> None:
    fatal = {"reason": "stopped", "message": "Job execution was cancelled: Job timed out after 1 sec"}
    canned.answer = lambda *_: (200, job(status={"errorResult": fatal, "errors": [fatal]}))
    resource = agent.get(Query(JOB, "flights", "EU"), Call())
    assert (resource.phase, resource.code) == (Phase.FAILED, "Timeout")


def test_an_interval_is_a_duration(canned: Canned, agent: BigQueryAgent) -> None:
    cells = ["0-0 1 2:0:3.5", "1-2 3 4:5:6", ["0-0 0 0:1:0"]]
    values = [{"v": [{"v": inner} for inner in one] if isinstance(one, list) else one} for one in cells]
    fields = [
        {"name": "took", "type": "INTERVAL"},
        {"name": "long", "type": "INTERVAL"},
        {"name": "all", "type": "INTERVAL", "mode": "REPEATED"},
    ]
    result = {
        "jobComplete": True,
        "jobReference": job()["jobReference"],
        "schema": {"fields": [{"mode": "NULLABLE", **one} for one in fields]},
        "rows": [{"f": values}],
        "totalRows": "1",
    }
    table = {"projectId": "flights", "datasetId": "_anon", "tableId": "t"}
    done = job(configuration={"query": {"query": "SELECT 1", "destinationTable": table}})
    canned.answer = lambda _method, path, *_: (200, result if "/queries/" in path or path.endswith("/data") else done)
    outputs = {"took": "duration", "long": "str", "all": ["list", "duration"]}
    resource = agent.get(Query(JOB, "flights", "EU", outputs), Call())
    took = timedelta(days=1, hours=2, seconds=3.5)
    assert resource.outputs == {"took": took, "long": "1-2 3 4:5:6", "all": [timedelta(minutes=1)]}, resource.message


def test_errors_that_did_not_end_the_job_leave_it_a_success(canned: Canned, agent: BigQueryAgent) -> None:
    skipped = {"reason": "invalid", "message": "1 row was skipped", "location": "gs://b/a.csv"}
    query = {"destinationTable": {"projectId": "flights", "datasetId": "_anon", "tableId": "t"}}
    canned.answer = lambda *_: (200, job(status={"errors": [skipped]}, configuration={"query": query}))
    resource = agent.get(Query(JOB, "flights", "EU", {"results": "dataset"}), Call())
    assert resource.phase is Phase.SUCCEEDED
    assert resource.message == "1 row was skipped (at gs://b/a.csv)"
    assert resource.outputs == {"results": StructuredDataset("bq://flights:_anon.t", format="bq")}


def test_a_job_that_waits_and_one_that_works_are_told_apart(canned: Canned, agent: BigQueryAgent) -> None:
    plan = [{"name": "S00", "status": "COMPLETE"}, {"name": "S01", "status": "RUNNING"}]
    states = iter([job("PENDING"), job("RUNNING", statistics={"query": {"queryPlan": plan}})])
    canned.answer = lambda *_: (200, next(states))
    waiting, working = (agent.get(Query(JOB, "flights", "EU"), Call()) for _ in range(2))
    assert waiting.phase is Phase.QUEUED
    assert (working.phase, working.message) == (Phase.RUNNING, "1 of 2 stages are done")


def test_the_table_of_a_script_is_that_of_its_last_statement(canned: Canned, agent: BigQueryAgent) -> None:
    def child(number: int) -> Any:
        table = {"projectId": "flights", "datasetId": "_anon", "tableId": f"t{number}"}
        made = job(configuration={"query": {"destinationTable": table}})
        return {**made, "jobReference": {**made["jobReference"], "jobId": f"script_job_{number}"}, "state": "DONE"}

    def answer(_method: str, _path: str, query: dict[str, list[str]], _body: Any) -> tuple[int, Any]:
        if query.get("parentJobId"):
            return 200, {"jobs": [child(2), child(1)]}  # the latest first
        return 200, job(statistics={"numChildJobs": "2"})

    canned.answer = answer
    resource = agent.get(Query(JOB, "flights", "EU", {"results": "dataset"}), Call())
    assert resource.outputs == {"results": StructuredDataset("bq://flights:_anon.t2", format="bq")}


def test_quotas_and_permissions_are_told_apart(canned: Canned, agent: BigQueryAgent) -> None:
    canned.answer = lambda *_: (403, error("rateLimitExceeded", "Exceeded rate limits"))
    with pytest.raises(Retry, match="Exceeded rate limits"):
        agent.get(Query(JOB, "flights", "EU"), Call())
    canned.answer = lambda *_: (403, error("accessDenied", "no permission bigquery.jobs.get"))
    with pytest.raises(Retry, match=r"no permission bigquery\.jobs\.get"):
        agent.get(Query(JOB, "flights", "EU"), Call())
    canned.answer = lambda *_: (404, error("notFound", "Not found: Job"))
    with pytest.raises(NotFound):
        agent.get(Query(JOB, "flights", "EU"), Call())


def test_an_account_that_may_list_no_jobs_asks_for_each(canned: Canned, agent: BigQueryAgent) -> None:
    denied = error("accessDenied", "no permission bigquery.jobs.list")
    canned.answer = lambda _method, path, *_: (403, denied) if path.endswith("/jobs") else (200, job("RUNNING"))
    found = agent.get_many([Query(JOB, "flights", "EU", created=1) for _ in range(4)], Call())
    assert [getattr(one, "phase", one) for one in found] == [Phase.RUNNING] * 4
    canned.answer = lambda *_: (403, error("rateLimitExceeded", "Exceeded rate limits"))
    asked = len(canned.asked)
    found = agent.get_many([Query(JOB, "flights", "EU", created=1) for _ in range(4)], Call())
    assert all(isinstance(one, Retry) and "rate limits" in one.message for one in found)
    assert len(canned.asked) == asked + 1  # a hundred calls more would help nobody


def test_a_project_that_cannot_be_listed_costs_the_jobs_of_another_nothing(
    canned: Canned, agent: BigQueryAgent
) -> None:
    def answer(_method: str, path: str, *_: Any) -> tuple[int, Any]:
        if "/projects/gone/" in path:
            return 404, error("notFound", "Not found: Project gone")
        return (200, {"jobs": []}) if path.endswith("/jobs") else (200, job("RUNNING"))

    canned.answer = answer
    jobs = [Query(JOB, project, "EU", created=1) for project in ("gone", "flights") for _ in range(3)]
    told = agent.get_many(jobs, Call())
    assert all(isinstance(one, Retry) and "Project gone" in one.message for one in told[:3])
    assert [getattr(one, "phase", one) for one in told[3:]] == [Phase.RUNNING] * 3


def test_jobs_that_there_is_no_time_for_are_left_for_later(canned: Canned, agent: BigQueryAgent) -> None:
    listed = [{**job(state), "state": state, "id": f"flights:EU.{JOB}"} for state in ("RUNNING",)]
    canned.answer = lambda _method, path, *_: (200, {"jobs": listed}) if path.endswith("/jobs") else (200, job())
    jobs = [Query(name, "flights", "EU", {"results": "dataset"}, created=1) for name in (JOB, "b", "c")]
    running, *others = agent.get_many(jobs, Call(deadline=time.monotonic()))
    assert getattr(running, "phase", running) is Phase.RUNNING
    assert all("no time left" in str(one) for one in others)


def test_a_secret_that_is_missing_is_told_in_its_own_words(canned: Canned) -> None:
    agent = BigQueryAgent()
    agent.open(agent.Options(endpoint=canned.url, credentials_secret="google/absent"))
    with pytest.raises(Retry, match=r"^Secret 'absent' is missing: set _FSEC_GOOGLE_ABSENT"):
        agent.create(task())
    agent.close()


def test_a_key_that_cannot_be_read_while_a_job_runs_may_be_in_renewal(canned: Canned) -> None:
    agent = BigQueryAgent()
    agent.open(agent.Options(endpoint=canned.url))
    call = Call(connection=Connection(secrets={SECRET: '{"type": "service_acc'}))
    with pytest.raises(Retry, match="not the JSON"):
        agent.get(Query(JOB, "flights", "EU"), call)
    with pytest.raises(Retry, match="not the JSON"):
        agent.delete(Query(JOB, "flights", "EU"), call)
    agent.close()


def key_file(token_uri: str) -> dict[str, str]:
    """A service account's key, as Google gives it out."""
    private = rsa.generate_private_key(public_exponent=65537, key_size=2048).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return {
        "type": "service_account",
        "project_id": "flights",
        "client_email": "etl@flights.example",
        "private_key": private.decode(),
        "token_uri": token_uri,
    }


@pytest.mark.parametrize("brought_by", ["the connection of Flyte 2", "the secret of the service"])
async def test_a_key_signs_in_and_shows_nowhere(
    brought_by: str, canned: Canned, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = key_file(f"{canned.url}/token")

    def answer(method: str, path: str, *_: Any) -> tuple[int, Any]:
        if path == "/token":
            return 200, {"access_token": "token-of-etl", "expires_in": 3600, "token_type": "Bearer"}
        if path.endswith("/cancel"):
            return 400, error("invalid", f"never mind token-of-etl and {key['private_key']}")
        return 200, job("RUNNING")

    canned.answer = answer
    options = {"endpoint": canned.url, "allowed_hosts": [canned.url]}
    connection = None
    if brought_by == "the secret of the service":
        monkeypatch.setenv("_FSEC_GOOGLE_KEY", json.dumps(key))
        options |= {"credentials_secret": "google/key"}
    else:
        connection = Connection(secrets={SECRET: json.dumps(key)})
    query = BigQueryTask(name="q", query_template="SELECT 1", task_config=BigQueryConfig(ProjectID="flights"))
    async with harness(BigQueryAgent, wire="v2", options=options) as h:
        made = await h.create(task=query, connection=connection)
        assert (await h.get(made)).phase is Phase.RUNNING
        with pytest.raises(Retry) as caught:
            await h.delete(made)
        said = f"{h.log} {made.handle!r} {caught.value}"
    assert {token for token in canned.tokens if token} == {"Bearer token-of-etl"}
    pieces = [line for line in key["private_key"].splitlines() if len(line) > 40]
    assert not [piece for piece in pieces if piece in said]


def test_a_key_from_a_connection_logs_in_and_a_refused_token_is_renewed(canned: Canned) -> None:
    connection = Connection(secrets={SECRET: json.dumps(key_file(f"{canned.url}/token"))})
    logins: list[str] = []
    refuse = [False]

    def answer(_method: str, path: str, *_: Any) -> tuple[int, Any]:
        if path == "/token":
            logins.append(path)
            return 200, {"access_token": f"token-{len(logins)}", "expires_in": 3600, "token_type": "Bearer"}
        return (401, error("authError", "Invalid Credentials")) if refuse[0] else (200, job("RUNNING"))

    canned.answer = answer
    agent = BigQueryAgent()
    agent.open(agent.Options(endpoint=canned.url, allowed_hosts=(canned.url,)))
    call = Call(connection=connection)
    for _ in range(3):
        assert agent.get(Query(JOB, "flights", "EU"), call).phase is Phase.RUNNING
    assert len(logins) == 1  # one client, one token
    refuse[0] = True
    with pytest.raises(Retry, match="Invalid Credentials"):
        agent.get(Query(JOB, "flights", "EU"), call)
    refuse[0] = False
    assert agent.get(Query(JOB, "flights", "EU"), call).phase is Phase.RUNNING
    assert canned.tokens[-1] == f"Bearer token-{len(logins)}"
    assert len(logins) > 1
    agent.close()
