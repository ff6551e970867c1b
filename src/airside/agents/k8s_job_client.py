"""Calls of the Kubernetes API: a client for each cluster and account, and what its refusals mean."""

from __future__ import annotations

import hashlib
import json
import os
import ssl
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from importlib import import_module
from pathlib import Path
from typing import Any

from airside.model import Connection, Fail, NotFound, Retry, UsageError
from airside.model.redaction import redact
from airside.sdk.hosts import HostAllowList

ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
"""Where a pod finds its own account."""

KUBECONFIG = Path("~/.kube/config")

_MOST_CLIENTS = 64
_PAGE = 500
_TIMEOUT = (10.0, 25.0)  # seconds to connect, and to answer


class Clients:
    """Clients of clusters: one for each account, kept between calls, made anew when its credentials are refused.

    Without a connection that brings an account, it is the service's own: that of its pod, else of `kubeconfig`.
    """

    def __init__(self, kubeconfig: str, context: str, hosts: HostAllowList) -> None:
        self._kubeconfig = kubeconfig
        self._context = context
        self._hosts = hosts
        self._lock = threading.Lock()
        self._kept: OrderedDict[str, Any] = OrderedDict()

    def get(self, connection: Connection | None) -> Any:
        """The client of this account. `Fail` for a host that is not allowed, `UsageError` without a configuration."""
        token = connection.secrets.get("token", "") if connection is not None else ""
        server = connection.configs.get("server", "") if connection is not None else ""
        authority = connection.configs.get("ca", "") if connection is not None else ""
        is_own = not (token and server)
        if not is_own:
            self._hosts.check(server)
        name = "" if is_own else hashlib.sha256(repr((token, server, authority)).encode()).hexdigest()
        with self._lock:
            client = self._kept.get(name)
            if client is None or client.refused:
                made = _own(self._kubeconfig, self._context) if is_own else _of(server, token, authority)
                made.refused = False  # `ask` notes it
                client = self._kept[name] = made
            self._kept.move_to_end(name)
            while len(self._kept) > _MOST_CLIENTS:
                self._kept.popitem(last=False)  # closed when its last call lets go of it
        return client

    def close(self) -> None:
        """Close the connections."""
        with self._lock:
            kept, self._kept = list(self._kept.values()), OrderedDict()
        for client in kept:
            client.close()


def _own(kubeconfig: str, context: str) -> Any:
    files = (ACCOUNT / "token", KUBECONFIG.expanduser())
    if not (kubeconfig or os.environ.get("KUBECONFIG") or any(file.exists() for file in files)):
        # Said before the library is loaded, which takes a second and 40 MiB.
        raise UsageError(f"there is no cluster: set kubeconfig or KUBECONFIG, or write {KUBECONFIG}")
    config: Any = import_module("kubernetes.config")
    from kubernetes import client

    settings = client.Configuration()
    try:
        if not kubeconfig and not context and (ACCOUNT / "token").exists():
            config.load_incluster_config(client_configuration=settings)
        else:
            file = str(Path(kubeconfig).expanduser()) if kubeconfig else None
            config.load_kube_config(file, context or None, client_configuration=settings)
    except (config.ConfigException, OSError) as exc:
        raise UsageError(f"the cluster's configuration cannot be read: {redact(str(exc))}") from exc
    return client.ApiClient(settings)


def _of(server: str, token: str, authority: str) -> Any:
    """A client with a token; `authority` is the PEM of the server's own certificate authority, if it has one."""
    from kubernetes import client

    settings = client.Configuration()
    settings.host = server.rstrip("/")
    settings.api_key = {"authorization": f"Bearer {token}"}
    made = client.ApiClient(settings)
    if authority:
        context = ssl.create_default_context(cadata=authority)
        made.rest_client.pool_manager.connection_pool_kw["ssl_context"] = context
    return made


class Conflict(Exception):
    """Kubernetes has an object of this name, or another one than was meant."""


def ask(method: Callable[..., Any], *arguments: Any, doing: str, user: bool = False, **more: Any) -> Any:
    """Call the API. `user`: what it calls invalid or forbidden is the task's fault; else it may pass."""
    from kubernetes.client.exceptions import ApiException
    from urllib3.exceptions import HTTPError

    try:
        return method(*arguments, _request_timeout=_TIMEOUT, **more)
    except ApiException as exc:
        if exc.status == 401:
            method.__self__.api_client.refused = True  # type: ignore[attr-defined]  # a mark of ours
        raise _explained(doing, exc, user=user) from exc
    except (HTTPError, OSError) as exc:
        raise Retry(f"Kubernetes cannot be reached: {redact(' '.join(str(exc).split()))[:300]}") from exc
    except json.JSONDecodeError as exc:  # of an answer that was cut off on its way
        raise Retry(f"{doing}: the answer of Kubernetes cannot be read") from exc


def _explained(doing: str, exc: Any, *, user: bool) -> Exception:
    told = _message(exc)
    message = f"{doing}: {told}"
    match exc.status:
        case 404:
            return NotFound(message)
        case 409:
            return Conflict(message)
        case 403 if "exceeded quota" in told:
            return Retry(message, after=60.0)
        case 403 if user:
            return Fail(message, code="Forbidden")
        case 400 | 413 | 422 if user:
            return Fail(message, code="InvalidRequest")
    return Retry(message, after=_retry_after(exc))  # 401, too: a token may be in renewal


def _message(exc: Any) -> str:
    try:
        told = str(json.loads(exc.body)["message"])
    except (TypeError, ValueError, KeyError):
        told = f"{exc.status} {exc.reason}"
    return redact(" ".join(told.split()))[:500]


def _retry_after(exc: Any) -> float | None:
    given = (exc.headers or {}).get("Retry-After", "")
    return float(given) if given.isdigit() else None


@dataclass(frozen=True, slots=True)
class Listing:
    """What a list shows, and when it did, in seconds since 1970 by the cluster's clock: ours may be another."""

    items: Sequence[Any]
    at: float


def every(method: Callable[..., Any], namespace: str, selector: str, what: str) -> Listing:
    """Every object that a list (`list_..._with_http_info`) shows, page by page."""
    items: list[Any] = []
    following: str | None = None
    while True:
        page, _, headers = ask(
            method, namespace, label_selector=selector, limit=_PAGE, _continue=following,
            doing=f"The {what} in {namespace} cannot be listed",
        )  # fmt: skip
        items += page.items
        following = page.metadata._continue
        if not following:
            return Listing(items, _time_of(headers))


def _time_of(headers: Mapping[str, str]) -> float:
    try:
        return parsedate_to_datetime(headers["Date"]).timestamp()
    except (KeyError, TypeError, ValueError):
        return time.time()
