"""Databricks workspaces: which may be called, with whose credentials, and what their errors mean."""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from airside.model import AgentError, Connection, Fail, NotFound, Retry, UsageError
from airside.sdk.hosts import HostAllowList, address_of
from airside.sdk.secrets import secret

if TYPE_CHECKING:
    from databricks.sdk.core import ApiClient, Config
    from databricks.sdk.errors.base import DatabricksError

VENDOR_HOSTS = (
    "*.cloud.databricks.com",
    "*.cloud.databricks.us",
    "*.azuredatabricks.net",
    "*.databricks.azure.us",
    "*.databricks.azure.cn",
    "*.gcp.databricks.com",
)
"""Where Databricks serves workspaces."""

INSTANCE_VARIABLE = "FLYTE_DATABRICKS_INSTANCE"
TOKEN_SECRET = "FLYTE_DATABRICKS_ACCESS_TOKEN"  # noqa: S105 - a name
OAUTH_SECRET = "databricks-oauth"  # noqa: S105 - where flytekit's plugin looks if a task does not say
_HOST_VARIABLES = (INSTANCE_VARIABLE, "DATABRICKS_HOST")
_REQUEST_SECONDS = 20.0  # one request; below the agent's call_timeout, so that a hung one ends by itself
_MAX_CLIENTS = 64
_LONGEST_MESSAGE = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Workspace:
    """The credentials for one workspace: one of these, or empty for those that the SDK finds by itself.

    token: the name of the secret that holds a personal access token.
    client_id, client_secret: a service principal's id, and the name of the secret that holds its secret.
    profile: a profile of the SDK's configuration file.
    """

    token: str = ""
    client_id: str = ""
    client_secret: str = ""
    profile: str = ""

    def __post_init__(self) -> None:
        if bool(self.client_id) != bool(self.client_secret):
            raise ValueError("client_id and client_secret go together")
        if sum(map(bool, (self.token, self.client_id, self.profile))) > 1:
            raise ValueError("give one of token, client_id with client_secret, and profile")

    def settings(self) -> dict[str, str]:
        """What the SDK's configuration is told."""
        if self.token:
            return _pat(secret(*_split(self.token)))
        if self.client_id:
            return _principal(self.client_id, secret(*_split(self.client_secret)))
        return {"profile": self.profile} if self.profile else {}


@dataclass(frozen=True, slots=True, kw_only=True)
class Named:
    """The credentials that a task names: a secret with a token, or a group with a service principal's."""

    token: str = ""
    oauth: str = ""
    client_id: str = ""


_NONE = Named()


def named_by(config: Mapping[str, Any]) -> Named:
    """What a template names, as flytekit's plugin writes it. Raises `Fail` for a way to sign in that there is not.

    >>> named_by({"databricksAuthType": "oauth_m2m"})
    Named(token='', oauth='databricks-oauth', client_id='')
    """
    match str(config.get("databricksAuthType") or "pat"):
        case "pat":
            return Named(token=str(config.get("databricksTokenSecret") or ""))
        case "oauth_m2m":
            group = str(config.get("databricksOauthSecret") or OAUTH_SECRET)
            return Named(oauth=group, client_id=str(config.get("databricksClientId") or ""))
        case other:
            raise Fail(
                f"databricks_auth_type {other!r} is none that a task may choose (pat, oauth_m2m): leave it out, and an "
                "operator sets up the workspace in [agents.databricks.workspaces].",
                code="CredentialNotAllowed",
            )


class Workspaces:
    """Clients for workspaces: made when first needed, kept, and made anew when their credentials change."""

    def __init__(
        self,
        *,
        host: str,
        known: Mapping[str, Workspace],
        allowed_hosts: tuple[str, ...],
        token_secrets: tuple[str, ...],
    ) -> None:
        self._default = base_url(host or next(filter(None, map(os.environ.get, _HOST_VARIABLES)), ""))
        self._known = {base_url(name): one for name, one in known.items()}
        own = [url.removeprefix("https://") for url in (*self._known, self._default) if url]
        self._allowed = HostAllowList((*VENDOR_HOSTS, *allowed_hosts, *own))
        self._token_secrets = token_secrets
        self._clients: OrderedDict[str, Client] = OrderedDict()
        self._making: dict[str, threading.Lock] = {}
        self._lock = threading.Lock()

    @property
    def is_set_up(self) -> bool:
        """True if somebody said where there is a workspace."""
        return bool(self._default or self._known)

    def host_of(self, named: object, connection: Connection | None) -> str:
        """The workspace of a task: the one that it names, else its connection's, else the default one."""
        configs = connection.configs if connection is not None else {}
        bound = base_url(configs.get("host") or configs.get("databricks_instance") or "")
        asked = base_url(str(named)) if named else ""
        if bound and asked and bound != asked:
            raise Fail(f"The task's connection is for {bound}, not for {asked}.", code="HostNotAllowed")
        host = asked or bound or self._default
        if not host:
            raise Fail(
                "The task names no databricks_instance, and the service has no default: set host in "
                f"[agents.databricks] or {INSTANCE_VARIABLE}."
            )
        return host

    def client(self, host: str, connection: Connection | None, named: Named = _NONE) -> Client:
        """A client for this workspace with the credentials that are its own. Raises `Fail` if it may not be called."""
        self._allowed.check(host)
        settings = self._credentials(host, connection, named)
        key = hashlib.sha256(repr((host, sorted(settings.items()))).encode()).hexdigest()
        with self._lock:
            making = self._making.setdefault(key, threading.Lock())
        with making:  # a client asks its host a question before it is ready: once is enough
            known = self._clients.get(key)
            if known is None or known.refused:
                known = Client(host, settings)
        with self._lock:
            self._clients[key] = known
            self._clients.move_to_end(key)
            while len(self._clients) > _MAX_CLIENTS:
                self._making.pop(self._clients.popitem(last=False)[0], None)
        return known

    def _credentials(self, host: str, connection: Connection | None, named: Named) -> dict[str, str]:
        if connection is not None and connection.secrets:
            return _of_connection(connection)
        asked = named.token or named.oauth
        if asked:
            if asked not in self._token_secrets:
                raise Fail(
                    f"The task asks for the secret {asked!r}: an operator may add it to `token_secrets` in "
                    "[agents.databricks].",
                    code="CredentialNotAllowed",
                )
            if named.token:
                return _pat(secret(*_split(named.token)))
            client_id = named.client_id or secret("client_id", named.oauth)
            return _principal(client_id, secret("client_secret", named.oauth))
        if host in self._known:
            return self._known[host].settings()
        if self._default and host != self._default:
            raise Fail(
                f'There are no credentials for {host}: an operator may add [agents.databricks.workspaces."{host}"].',
                code="NoCredentials",
            )
        try:
            return _pat(secret(TOKEN_SECRET))
        except UsageError:
            return {}  # the SDK looks: environment, configuration file, the cloud's identity


class Client:
    """One workspace with one identity. Methods may be called on any thread."""

    def __init__(self, host: str, settings: Mapping[str, str]) -> None:
        self.host = host
        self.refused = False
        self._config, self._api = _connect(host, settings)

    @property
    def identity(self) -> str:
        """How the client signs in, in words."""
        return f"{self._config.auth_type} for {self.host}"

    def ask(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, Any] | None = None,
        body: Mapping[str, Any] | None = None,
        polling: bool = False,
    ) -> dict[str, Any]:
        """One request. Raises `Retry`, `Fail` or `NotFound`; while polling, only what is sure to last is a `Fail`."""
        import requests
        from databricks.sdk.errors import Unauthenticated
        from databricks.sdk.errors.base import DatabricksError

        try:
            told = self._api.do(
                method,
                path,
                query=dict(query) if query else None,
                body=dict(body) if body is not None else None,
                headers={"Accept": "application/json"},
            )
        except (DatabricksError, TimeoutError, requests.RequestException) as exc:
            cause = exc.__cause__ if isinstance(exc, TimeoutError) and exc.__cause__ is not None else exc
            self.refused = self.refused or isinstance(cause, Unauthenticated)
            if isinstance(cause, DatabricksError):
                raise error_of(cause, self.host, polling=polling) from None
            raise Retry(f"{self.host}: {_words(cause)}") from None
        except ValueError as exc:  # credentials that cannot be renewed, an answer that is no JSON
            raise Retry(f"{self.host}: {_words(exc)}") from None
        return told if isinstance(told, dict) else {}


def error_of(exc: DatabricksError, host: str, *, polling: bool) -> AgentError:
    """What an error of Databricks means here, with its own code and message."""
    from databricks.sdk import errors

    text = f"{host}: {exc.error_code or type(exc).__name__}: {_words(exc)}"
    after = float(exc.retry_after_secs) if exc.retry_after_secs else None
    passing = (
        errors.TooManyRequests,
        errors.TemporarilyUnavailable,
        errors.InternalError,
        errors.DeadlineExceeded,
        errors.ResourceConflict,
        errors.Cancelled,
        errors.Unauthenticated,  # a token that runs out, or is being renewed
    )
    match exc:
        case errors.NotFound() if polling:
            return NotFound(text)
        case _ if polling or isinstance(exc, passing):
            return Retry(text, after=after)
        case errors.NotFound():
            return Fail(text, code="ResourceNotFound")
        case errors.PermissionDenied():
            return Fail(text, code="Forbidden")
        case errors.BadRequest():
            return Fail(text, code="InvalidRun")
        case errors.NotImplemented():
            return Fail(text, code="NotImplemented")
    return Retry(text, after=after)


def base_url(host: str) -> str:
    """The address of a workspace, however it is written; empty for none. Raises `Fail` for one that is none.

    >>> base_url("adb-1.2.azuredatabricks.net"), base_url("https://DBC-1.cloud.databricks.com/?o=7")
    ('https://adb-1.2.azuredatabricks.net', 'https://dbc-1.cloud.databricks.com')
    """
    if not host:
        return ""
    url = host if "://" in host else f"https://{host}"
    try:
        address = address_of(url)
    except ValueError as exc:
        raise Fail(f"databricks_instance is not the address of a workspace: {exc}.", code="HostNotAllowed") from None
    scheme, usual = ("https", 443) if address.encrypted else ("http", 80)
    name = f"[{address.host}]" if ":" in address.host else address.host
    return f"{scheme}://{name}" + ("" if address.port == usual else f":{address.port}")


def _connect(host: str, settings: Mapping[str, Any]) -> tuple[Config, ApiClient]:
    from databricks.sdk.clock import Clock
    from databricks.sdk.core import ApiClient, Config

    class Impatient(Clock):
        """A wait is over at once: whoever drives the agent repeats calls, and heeds Retry-After."""

        def __init__(self) -> None:
            self._skipped = 0.0

        def time(self) -> float:
            return time.time() + self._skipped

        def sleep(self, seconds: float) -> None:
            self._skipped += seconds

    try:
        config = Config(
            host=host,
            product="airside",
            http_timeout_seconds=_REQUEST_SECONDS,
            retry_timeout_seconds=1,
            clock=Impatient(),
            **settings,
        )
    except ValueError as exc:
        raise Fail(f"{host}: {_words(exc)}", code="NoCredentials") from None
    return config, ApiClient(config)


def _of_connection(connection: Connection) -> dict[str, str]:
    secrets = connection.secrets
    token = secrets.get("databricks_token") or secrets.get("token")
    if token:
        return _pat(token)
    client_id = secrets.get("client_id") or connection.configs.get("client_id")
    client_secret = secrets.get("client_secret")
    if client_id and client_secret:
        return _principal(client_id, client_secret)
    raise Fail(
        "The task's connection has neither a secret databricks_token (or token) nor client_id and client_secret.",
        code="NoCredentials",
    )


def _pat(token: str) -> dict[str, str]:
    return {"token": token, "auth_type": "pat"}


def _principal(client_id: str, client_secret: str) -> dict[str, str]:
    return {"client_id": client_id, "client_secret": client_secret, "auth_type": "oauth-m2m"}


def _split(name: str) -> tuple[str, str | None]:
    """The name and the group of a secret that is written `group/name`."""
    group, slash, rest = name.partition("/")
    return (rest, group) if slash else (name, None)


def _words(exc: BaseException) -> str:
    """One line, without the SDK's account of its own settings."""
    text = " ".join(str(exc).split())
    for aside in (". Config: ", " This is likely a bug in the Databricks SDK"):
        text = text.partition(aside)[0]
    text = text or type(exc).__name__
    return text if len(text) <= _LONGEST_MESSAGE else text[:_LONGEST_MESSAGE] + "..."
