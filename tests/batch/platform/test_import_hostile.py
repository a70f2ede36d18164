"""Imports from a platform whose rows are invalid or whose URLs lead into a private network."""

from datetime import timedelta
from typing import Any

import pytest

from headrace.batch.platform import alerts
from headrace.batch.platform.boxes import Generation
from tests.batch.platform.alert_server import FIRST_DAY, PER_DAY, SEQUENCES
from tests.batch.platform.api_server import Fault
from tests.batch.platform.import_world import ImportWorld, numbers

pytestmark = pytest.mark.server


def test_a_picture_that_cannot_be_had_is_named_without_its_signature(world: ImportWorld) -> None:
    world.platform.faults = [Fault("GET /bucket/20", 500, 9)]
    done = world.run(last=FIRST_DAY.date())
    assert numbers(done)[2] == 1
    assert "/bucket/20" in done.statistics.faults[0]
    assert "canary" not in str(done.statistics)


def test_a_picture_on_a_host_of_this_network_is_not_asked_for(world: ImportWorld) -> None:
    world.networks = ()
    done = world.run(last=FIRST_DAY.date())
    assert numbers(done) == (PER_DAY, 0, PER_DAY, 0)
    assert all(
        "neither public nor in a network listed in HEADRACE_URL_NETWORKS" in fault for fault in done.statistics.faults
    )
    assert world.platform.number_of("GET /bucket") == 0
    assert world.publications == 0
    assert world.annotation.sequences == {}


HOSTILE = [
    "http://169.254.169.254/latest/meta-data?key=canary",
    "http://[::ffff:10.0.0.1]/10",
    "http://[::1",
    "http://0x7f.1/10",
    "http://boss:canary@127.0.0.1/10",
    "http://127.0.0.1:99999/10",
    "file:///etc/passwd",
    "//127.0.0.1/10",
    "10.png",
    "http://a b/",
    "http://\x00/",
    "http://" + "a" * 5000,
    "gopher://127.0.0.1/10",
]


def test_where_the_platform_must_not_lead_nobody_goes_and_the_other_sequences_come(world: ImportWorld) -> None:
    numbers_of = dict(enumerate(HOSTILE, 1))
    world.platform.addresses = {number * 10: url for number, url in numbers_of.items()}
    done = world.run()
    assert numbers(done) == (SEQUENCES, SEQUENCES - len(HOSTILE), len(HOSTILE), SEQUENCES - len(HOSTILE))
    assert "canary" not in str(done.statistics)
    assert not {number * 10 for number in numbers_of} & set(world.published)
    world.platform.addresses = {}
    assert numbers(world.run()) == (SEQUENCES, SEQUENCES, 0, len(HOSTILE))
    assert world.is_whole()


def test_a_detection_without_a_picture_is_named(world: ImportWorld) -> None:
    world.platform.addresses = {20: None}
    done = world.run(last=FIRST_DAY.date())
    if world.platform.generation is Generation.FIRST:
        assert numbers(done) == (PER_DAY, PER_DAY, 0, PER_DAY)
        assert done.statistics.notes == ["sequence 2: imported without detections whose image is missing: 20"]
        assert world.annotation.content()[2][0] == [21, 22]
        return
    assert numbers(done) == (PER_DAY, PER_DAY - 1, 1, PER_DAY - 1)
    assert done.statistics.faults[0].startswith("sequence 2: the platform has no image URL for detection 20")
    assert 2 not in world.annotation.content()


ABSURD: list[dict[str, Any]] = [
    {"started_at": "2026-01-10"},
    {"azimuth": "nan", "camera_azimuth": "nan"},
    {"camera_id": None},
    {"camera_id": 999},
    {"azimuth": "inf", "camera_azimuth": "-inf"},
    {"last_seen_at": "0001-01-01T00:00:00+14:00"},
    {"camera_id": "../1"},
    {"is_wildfire": {"a": 1}},
    {"last_seen_at": 1e300},
]


def test_a_row_that_is_absurd_fails_alone(world: ImportWorld) -> None:
    for row, change in zip(world.platform.sequences, ABSURD, strict=False):
        row.update(change)
    done = world.run()
    failed = len(ABSURD) - 1  # a time is midnight where none is said
    assert numbers(done) == (SEQUENCES, SEQUENCES - failed, failed, SEQUENCES - failed)
    assert all(day.adds_up for day in done.statistics.days)
    assert len(done.statistics.faults) == failed


def test_a_camera_without_a_place_fails_its_own_sequences_only(world: ImportWorld) -> None:
    world.platform.cameras[0]["lat"] = None
    world.platform.organisations.append({"id": 3, "name": None})
    done = world.run()
    assert numbers(done) == (SEQUENCES, 10, 5, 10)
    assert all("lat" in fault for fault in done.statistics.faults)


def test_times_of_detections_that_are_none_fail_their_sequence(world: ImportWorld) -> None:
    world.platform.detections[1][0]["created_at"] = "9999-12-31T23:59:59-14:00"
    world.platform.detections[2][0]["id"] = 2**63
    assert numbers(world.run(last=FIRST_DAY.date())) == (PER_DAY, PER_DAY - 2, 2, PER_DAY - 2)


def test_a_list_that_has_no_end_is_not_read_for_ever(world: ImportWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(alerts, "SEQUENCES_MAX", 20)
    for number in range(100, 120):
        world.platform.add(number, FIRST_DAY + timedelta(hours=1, minutes=number))
    done = world.run()
    assert "more than 20 sequences" in str(done.statistics.days[0].fault)
    assert not done.statistics.complete
    assert done.statistics.days[1].complete
