"""One field of a message, put together from bytes that are serialised already."""

from __future__ import annotations

_SHORT = tuple(bytes((number,)) for number in range(0x80))


def frame(number: int, payload: bytes) -> bytes:
    """The length-delimited field `number` (a message, a string or bytes) with this payload.

    Serialised fields, one after the other, are a serialised message.

    >>> frame(2, b"abc")
    b'\\x12\\x03abc'
    """
    size = len(payload)
    if number < 0x10 and size < 0x80:
        return _SHORT[number << 3 | 2] + _SHORT[size] + payload
    return _varint(number << 3 | 2) + _varint(size) + payload


def _varint(number: int) -> bytes:
    if number < 0x80:
        return _SHORT[number]
    if number < 0x4000:
        return bytes((number & 0x7F | 0x80, number >> 7))
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)
