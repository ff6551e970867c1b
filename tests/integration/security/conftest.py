"""A certificate authority of one's own, services that trust it, and what they tell."""

from __future__ import annotations

import asyncio
import datetime as dt
import ipaddress
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import grpc.aio
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from airside.agents.echo import EchoAgent
from airside.observe.events import Event
from airside.sdk.adapt import adapt
from airside.server.app import Server
from airside.server.settings import ServerSettings

NOW = dt.datetime.now(dt.UTC)
SETTINGS = ServerSettings(port=0, max_age=0.0, drain_delay=0.0, grace=0.1)


@dataclass(frozen=True)
class Pair:
    """A certificate and its key, as PEM."""

    certificate: bytes
    key: bytes


class Authority:
    """Signs certificates for this machine."""

    def __init__(self, name: str) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        builder = self._builder(self._name, self._key, authority=True)
        self.certificate = builder.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

    def issue(self, name: str = "service") -> Pair:
        """A certificate for 127.0.0.1 and localhost."""
        key = ec.generate_private_key(ec.SECP256R1())
        builder = self._builder(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]), key, authority=False)
        names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
        signed = builder.add_extension(x509.SubjectAlternativeName(names), critical=False).sign(
            self._key, hashes.SHA256()
        )
        pem = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        return Pair(signed.public_bytes(serialization.Encoding.PEM), pem)

    def _builder(
        self, subject: x509.Name, key: ec.EllipticCurvePrivateKey, *, authority: bool
    ) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(NOW - dt.timedelta(hours=1))
            .not_valid_after(NOW + dt.timedelta(hours=1))
            .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
        )


@pytest.fixture(scope="session")
def authority() -> Authority:
    return Authority("ours")


@pytest.fixture(scope="session")
def stranger() -> Authority:
    """An authority that nobody trusts."""
    return Authority("theirs")


@pytest.fixture
def anchor() -> Iterator[list[Any]]:
    """Keeps an object of gRPC alive until the loop is left: with the last one gRPC joins a thread, which blocks."""
    kept: list[Any] = []
    yield kept
    kept.clear()


@dataclass
class Running:
    """A server, and the events that it told."""

    server: Server
    events: list[Event] = field(default_factory=list)

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.server.port}"

    def told(self, what: str, **fields: object) -> list[Event]:
        return [
            event
            for event in self.events
            if event.what == what and all(getattr(event, name) == value for name, value in fields.items())
        ]

    async def until(self, what: str, *, times: int = 1, **fields: object) -> None:
        """Wait until such an event was told so many times: of a refused call, its caller may hear first."""
        async with asyncio.timeout(10):
            while len(self.told(what, **fields)) < times:
                await asyncio.sleep(0.02)


Start = Callable[..., Awaitable[Running]]


@pytest.fixture
async def start(anchor: list[Any]) -> AsyncIterator[Start]:
    """Start a server for these agents (the echo agent if there are none)."""
    anchor.append(grpc.aio.insecure_channel("127.0.0.1:1"))
    started: list[Server] = []

    async def start(*agents: Any, settings: ServerSettings = SETTINGS, **arguments: Any) -> Running:
        events: list[Event] = []
        server = Server(
            [adapt(agent) for agent in agents or (EchoAgent(),)], settings, hooks=[events.append], **arguments
        )
        await server.start()
        started.append(server)
        return Running(server, events)

    yield start
    for server in started:
        await server.stop(drain_delay=0.0)


Connect = Callable[..., grpc.aio.Channel]


@pytest.fixture
async def connect(anchor: list[Any]) -> AsyncIterator[Connect]:
    """Open a channel: plaintext, or TLS with these roots, and with a certificate of one's own."""
    opened = anchor

    def connect(address: str, roots: bytes | None = None, own: Pair | None = None, *, tls: bool = True) -> Any:
        options: Sequence[tuple[str, Any]] = (("grpc.use_local_subchannel_pool", 1), ("grpc.enable_http_proxy", 0))
        if tls:
            credentials = grpc.ssl_channel_credentials(roots, own and own.key, own and own.certificate)
            channel = grpc.aio.secure_channel(address, credentials, options)
        else:
            channel = grpc.aio.insecure_channel(address, options)
        opened.append(channel)
        return channel

    yield connect
    for channel in opened:
        await channel.close(None)


@pytest.fixture
def quick_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Changed files are noticed without a second's wait."""
    monkeypatch.setattr("airside.server.reload.LOOK_AGAIN", 0.02)
