"""Outputs in a bucket that may not be looked at, or that does not answer."""

from __future__ import annotations

from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import pytest

from airside.agents.aws import Aws, Place
from airside.agents.s3_outputs import error_at, read_outputs
from airside.model import Call, OutputsAt, Retry

PLACE = "s3://flights/runs/0"

pytestmark = pytest.mark.may_block


class Bucket(BaseHTTPRequestHandler):
    """S3 as it answers whoever may not list the bucket, or is too fast."""

    code = "AccessDenied"

    def handle_request(self) -> None:
        body = f"<Error><Code>{self.code}</Code><Message>no</Message></Error>".encode()
        self.send_response(403 if self.code == "AccessDenied" else 503)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the standard library's name
        del format, args

    do_GET = do_HEAD = handle_request


@pytest.fixture(params=["AccessDenied", "SlowDown"])
def bucket(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("S3", (Bucket,), {"code": request.param}))
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_address[1]}")
    yield request.param
    server.shutdown()
    thread.join()
    server.server_close()


def test_what_may_not_be_seen_is_left_to_the_services_own_storage(bucket: str) -> None:
    aws = Aws(Place(region="eu-west-1"))
    assert error_at(aws, Call(), "eu-west-1", PLACE) is None
    if bucket == "AccessDenied":
        assert read_outputs(aws, Call(), "eu-west-1", PLACE, {"rows": "int"}) == OutputsAt(PLACE)
    else:
        with pytest.raises(Retry, match="SlowDown"):
            read_outputs(aws, Call(), "eu-west-1", PLACE, {"rows": "int"})
    aws.close()
