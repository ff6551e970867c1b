"""A job service over REST: POST starts a job that takes some seconds, GET tells its state, DELETE cancels it.

`python rest_service.py [PORT]` prints its address once it listens.
"""

from __future__ import annotations

import json
import sys
import time
import uuid
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Job:
    """A job is over when its time has come, unless somebody cancelled it first."""

    ends_at: float
    cancelled: bool = False

    @property
    def state(self) -> str:
        """Where the job stands, in this service's own words."""
        if self.cancelled:
            return "cancelled"
        return "done" if time.monotonic() >= self.ends_at else "working"


class Jobs(BaseHTTPRequestHandler):
    """The resource /jobs. Every request has a JSON body."""

    jobs: dict[str, Job] = {}  # noqa: RUF012 - one table for all requests
    job_of_key: dict[str, str] = {}  # noqa: RUF012

    def do_POST(self) -> None:
        """Start a job; the same key again gives the same job."""
        body = self._body()
        seconds = body.get("seconds")
        if not isinstance(seconds, (int, float)) or seconds < 0:
            self._answer(HTTPStatus.BAD_REQUEST, {"error": f"seconds must be a number from 0 up, not {seconds!r}"})
            return
        job_id = self.job_of_key.setdefault(body.get("key") or uuid.uuid4().hex, uuid.uuid4().hex)
        self.jobs.setdefault(job_id, Job(time.monotonic() + seconds))
        self._answer(HTTPStatus.CREATED, {"job_id": job_id})

    def do_GET(self) -> None:
        """Tell a job's state."""
        job = self.jobs.get(self._body().get("job_id", ""))
        if job is None:
            self._answer(HTTPStatus.NOT_FOUND, {"error": "no such job"})
        else:
            self._answer(HTTPStatus.OK, {"state": job.state})

    def do_DELETE(self) -> None:
        """Cancel a job; one that is not known, or over, is left alone."""
        job = self.jobs.get(self._body().get("job_id", ""))
        if job is not None and job.state == "working":
            job.cancelled = True
        self._answer(HTTPStatus.OK, {})

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the name is the base class's
        """Keep quiet."""

    def _body(self) -> dict[str, Any]:
        found = json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))) or b"{}")
        return found if isinstance(found, dict) else {}

    def _answer(self, status: HTTPStatus, body: dict[str, Any]) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


if __name__ == "__main__":
    with ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1]) if len(sys.argv) > 1 else 0), Jobs) as server:
        print(f"http://127.0.0.1:{server.server_port}/jobs", flush=True)
        server.serve_forever()
