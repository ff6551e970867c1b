"""The connection of a task for Flyte 2's connectors: its config names the secrets, and the engine looks them up."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from airside.model import Connection
from airside.sdk.secrets import secret


def connection_names(config: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """What a task's config says of its connection: names of secrets, and settings. Empty if it says nothing.

    >>> connection_names({"secrets": {"token": "bank_token"}, "configs": {"host": "h"}, "size": 3})
    {'secrets': {'token': 'bank_token'}, 'configs': {'host': 'h'}}
    """
    return {name: found for name in ("secrets", "configs") if (found := _texts(config.get(name)))}


def connect(names: Mapping[str, Mapping[str, str]]) -> Connection | None:
    """The connection with the values of its secrets, looked up now: they are kept nowhere. Blocks.

    Raises `UsageError` for a secret that is not there.
    """
    if not names:
        return None
    secrets = {name: secret(wanted) for name, wanted in names.get("secrets", {}).items()}
    return Connection(secrets=secrets, configs=dict(names.get("configs", {})))


def _texts(found: Any) -> dict[str, str]:
    if not isinstance(found, Mapping) or not all(isinstance(one, str) for one in (*found, *found.values())):
        return {}
    return dict(found)
