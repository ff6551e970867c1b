"""The HTTP server that the demo's webhook calls."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class _Receiver(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        posted = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        received: list[object] = self.server.received  # type: ignore[attr-defined]  # set by `receiving`
        received.append(posted)
        answer = {"received": len(received), "said": f"Thank you; {posted['airline']} will be glad to hear it."}
        body = json.dumps(answer).encode()
        self.send_response(HTTPStatus.CREATED)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name is the base class's
        del format, args


@contextmanager
def receiving() -> Iterator[str]:
    """A server on loopback that takes JSON by POST and answers 201; gives its address."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _Receiver) as server:
        server.received = []  # type: ignore[attr-defined]  # one list a server
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}/answers"
        finally:
            server.shutdown()
            thread.join()
