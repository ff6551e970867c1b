"""Clients of BigQuery: one for each account, kept between calls, made anew when its credentials are refused."""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from airside.model import Connection, Fail
from airside.model.redaction import hide
from airside.sdk.hosts import HostAllowList

if TYPE_CHECKING:
    from google.auth.credentials import Credentials
    from google.cloud.bigquery import Client

VENDOR_HOSTS = ("*.googleapis.com", "accounts.google.com")
SECRET = "google_application_credentials"  # noqa: S105 - the name that Flyte 2's plugin gives it
EMULATOR = "BIGQUERY_EMULATOR_HOST"

_MOST_CLIENTS = 64
_CONNECTIONS = 32  # sockets that one client keeps open: as many as an agent's two lanes may use
_SCOPES = ("https://www.googleapis.com/auth/cloud-platform",)
_KEY_TYPES = ("service_account", "authorized_user")


class Clients:
    """Gives the client for a connection. `read_secret` gives the operator's own key, or None for the default chain."""

    def __init__(self, *, endpoint: str, allowed_hosts: tuple[str, ...], read_secret: Callable[[], str] | None) -> None:
        self._endpoint = endpoint
        self._hosts = HostAllowList([*VENDOR_HOSTS, *allowed_hosts])
        self._read_secret = read_secret
        self._lock = threading.Lock()
        self._kept: OrderedDict[str, Client] = OrderedDict()

    def get(self, connection: Connection | None) -> Client:
        """The client of this account. Raises `Fail` for credentials that cannot be used."""
        key = _secret_of(connection)
        name = hashlib.sha256(key.encode()).hexdigest() if key else ""
        with self._lock:
            client = self._kept.get(name)
            if client is not None:
                self._kept.move_to_end(name)
                return client
        made = self._make(key)
        with self._lock:
            client = self._kept.setdefault(name, made)
            while len(self._kept) > _MOST_CLIENTS:
                self._kept.popitem(last=False)  # closed when its last call lets go of it
        return client

    def drop(self, client: Client) -> None:
        """Make a new client next time: this one's credentials were refused, and may have been renewed."""
        with self._lock:
            for name, one in list(self._kept.items()):
                if one is client:
                    del self._kept[name]

    def close(self) -> None:
        """Close the sockets."""
        with self._lock:
            kept, self._kept = list(self._kept.values()), OrderedDict()
        for client in kept:
            client.close()

    def _make(self, key: str) -> Client:
        from google.auth.transport.requests import AuthorizedSession
        from google.cloud.bigquery import Client
        from requests.adapters import HTTPAdapter

        credentials, project = self._credentials(key)
        session = AuthorizedSession(credentials)
        for scheme in ("https://", "http://"):
            session.mount(scheme, HTTPAdapter(pool_connections=4, pool_maxsize=_CONNECTIONS))
        options = {"api_endpoint": self._endpoint} if self._endpoint else None
        return Client(project=project or "-", credentials=credentials, _http=session, client_options=options)

    def _credentials(self, key: str) -> tuple[Credentials, str]:
        if not key and os.environ.get(EMULATOR) and not self._endpoint:
            from google.auth.credentials import AnonymousCredentials

            return AnonymousCredentials(), ""  # an emulator is never sent a real account's token
        if not key and self._read_secret is not None:
            return self._from_key(self._read_secret(), "the agent's secret")
        if not key:
            import google.auth

            credentials, project = google.auth.default(scopes=_SCOPES)
            return credentials, project or ""
        return self._from_key(key, f"the connection's secret {SECRET}")

    def _from_key(self, key: str, where: str) -> tuple[Credentials, str]:
        """Credentials from a key file's JSON; a caller may have sent it, so it names no other host and no program."""
        info = _parse(key, where)
        kind = info.get("type")
        if kind not in _KEY_TYPES:
            raise Fail(
                f"{where} holds credentials of type {kind!r}; use a key of type {' or '.join(_KEY_TYPES)}.",
                code="CredentialsNotUsable",
            )
        self._hosts.check(str(info.get("token_uri") or "https://oauth2.googleapis.com/token"))
        universe = str(info.get("universe_domain") or "googleapis.com")
        self._hosts.check(f"https://bigquery.{universe}/")
        for name in ("private_key", "client_secret", "refresh_token"):
            hide(str(info.get(name) or ""), passing=True)
        return _load(info, str(kind), where), str(info.get("project_id") or "")


def account_of(client: Client) -> str:
    """Whom a client speaks for, in words."""
    credentials: Any = client._credentials
    who = getattr(credentials, "service_account_email", "") or getattr(credentials, "account", "")
    kind = type(credentials).__name__
    return "none, for an emulator" if kind == "AnonymousCredentials" else str(who or f"of type {kind}")


def _secret_of(connection: Connection | None) -> str:
    return connection.secrets.get(SECRET, "") if connection is not None else ""


def _parse(key: str, where: str) -> Mapping[str, Any]:
    try:
        info = json.loads(key)
    except ValueError:
        info = None
    if not isinstance(info, dict):
        raise Fail(f"{where} is not the JSON of a Google key file.", code="CredentialsNotUsable")
    return info


def _load(info: Mapping[str, Any], kind: str, where: str) -> Credentials:
    from google.auth.exceptions import GoogleAuthError
    from google.oauth2 import credentials, service_account

    try:
        if kind == "service_account":
            made: Credentials = service_account.Credentials.from_service_account_info(info, scopes=_SCOPES)
        else:
            made = credentials.Credentials.from_authorized_user_info(info, scopes=_SCOPES)
    except (GoogleAuthError, ValueError, TypeError) as exc:
        raise Fail(f"{where} is not a usable Google key: {type(exc).__name__}.", code="CredentialsNotUsable") from None
    return made
