"""How a command reaches an agent service: TLS, authorities, a certificate and a token of its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict, TypeVar

import click

from airside.model import UsageError
from airside.model.redaction import hide

if TYPE_CHECKING:
    from airside.engine.endpoint import Tls

Options = TypeVar("Options", bound="EndpointOptions")
_FILES = ("tls_ca", "tls_cert", "tls_key", "token_file")


class Access(TypedDict):
    """What `Endpoint`, `RemoteAgent` and `discover` take to get in."""

    tls: Tls | None
    token: str


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointOptions:
    """The options of a command that calls a service. The files hold PEM, and `token_file` a token on a line."""

    endpoint: str | None = None
    tls: bool = False
    tls_ca: str | None = None
    tls_cert: str | None = None
    tls_key: str | None = None
    token_file: str | None = None

    def access(self) -> Access:
        """The contents of the files. Raises `UsageError` for one that cannot be used, or that lacks its other half."""
        return Access(tls=_tls(self), token=_token(self.token_file) if self.token_file else "")


def endpoint_options() -> list[click.Option]:
    """The options beside `--endpoint`, for a command that is made by hand; their names are `EndpointOptions`'."""
    return [
        click.Option(["--tls"], is_flag=True, help="Call the service over TLS, as the system's authorities trust it."),
        click.Option(["--tls-ca"], metavar="FILE", help="Over TLS: trust the service by these authorities (PEM)."),
        click.Option(["--tls-cert"], metavar="FILE", help="Over TLS: show this certificate to the service (PEM)."),
        click.Option(["--tls-key"], metavar="FILE", help="The PEM file of that certificate's key."),
        click.Option(
            ["--token-file"], metavar="FILE", help="Send the first token in this file, where tokens are one a line."
        ),
    ]


def endpoint_flags(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds the options beside `--endpoint` to a click command, which gets them as keyword arguments."""
    for option in reversed(endpoint_options()):
        command = click.option(*option.opts, is_flag=option.is_flag, metavar=option.metavar, help=option.help)(command)
    return command


def read_endpoint(endpoint: str | None, given: Mapping[str, Any]) -> EndpointOptions:
    """The options as they were given; `UsageError` if there are some, but no endpoint that they are for."""
    names = {field.name for field in fields(EndpointOptions)}
    options = EndpointOptions(endpoint=endpoint, **{name: value for name, value in given.items() if name in names})
    check_endpoint(options)
    return options


def check_endpoint(options: EndpointOptions) -> None:
    """Raise `UsageError` if one of the options is given, but no endpoint that it is for."""
    if options.endpoint:
        return
    for name in ("tls", *_FILES):
        if getattr(options, name):
            raise UsageError(f"--{name.replace('_', '-')} is for calls to a service: say which, as HOST:PORT.")


def to_source(options: EndpointOptions) -> dict[str, Any]:
    """The options as JSON values that lead to the same files from any folder."""
    files = {name: value and str(Path(value).resolve()) for name in _FILES if (value := getattr(options, name))}
    return {"endpoint": options.endpoint, **({"tls": True} if options.tls else {}), **files}


def from_source(options: Options, source: Mapping[str, Any]) -> Options:
    """The options that `to_source` wrote down, laid over `options`."""
    names = [field.name for field in fields(EndpointOptions)]
    return replace(options, **{name: source[name] for name in names if name in source})


def _tls(options: EndpointOptions) -> Tls | None:
    if not (options.tls or options.tls_ca or options.tls_cert or options.tls_key):
        return None
    from airside.engine.endpoint import Tls

    if bool(options.tls_cert) is not bool(options.tls_key):
        given, missing = ("--tls-cert", "--tls-key") if options.tls_cert else ("--tls-key", "--tls-cert")
        raise UsageError(f"{given} needs {missing}.")
    return Tls(
        roots=_pem(options.tls_ca, "CERTIFICATE"),
        certificate=_pem(options.tls_cert, "CERTIFICATE"),
        key=_pem(options.tls_key, "PRIVATE KEY"),
    )


def _pem(file: str | None, kind: str) -> bytes | None:
    if file is None:
        return None
    content = _read(file)
    if b"-----BEGIN " not in content or f"{kind}-----".encode() not in content:
        raise UsageError(f"{file} holds no {kind.lower()} in PEM form.")
    return content


def _token(file: str) -> str:
    lines = (line.strip() for line in _read(file).decode("utf-8", "replace").splitlines())
    token = next((line for line in lines if line and not line.startswith("#")), "")
    if not token or not token.isascii() or len(token.split()) > 1:
        raise UsageError(f"{file} holds no token: put one on a line of its own, in letters, digits and signs.")
    hide(token)
    return token


def _read(file: str) -> bytes:
    try:
        return Path(file).read_bytes()
    except OSError as exc:
        raise UsageError(f"{file} cannot be read: {exc.strerror}.") from None
