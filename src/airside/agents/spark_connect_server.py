"""Where a Spark Connect server is, in Spark's own words: `sc://host:15002/;use_ssl=true`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

from airside.model.redaction import hide

PORT = 15002


@dataclass(frozen=True, slots=True)
class Server:
    """Where a server is. `user` is whose sessions are used: a session of another user is another session."""

    host: str
    port: int
    encrypted: bool
    user: str

    @property
    def target(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def url(self) -> str:
        """As lists of hosts take it."""
        return f"{'https' if self.encrypted else 'http'}://{self.target}"

    def __str__(self) -> str:
        return f"sc://{self.target}/;use_ssl={str(self.encrypted).lower()};user_id={self.user}"


def to_server(text: str, *, user: str = "airside") -> Server:
    """The server that an address in Spark's own form names. Raises `ValueError` in words that never show a token.

    >>> to_server("sc://spark.example.org/;use_ssl=true")
    Server(host='spark.example.org', port=15002, encrypted=True, user='airside')
    >>> to_server("sc://spark.example.org/;token=abcdefgh")
    Traceback (most recent call last):
    ValueError: a token is a secret and no part of an address: set the secret spark_connect_token
    """
    try:
        parts = urlsplit(text)
        host, port = parts.hostname or "", parts.port or PORT
    except ValueError as exc:
        raise ValueError(f"not a valid address ({exc})") from None
    if parts.scheme != "sc" or not host:
        raise ValueError("an address begins with sc:// and a host")
    told = dict(_parameters(parts.path.removeprefix("/")))
    if "token" in told or parts.username is not None:
        hide(told.get("token", "") or parts.password or "", passing=True)
        raise ValueError("a token is a secret and no part of an address: set the secret spark_connect_token")
    for name in told:
        if name not in ("use_ssl", "user_id"):
            raise ValueError(f"the parameter {name!r} is not known (known: use_ssl, user_id)")
    if parts.query or parts.fragment or told.get("use_ssl", "true").lower() not in ("true", "false"):
        raise ValueError("write parameters as /;use_ssl=true;user_id=etl")
    return Server(host, port, told.get("use_ssl", "false").lower() == "true", told.get("user_id") or user)


def _parameters(text: str) -> Sequence[tuple[str, str]]:
    pieces = [piece.partition("=") for piece in text.split(";") if piece]
    return [(name, unquote(value)) for name, _, value in pieces]
