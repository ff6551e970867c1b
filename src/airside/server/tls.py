"""TLS with certificates that are renewed under way, and client certificates."""

from __future__ import annotations

import logging
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from airside.model import UsageError
from airside.observe.events import Event, What
from airside.server.reload import WatchedFiles

log = logging.getLogger("airside.server")


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsFiles:
    """PEM files of the service's certificate chain and its key.

    With `client_ca`, callers must show a certificate that one of its authorities has signed.
    """

    certificate: Path
    key: Path
    client_ca: Path | None = None


class Certificates:
    """The certificates of the service, as they are now. Making one blocks.

    `tell` is called on any thread, as is `began` when a handshake begins.
    Raises `UsageError` if a file cannot be read, is not PEM, or if the key is not the certificate's.
    """

    def __init__(self, files: TlsFiles, tell: Callable[[Event], None], began: Callable[[], None]) -> None:
        self._files = files
        self._tell = tell
        self._began = began
        self._watched = WatchedFiles(files.key, files.certificate, *([files.client_ca] if files.client_ca else []))
        self._complaint = ""
        check(files)
        self._current = self._fetched = self._configuration()

    def look(self) -> None:
        """Use the files from the next handshake on if they have changed. Blocks.

        What cannot be used is left alone, with an error in the log, and the last good ones stay in use.
        """
        try:
            changed = self._watched.renew()
            if not changed and not self._complaint:
                return
            check(self._files)
        except UsageError as exc:
            self._complain(str(exc))
            return
        self._complaint = ""
        self._current = self._configuration()
        log.info("the certificates have changed and are in use from now on")
        self._tell(Event(what=What.RELOADED, operation="tls"))

    def credentials(self) -> grpc.ServerCredentials:
        """Credentials that follow the files."""
        return grpc.dynamic_ssl_server_credentials(
            self._current, self._fetch, require_client_authentication=self._files.client_ca is not None
        )

    def _fetch(self) -> Any:
        """What gRPC asks before each handshake, on a thread of its own: None means "as before"."""
        self._began()
        current = self._current
        if current is self._fetched:
            return None
        self._fetched = current
        return current

    def _configuration(self) -> Any:
        key, certificate, *authorities = self._watched.contents
        return grpc.ssl_server_certificate_configuration([(key, certificate)], authorities[0] if authorities else None)

    def _complain(self, text: str) -> None:
        """Once for each mistake, not once a second."""
        if text == self._complaint:
            return
        self._complaint = text
        log.error("the certificates cannot be renewed, the last ones stay in use: %s", text)
        self._tell(Event(what=What.NOT_RELOADED, operation="tls", message=text))


def check(files: TlsFiles) -> None:
    """Raise `UsageError` unless these files can secure a port. gRPC itself would only say that it cannot listen."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(files.certificate, files.key, password=lambda: b"")
    except ssl.SSLError as exc:
        what = "no pair" if exc.reason == "KEY_VALUES_MISMATCH" else "no certificate and unencrypted key in PEM form"
        raise UsageError(f"{files.certificate} and {files.key} are {what}.") from None
    except OSError as exc:
        raise UsageError(f"{files.certificate} or {files.key} cannot be read: {exc.strerror}.") from None
    if files.client_ca is None:
        return
    try:
        context.load_verify_locations(files.client_ca)
    except (ssl.SSLError, OSError):
        raise UsageError(f"{files.client_ca} holds no certificate in PEM form.") from None
