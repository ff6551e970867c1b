"""Where a request may go: which hosts, and at which addresses.

Tasks come from anybody who may run one, and the service stands inside the network. So the addresses of a host are
looked up once and all of them are checked, and the connection goes to a checked address, whatever the name server
says a moment later.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Sequence

from airside.model import Fail, Retry, UsageError
from airside.sdk.hosts import HostAllowList

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_TRANSLATED = ipaddress.ip_network("64:ff9b::/96")  # IPv4 behind a NAT64 gateway
# Not on the internet either, though Python (some versions, or all) takes them for global.
_INSIDE = tuple(
    ipaddress.ip_network(network)
    for network in (
        "192.0.0.0/24",  # protocol assignments
        "::/96",  # IPv4 in an IPv6 address, the oldest way
        "64:ff9b:1::/48",  # IPv4 behind a NAT64 gateway of one's own
        "fec0::/10",  # site-local
    )
)
_UNKNOWN_NAME = (socket.EAI_NONAME, getattr(socket, "EAI_NODATA", socket.EAI_NONAME))


def is_public(address: Address) -> bool:
    """True for an address on the internet: not private, loopback, link-local, multicast or reserved.

    >>> [is_public(ipaddress.ip_address(a)) for a in ("8.8.8.8", "127.0.0.1", "169.254.169.254", "::ffff:10.0.0.1")]
    [True, False, False, False]
    """
    inner = _inner(address)
    if inner is not None:
        return is_public(inner)
    return address.is_global and not address.is_multicast and not any(address in network for network in _INSIDE)


class Destinations:
    """The places that requests may go to.

    `hosts` are the hosts that may be called at all, `*` for all; `private` are the hosts, addresses and networks that
    may be called although they are not on the internet. `agent` is whose options these are.
    """

    def __init__(self, hosts: Sequence[str], private: Sequence[str], agent: str = "webhook") -> None:
        self._agent = agent
        self._hosts = HostAllowList(hosts, may_be_every=True)
        self._networks = tuple(network for entry in private if (network := _network(entry)) is not None)
        self._private = HostAllowList([entry for entry in private if _network(entry) is None], may_be_every=True)

    def is_private_host(self, host: str, port: int) -> bool:
        """True if the operator named this host, or the address that it is, as a private one that may be called."""
        if self._private.includes(host, port):
            return True
        try:
            address = ipaddress.ip_address(host)
        except ValueError:
            return False
        return self._is_named(address)

    async def addresses(self, host: str, port: int) -> list[str]:
        """The addresses of a host, every one of them allowed.

        Raises `Fail` if the host or one address is not allowed, or if there is no such host; `Retry` if the name
        server does not answer.
        """
        if not self._hosts.includes(host, port):
            raise Fail(f"The host {host} is not among the {self._agent} agent's `hosts`.", code="HostNotAllowed")
        found = await _look_up(host, port)
        for address in found:
            if not (is_public(address) or self._is_named(address) or self._private.includes(host, port)):
                raise Fail(
                    f"The host {host} has the address {address}, which is not on the internet; an operator may allow "
                    f"it in the {self._agent} agent's `private_hosts`.",
                    code="HostNotAllowed",
                )
        return [str(address) for address in found]

    def _is_named(self, address: Address) -> bool:
        inner = _inner(address) or address
        return any(inner.version == network.version and inner in network for network in self._networks)


async def _look_up(host: str, port: int) -> list[Address]:
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except socket.gaierror as exc:
        if exc.errno in _UNKNOWN_NAME:
            raise Fail(f"There is no host {host}.", code="HostNotFound") from exc
        raise Retry(f"The name server does not answer for {host}: {exc.strerror}.") from exc
    except UnicodeError as exc:
        raise Fail(f"{host!r} is not the name of a host.", code="HostNotFound") from exc
    return list(dict.fromkeys(ipaddress.ip_address(str(entry[4][0])) for entry in found))


def _inner(address: Address) -> ipaddress.IPv4Address | None:
    """The IPv4 address that an IPv6 address stands for."""
    if isinstance(address, ipaddress.IPv4Address):
        return None
    if address in _TRANSLATED:
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return address.ipv4_mapped or address.sixtofour or (address.teredo[1] if address.teredo else None)


def _network(entry: str) -> Network | None:
    """The network that an entry of a list names, or None for a host name."""
    try:
        return ipaddress.ip_network(entry, strict=False)
    except ValueError:
        if "/" in entry or not entry:
            raise UsageError(f"{entry!r} is neither a host, nor an address, nor a network like 10.0.0.0/8.") from None
        return None
