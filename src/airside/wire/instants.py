"""Points and lengths of time: protobuf's Timestamp and Duration, Python's datetime and timedelta."""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from airside.wire.misfit import Misfit, expected

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_FIRST, _LAST = -62_135_596_800, 253_402_300_799  # years 1 to 9999, as protobuf bounds a Timestamp
_LONGEST = 315_576_000_000  # seconds, as protobuf bounds a Duration
_MICROS = 1_000_000


def utc(value: date) -> datetime:
    """A datetime or date as a datetime in UTC; without a timezone it is taken as UTC, a date as its midnight.

    >>> utc(date(2024, 1, 2))
    datetime.datetime(2024, 1, 2, 0, 0, tzinfo=datetime.timezone.utc)
    """
    if not isinstance(value, datetime):
        return datetime.combine(value, time(), UTC)
    if value.utcoffset() is None:
        return value.replace(tzinfo=UTC)
    try:
        return value.astimezone(UTC)
    except OverflowError:
        raise expected("datetime of the years 1 to 9999 in UTC", value) from None


def write_timestamp(into: Timestamp, value: date) -> None:
    """Set `into` to a point in time."""
    since = utc(value) - _EPOCH
    into.seconds = since.days * 86_400 + since.seconds
    into.nanos = since.microseconds * 1000
    into.SetInParent()


def read_timestamp(stamp: Timestamp) -> datetime:
    """The point in time, in UTC, to the microsecond."""
    if not (_FIRST <= stamp.seconds <= _LAST and 0 <= stamp.nanos < 1_000_000_000):
        raise Misfit(f"timestamp out of range: {stamp.seconds} s, {stamp.nanos} ns")
    return _EPOCH + timedelta(seconds=stamp.seconds, microseconds=stamp.nanos // 1000)


def write_duration(into: Duration, value: timedelta) -> None:
    """Set `into` to a length of time; both parts carry its sign."""
    micros = (value.days * 86_400 + value.seconds) * _MICROS + value.microseconds
    seconds, rest = divmod(abs(micros), _MICROS)
    if seconds > _LONGEST:
        raise expected("timedelta of at most 10,000 years", value)
    sign = -1 if micros < 0 else 1
    into.seconds = sign * seconds
    into.nanos = sign * rest * 1000
    into.SetInParent()


def read_duration(duration: Duration) -> timedelta:
    """The length of time, to the microsecond."""
    sign = -1 if duration.nanos < 0 else 1
    try:
        return timedelta(seconds=duration.seconds, microseconds=sign * (abs(duration.nanos) // 1000))
    except OverflowError:
        raise Misfit(f"duration out of range: {duration.seconds} s") from None
