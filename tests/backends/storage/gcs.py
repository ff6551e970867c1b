"""A door before fake-gcs-server, which reads by Google's XML API but writes by the JSON one only.

Clients that speak the XML API alone, as object_store does, come in here: their writes are told to the server in JSON,
all else is handed on. Whoever brings a token must have signed it with the key of the service account.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlsplit

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

ANONYMOUS = "Bearer anonymous"
ACCOUNT = "runner@project.iam.gserviceaccount.com"


@dataclass
class Door:
    """Where clients of the store are sent. `callers` are those who asked, by the account that signed for them."""

    upstream: int
    port: int = 0
    key: rsa.RSAPrivateKey = field(default_factory=lambda: rsa.generate_private_key(65537, 2048))
    callers: set[str] = field(default_factory=set)
    uploads: dict[str, dict[int, bytes]] = field(default_factory=dict)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def account(self) -> str:
        """The key file of the service account, as Google hands it out."""
        form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        key = {"private_key": self.key.private_bytes(*form).decode(), "private_key_id": "1", "client_email": ACCOUNT}
        return json.dumps({"type": "service_account", **key})

    def admit(self, authorization: str) -> bool:
        """True for anonymous callers of an emulator, and for those whose token the account has signed."""
        if authorization == ANONYMOUS:
            self.callers.add("anonymous")
            return True
        said, _, signature = authorization.removeprefix("Bearer ").rpartition(".")
        try:
            claims = json.loads(_decoded(said.partition(".")[2]))
            self.key.public_key().verify(_decoded(signature), said.encode(), padding.PKCS1v15(), hashes.SHA256())
        except (ValueError, InvalidSignature):
            return False
        self.callers.add(str(claims["iss"]))
        return True

    def ask(self, method: str, path: str, body: bytes = b"", kind: str = "application/json") -> Any:
        """Status, headers and body of what the server itself answers."""
        connection = HTTPConnection("127.0.0.1", self.upstream, timeout=60)
        try:
            headers = {"Content-Type": kind, "Host": "storage.googleapis.com"}
            connection.request(method, path, body or None, headers)
            response = connection.getresponse()
            return response.status, dict(response.getheaders()), response.read()
        finally:
            connection.close()

    def keep(self, bucket: str, key: str, body: bytes) -> tuple[int, dict[str, str]]:
        """Write an object by the JSON API; how the XML API would answer."""
        path = f"/upload/storage/v1/b/{bucket}/o?uploadType=media&name={quote(key, safe='')}"
        status, _, told = self.ask("POST", path, body, "application/octet-stream")
        if status != 200:
            return status, {}
        return 200, {"ETag": f'"{_tag(body)}"', "x-goog-generation": json.loads(told)["generation"]}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    door: Door

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the standard library's name
        del format, args

    def handle_request(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if not self.door.admit(self.headers.get("Authorization", "")):
            self.say(401, {}, b"<Error><Code>AuthenticationRequired</Code></Error>")
            return
        parts = urlsplit(self.path)
        query = parse_qs(parts.query, keep_blank_values=True)
        bucket, _, key = parts.path.lstrip("/").partition("/")
        if self.command in {"GET", "HEAD"}:
            self.say(*self.door.ask(self.command, self.path))
        elif "uploads" in query:
            upload = str(len(self.door.uploads) + 1)
            self.door.uploads[upload] = {}
            self.say(200, {}, _xml("InitiateMultipartUploadResult", UploadId=upload))
        elif "partNumber" in query:
            self.door.uploads[query["uploadId"][0]][int(query["partNumber"][0])] = body
            self.say(200, {"ETag": f'"{_tag(body)}"'}, b"")
        elif "uploadId" in query:
            numbers = [int(one) for one in re.findall(rb"<PartNumber>(\d+)</PartNumber>", body)]
            pieces = self.door.uploads.pop(query["uploadId"][0])
            status, headers = self.door.keep(bucket, unquote(key), b"".join(pieces[number] for number in numbers))
            self.say(status, headers, _xml("CompleteMultipartUploadResult", ETag=headers.get("ETag", "")))
        else:
            self.say(*self.door.keep(bucket, unquote(key), body), b"")

    def say(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.send_response(status)
        own = {"content-length", "date", "transfer-encoding", "connection"}
        for name, value in headers.items():
            if name.lower() not in own or (self.command == "HEAD" and name.lower() == "content-length"):
                self.send_header(name, value)
        if self.command != "HEAD":
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_GET = do_HEAD = do_PUT = do_POST = handle_request


@contextmanager
def opened(door: Door) -> Iterator[Door]:
    """The door, open."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("DoorHandler", (Handler,), {"door": door}))
    server.daemon_threads = True  # connections of clients stay open
    door.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield door
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _decoded(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def _tag(body: bytes) -> str:
    return hashlib.md5(body, usedforsecurity=False).hexdigest()


def _xml(name: str, **parts: str) -> bytes:
    inside = "".join(f"<{key}>{value}</{key}>" for key, value in parts.items())
    return f'<?xml version="1.0" encoding="UTF-8"?><{name}>{inside}</{name}>'.encode()
