"""Accounts of services whose SDK takes an API key: whose key is used, where it may go, what the SDK's errors mean."""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from airside.agents.http_status import error_of_status
from airside.model import Connection, Fail, Retry, UsageError
from airside.sdk.hosts import HostAllowList
from airside.sdk.secrets import secret

_MAX_CLIENTS = 64
_LONGEST_MESSAGE = 1000
_FOUND_BY_SDK = ("api_key", "auth_token", "credentials", "workload_identity", "admin_api_key")


@dataclass(frozen=True, slots=True, kw_only=True)
class Vendor:
    """One service: its name for people, its hosts, its default address, and what its key is called.

    key_secret: the secret with the key; connection_keys: what a connection may call it.
    """

    name: str
    hosts: tuple[str, ...]
    base_url: str
    key_secret: str
    connection_keys: tuple[str, ...]

    def no_key(self) -> Fail:
        """What to say if there is no key."""
        return Fail(f"There is no key for {self.name}: set the secret {self.key_secret}.", code="NoCredentials")


@dataclass(frozen=True, slots=True)
class Account:
    """What a client is made of. An empty key: the SDK looks for one itself."""

    api_key: str
    base_url: str
    organization: str = ""
    project: str = ""


class Session:
    """A client of the SDK with one identity."""

    def __init__(self, vendor: Vendor, account: Account, make: Callable[[Account], Any]) -> None:
        self.refused = False
        self.base_url = account.base_url
        self._vendor = vendor
        self.sdk = make(account)

    @contextmanager
    def calls(self, errors: type[Exception] | tuple[type[Exception], ...], *, polling: bool = False) -> Iterator[Any]:
        """The client, for calls whose errors become `Retry`, `Fail` and `NotFound`. `errors` are the SDK's own."""
        try:
            yield self.sdk
        except errors as exc:
            status = getattr(exc, "status_code", None)
            self.refused = self.refused or status == 401
            said = f"{self._vendor.name}: {_words(exc)}"
            if status is None:
                raise Retry(said) from None
            if status == 429 and getattr(exc, "code", "") == "insufficient_quota" and not polling:
                raise Fail(said, code="QuotaExceeded") from None
            answer: Any = exc.response  # type: ignore[attr-defined]  # both SDKs' errors of a status have one
            headers = {name.lower(): value for name, value in answer.headers.items()}
            raise error_of_status(status, said, headers, polling=polling) from None


class Accounts:
    """Clients by account: made when first needed, kept, made anew when their key changes or was refused."""

    def __init__(
        self, vendor: Vendor, *, base_url: str, allowed_hosts: Sequence[str], make: Callable[[Account], Any]
    ) -> None:
        self._vendor = vendor
        self._base_url = base_url or vendor.base_url
        own = (_host(self._base_url),)
        self._allowed = HostAllowList((*vendor.hosts, *allowed_hosts, *own))
        self._make = make
        self._sessions: OrderedDict[str, Session] = OrderedDict()
        self._lock = threading.Lock()

    def session(self, connection: Connection | None, organization: str = "") -> Session:
        """A client with the key of the task's connection, else with the service's own."""
        account = self._account(connection, organization)
        self._allowed.check(account.base_url)
        key = hashlib.sha256(repr(account).encode()).hexdigest()
        with self._lock:
            known = self._sessions.get(key)
            if known is not None and not known.refused:
                self._sessions.move_to_end(key)
                return known
        made = Session(self._vendor, account, self._make)
        if not any(getattr(made.sdk, name, None) for name in _FOUND_BY_SDK):
            raise self._vendor.no_key()
        with self._lock:
            self._sessions[key] = made
            while len(self._sessions) > _MAX_CLIENTS:
                self._sessions.popitem(last=False)
        return made

    @property
    def is_vendor(self) -> bool:
        """True if tasks without a connection go to the vendor itself, not to a gateway."""
        return self._base_url.rstrip("/") == self._vendor.base_url

    def whose(self) -> str:
        """Where the service's own key comes from. Raises `Fail` if there is none."""
        account = self._account(None, "")
        self.session(None)
        if account.api_key:
            return f"the secret {self._vendor.key_secret}"
        return f"a key that the SDK of {self._vendor.name} found"

    def close(self) -> None:
        """Close every client."""
        with self._lock:
            sessions, self._sessions = list(self._sessions.values()), OrderedDict()
        for session in sessions:
            session.sdk.close()

    def _account(self, connection: Connection | None, organization: str) -> Account:
        configs = connection.configs if connection is not None else {}
        secrets = connection.secrets if connection is not None else {}
        base_url = configs.get("base_url") or self._base_url
        named = organization or configs.get("organization", "")
        for name in self._vendor.connection_keys:
            if secrets.get(name):
                return Account(_key(secrets[name], name), base_url, named, configs.get("project", ""))
        if secrets or base_url != self._base_url:
            raise Fail(
                f"The task's connection has no secret {' or '.join(self._vendor.connection_keys)}.",
                code="NoCredentials",
            )
        try:
            own = secret(self._vendor.key_secret)
        except UsageError:
            return Account("", base_url, named)
        return Account(_key(own, self._vendor.key_secret), base_url, named)


def _key(text: str, name: str) -> str:
    """A key as it goes into a header: files of secrets end with a line feed."""
    key = text.strip()
    if not key.isascii() or not key.isprintable():
        raise Fail(f"The secret {name} has characters that no key has.", code="CredentialsNotUsable")
    return key


def http_library(sdk: Any) -> Any:
    """The HTTP library that an SDK, given as its module, is built on: httpx or the one that follows it."""
    *_, client, _ = sdk.DefaultHttpxClient.__mro__  # the last but `object` is the library's own
    return import_module(client.__module__.partition(".")[0])


def _host(url: str) -> str:
    """Scheme, host and port of an address, as a list of hosts takes them."""
    scheme, _, rest = url.partition("://")
    host = rest.partition("/")[0]
    return host if scheme == "https" else f"{scheme}://{host}"


def _words(exc: Exception) -> str:
    """What the service says, in one line, with its own code."""
    body = getattr(exc, "body", None)
    told = body.get("error", body) if isinstance(body, dict) else None
    if isinstance(told, dict) and told.get("message"):
        code = told.get("code") or told.get("type")
        text = f"{code}: {told['message']}" if code else str(told["message"])
    else:
        text, cause = str(exc), str(exc.__cause__ or "")
        text = f"{text} ({cause})" if cause not in text else text
    text = " ".join(text.split())
    return text if len(text) <= _LONGEST_MESSAGE else text[:_LONGEST_MESSAGE] + "..."
