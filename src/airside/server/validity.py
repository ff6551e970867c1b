"""How long the certificates in a PEM file are valid."""

from __future__ import annotations

import re
import ssl
from dataclasses import dataclass
from datetime import UTC, datetime

_BLOCK = re.compile(r"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----", re.DOTALL)
_VERSION = 0xA0  # the tags of DER
_UTC_TIME = 0x17


@dataclass(frozen=True, slots=True)
class Validity:
    """The times between which a certificate is valid."""

    begin: datetime
    end: datetime


def validities(pem: str) -> list[Validity]:
    """The validity of each certificate in a PEM text, in its order. Raises `ValueError` for what is no certificate."""
    try:
        return [_read(ssl.PEM_cert_to_DER_cert(block)) for block in _BLOCK.findall(pem)]
    except IndexError as exc:
        raise ValueError("the certificate is cut off") from exc


def _read(der: bytes) -> Validity:
    """A certificate holds, among others: version, serial number, algorithm, issuer, validity (RFC 5280, 4.1)."""
    at = _element(der, _element(der, 0)[1])[1]
    tag, _, end = _element(der, at)
    at = end if tag == _VERSION else at
    for _ in ("serial number", "algorithm", "issuer"):
        at = _element(der, at)[2]
    begin, middle = _time(der, _element(der, at)[1])
    return Validity(begin, _time(der, middle)[0])


def _element(der: bytes, at: int) -> tuple[int, int, int]:
    """The tag of the element at `at`, and where its content begins and ends."""
    tag, length, start = der[at], der[at + 1], at + 2
    if length & 0x80:
        size = length & 0x7F
        length, start = int.from_bytes(der[start : start + size], "big"), start + size
    return tag, start, start + length


def _time(der: bytes, at: int) -> tuple[datetime, int]:
    tag, start, end = _element(der, at)
    text = der[start:end].decode("ascii")
    if tag == _UTC_TIME:  # two digits of the year: 50 is 1950, 49 is 2049
        text = ("19" if text[:2] >= "50" else "20") + text
    return datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC), end
