"""Ways to spoil a protobuf message: some know its fields, some know bytes only."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

HUGE = (b"\xff" * 9 + b"\x01", b"\xff\xff\xff\xff\x0f", b"\xff" * 12, b"\xff\xff\xff\x7f", b"\x80" * 9 + b"\x00")
WORDS = (
    b"",
    b"\x00",
    b"\xff\xfe",
    "\U0001f600".encode(),
    b"../../etc",
    b"s3://",
    b"\xed\xa0\x80",
    b"A" * 5000,
    b"%s{}",
)


def varint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(0x80 | number & 0x7F)
        number >>= 7
    out.append(number)
    return bytes(out)


def fields(data: bytes) -> list[bytes] | None:
    """The fields of a message, each with its tag; None if these bytes are none."""
    found, at = [], 0
    while at < len(data):
        begin = at
        tag, at = _read(data, at)
        match tag & 7:
            case 0:
                _, at = _read(data, at)
            case 1:
                at += 8
            case 2:
                length, at = _read(data, at)
                at += length
            case 5:
                at += 4
            case _:
                return None
        if at > len(data) or not tag >> 3:
            return None
        found.append(data[begin:at])
    return found


def _read(data: bytes, at: int) -> tuple[int, int]:
    number = shift = 0
    while at < len(data) and shift < 70:
        number |= (data[at] & 0x7F) << shift
        shift += 7
        at += 1
        if not data[at - 1] & 0x80:
            return number, at
    return 0, len(data) + 1


def inside(data: bytes, depth: int, spoil: Callable[[bytes], bytes], where: int) -> bytes:
    """Spoil what is in one of the fields, as deep as messages go or `depth` says; lengths stay right."""
    parts = fields(data)
    nested = [n for n, part in enumerate(parts or ()) if part[0] & 7 == 2]
    if not depth or parts is None or not nested:
        return spoil(data)
    chosen = nested[where % len(nested)]
    tag, at = _read(parts[chosen], 0)
    _, at = _read(parts[chosen], at)
    content = inside(parts[chosen][at:], depth - 1, spoil, where // 7)
    parts[chosen] = varint(tag) + varint(len(content)) + content
    return b"".join(parts)


def flip(data: bytes, where: int, byte: int, _: bytes) -> bytes:
    if not data:
        return bytes((byte,))
    at = where % len(data)
    return data[:at] + bytes((data[at] ^ (byte or 1),)) + data[at + 1 :]


def truncate(data: bytes, where: int, *_: object) -> bytes:
    return data[: where % (len(data) + 1)]


def insert(data: bytes, where: int, _: int, more: bytes) -> bytes:
    at = where % (len(data) + 1)
    return data[:at] + more + data[at:]


def duplicate(data: bytes, where: int, times: int, _: bytes) -> bytes:
    parts = fields(data) or [data]
    at = where % len(parts) if parts else 0
    return b"".join((*parts[: at + 1], *parts[at : at + 1] * (times % 40), *parts[at + 1 :]))


def swap(data: bytes, where: int, other: int, _: bytes) -> bytes:
    parts = fields(data) or [data]
    one, two = where % len(parts), other % len(parts)
    parts[one], parts[two] = parts[two], parts[one]
    return b"".join(parts)


def drop(data: bytes, where: int, *_: object) -> bytes:
    parts = fields(data) or [data]
    del parts[where % len(parts)]
    return b"".join(parts)


def huge(data: bytes, where: int, which: int, _: bytes) -> bytes:
    at = where % (len(data) + 1)
    return data[:at] + HUGE[which % len(HUGE)] + data[at + 1 :]


def renumber(data: bytes, where: int, number: int, _: bytes) -> bytes:
    """Give a field another number or another wire type."""
    parts = fields(data) or [data]
    at = where % len(parts)
    parts[at] = bytes((number % 128,)) + parts[at][1:]
    return b"".join(parts)


def nest(data: bytes, where: int, depth: int, _: bytes) -> bytes:
    """The message within itself, up to 400 times over."""
    for _again in range(depth % 40 * 10):
        data = bytes((((where % 9) + 1) << 3 | 2,)) + varint(len(data)) + data
        if len(data) > 100_000:
            break
    return data


def text(data: bytes, where: int, which: int, _: bytes) -> bytes:
    return insert(b"", 0, 0, WORDS[which % len(WORDS)])


KINDS: Mapping[str, Callable[[bytes, int, int, bytes], bytes]] = {
    one.__name__: one for one in (flip, truncate, insert, duplicate, swap, drop, huge, renumber, nest, text)
}
Mutation = tuple[str, int, int, int, bytes]


def mutated(data: bytes, mutations: Sequence[Mutation]) -> bytes:
    """The message after these mutations: kind, how deep, where, a number, some bytes."""
    for kind, depth, where, number, more in mutations:
        spoil = KINDS[kind]
        data = inside(data, depth, lambda part, s=spoil, w=where, n=number, m=more: s(part, w, n, m), where)  # type: ignore[misc]  # defaults bind the loop's values
    return data[:2_000_000]
