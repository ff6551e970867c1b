"""Read `airside.toml`: how the service is run, and the options of each agent."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from airside.model import UsageError

FILE_NAME = "airside.toml"
VARIABLE = "AIRSIDE_SETTINGS"
_TABLES = ("serve", "agents", "connections", "isolate")


@dataclass(frozen=True, slots=True)
class Settings:
    """What `airside.toml` says: `serve` holds the table `[serve]`, and the others each table `[agents.NAME]`,
    `[connections.NAME]` and `[isolate.NAME]` by name.

    The keys inside these tables are checked by whoever reads them; `source` is the file, None if there is none.
    """

    serve: Mapping[str, Any] = field(default_factory=dict)
    agents: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    source: Path | None = None
    connections: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    isolate: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


def load_settings(path: str | Path | None = None, env: Mapping[str, str] = os.environ) -> Settings:
    """The settings of the file `path`, else of the file that AIRSIDE_SETTINGS names, else of `./airside.toml`.

    A file that was named must exist; `./airside.toml` may be missing. Raises `UsageError` in one sentence that
    names the file and the key.
    """
    named = path or env.get(VARIABLE)
    source = Path(named) if named else Path(FILE_NAME)
    try:
        text = source.read_text(encoding="utf-8")
    except FileNotFoundError:
        if not named:
            return Settings()
        raise UsageError(f"Settings file {source} does not exist.") from None
    except (OSError, UnicodeDecodeError) as exc:
        raise UsageError(f"Settings file {source} cannot be read: {exc}.") from None
    return read_settings(text, source)


def read_settings(text: str, source: Path) -> Settings:
    """The settings in a TOML text; `source` is named in errors.

    >>> read_settings("[agents.my_query]\\nhost = 'example.org'", Path("airside.toml")).agents
    {'my_query': {'host': 'example.org'}}
    >>> read_settings("[agent.my_query]", Path("airside.toml"))
    Traceback (most recent call last):
    airside.model.errors.UsageError: airside.toml: agent: unknown table (known: serve, agents, connections, isolate)
    """
    try:
        tables = tomllib.loads(text)
    except tomllib.TOMLDecodeError as exc:
        raise UsageError(f"{source}: not valid TOML: {exc}") from None
    for name in tables:
        if name not in _TABLES:
            raise UsageError(f"{source}: {name}: unknown table (known: {', '.join(_TABLES)})")
    serve = _table(tables.get("serve", {}), "serve", source)
    agents, connections, isolate = (
        _tables(tables.get(name, {}), name, source) for name in ("agents", "connections", "isolate")
    )
    return Settings(serve, agents, source, connections, isolate)


def _tables(value: Any, path: str, source: Path) -> Mapping[str, Mapping[str, Any]]:
    return {name: _table(table, f"{path}.{name}", source) for name, table in _table(value, path, source).items()}


def _table(value: Any, path: str, source: Path) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise UsageError(f"{source}: {path}: expected a table, got {value!r}; write [{path}]")
    return value


def served_modules(settings: Settings) -> tuple[str, ...]:
    """The modules and descriptions that `[serve]` names. Raises `UsageError` if they are no list of texts.

    >>> served_modules(Settings(serve={"modules": ["my_agents", "transcode.toml"]}))
    ('my_agents', 'transcode.toml')
    """
    told = settings.serve.get("modules", [])
    if not isinstance(told, list) or not all(isinstance(one, str) for one in told):
        raise UsageError(f"{settings.source}: serve.modules: expected a list of names, got {told!r}")
    return tuple(told)
