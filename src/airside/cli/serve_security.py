"""What `airside serve` is told of its callers, and of what it signs: TLS, tokens, keys, connections."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import click

from airside.cli.settings import Settings
from airside.model import UsageError
from airside.sdk.options import read_options
from airside.sdk.registry import Registry
from airside.sdk.secrets import secret

if TYPE_CHECKING:
    from airside.server.connections import Connections
    from airside.server.handle import SigningKeys
    from airside.server.tls import TlsFiles

_FLAGS = (
    click.option("--tls-cert", metavar="FILE", help="Serve with TLS: the PEM file of the certificate chain."),
    click.option("--tls-key", metavar="FILE", help="The PEM file of the certificate's key."),
    click.option("--client-ca", metavar="FILE", help="Callers must show a certificate of these authorities (PEM)."),
    click.option("--token-file", metavar="FILE", help="Callers must send one of the tokens in this file, one a line."),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class SigningOptions:
    """The table `[serve.signing]`: a folder of keys, one a file, and the name of the one that signs."""

    keys: str
    current: str
    require: bool = False


class SecurityOptions(Protocol):
    """The keys of `[serve]` that are read here."""

    @property
    def host(self) -> str: ...
    @property
    def insecure(self) -> bool: ...
    @property
    def tls_cert(self) -> str: ...
    @property
    def tls_key(self) -> str: ...
    @property
    def client_ca(self) -> str: ...
    @property
    def token_file(self) -> str: ...


def security_flags(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds the flags to a click command."""
    for flag in reversed(_FLAGS):
        command = flag(command)
    return command


def listen_host(options: SecurityOptions) -> str:
    """Where to listen: all interfaces with TLS or `insecure`, else loopback.

    Raises `UsageError` for another address without either.
    """
    from airside.server.settings import is_loopback

    everywhere = bool(options.tls_cert) or options.insecure
    if options.host and not everywhere and not is_loopback(options.host):
        raise UsageError(
            f"Listening on {options.host} without TLS needs --insecure, since anybody who can reach it can run jobs; "
            "--tls-cert and --tls-key encrypt it."
        )
    return options.host.strip("[]") or ("::" if everywhere else "127.0.0.1")


def tls_files(options: SecurityOptions) -> TlsFiles | None:
    """The certificate to serve with, or None without TLS."""
    from airside.server.tls import TlsFiles

    if not options.tls_cert and not options.tls_key:
        if options.client_ca:
            raise UsageError("--client-ca needs TLS: add --tls-cert and --tls-key.")
        return None
    if not options.tls_cert or not options.tls_key:
        given, missing = ("--tls-cert", "--tls-key") if options.tls_cert else ("--tls-key", "--tls-cert")
        raise UsageError(f"{given} needs {missing}.")
    return TlsFiles(
        certificate=Path(options.tls_cert),
        key=Path(options.tls_key),
        client_ca=Path(options.client_ca) if options.client_ca else None,
    )


def signing_keys(options: SigningOptions | None) -> SigningKeys:
    """The keys of the table `[serve.signing]`; without it handles are not signed."""
    from airside.server.handle import UNSIGNED
    from airside.server.keys import read_keys

    if options is None:
        return UNSIGNED
    return read_keys(Path(options.keys), options.current, require=options.require)


def named_connections(settings: Settings, registry: Registry) -> Connections:
    """The tables `[connections.NAME]`. A task type that no installed agent has is a mistake worth stopping for."""
    from airside.server.connections import Connections, NamedConnection

    known = sorted({task_type.name for task_type in registry.task_types})
    named: dict[str, NamedConnection] = {}
    for name, table in settings.connections.items():
        where = f"{settings.source}: connections.{name}"
        one = named[name] = read_options(NamedConnection, table, where)
        for task_type in one.task_types:
            if task_type not in known and not registry.broken:
                raise UsageError(f"{where}.task_types: no agent here has {task_type} (installed: {', '.join(known)}).")
    return Connections(named, _read_secret)


def _read_secret(name: str) -> str:
    """A secret by `name` or `group/name`."""
    group, _, bare = name.rpartition("/")
    return secret(bare, group=group or None)
