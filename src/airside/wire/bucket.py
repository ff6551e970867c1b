"""Clients of buckets in object stores, set up by the environment as each vendor's own tools are."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from datetime import timedelta
from functools import lru_cache
from typing import Any

from airside.model import MissingExtra, UsageError

_CONNECT_TIMEOUT = "5s"
_REQUEST_TIMEOUT = "30s"
_RETRIES = 3
_RETRY_SECONDS = 30

Settings = Mapping[str, str]


@lru_cache(maxsize=64)
def open_bucket(root: str) -> Any:
    """The client of one bucket, such as `s3://bucket`; what the environment says is read once.

    Raises `MissingExtra` without the `storage` extra, `UsageError` for settings that make no sense.
    """
    scheme = root.partition("://")[0]
    try:
        from obstore.store import from_url
    except ImportError as exc:
        raise MissingExtra("storage", f"Reading and writing {scheme}:// files") from exc
    settings = _VENDORS.get(scheme, _azure)(os.environ, root)
    config: Any = dict(settings)
    return from_url(
        root,
        config=config,
        client_options={
            "connect_timeout": _CONNECT_TIMEOUT,
            "timeout": _REQUEST_TIMEOUT,
            # an operator who sets a plain http endpoint (MinIO, an emulator) means it
            "allow_http": settings.get("endpoint", settings.get("base_url", "")).startswith("http://"),
        },
        retry_config={"max_retries": _RETRIES, "retry_timeout": timedelta(seconds=_RETRY_SECONDS)},
    )


def _s3(env: Mapping[str, str], _: str) -> Settings:
    """All that the client does not read itself is whether the endpoint is one of plain http.

    >>> _s3({"AWS_ENDPOINT_URL": "http://127.0.0.1:9000"}, "s3://bucket")
    {'endpoint': 'http://127.0.0.1:9000'}
    """
    return _some(endpoint=_first(env, "AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT"))


def _google(env: Mapping[str, str], _: str) -> Settings:
    """The real store needs nothing here; an emulator asks for no credentials, but the client wants some.

    >>> _google({"STORAGE_EMULATOR_HOST": "localhost:4443"}, "gs://bucket")
    {'base_url': 'http://localhost:4443', 'bearer_token': 'anonymous'}
    """
    emulator = env.get("STORAGE_EMULATOR_HOST", "")
    if emulator and "://" not in emulator:
        emulator = f"http://{emulator}"
    base_url = emulator.rstrip("/") or env.get("GOOGLE_BASE_URL", "")
    has_credentials = _first(env, *_GOOGLE_CREDENTIALS)
    return _some(base_url=base_url, bearer_token="" if has_credentials or not emulator else "anonymous")


def _azure(env: Mapping[str, str], root: str) -> Settings:
    """Besides what the client reads itself: the names of Azure's command line, and its connection strings.

    >>> _azure({"AZURE_STORAGE_ACCOUNT": "a", "AZURE_STORAGE_KEY": "k"}, "az://c")
    {'account_name': 'a', 'account_key': 'k'}
    >>> _azure({"AZURE_STORAGE_CONNECTION_STRING": "AccountName=a;AccountKey=k=="}, "abfss://c@a.dfs.core.windows.net")
    {'account_key': 'k=='}
    """
    said = _connection_string(env.get("AZURE_STORAGE_CONNECTION_STRING", ""))
    name = said.get("accountname") or _first(env, "AZURE_STORAGE_ACCOUNT_NAME", "AZURE_STORAGE_ACCOUNT")
    named = root.partition("@")[2].partition(".")[0]
    if said and named and name and named != name:  # the connection string is for another account
        said, name = {}, ""
    suffix = said.get("endpointsuffix")
    protocol = said.get("defaultendpointsprotocol", "https")
    endpoint = (
        said.get("blobendpoint")
        or _first(env, "AZURE_STORAGE_ENDPOINT", "AZURE_ENDPOINT")
        or (f"{protocol}://{name}.blob.{suffix}" if suffix else "")
    )
    return _some(
        account_name="" if named else name,
        account_key=said.get("accountkey") or env.get("AZURE_STORAGE_KEY", ""),
        sas_key=said.get("sharedaccesssignature", ""),
        endpoint=endpoint.rstrip("/"),
        use_emulator=said.get("usedevelopmentstorage", ""),
    )


def _connection_string(text: str) -> Settings:
    """Its parts, by name in lower case. Raises `UsageError` for one that is none."""
    parts = [part.partition("=") for part in text.strip().split(";") if part.strip()]
    if any(not separator for _, separator, _ in parts):
        raise UsageError(
            "AZURE_STORAGE_CONNECTION_STRING is no connection string: it has parts such as AccountName=NAME; "
            "with semicolons between them."
        )
    return {name.strip().lower(): value.strip() for name, _, value in parts}


def _first(env: Mapping[str, str], *names: str) -> str:
    return next((env[name] for name in names if env.get(name)), "")


def _some(**settings: str) -> Settings:
    return {name: value for name, value in settings.items() if value}


_GOOGLE_CREDENTIALS = (
    "GOOGLE_APPLICATION_CREDENTIALS",
    "GOOGLE_SERVICE_ACCOUNT",
    "GOOGLE_SERVICE_ACCOUNT_PATH",
    "GOOGLE_SERVICE_ACCOUNT_KEY",
    "GOOGLE_BEARER_TOKEN",
)

_VENDORS: Mapping[str, Callable[[Mapping[str, str], str], Settings]] = {"s3": _s3, "s3a": _s3, "gs": _google}
