"""Sessions of Snowflake: one for each account, user and credentials, kept between calls, made anew when refused."""

from __future__ import annotations

import hashlib
import re
import threading
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from airside.model import Connection, Fail, UsageError
from airside.model.redaction import hide
from airside.sdk.hosts import HostAllowList
from airside.sdk.secrets import secret

if TYPE_CHECKING:
    from snowflake.connector import SnowflakeConnection

VENDOR_HOSTS = ("*.snowflakecomputing.com", "*.snowflakecomputing.cn")
KEY, PASSPHRASE = "snowflake_private_key", "snowflake_private_key_passphrase"
PASSWORD, TOKEN = "snowflake_password", "snowflake_oauth_token"

_SECRETS = (KEY, PASSPHRASE, PASSWORD, TOKEN)
_MOST_SESSIONS = 64
_ACCOUNT = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*\Z")
_LOGIN, _NETWORK = 20, 30  # seconds


@dataclass(frozen=True, slots=True)
class Account:
    """Whose session, and where its statements run. `host` is empty for Snowflake's own."""

    account: str
    user: str
    database: str = ""
    schema: str = ""
    warehouse: str = ""
    role: str = ""
    host: str = ""
    session_parameters: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where sessions are made, as an operator sets it: all accounts if `accounts` is empty."""

    host: str = ""
    port: int = 443
    protocol: str = "https"
    accounts: tuple[str, ...] = ()
    allowed_hosts: tuple[str, ...] = ()


class Sessions:
    """Gives the session for an account and a connection."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._hosts = HostAllowList([*VENDOR_HOSTS, *place.allowed_hosts])
        self._lock = threading.Lock()
        self._kept: OrderedDict[str, SnowflakeConnection] = OrderedDict()

    def get(self, account: Account, connection: Connection | None) -> SnowflakeConnection:
        """The open session. Raises `Fail` for an account or credentials that cannot be used."""
        self._check(account)
        secrets = credentials(connection)
        name = hashlib.sha256(repr((account, sorted(secrets.items()))).encode()).hexdigest()
        with self._lock:
            session = self._kept.get(name)
            if session is not None and not session.is_closed():
                self._kept.move_to_end(name)
                return session
        made, spare = self._open(account, secrets), []
        with self._lock:
            session = self._kept.setdefault(name, made)
            if session.is_closed():
                session = self._kept[name] = made
            if session is not made:  # another thread was quicker
                spare.append(made)
            while len(self._kept) > _MOST_SESSIONS:
                spare.append(self._kept.popitem(last=False)[1])
        for one in spare:
            one.close()
        return session

    def drop(self, session: SnowflakeConnection) -> None:
        """Log in again next time."""
        with self._lock:
            for name, one in list(self._kept.items()):
                if one is session:
                    del self._kept[name]
        session.close()

    def close(self) -> None:
        """Close the sessions here. At Snowflake they stay, since their end would be that of their queries."""
        with self._lock:
            kept, self._kept = list(self._kept.values()), OrderedDict()
        for session in kept:
            session.close()

    def _check(self, account: Account) -> None:
        if not _ACCOUNT.match(account.account):
            raise Fail(f"{account.account!r} is no account of Snowflake; it looks like myorg-account123.")
        if self._place.accounts and account.account.lower() not in (one.lower() for one in self._place.accounts):
            raise Fail(
                f"The account {account.account} may not be used: an operator may add it to `accounts` "
                "in the settings of the agent.",
                code="AccountNotAllowed",
            )
        if account.host:
            self._hosts.check(f"https://{account.host}/")

    def _open(self, account: Account, secrets: Mapping[str, str]) -> SnowflakeConnection:
        import snowflake.connector

        where: dict[str, Any] = {}
        if account.host or self._place.host:
            where = {"host": account.host or self._place.host}
        if self._place.host and not account.host:
            where |= {"port": self._place.port, "protocol": self._place.protocol}
        told = {
            "account": account.account,
            "user": account.user,
            "database": account.database,
            "schema": account.schema,
            "warehouse": account.warehouse,
            "role": account.role,
        }
        return snowflake.connector.connect(
            **{name: value for name, value in told.items() if value},
            **where,
            **_login(secrets),
            session_parameters={
                "CLIENT_OUT_OF_BAND_TELEMETRY_ENABLED": False,
                "CLIENT_TELEMETRY_ENABLED": False,
                **account.session_parameters,
                "ABORT_DETACHED_QUERY": False,  # a query goes on when the service that started it is gone
            },
            application="airside",
            login_timeout=_LOGIN,
            network_timeout=_NETWORK,
            server_session_keep_alive=True,  # a query outlives the session's end here
        )


def credentials(connection: Connection | None) -> dict[str, str]:
    """The secrets to log in with: the connection's, if it brings any, else this process's own."""
    if connection is not None:
        brought = {name: connection.secrets[name] for name in _SECRETS if connection.secrets.get(name)}
        if brought:
            return brought
    own: dict[str, str] = {}
    for name in _SECRETS:
        try:
            own[name] = secret(name)
        except UsageError:
            continue
    if not {KEY, PASSWORD, TOKEN} & set(own):
        raise Fail(
            f"There are no credentials for Snowflake: set the secret {KEY}, {TOKEN} or {PASSWORD}.",
            code="NoCredentials",
        )
    return own


def _login(secrets: Mapping[str, str]) -> dict[str, Any]:
    for value in secrets.values():
        hide(value, passing=True)
    if KEY in secrets:
        return {"private_key": _private_key(secrets[KEY], secrets.get(PASSPHRASE, ""))}
    if TOKEN in secrets:
        return {"authenticator": "oauth", "token": secrets[TOKEN]}
    if PASSWORD in secrets:
        return {"password": secrets[PASSWORD]}
    raise Fail(f"The connection has no {KEY}, {TOKEN} or {PASSWORD}.", code="NoCredentials")


def _private_key(pem: str, passphrase: str) -> bytes:
    """The key as Snowflake's connector takes it."""
    from cryptography.hazmat.primitives import serialization

    try:
        key = serialization.load_pem_private_key(pem.strip().encode(), passphrase.encode() if passphrase else None)
    except (ValueError, TypeError):
        raise Fail(
            f"The secret {KEY} is not a private key in PEM form, or its passphrase ({PASSPHRASE}) is missing or wrong.",
            code="CredentialsNotUsable",
        ) from None
    return key.private_bytes(
        serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
