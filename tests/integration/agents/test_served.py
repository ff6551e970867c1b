"""The built-in agents behind the real service, over real gRPC, for both generations of Flyte."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, Literal

import pytest

from airside import kwtypes
from airside.agents.duckdb_query import DuckDBAgent, DuckDBQuery
from airside.agents.local_process import LocalProcessAgent, ProcessTask
from airside.agents.webhook import WebhookAgent, WebhookTask
from airside.model import Phase, StructuredDataset
from airside.testing import harness

Wire = Literal["v1", "v2"]

counts = ProcessTask(  # noqa: S604 - a task's own shell line
    name="counts",
    command="echo up; sleep 0.5; echo $(({{.inputs.n}} + 1)) > $AIRSIDE_OUTPUT_DIR/n",
    shell=True,
    inputs=kwtypes(n=int),
    outputs=kwtypes(n=int),
)


async def test_a_process_outlives_the_killed_service(wire: Wire, tmp_path: Path) -> None:
    options = {"state_dir": str(tmp_path / "jobs"), "grace": 0.5}
    async with harness(LocalProcessAgent, wire=wire, process=True, options=options) as h:
        job = await h.create(task=counts, inputs={"n": 41})
        again = await h.create(task=counts, inputs={"n": 41}, output_prefix=job.task.output_prefix)
        await h.restart(kill=True)
        resource = await h.finish(job)
        assert (resource.phase, dict(resource.outputs or {})) == (Phase.SUCCEEDED, {"n": 42})
        assert [line.message async for line in h.logs(job)] == ["up"]
        assert (await h.finish(again)).phase is Phase.SUCCEEDED
        assert len(list((tmp_path / "jobs").iterdir())) == 1


async def test_a_process_is_cancelled_by_another_service_than_the_one_that_started_it(
    wire: Wire, tmp_path: Path
) -> None:
    options = {"state_dir": str(tmp_path / "jobs"), "grace": 0.5}
    async with harness(LocalProcessAgent, wire=wire, options=options) as h:
        job = await h.create(config={"command": ["sleep", "60"]}, outputs={})
        await h.restart()
        assert not (await h.get(job)).phase.is_terminal
        await h.delete(job)
        assert (await h.finish(job)).phase.is_failure


async def test_a_command_that_is_not_there_fails_for_good(wire: Wire, tmp_path: Path) -> None:
    async with harness(LocalProcessAgent(), wire=wire, options={"state_dir": str(tmp_path / "jobs")}) as h:
        job = await h.create(config={"command": ["no-such-program"]}, outputs={})
        resource = await h.get(job)
        assert resource.phase is Phase.FAILED
        assert "The program 'no-such-program' is in no directory of PATH" in resource.message
        assert [line async for line in h.logs(job)] == []


async def test_a_query_answers_through_the_service(wire: Wire, tmp_path: Path) -> None:
    (tmp_path / "trips.csv").write_text("km\n1\n2\n3.5\n")
    options = {"state_dir": str(tmp_path / "jobs"), "allowed_directories": [str(tmp_path)], "threads": 1}
    query = DuckDBQuery(
        name="far",
        query="SELECT km FROM read_csv($trips) WHERE km > $least",
        inputs=kwtypes(trips=str, least=float),
        outputs=kwtypes(results=StructuredDataset, rows=int),
    )
    async with harness(DuckDBAgent(), wire=wire, options=options) as h:
        job = await h.create(task=query, inputs={"trips": f"{tmp_path}/trips.csv", "least": 1.5})
        outputs = dict((await h.finish(job)).outputs or {})
    assert outputs["rows"] == 2
    assert outputs["results"].uri == f"{job.task.output_prefix}/results.parquet"
    assert outputs["results"].columns == {"km": float}


@pytest.fixture
def files(tmp_path: Path) -> Iterator[str]:
    """A web server of a folder with one JSON file."""
    (tmp_path / "ticket.json").write_text('{"id": 7, "open": true}')

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(tmp_path))) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


async def test_a_request_is_sent_through_the_service(wire: Wire, files: str) -> None:
    declared = kwtypes(status=int, id=int, open=bool, json=dict)
    task = WebhookTask(name="ticket", url=f"{files}/ticket.json", method="GET", outputs=declared)
    async with harness(WebhookAgent(), wire=wire, options={"private_hosts": ["127.0.0.1"]}) as h:
        resource = await h.do(task=task)
        assert dict(resource.outputs or {}) == {"status": 200, "id": 7, "open": True, "json": {"id": 7, "open": True}}
        missing = await h.do(task=WebhookTask(name="ticket", url=f"{files}/none", method="GET"))
        assert missing.phase is Phase.FAILED
        assert "GET 127.0.0.1 answered 404" in missing.message
