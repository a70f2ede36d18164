"""The times that callers give: every legal form is understood, and what is no time is refused, never taken as now."""

from datetime import UTC, datetime

import orjson
import pytest

from headrace.gateway.uploads.metadata import parse_metadata, required_time_us, time_us
from headrace.schemas.reject import RejectCode, RejectedError

TIME_US = 1_763_950_000_000_000  # 2025-11-24T02:06:40Z
NOW_US = TIME_US + 3_600_000_000


@pytest.mark.parametrize(
    "value",
    [
        "2025-11-24T02:06:40Z",
        "2025-11-24t02:06:40z",
        "2025-11-24 02:06:40Z",
        "2025-11-24T02:06:40.0Z",
        "2025-11-24T02:06:40.000000000Z",
        "2025-11-24T03:06:40+01:00",
        "2025-11-23T21:36:40-04:30",
        "2025-11-24T02:06:40-00:00",
        "2025-11-24T02:06:39.9999999+00:00",
        "2025-11-24T02:06:40",
        "20251124T020640Z",
        1_763_950_000,
        1_763_950_000.0,
        1_763_950_000_000,
        1_763_950_000_000_000,
        "1763950000",
        "1763950000.000",
        "1763950000000",
        " 1763950000000000 ",
        1.76395e12,
    ],
)
def test_a_time_is_understood_in_every_form(value: object) -> None:
    assert time_us(value) == pytest.approx(TIME_US, abs=1)
    context = {"timestamp": value}
    metadata = {"ldo_id": "a", "sensor_data": {}, "prediction": {}, "context": context}
    assert parse_metadata(orjson.dumps(metadata).decode(), NOW_US).captured_at_us == pytest.approx(TIME_US, abs=1)


def test_a_leap_second_and_fractions_are_understood() -> None:
    assert time_us("2016-12-31T23:59:60Z") == datetime(2017, 1, 1, tzinfo=UTC).timestamp() * 1_000_000
    assert time_us("2025-11-24T02:06:40.123456789Z") == TIME_US + 123_456
    assert time_us("1763950000.25") == time_us(1_763_950_000_250) == TIME_US + 250_000


@pytest.mark.parametrize(
    "value",
    [
        "yesterday",
        "2025-13-01T00:00:00Z",
        "2025-11-24T25:00:00Z",
        "24.11.2025",
        True,
        [],
        {},
        float("inf"),
        10**18,
        "9" * 30,
        "1e400",
        "nan",
    ],
)
def test_what_is_no_time_is_refused(value: object) -> None:
    assert time_us(value) is None
    with pytest.raises(RejectedError, match="captured_at must be a time"):
        required_time_us(value, "captured_at")


@pytest.mark.parametrize("name", ["captured_at", "timestamp"])
@pytest.mark.parametrize("value", ["shift 2", 12, "1999-01-01T00:00:00Z", "2027-01-01T00:00:00Z", False])
def test_a_time_in_the_context_that_cannot_be_right_is_refused(name: str, value: object) -> None:
    metadata = {"ldo_id": "a", "sensor_data": {}, "prediction": {}, "context": {name: value}}
    with pytest.raises(RejectedError) as rejected:
        parse_metadata(orjson.dumps(metadata).decode(), NOW_US)
    assert rejected.value.code is RejectCode.ABSURD_TIME


def test_without_a_time_it_is_not_given() -> None:
    metadata = {"ldo_id": "a", "sensor_data": {}, "prediction": {}, "context": {"timestamp": None, "captured_at": ""}}
    assert parse_metadata(orjson.dumps(metadata).decode(), NOW_US).captured_at_us is None
