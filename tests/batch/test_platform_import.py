"""Whole imports between servers of both generations, with everything going wrong that is known to go wrong."""

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any

import orjson
import pytest

from headrace.batch.platform import Between, Import, ImportOptions, RetryTimes, alerts, load_credentials, opened
from headrace.batch.platform.clusters import Generation
from headrace.runtime.addresses import Network, networks_of
from headrace.runtime.errors import Exit, HeadraceError
from headrace.schemas.events import Origin
from tests.batch.import_program import Silent
from tests.batch.platform_servers import (
    DAYS,
    FIRST_DAY,
    PAGE_ROWS_MAX,
    SEQUENCES,
    AnnotationServer,
    Fault,
    PlatformServer,
    picture,
    served,
)

LAST_DAY = (FIRST_DAY + timedelta(days=DAYS - 1)).date()
PROGRAM = Path(__file__).with_name("import_program.py")
DETECTIONS = 3 * SEQUENCES
PATIENT = RetryTimes(delay_s=0.01, answer_s_max=5)


@dataclass
class World:
    """The two servers, and what was published here: by detection, the picture and its attributes."""

    platform: PlatformServer
    annotation: AnnotationServer
    folder: Path
    published: dict[int, tuple[bytes, Origin, Any]] = field(default_factory=dict)
    publications: int = 0
    networks: Sequence[Network] = networks_of("127.0.0.0/8")

    async def _publish(self, body: bytes, origin: Origin, attributes: bytes) -> None:
        self.publications += 1
        self.published[origin.sequence] = body, origin, orjson.loads(attributes)

    def run(self, *, patience: RetryTimes = PATIENT, platform_url: str | None = "", **changes: Any) -> Import:
        between = Between(
            platform_url=self.platform.url if platform_url == "" else platform_url,
            annotation_url=self.annotation.url,
            credentials=load_credentials(platform_needed=True),
            patience=patience,
            networks=self.networks,
        )
        options = ImportOptions(**{"first": FIRST_DAY.date(), "last": LAST_DAY, "source": "pyronear_french"} | changes)

        async def whole() -> Import:
            async with opened(between, options, Silent(), publish=self._publish, state_folder=self.folder) as one:
                await one.run()
                return one

        return asyncio.run(whole())

    def is_whole(self) -> bool:
        """Whether everything arrived, once."""
        content = self.annotation.content()
        expected = {
            row["id"]: sorted(one["id"] for one in self.platform.detections[row["id"]])
            for row in self.platform.sequences
        }
        assert {number: detections for number, (detections, _) in content.items()} == expected
        assert all(len(tracks) > 1 and tracks[-1] == "ready_to_annotate" for _, tracks in content.values())
        assert {number: body for number, (body, *_) in self.published.items()} == {
            number: picture(number) for numbers in expected.values() for number in numbers
        }
        return True


@pytest.fixture(autouse=True)
def credentials(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if "ANNOTAT" in name or "ALERT_API" in name]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PLATFORM_LOGIN", "reader")
    monkeypatch.setenv("PLATFORM_PASSWORD", "reader-secret")
    monkeypatch.setenv("PLATFORM_ADMIN_LOGIN", "boss")
    monkeypatch.setenv("PLATFORM_ADMIN_PASSWORD", "boss-secret")


@pytest.fixture(params=Generation)
def world(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[World]:
    made = World(PlatformServer(request.param), AnnotationServer(request.param), tmp_path)
    with served(made.platform, made.annotation):
        yield made


def numbers(one: Import) -> tuple[int, int, int, int]:
    said = one.statistics
    return said.total, said.successful, said.failed, said.annotations_created


def test_everything_arrives_and_a_second_run_changes_nothing(world: World) -> None:
    first = world.run()
    assert numbers(first) == (SEQUENCES, SEQUENCES, 0, SEQUENCES)
    assert first.statistics.complete
    assert first.statistics.boxes_dropped == sum(number * 10 % 40 == 0 for number in range(1, SEQUENCES + 1))
    assert world.is_whole()
    content, changes = world.annotation.content(), world.annotation.changes
    second = world.run()
    assert numbers(second) == (SEQUENCES, SEQUENCES, 0, 0)
    assert (world.annotation.content(), world.annotation.changes) == (content, changes)
    assert world.publications == DETECTIONS


def test_a_second_run_without_the_state_changes_nothing_there_either(world: World, tmp_path: Path) -> None:
    world.run()
    content, changes = world.annotation.content(), world.annotation.changes
    world.folder = tmp_path / "another"
    second = world.run()
    assert numbers(second) == (SEQUENCES, SEQUENCES, 0, 0)
    assert (world.annotation.content(), world.annotation.changes) == (content, changes)
    assert world.is_whole()


def test_one_login_each_and_another_only_when_it_has_ended(world: World) -> None:
    world.run(last=FIRST_DAY.date())
    assert sorted(world.platform.logins) == ["boss", "reader"]
    assert world.annotation.logins == ["admin"]
    world.annotation.faults.append(Fault("POST /detections/", 401, times=1))
    world.platform.faults.append(Fault("GET /sequences/", 401, times=1, after=4))
    again = world.run()
    assert numbers(again)[2] == 0
    assert sorted(world.platform.logins) == ["boss", "boss", "reader", "reader", "reader"]
    assert world.annotation.logins == ["admin"] * 3


def test_what_a_record_says_of_its_frame(world: World) -> None:
    world.run(last=FIRST_DAY.date())
    body, origin, said = world.published[10]
    assert body == picture(10)
    assert (origin.source_id, origin.site) == ("tower-2", "SDIS 07")
    assert origin.captured_at_us == round(datetime.fromisoformat("2026-01-10T00:01:00+00:00").timestamp()) * 1_000_000
    assert said["organisation"] == {"id": 1, "name": "SDIS 07"}
    assert said["camera"] == {"id": 2, "name": "tower-2", "angle_of_view": 54.2}
    assert said["position"] == {"lat": 44.5, "lon": 6.25, "elevation": 900.0}
    assert said["azimuth"] == (43.4 if world.platform.generation is Generation.FIRST else 0)
    assert said["sequence"]["id"] == 1
    assert said["predictions"][0] == {"xyxyn": [0.1, 0.1, 0.4, 0.5], "confidence": 0.7, "class_name": "smoke"}
    form = next(one for one in world.annotation.sequences.values() if one["alert_api_id"] == 1)
    assert (form["azimuth"], form["organisation_name"], form["camera_name"], form["lat"]) == (
        "0",
        "SDIS 07",
        "tower-2",
        "44.5",
    )
    assert form["recorded_at"] == "2026-01-10T00:01:00"
    assert form.get("temporal_model_score") == (None if world.platform.generation is Generation.FIRST else "0.42")


def test_boxes_of_a_sequence_become_tracks(world: World) -> None:
    world.run(last=FIRST_DAY.date())
    _, tracks = world.annotation.content()[1]
    expected = [[10, 11, 12], [10, 11, 12]] if world.platform.generation is Generation.FIRST else [[10, 11, 12]]
    assert [[box[0] for box in track] for track in tracks[:-1]] == expected
    (one,) = [row for row in world.annotation.annotations.values() if row["id"] == 1001]
    assert (one["confidence_threshold"], one["iou_threshold"], one["min_cluster_size"]) == (0.0, 0.3, 1)
    assert all(track["is_smoke"] for track in one["annotation"]["sequences_bbox"])


PASSING = [
    Fault("GET /sequences/all", 502),
    Fault("GET /sequences/", 503, 3, after=5),
    Fault("GET /bucket", 504, 2, after=7),
    # Of two pictures the address has ended once: what is asked for again at once is there.
    Fault("GET /bucket/121", 403),
    Fault("GET /bucket/190", 403),
    Fault("GET /cameras", 503, 2),
    Fault("GET /organizations", "lost"),
    Fault("POST /login", 502),
    Fault("GET /bucket", "lost", 1, after=11),
]
PASSING_THERE = [
    Fault("POST /auth", 503),
    Fault("POST /sequences", "lost", 2, after=3),
    Fault("POST /sequences", 502, 1, after=8),
    Fault("POST /detections", "lost", 3, after=10),
    Fault("POST /detections", 503, 2, after=30),
    Fault("POST /annotations", "lost", 2, after=5),
    Fault("POST /annotations", 504, 2, after=9),
    Fault("GET /annotations", 502, 2, after=2),
]


def again(faults: list[Fault]) -> list[Fault]:
    return [Fault(one.begins, one.do, one.times, one.after) for one in faults]


def test_faults_that_pass_are_waited_out_and_nothing_comes_twice(world: World) -> None:
    world.platform.faults = again(PASSING)
    world.annotation.faults = again(PASSING_THERE)
    done = world.run()
    assert done.statistics.faults == []
    assert numbers(done) == (SEQUENCES, SEQUENCES, 0, SEQUENCES)
    assert all(fault.times == 0 for fault in [*world.platform.faults, *world.annotation.faults])
    assert world.is_whole()


def test_an_answer_that_does_not_come_in_time_is_asked_for_again(world: World) -> None:
    world.platform.faults = [Fault("GET /sequences/all", "stall")]
    world.annotation.faults = [Fault("POST /detections", "stall", 1, after=2)]
    done = world.run(last=FIRST_DAY.date(), patience=RetryTimes(delay_s=0.01, answer_s_max=1))
    assert numbers(done)[1:] == (10, 0, 10)


@pytest.mark.parametrize("do", ["html", "redirect", "endless", "cut", 500, 404])
def test_what_is_no_answer_is_never_taken_for_one(world: World, do: str | int) -> None:
    world.platform.faults = [
        Fault("GET /sequences/all", do, 1, after=1),
        Fault("GET /sequences/25/", do),
        Fault("GET /bucket/260", do, 2),
    ]
    world.annotation.faults = [
        Fault("POST /sequences", do, after=3),
        Fault("POST /detections", do, after=8),
        Fault("POST /annotations", do),
    ]
    done = world.run(workers=1)
    first, *others = done.statistics.days
    assert first.fault
    assert not first.complete
    assert [day.fetched for day in others] == [10, 10]
    assert all(day.adds_up for day in others)
    assert done.statistics.failed == 5
    world.platform.faults = world.annotation.faults = []
    assert numbers(world.run())[:3] == (SEQUENCES, SEQUENCES, 0)
    assert world.is_whole()


def test_a_day_whose_list_cannot_be_read_is_not_complete_and_the_others_are(world: World) -> None:
    world.platform.faults = [Fault("GET /sequences/all", 500, 1, after=3)]  # the second day's list, or its second page
    done = world.run()
    days = done.statistics.days
    broken = [day for day in days if day.fault]
    assert len(broken) == 1
    assert not broken[0].complete
    assert all(day.complete and day.fetched == 10 for day in days if day not in broken)
    assert not done.statistics.complete
    assert str(broken[0].day) in done.statistics.faults[0]
    assert world.run().statistics.complete
    assert world.is_whole()


def test_an_error_is_never_taken_for_data_and_one_sequence_does_not_stop_the_others(world: World) -> None:
    world.platform.faults = [Fault("GET /sequences/7/", 500)]
    world.annotation.faults = [Fault("POST /detections", 422, 1, after=40)]
    done = world.run()
    assert numbers(done) == (SEQUENCES, SEQUENCES - 2, 2, SEQUENCES - 2)
    assert len(done.statistics.faults) == 2
    assert not done.statistics.complete
    assert all(day.adds_up for day in done.statistics.days)
    assert numbers(world.run()) == (SEQUENCES, SEQUENCES, 0, 2)
    assert world.is_whole()


@pytest.mark.parametrize("path", ["sequences", "detections", "annotations"])
def test_a_409_that_no_read_confirms_is_a_failure(world: World, path: str) -> None:
    world.annotation.faults = [Fault(f"POST /{path}", 409)]
    done = world.run(last=FIRST_DAY.date())
    assert numbers(done) == (10, 9, 1, 9)
    assert "409" in done.statistics.faults[0]


def test_what_is_added_while_pages_are_read_is_imported_too(world: World) -> None:
    assert SEQUENCES / DAYS > PAGE_ROWS_MAX
    world.platform.inserted = lambda: world.platform.add(99, FIRST_DAY + timedelta(hours=20))
    done = world.run()
    assert numbers(done) == (SEQUENCES + 1, SEQUENCES + 1, 0, SEQUENCES + 1)
    assert world.is_whole()


def test_a_sequence_that_went_on_is_completed_and_annotated_anew(world: World) -> None:
    world.run()
    row = world.platform.sequences[0]
    row["last_seen_at"] = (FIRST_DAY + timedelta(minutes=9)).isoformat()
    world.platform.detections[1].append(world.platform._detection(15, FIRST_DAY + timedelta(minutes=9)))
    done = world.run()
    assert numbers(done) == (SEQUENCES, SEQUENCES, 0, 0)
    assert (done.statistics.annotations_overwritten, done.statistics.detections_uploaded) == (1, 1)
    assert world.publications == DETECTIONS + 1
    assert world.is_whole()


def test_what_a_person_finished_is_overwritten_unless_it_is_to_be_kept(world: World, tmp_path: Path) -> None:
    world.run(last=FIRST_DAY.date())
    annotation = next(iter(world.annotation.annotations.values()))
    annotation["processing_stage"] = "annotated"
    world.folder = tmp_path / "another"
    assert world.run(last=FIRST_DAY.date(), keep_annotated=True).statistics.annotations_overwritten == 0
    assert annotation["processing_stage"] == "annotated"
    world.folder = tmp_path / "a third"
    assert world.run(last=FIRST_DAY.date()).statistics.annotations_overwritten == 1
    assert annotation["processing_stage"] == "ready_to_annotate"


def test_a_dry_run_says_what_would_come_and_writes_nothing(world: World) -> None:
    dry = world.run(last=FIRST_DAY.date(), dry_run=True)
    assert (world.annotation.asked, world.publications, list(world.folder.iterdir())) == ([], 0, [])
    assert numbers(dry) == (10, 10, 0, 0)
    planned = {
        one.sequence_id: [[(box.detection_id, *box.box.xyxyn) for box in members] for members in one.clusters]
        for one in dry.planned
    }
    world.run(last=FIRST_DAY.date())
    assert {number: tracks[:-1] for number, (_, tracks) in world.annotation.content().items()} == planned


def test_without_the_platform_what_is_there_is_annotated_again(world: World) -> None:
    world.run(last=FIRST_DAY.date())
    world.annotation.annotations.clear()
    asked = len(world.platform.asked)
    done = world.run(platform_url=None, last=FIRST_DAY.date())
    assert numbers(done) == (10, 10, 0, 10)
    assert len(world.platform.asked) == asked
    assert numbers(world.run(platform_url=None, last=FIRST_DAY.date())) == (10, 10, 0, 0)


def test_boxes_of_one_picture_are_joined_as_before_when_annotated_again(world: World) -> None:
    """Only the annotation API's own answers say then which generation it is."""
    for row in world.platform.detections[1]:
        for name in {"bbox", "bboxes"} & set(row):
            row[name] = "[(0.1,0.1,0.5,0.5,0.5),(0.1,0.1,0.45,0.5,0.5)]"
    world.run(last=FIRST_DAY.date())
    content = world.annotation.content()
    world.annotation.annotations.clear()
    world.run(platform_url=None, last=FIRST_DAY.date())
    assert world.annotation.content() == content
    boxes = len(content[1][1][0])
    assert boxes == (6 if world.platform.generation is Generation.FIRST else 3)


def test_a_picture_with_several_rows_is_uploaded_once_with_all_its_boxes(world: World) -> None:
    rows = world.platform.detections[1]
    rows.append(rows[0] | {"id": 19, "bbox": "[(0.700,0.700,0.900,0.900,0.8)]", "others_bboxes": rows[0].get("bbox")})
    world.run(last=FIRST_DAY.date(), detections_max=3)
    first = world.platform.generation is Generation.FIRST
    assert world.annotation.content()[1][0] == ([10, 11, 19] if first else [10, 11, 12])
    if not first:
        (uploaded,) = [one for one in world.annotation.detections.values() if one["alert_api_id"] == 10]
        assert [one["xyxyn"] for one in uploaded["algo_predictions"]["predictions"]] == [
            [0.1, 0.1, 0.4, 0.5],
            [0.7, 0.7, 0.9, 0.9],
        ]
        assert uploaded["others_bboxes"] is None


def test_more_detections_than_a_page_has_are_read_page_by_page(world: World) -> None:
    begin = FIRST_DAY + timedelta(minutes=1)
    world.platform.detections[1] = [
        world.platform._detection(1_000_000 + number, begin + timedelta(seconds=number)) for number in range(230)
    ]
    done = world.run(last=FIRST_DAY.date(), detections_max=220, dry_run=True)
    (planned,) = [one for one in done.planned if one.sequence_id == 1]
    ids = {box.detection_id for members in planned.clusters for box in members}
    expected = 100 if world.platform.generation is Generation.FIRST else 220
    assert ids == set(range(1_000_000, 1_000_000 + expected))


def test_a_limit_takes_the_first_or_the_last_detections(world: World) -> None:
    world.run(last=FIRST_DAY.date(), detections_max=2)
    assert world.annotation.content()[1][0] == [10, 11]
    world.run(last=FIRST_DAY.date(), detections_max=2, newest_first=True)
    assert world.annotation.content()[1][0] == [10, 11, 12]


@pytest.mark.parametrize("ends_after", [1, 50])
def test_a_run_that_is_killed_and_repeated_ends_as_one_that_was_not(
    world: World, tmp_path: Path, ends_after: int
) -> None:
    ended = subprocess.run(
        [
            sys.executable,
            str(PROGRAM),
            world.platform.url,
            world.annotation.url,
            str(tmp_path),
            str(FIRST_DAY.date()),
            str(LAST_DAY),
            str(ends_after),
        ],
        check=False,
        timeout=60,
    )
    assert ended.returncode == 9
    before = {int(line) for line in (tmp_path / "published").read_text().split()}
    done = world.run()
    assert numbers(done)[:3] == (SEQUENCES, SEQUENCES, 0)
    # Of what was published before, at most what was in work when it ended is published again.
    assert len(before & set(world.published)) <= 4
    assert before | set(world.published) == {one["id"] for rows in world.platform.detections.values() for one in rows}
    world.published |= {number: (picture(number), None, None) for number in before}  # type: ignore[dict-item]
    assert world.is_whole()
    changes = world.annotation.changes
    assert numbers(world.run()) == (SEQUENCES, SEQUENCES, 0, 0)
    assert world.annotation.changes == changes


def test_a_wrong_login_is_named_and_no_secret_is_shown(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLATFORM_ADMIN_PASSWORD", "canary-password")
    with pytest.raises(HeadraceError) as refused:
        world.run()
    assert "PLATFORM_ADMIN_LOGIN" in str(refused.value)
    assert "canary-password" not in str(refused.value)


def test_a_picture_that_cannot_be_had_is_named_without_its_signature(world: World) -> None:
    world.platform.faults = [Fault("GET /bucket/20", 500, 9)]
    done = world.run(last=FIRST_DAY.date())
    assert numbers(done)[2] == 1
    assert "/bucket/20" in done.statistics.faults[0]
    assert "canary" not in str(done.statistics)


def test_a_picture_on_a_host_of_this_network_is_not_asked_for(world: World) -> None:
    world.networks = ()
    done = world.run(last=FIRST_DAY.date())
    assert numbers(done) == (10, 0, 10, 0)
    assert all("neither public nor in a listed network" in fault for fault in done.statistics.faults)
    assert world.platform.number_of("GET /bucket") == 0
    assert world.publications == 0


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


def test_where_the_platform_must_not_lead_nobody_goes_and_the_other_sequences_come(world: World) -> None:
    numbers_of = dict(zip(range(1, 11), HOSTILE, strict=False)) | dict(zip(range(11, 21), HOSTILE[10:], strict=False))
    world.platform.addresses = {number * 10: url for number, url in numbers_of.items()}
    done = world.run()
    assert numbers(done) == (SEQUENCES, SEQUENCES - len(HOSTILE), len(HOSTILE), SEQUENCES - len(HOSTILE))
    assert "canary" not in str(done.statistics)
    assert not {number * 10 for number in numbers_of} & set(world.published)
    world.platform.addresses = {}
    assert numbers(world.run()) == (SEQUENCES, SEQUENCES, 0, len(HOSTILE))
    assert world.is_whole()


def test_a_detection_without_a_picture_is_named(world: World) -> None:
    world.platform.addresses = {20: None}
    done = world.run(last=FIRST_DAY.date())
    assert numbers(done) == (10, 9, 1, 9)
    assert done.statistics.faults[0].startswith("sequence 2: the platform names no picture of detection 20")


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


def test_a_row_that_is_absurd_fails_alone(world: World) -> None:
    for row, change in zip(world.platform.sequences, ABSURD, strict=False):
        row.update(change)
    done = world.run(last=FIRST_DAY.date())
    failed = len(ABSURD) - 1  # a time is midnight where none is said
    assert numbers(done) == (10, 10 - failed, failed, 10 - failed)
    assert done.statistics.days[0].adds_up
    assert len(done.statistics.faults) == failed


def test_a_camera_without_a_place_fails_its_own_sequences_only(world: World) -> None:
    world.platform.cameras[0]["lat"] = None
    world.platform.organisations.append({"id": 3, "name": None})
    done = world.run()
    assert numbers(done) == (SEQUENCES, 20, 10, 20)
    assert all("lat" in fault for fault in done.statistics.faults)


def test_times_of_detections_that_are_none_fail_their_sequence(world: World) -> None:
    world.platform.detections[1][0]["created_at"] = "9999-12-31T23:59:59-14:00"
    world.platform.detections[2][0]["id"] = 2**63
    assert numbers(world.run(last=FIRST_DAY.date())) == (10, 8, 2, 8)


def test_what_the_platform_holds_for_unlikely_is_imported_too(world: World) -> None:
    world.platform.unlikely = {2, 3}
    assert numbers(world.run()) == (SEQUENCES, SEQUENCES, 0, SEQUENCES)
    assert world.is_whole()


def test_an_api_whose_labels_are_yes_or_no_is_given_those(world: World) -> None:
    world.annotation.labels_have_names = False
    assert numbers(world.run()) == (SEQUENCES, SEQUENCES, 0, SEQUENCES)
    labels = {row["alert_api_id"]: row.get("is_wildfire_alertapi") for row in world.annotation.sequences.values()}
    assert (labels[1], labels[2], labels[3]) == ("true", "false", None)


def test_a_list_that_has_no_end_is_not_read_for_ever(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(alerts, "SEQUENCES_MAX", 25)
    for number in range(100, 120):
        world.platform.add(number, FIRST_DAY + timedelta(hours=1, minutes=number))
    done = world.run()
    assert "more than 25 sequences" in str(done.statistics.days[0].fault)
    assert not done.statistics.complete
    assert done.statistics.days[1].complete


def test_a_login_that_is_refused_in_the_middle_is_not_tried_again(world: World) -> None:
    world.platform.faults = [Fault("GET /sequences/", 401, 99, after=4), Fault("POST /login", 401, 99, after=2)]
    done = world.run(workers=1)
    assert world.platform.number_of("POST /login") == 3
    assert done.statistics.failed > 1
    assert all("refuses the login" in fault for fault in done.statistics.faults)


def test_a_sequence_over_midnight_is_of_the_day_on_which_it_began(world: World) -> None:
    world.platform.add(99, FIRST_DAY + timedelta(hours=23, minutes=59, seconds=50))
    assert str(world.platform.detections[99][2]["created_at"]).startswith("2026-01-11")
    assert numbers(world.run(last=FIRST_DAY.date())) == (11, 11, 0, 11)
    assert world.annotation.content()[99][0] == [990, 991, 992]
    world.annotation.annotations.clear()
    assert numbers(world.run(platform_url=None, last=FIRST_DAY.date())) == (11, 11, 0, 11)


def test_an_api_that_is_not_there_is_named(world: World) -> None:
    with pytest.raises(HeadraceError) as away:
        world.run(platform_url="http://127.0.0.1:1")
    assert away.value.exit_code == Exit.UNREACHABLE
    assert "http://127.0.0.1:1" in str(away.value)


def test_only_one_import_between_the_same_two_runs_at_a_time(world: World) -> None:
    between = Between(
        platform_url=world.platform.url,
        annotation_url=world.annotation.url,
        credentials=load_credentials(platform_needed=True),
    )
    options = ImportOptions(first=date(2026, 1, 10), last=date(2026, 1, 10), source="pyronear_french")

    async def hold() -> None:
        async with opened(between, options, Silent(), publish=None, state_folder=world.folder):
            with pytest.raises(HeadraceError, match="running"):
                await asyncio.to_thread(world.run)

    asyncio.run(hold())
