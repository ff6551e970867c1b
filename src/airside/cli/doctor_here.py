"""What `airside doctor` looks at on this machine. Nothing is opened, made or migrated."""

from __future__ import annotations

import errno
import importlib
import os
import re
import shutil
import socket
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from airside.cli.finding import Findings, Status
from airside.cli.isolation import IsolateOptions, elsewhere
from airside.cli.readiness import is_built_in
from airside.cli.registry import is_called, load_named, options_table
from airside.cli.selection import names_of, selected
from airside.cli.serve import ServeOptions, allowed, serve_options
from airside.cli.serve_security import listen_host, named_connections, signing_keys, tls_files
from airside.cli.settings import Settings, load_settings
from airside.model import UsageError
from airside.model.redaction import hide
from airside.sdk.declare import missing_extra
from airside.sdk.discovery import explain, installed_plugins, load_plugins
from airside.sdk.options import read_options
from airside.sdk.registry import BrokenPlugin, Registration, Registry

SOON = timedelta(days=14)
"""A certificate that ends within this time, or within the last third of its life, should have been renewed."""
_PACKAGES = ("airside", "grpcio", "protobuf", "flyteidl", "flyteidl2")
_SECRET_KEY = re.compile(r"(token|password|secret|key|credentials?|dsn)$")
_CORRECT = "Correct it; `docs/reference/settings.md` lists what the file may hold."


def look_here(file: str | None, findings: Findings) -> bool:
    """Look at everything that `airside serve` and the engine need on this machine. False if no calls can be made."""
    can_call = _look_at_versions(findings)
    settings = findings.attempt("settings", _CORRECT, lambda: load_settings(file))
    if settings is None:
        settings, options = Settings(), None
    else:
        findings.ok("settings", str(settings.source or "no airside.toml here: defaults hold"))
        _hide_secrets(settings.agents)
        read = settings
        options = findings.attempt("serve", _CORRECT, lambda: serve_options(read, {}))
    registry = _look_at_plugins(settings, options or ServeOptions(), findings)
    _look_at_agents(settings, registry, options or ServeOptions(), findings)
    _look_at_tables(settings, registry, options or ServeOptions(), findings)
    if not can_call:
        return False
    if options is not None:
        _look_at_security(options, findings)
        _look_at_ports(options, findings)
    _look_at_store(findings)
    return True


def _look_at_versions(findings: Findings) -> bool:
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            findings.problem(name, "not installed", "Run `pip install --force-reinstall airside`.")
    findings.ok("python", f"{sys.version.split()[0]} at {sys.executable}")
    findings.ok("versions", ", ".join(f"{name} {one}" for name, one in found.items()))
    together = "Install versions of these libraries that go together: `pip check` names those that do not."
    wire = findings.attempt("versions", together, lambda: importlib.import_module("airside.wire.families"))
    return wire is not None


def _hide_secrets(table: Mapping[str, Any]) -> None:
    """An error in the settings quotes values."""
    for key, value in table.items():
        if isinstance(value, Mapping):
            _hide_secrets(value)
        elif isinstance(value, str) and _SECRET_KEY.search(key.lower()):
            hide(value)


def _look_at_plugins(settings: Settings, options: ServeOptions, findings: Findings) -> Registry:
    registry = Registry()
    load_plugins(registry, elsewhere(installed_plugins(), settings))
    owners = {task_type: entry for entry in registry for task_type in entry.task_types}
    for module in options.modules or ():
        findings.attempt(
            "serve.modules",
            "Repair the module, or take its name out of modules in [serve].",
            partial(load_named, registry, [module]),
        )
    for entry in registry:
        for task_type in entry.task_types:
            before = owners.get(task_type)
            if before is not None and before.agent is not entry.agent:
                findings.warning(
                    f"task type {task_type}",
                    f"{entry.name} ({entry.source}) takes it from {before.name} ({before.source})",
                    "Rename one of them if that is not meant.",
                )
    return registry


def _look_at_broken(registry: Registry, matter: Sequence[BrokenPlugin], findings: Findings) -> None:
    for one in dict.fromkeys((*registry.broken, *matter)):
        if one not in matter:
            findings.warning("plugin", f"{one.source}: {one.error}", "It is not among the agents to serve.")
        elif " is already served by " in one.error:
            findings.problem("task type", f"{one.source}: {one.error}", "Uninstall one of the two packages.")
        else:
            findings.problem("plugin", f"{one.source}: {one.error}", "Repair or uninstall the package.")


def _look_at_agents(settings: Settings, registry: Registry, options: ServeOptions, findings: Findings) -> None:
    """Those that `airside serve` would serve, and those that the settings name."""
    chosen: Sequence[Registration]
    broken: Sequence[BrokenPlugin]
    status, told = _unknown(settings, registry), options.agents
    options = _without_isolated(options, settings)
    if told and not options.agents:  # all of them are isolated
        chosen, broken = (), ()
    else:
        found = findings.attempt("serve.agents", _CORRECT, partial(selected, registry, options.agents), status)
        chosen, broken = found or (tuple(registry), registry.broken)
    _look_at_broken(registry, broken, findings)
    kept = findings.attempt("agents", _CORRECT, lambda: list(allowed(registry, chosen, options)), status)
    served = {id(entry) for entry in (chosen if kept is None else kept)}
    named = {*settings.agents, *(options.agents or ()), *(options.enable or ())} - {*settings.isolate}
    able = list[str]()
    for entry in registry:
        is_named = any(is_called(entry, name) for name in named)
        if id(entry) not in served and not is_named:
            continue
        missing = missing_extra(entry.agent)
        if missing is None:
            findings.attempt(f"agent {entry.name}", _CORRECT, partial(_read_table, settings, entry))
            able += [entry.name] if id(entry) in served else []
        elif is_named or not is_built_in(entry):
            findings.problem(f"agent {entry.name}", str(missing), "Install that, or take its name out of the settings.")
    isolated = "".join(f", {name} (isolated)" for name in settings.isolate)
    findings.ok("agents", f"{len(registry)} installed; served here: {', '.join(able) or 'none'}{isolated}")


def _without_isolated(options: ServeOptions, settings: Settings) -> ServeOptions:
    """The options without the names of agents that are not loaded here, since they have processes of their own."""

    def left(names: list[str] | None) -> list[str] | None:
        return [one for one in names if one not in settings.isolate] if names else names

    return replace(
        options, agents=left(options.agents), enable=left(options.enable), host_access=left(options.host_access)
    )


def _unknown(settings: Settings, registry: Registry) -> Status:
    """How bad it is if a name is not known here: it may be that of an isolated agent, or of a plugin that is broken."""
    return "warning" if settings.isolate or registry.broken else "problem"


def _read_table(settings: Settings, entry: Registration) -> Any:
    return read_options(getattr(entry.agent, "Options", None), *options_table(settings, entry))


def _look_at_tables(settings: Settings, registry: Registry, options: ServeOptions, findings: Findings) -> None:
    installed = sorted({name for entry in registry for name in names_of(entry)})
    for name in settings.agents:
        if name in installed or name in settings.isolate:
            continue
        text = f"agents.{name}: no such agent (installed: {', '.join(installed)})"
        findings.add(_unknown(settings, registry), "settings", f"{settings.source}: {text}", _CORRECT)
    for name, table in settings.isolate.items():
        findings.attempt(f"isolate.{name}", _CORRECT, partial(_check_isolated, settings, name, table))
    for name, table in settings.connections.items():
        one = replace(settings, connections={name: table})
        work = partial(_load_connection, one, registry)
        findings.attempt(f"connections.{name}", _CORRECT, work, _unknown(settings, registry))
    if settings.connections and options.signing is None:
        findings.problem("connections", "they need a signing key", "Add [serve.signing].")


def _load_connection(settings: Settings, registry: Registry) -> None:
    named_connections(settings, registry).load()


def _check_isolated(settings: Settings, name: str, table: Mapping[str, Any]) -> None:
    where = f"{settings.source}: isolate.{name}"
    python = str(Path(read_options(IsolateOptions, table, where).python or sys.executable).expanduser())
    if shutil.which(python) is None:
        raise UsageError(f"{where}.python: there is no program {python}")


def _look_at_security(options: ServeOptions, findings: Findings) -> None:
    from airside.server.tls import check
    from airside.server.tokens import Tokens

    findings.attempt("serve.host", _CORRECT, lambda: listen_host(options))
    files = findings.attempt("serve.tls_cert", _CORRECT, lambda: tls_files(options))
    if files is not None:
        before = len(findings)
        findings.attempt("serve.tls_cert", "Put the certificate and its key there in PEM form.", lambda: check(files))
        if len(findings) == before:
            for file in (files.certificate, *([files.client_ca] if files.client_ca else [])):
                _look_at_validity(file, findings)
    if options.token_file:
        do = "Put a token there, as `openssl rand -hex 32` makes it."
        if findings.attempt("serve.token_file", do, lambda: Tokens(Path(options.token_file), print)):
            findings.ok("serve.token_file", options.token_file)
    if options.signing is not None:
        keys = findings.attempt(
            "serve.signing", "Put a key of 32 bytes or more there, one a file.", lambda: signing_keys(options.signing)
        )
        if keys is not None:
            findings.ok("serve.signing", f"{options.signing.current} in {options.signing.keys} signs")


def _look_at_validity(file: Path, findings: Findings) -> None:
    from airside.server.validity import validities

    what, now = f"certificate {file}", datetime.now(UTC)
    found = findings.attempt(what, "Replace the file.", lambda: validities(file.read_text(errors="replace")))
    for one in found or ():
        left = one.end - now
        if left <= timedelta():
            findings.problem(what, f"expired on {one.end:%Y-%m-%d %H:%M} UTC", "Renew it; it is read again by itself.")
        elif one.begin > now:
            findings.problem(what, f"valid only from {one.begin:%Y-%m-%d %H:%M} UTC on", "Renew it, or set the clock.")
        elif left < min(SOON, (one.end - one.begin) / 3):
            findings.warning(what, f"expires on {one.end:%Y-%m-%d %H:%M} UTC", "Renew it; it is read again by itself.")
        else:
            findings.ok(what, f"valid until {one.end:%Y-%m-%d %H:%M} UTC")


def _look_at_ports(options: ServeOptions, findings: Findings) -> None:
    try:
        host = listen_host(options)
    except UsageError:  # told already
        return
    for key, port in (("port", options.port), ("metrics_port", options.metrics_port)):
        if port <= 0:
            continue
        error = _bind(host, port)
        if error is None:
            findings.ok(f"serve.{key}", f"{port} on {host} is free")
        elif error.errno == errno.EADDRINUSE:
            findings.warning(
                f"serve.{key}",
                f"{port} on {host} is taken",
                f"Choose another {key} unless this service has it already.",
            )
        else:
            do = f"Choose another host or {key} in [serve]."
            findings.problem(f"serve.{key}", f"{port} on {host} cannot be used: {error.strerror or error}", do)


def _bind(host: str, port: int) -> OSError | None:
    """What keeps a port from being listened on. Nothing listens on it here, so nobody is answered."""
    try:
        ((family, *_, address), *_) = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        with socket.socket(family, socket.SOCK_STREAM) as one:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            one.bind(address)
    except OSError as exc:
        return exc
    return None


def _look_at_store(findings: Findings) -> None:
    from airside.engine.database import FILE_NAME
    from airside.engine.inspection import inspect
    from airside.engine.rundir import state_dir

    choose = "Choose another folder with AIRSIDE_STATE."
    folder = findings.attempt("state", choose, state_dir)
    if folder is None:
        return
    there = next(one for one in (folder, *folder.parents) if one.exists())
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        findings.problem("state", f"{folder} cannot be written, because of {there}", choose)
    else:
        findings.ok("state", f"{folder} can be {'written' if there == folder else 'made'}")
    store = folder / FILE_NAME
    if not os.access(there, os.X_OK) or not store.exists():
        return
    try:
        found = inspect(store)
    except Exception as exc:  # noqa: BLE001 - whatever it is, it is what was found; it says what to do itself
        findings.problem("store", explain(exc), "Stop its engine first.")
        return
    read = "" if found.whole else "; it is large, and only part of it was read"
    old = "; the next command brings it up to date" if found.is_old else ""
    findings.ok("store", f"{store}: version {found.version}, {found.jobs} jobs{old}{read}")
