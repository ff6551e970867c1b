"""Calls of the Kubernetes API: a client for each cluster and account, and what its refusals mean."""

from __future__ import annotations

import json
import ssl
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

from airside.model import Fail, NotFound, Retry, UsageError
from airside.model.redaction import redact

ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
"""Where a pod finds its own account."""

_PAGE = 500
_TIMEOUT = (10.0, 25.0)  # seconds to connect, and to answer


def own_client(kubeconfig: str, context: str) -> Any:
    """A client as the service itself: by its pod's account, or by a file. Raises `UsageError` if there is neither."""
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


def client_for(server: str, token: str, authority: str) -> Any:
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
    """Call the API. `user`: what it calls invalid is the task's fault."""
    from kubernetes.client.exceptions import ApiException
    from urllib3.exceptions import HTTPError

    try:
        return method(*arguments, _request_timeout=_TIMEOUT, **more)
    except ApiException as exc:
        raise _explained(doing, exc, user=user) from exc
    except (HTTPError, OSError) as exc:
        raise Retry(f"Kubernetes cannot be reached: {redact(' '.join(str(exc).split()))[:300]}") from exc


def _explained(doing: str, exc: Any, *, user: bool) -> Exception:
    told = _message(exc)
    message = f"{doing}: {told}"
    match exc.status:
        case 404 if user:  # of a create: the namespace
            return Fail(message, code="NamespaceNotFound")
        case 404:
            return NotFound(message)
        case 409:
            return Conflict(message)
        case 403 if "exceeded quota" in told:
            return Retry(message, after=60.0)
        case 401 | 403:
            return Fail(message, code="Forbidden")
        case 400 | 413 | 422 if user:
            return Fail(message, code="InvalidRequest")
    return Retry(message, after=_retry_after(exc))


def _message(exc: Any) -> str:
    try:
        told = str(json.loads(exc.body)["message"])
    except (TypeError, ValueError, KeyError):
        told = f"{exc.status} {exc.reason}"
    return redact(" ".join(told.split()))[:500]


def _retry_after(exc: Any) -> float | None:
    given = (exc.headers or {}).get("Retry-After", "")
    return float(given) if given.isdigit() else None


def every(method: Callable[..., Any], namespace: str, selector: str, what: str) -> Iterator[Any]:
    """Every object that a list shows, page by page."""
    following: str | None = None
    while True:
        page = ask(
            method, namespace, label_selector=selector, limit=_PAGE, _continue=following,
            doing=f"The {what} in {namespace} cannot be listed",
        )  # fmt: skip
        yield from page.items
        following = page.metadata._continue
        if not following:
            return
