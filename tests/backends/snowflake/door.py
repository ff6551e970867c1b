"""What Snowflake does and its emulator does not: run as `door.py PORT UPSTREAM_PORT`, it stands before fakesnow.

- A request id that a session has used is not run again: the first answer is given once more. In another session it is a
  new query. So it is in the integration tests that Snowflake keeps for its own connectors.
- `INFORMATION_SCHEMA.QUERY_HISTORY_BY_USER` shows every query with its tag, at once.

`GET /-/queries` tells every query that was run: its id, tag, text and session. `PUT /-/rules` with `{"history": false}`
keeps the history from everybody; with `{"hold": true}` every query is run and its answer kept back.
"""

from __future__ import annotations

import gzip
import json
import re
import sys
import threading
import time
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

_LONGEST = 60.0  # seconds for which an answer is kept back
_COLUMN = {
    "name": "QUERY_ID",
    "type": "text",
    "length": 36,
    "byteLength": 144,
    "nullable": True,
    "precision": None,
    "scale": None,
}
_TAG = re.compile(r"query_tag = '((?:[^'\\]|''|\\.)*)'", re.IGNORECASE)


class History:
    """Every query, in the order of their starts."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.answers: dict[tuple[str, str], bytes] = {}
        self.busy: dict[tuple[str, str], threading.Lock] = {}
        self.queries: list[dict[str, str]] = []
        self.rules = {"history": True, "hold": False}

    def only_one(self, request: tuple[str, str]) -> threading.Lock:
        """A lock that requests of one session and id share."""
        with self.lock:
            return self.busy.setdefault(request, threading.Lock())

    def look_up(self, sql: str) -> bytes:
        """The answer to a question for the queries with a tag."""
        if not self.rules["history"]:
            words = "SQL compilation error:\nUnknown table function INFORMATION_SCHEMA.QUERY_HISTORY_BY_USER"
            told = {"errorCode": "002141", "sqlState": "42601", "queryId": "01a0", "internalError": False}
            return json.dumps({"data": told, "code": "002141", "message": words, "success": False}).encode()
        found = _TAG.search(sql)
        assert found is not None, sql
        tag = re.sub(r"\\(.)", r"\1", found[1]).replace("''", "'")
        rows = [[one["id"]] for one in self.queries if one["tag"] == tag][:1]
        data = {
            "parameters": [], "rowtype": [_COLUMN], "rowset": rows, "total": len(rows), "returned": len(rows),
            "queryId": "01a00000-0000-0000-0000-00000000feed", "queryResultFormat": "json", "statementTypeId": 4096,
            "version": 1, "sqlState": "00000",
        }  # fmt: skip
        return json.dumps({"data": data, "code": None, "message": None, "success": True}).encode()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    history: History
    upstream: int

    def log_message(self, *args: Any) -> None:
        pass

    def handle_request(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = urlsplit(self.path).path
        if path.startswith("/-/"):
            if self.command == "PUT":
                self.history.rules |= json.loads(body)
            self.say(200, json.dumps(self.history.queries).encode())
        elif path == "/queries/v1/query-request":
            self.query(body)
        else:
            self.say(*self.forward(body))

    def query(self, body: bytes) -> None:
        told = json.loads(gzip.decompress(body) if body[:2] == b"\x1f\x8b" else body)
        if "QUERY_HISTORY_BY_USER" in told["sqlText"]:
            self.say(200, self.history.look_up(told["sqlText"]))
            return
        session = self.headers.get("Authorization", "")
        request = (session, parse_qs(urlsplit(self.path).query)["requestId"][0])
        with self.history.only_one(request):
            known = self.history.answers.get(request)
            if known is not None:
                self.say(200, known)
                return
            with self.history.only_one((session, "")):  # the emulator refuses a second query of a session meanwhile
                status, answer = self.forward(body)
            self.history.answers[request] = answer
            tag = (told.get("parameters") or {}).get("QUERY_TAG", "")
            query = {
                "id": (json.loads(answer).get("data") or {}).get("queryId", ""),
                "tag": tag,
                "sql": told["sqlText"],
            }
            if tag and status == 200 and query["id"]:
                self.history.queries.append({**query, "session": session})
        if self.history.rules["hold"]:
            self.close_connection = True
            time.sleep(_LONGEST)
            return
        self.say(status, answer)

    def forward(self, body: bytes) -> tuple[int, bytes]:
        connection = HTTPConnection("127.0.0.1", self.upstream, timeout=60)
        try:
            skipped = ("host", "connection", "content-length", "accept-encoding")
            headers = {name: value for name, value in self.headers.items() if name.lower() not in skipped}
            connection.request(self.command, self.path, body or None, headers)
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()

    def say(self, status: int, content: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_POST = do_PUT = handle_request


def main(port: int, upstream: int) -> None:
    """Serve until killed."""
    handler = type("Door", (Handler,), {"history": History(), "upstream": upstream})
    ThreadingHTTPServer(("127.0.0.1", port), handler).serve_forever()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
