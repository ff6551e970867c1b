"""Which hosts may be called, and which may be sent credentials: for every agent that speaks to a service elsewhere.

Names are compared as a whole, never by pieces, and never as an address in another spelling. Redirects are new requests:
follow none with credentials, or check each.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import urlsplit

from airside.model import Fail, UsageError
from airside.model.redaction import hide

EVERY_HOST = "*"
_LABEL = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?<!-)\Z")
_NUMBER = re.compile(r"(0x[0-9a-f]*|[0-9]+)\Z")  # a host that ends so is an address to a resolver: 127.1, 0x7f000001
_FORBIDDEN = re.compile(r"[\x00-\x20\x7f\\]")
_PORTS = {"https": 443, "http": 80}


@dataclass(frozen=True, slots=True)
class Address:
    """Where a URL leads: its host in the one spelling that is compared, and its port."""

    host: str
    port: int
    encrypted: bool


def address_of(url: str) -> Address:
    """Where a URL leads. Raises `ValueError` in words that never show the URL, which may be a secret.

    >>> address_of("https://API.Example.org./v1?q=1")
    Address(host='api.example.org', port=443, encrypted=True)
    >>> address_of("https://good.example.org@evil.example.net/")
    Traceback (most recent call last):
    ValueError: no user and password in an address; use a header with a secret
    """
    if _FORBIDDEN.search(url):
        raise ValueError("an address has no spaces, backslashes or control characters")
    try:
        parts = urlsplit(url)
        name, port = parts.hostname or "", parts.port
    except ValueError as exc:
        raise ValueError(f"not a valid address ({exc})") from None
    if parts.scheme not in _PORTS or not name.strip("."):
        raise ValueError("the address must begin with https:// or http:// and a host")
    if parts.username is not None or parts.password is not None:
        hide(parts.password or "", passing=True)
        raise ValueError("no user and password in an address; use a header with a secret")
    host = normal(name)
    if not (_is_address(host) or _is_name(host)):
        raise ValueError(f"{name!r} is not the name of a host")
    return Address(host, port or _PORTS[parts.scheme], parts.scheme == "https")


def normal(host: str) -> str:
    """A host in the one spelling that is compared: lower case, ASCII, an IP address in its shortest form.

    >>> normal("Bücher.Example."), normal("0:0:0:0:0:0:0:1")
    ('xn--bcher-kva.example', '::1')
    """
    bare = host.removesuffix(".")
    try:
        return str(ipaddress.ip_address(bare))
    except ValueError:
        pass
    try:
        return bare.lower() if bare.isascii() else bare.encode("idna").decode("ascii").lower()
    except UnicodeError:
        raise ValueError(f"{host!r} is not the name of a host") from None


class HostAllowList:
    """Hosts by name, `api.example.org`, or by domain, `*.example.org`, which does not mean `example.org` itself.

    `api.example.org:8443` means that port only, `http://10.0.0.7:8080` also without encryption. An IP address is
    meant only if it is given as one. Empty: none. Raises `UsageError` for a pattern that is none of these.

    An agent ships the domains of its vendor and lets an operator add others:

    >>> vendor = ("*.warehouse.example",)
    >>> hosts = HostAllowList([*vendor, "proxy.internal.example:8443"])
    >>> hosts.check("https://eu.warehouse.example/v1/jobs")
    >>> hosts.check("https://warehouse.example.evil.net/v1/jobs")
    Traceback (most recent call last):
    airside.model.errors.Fail: Credentials are not sent to warehouse.example.evil.net: an operator may add it to \
`allowed_hosts` in the settings of the agent.
    """

    def __init__(self, patterns: Iterable[str], *, may_be_every: bool = False) -> None:
        self._patterns = tuple(_pattern(text, may_be_every=may_be_every) for text in patterns)

    def __bool__(self) -> bool:
        return bool(self._patterns)

    def includes(self, host: str, port: int, *, encrypted: bool = True) -> bool:
        """True if the host, in its `normal` spelling, is listed for this port."""
        return any(pattern.matches(host, port) and (encrypted or pattern.in_clear) for pattern in self._patterns)

    def check(self, url: str) -> None:
        """Raise `Fail` unless credentials may be sent to this URL."""
        try:
            address = address_of(url)
        except ValueError as exc:
            raise Fail(f"Credentials are not sent there: {exc}.", code="HostNotAllowed") from None
        if not self.includes(address.host, address.port):
            raise Fail(
                f"Credentials are not sent to {address.host}: an operator may add it to `allowed_hosts` "
                "in the settings of the agent.",
                code="HostNotAllowed",
            )
        if not self.includes(address.host, address.port, encrypted=address.encrypted):
            raise Fail(f"Credentials are not sent to {address.host} without encryption.", code="HostNotAllowed")


@dataclass(frozen=True, slots=True)
class _Pattern:
    """`host` begins with a dot for a domain and is empty for every host; port 0 means any."""

    host: str
    port: int
    in_clear: bool

    def matches(self, host: str, port: int) -> bool:
        if self.port not in (0, port):
            return False
        if self.host.startswith("."):
            return host.endswith(self.host) and not _is_address(host)
        return not self.host or host == self.host


def _pattern(text: str, *, may_be_every: bool) -> _Pattern:
    if text == EVERY_HOST and may_be_every:
        return _Pattern("", 0, in_clear=False)
    rest = text.removeprefix("http://").removeprefix("https://")
    name, port = _split_port(rest)
    domain = name.startswith("*.")
    try:
        host = normal(name.removeprefix("*.")) if name else ""
    except ValueError:
        host = ""
    labels = host.split(".")
    is_name = _is_name(host) and not _NUMBER.match(labels[-1])
    if port is None or not (is_name or (_is_address(host) and not domain)) or (domain and len(labels) < 2):
        raise UsageError(
            f"{text!r} is no host for a list of hosts: write api.example.org, *.example.org or an IP address, "
            "with :PORT if need be."
        )
    return _Pattern(f".{host}" if domain else host, port, text.startswith("http://"))


def _split_port(text: str) -> tuple[str, int | None]:
    """Name and port; 0 without a port, None for one that is none."""
    if text.startswith("["):
        name, _, tail = text[1:].partition("]")
    elif text.count(":") > 1:  # an IPv6 address without brackets
        return text, 0
    else:
        name, colon, number = text.partition(":")
        tail = colon + number
    if not tail:
        return name, 0
    number = tail.removeprefix(":")
    return name, int(number) if number.isascii() and number.isdecimal() and 0 < int(number) < 65536 else None


def _is_name(host: str) -> bool:
    return all(_LABEL.match(label) for label in host.split("."))


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
