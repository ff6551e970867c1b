"""Times, checked against protobuf's own conversions."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta, timezone, tzinfo

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import example, given
from hypothesis import strategies as st

from airside.wire.instants import read_duration, read_timestamp, utc, write_duration, write_timestamp

LONGEST = timedelta(seconds=315_576_000_000)
MOMENTS = st.datetimes(
    datetime(1, 1, 2),  # noqa: DTZ001 - bounds are naive
    datetime(9999, 12, 30),  # noqa: DTZ001 - naive on purpose
    timezones=st.integers(-1439, 1439).map(lambda minutes: timezone(timedelta(minutes=minutes))),
)


@given(MOMENTS)
@example(datetime.min.replace(tzinfo=UTC))
@example(datetime.max.replace(tzinfo=UTC))
@example(datetime(1970, 1, 1, tzinfo=UTC))
@example(datetime(1969, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC))
def test_timestamps_are_those_of_protobuf(moment: datetime) -> None:
    ours, theirs = Timestamp(), Timestamp()
    write_timestamp(ours, moment)
    theirs.FromDatetime(moment)
    assert ours == theirs
    assert read_timestamp(ours) == moment
    assert read_timestamp(ours).tzinfo is UTC


@given(st.timedeltas(-LONGEST, LONGEST))
@example(timedelta())
@example(timedelta(microseconds=-1))
@example(LONGEST)
@example(-LONGEST)
def test_durations_are_those_of_protobuf(length: timedelta) -> None:
    ours, theirs = Duration(), Duration()
    write_duration(ours, length)
    theirs.FromTimedelta(length)
    assert ours == theirs
    assert read_duration(ours) == length


@given(st.integers(-(2**31), 2**31 - 1), st.integers(-999_999_999, 999_999_999))
def test_nanoseconds_are_cut_to_microseconds_as_protobuf_cuts_them(seconds: int, nanos: int) -> None:
    if seconds * nanos >= 0:
        duration = Duration(seconds=seconds, nanos=nanos)
        assert abs(read_duration(duration) - duration.ToTimedelta()) <= timedelta(microseconds=1)
    stamp = Timestamp(seconds=seconds, nanos=abs(nanos))
    assert read_timestamp(stamp) == stamp.ToDatetime(tzinfo=UTC)


def test_what_has_no_timezone_is_utc() -> None:
    class Unknown(tzinfo):
        def utcoffset(self, dt: datetime | None) -> None:
            return None

    for naive in (datetime(2024, 1, 2), datetime(2024, 1, 2, tzinfo=Unknown()), date(2024, 1, 2)):  # noqa: DTZ001
        assert utc(naive) == datetime(2024, 1, 2, tzinfo=UTC)
