"""Imports from and to APIs that fail, and imports that are killed: nothing is lost, and nothing comes twice."""

import asyncio
import subprocess
import sys
from datetime import date
from pathlib import Path

import pytest

from headrace.batch.platform.api import RequestPolicy
from headrace.batch.platform.boxes import Generation
from headrace.batch.platform.factory import ImportEndpoints, load_credentials, open_import
from headrace.batch.platform.options import ImportOptions
from headrace.runtime.errors import Exit, HeadraceError
from tests.batch.platform.alert_server import FIRST_DAY, PER_DAY, SEQUENCES, picture
from tests.batch.platform.api_server import Fault
from tests.batch.platform.import_program import Silent
from tests.batch.platform.import_world import LAST_DAY, QUICK_RETRIES, ImportWorld, numbers

pytestmark = pytest.mark.server

PROGRAM = Path(__file__).with_name("import_program.py")


def test_one_login_each_and_another_only_when_it_has_ended(world: ImportWorld) -> None:
    world.run(last=FIRST_DAY.date())
    assert sorted(world.platform.logins) == ["boss", "reader"]
    assert world.annotation.logins == ["admin"]
    world.annotation.faults.append(Fault("POST /detections/", 401, times=1))
    world.platform.faults.append(Fault("GET /sequences/", 401, times=1, after=4))
    again = world.run()
    assert numbers(again)[2] == 0
    assert sorted(world.platform.logins) == ["boss", "boss", "reader", "reader", "reader"]
    assert world.annotation.logins == ["admin"] * 3


PASSING = [
    Fault("GET /sequences/all", 502),
    Fault("GET /sequences/", 503, 3, after=5),
    Fault("GET /bucket", 504, 2, after=7),
    # Of two pictures the address has ended once: what is asked for again at once is there.
    Fault("GET /bucket/121", 403),
    Fault("GET /bucket/71", 403),
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
    return [Fault(fault.begins, fault.do, fault.times, fault.after) for fault in faults]


def test_faults_that_pass_are_waited_out_and_nothing_comes_twice(world: ImportWorld) -> None:
    world.platform.faults = again(PASSING)
    world.annotation.faults = again(PASSING_THERE)
    done = world.run()
    assert done.statistics.faults == []
    assert numbers(done) == (SEQUENCES, SEQUENCES, 0, SEQUENCES)
    assert all(fault.times == 0 for fault in [*world.platform.faults, *world.annotation.faults])
    assert world.is_whole()


def test_an_answer_that_does_not_come_in_time_is_asked_for_again(world: ImportWorld) -> None:
    world.platform.faults = [Fault("GET /sequences/all", "stall")]
    world.annotation.faults = [Fault("POST /detections", "stall", 1, after=2)]
    done = world.run(last=FIRST_DAY.date(), policy=RequestPolicy(backoff=QUICK_RETRIES, answer_s_max=1))
    assert numbers(done)[1:] == (PER_DAY, 0, PER_DAY)


@pytest.mark.parametrize("do", ["html", "redirect", "endless", "cut", 500, 404])
def test_what_is_no_answer_is_never_taken_for_one(world: ImportWorld, do: str | int) -> None:
    world.platform.faults = [
        Fault("GET /sequences/all", do, 1, after=1),
        Fault("GET /sequences/14/", do),
        Fault("GET /bucket/130", do, 2),
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
    assert [day.fetched for day in others] == [PER_DAY, PER_DAY]
    assert all(day.adds_up for day in others)
    # What the older platform has lost is left out of a sequence: its list, and a picture.
    is_lost = do == 404 and world.platform.generation is Generation.FIRST
    assert done.statistics.failed == (3 if is_lost else 5)
    world.platform.faults = world.annotation.faults = []
    assert numbers(world.run())[:3] == (SEQUENCES, SEQUENCES, 0)
    assert world.is_whole()


def test_a_day_whose_list_cannot_be_read_is_not_complete_and_the_others_are(world: ImportWorld) -> None:
    world.platform.faults = [Fault("GET /sequences/all", 500, 1, after=3)]  # the second day's list, or its second page
    done = world.run()
    days = done.statistics.days
    broken = [day for day in days if day.fault]
    assert len(broken) == 1
    assert not broken[0].complete
    assert all(day.complete and day.fetched == PER_DAY for day in days if day not in broken)
    assert not done.statistics.complete
    assert str(broken[0].day) in done.statistics.faults[0]
    assert world.run().statistics.complete
    assert world.is_whole()


def test_an_error_is_never_taken_for_data_and_one_sequence_does_not_stop_the_others(world: ImportWorld) -> None:
    world.platform.faults = [Fault("GET /sequences/7/", 500)]
    world.annotation.faults = [Fault("POST /detections", 422, 1, after=20)]
    done = world.run()
    assert numbers(done) == (SEQUENCES, SEQUENCES - 2, 2, SEQUENCES - 2)
    assert len(done.statistics.faults) == 2
    assert not done.statistics.complete
    assert all(day.adds_up for day in done.statistics.days)
    assert numbers(world.run()) == (SEQUENCES, SEQUENCES, 0, 2)
    assert world.is_whole()


@pytest.mark.parametrize("path", ["sequences", "detections", "annotations"])
def test_a_409_that_no_read_confirms_is_a_failure(world: ImportWorld, path: str) -> None:
    world.annotation.faults = [Fault(f"POST /{path}", 409)]
    done = world.run(last=FIRST_DAY.date())
    assert numbers(done) == (PER_DAY, PER_DAY - 1, 1, PER_DAY - 1)
    assert "409" in done.statistics.faults[0]


@pytest.mark.parametrize("ends_after", [1, 25])
def test_a_run_that_is_killed_and_repeated_ends_as_one_that_was_not(
    world: ImportWorld, tmp_path: Path, ends_after: int
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
    assert before | set(world.published) == {row["id"] for rows in world.platform.detections.values() for row in rows}
    world.published |= {number: (picture(number), None, None) for number in before}  # type: ignore[dict-item]
    assert world.is_whole()
    changes = world.annotation.changes
    assert numbers(world.run()) == (SEQUENCES, SEQUENCES, 0, 0)
    assert world.annotation.changes == changes


def test_a_wrong_login_is_named_and_no_secret_is_shown(world: ImportWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLATFORM_ADMIN_PASSWORD", "canary-password")
    with pytest.raises(HeadraceError) as refused:
        world.run()
    assert "PLATFORM_ADMIN_LOGIN" in str(refused.value)
    assert "canary-password" not in str(refused.value)


def test_an_annotation_api_without_a_login_is_used_without_a_token(world: ImportWorld) -> None:
    world.annotation.has_login = False
    assert numbers(world.run()) == (SEQUENCES, SEQUENCES, 0, SEQUENCES)
    assert world.is_whole()
    assert world.annotation.number_of("POST /auth/login") == 1


def test_a_login_that_may_not_read_organizations_is_named(world: ImportWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLATFORM_ADMIN_LOGIN", "reader")
    monkeypatch.setenv("PLATFORM_ADMIN_PASSWORD", "reader-secret")
    with pytest.raises(HeadraceError, match="PLATFORM_ADMIN_LOGIN and PLATFORM_ADMIN_PASSWORD may not GET /org"):
        world.run()


def test_a_detection_whose_picture_was_not_stored_is_sent_again(world: ImportWorld) -> None:
    world.annotation.uploads_fail = 2
    first = world.run(last=FIRST_DAY.date(), workers=1)
    assert 1 <= first.statistics.failed <= 2
    done = world.run()
    assert numbers(done)[:3] == (SEQUENCES, SEQUENCES, 0)
    assert world.is_whole()
    assert len(world.annotation.detections) == 3 * SEQUENCES


def test_a_picture_that_the_annotation_api_has_lost_is_sent_again(world: ImportWorld, tmp_path: Path) -> None:
    world.run()
    world.annotation.lost_images = {"detections/10", "detections/32"}
    world.folder = tmp_path / "another"
    done = world.run()
    assert (done.statistics.failed, done.statistics.detections_uploaded) == (0, 2)
    assert world.is_whole()


def test_what_a_person_annotated_is_not_deleted_for_a_picture_that_was_not_stored(world: ImportWorld) -> None:
    world.run()
    if world.platform.generation is Generation.SECOND:
        return  # it stores the row and the picture at once
    detection = next(row for row in world.annotation.detections.values() if row["alert_api_id"] == 10)
    annotation = next(
        row for row in world.annotation.annotations.values() if row["sequence_id"] == detection["sequence_id"]
    )
    detection["bucket_key"], annotation["processing_stage"] = "", "annotated"
    done = world.run(detections_max=29)
    assert done.statistics.failed == 1
    assert "is annotated" in done.statistics.faults[0]
    assert annotation in world.annotation.annotations.values()


def test_a_login_that_is_refused_in_the_middle_is_not_tried_again(world: ImportWorld) -> None:
    world.platform.faults = [Fault("GET /sequences/", 401, 99, after=4), Fault("POST /login", 401, 99, after=2)]
    done = world.run(workers=1)
    assert world.platform.number_of("POST /login") == 3
    assert done.statistics.failed > 1
    assert all("refuses the login" in fault for fault in done.statistics.faults)


def test_an_api_that_is_not_there_is_named(world: ImportWorld) -> None:
    with pytest.raises(HeadraceError) as away:
        world.run(platform_url="http://127.0.0.1:1")
    assert away.value.exit_code == Exit.UNREACHABLE
    assert "http://127.0.0.1:1" in str(away.value)


def test_only_one_import_between_the_same_two_runs_at_a_time(world: ImportWorld) -> None:
    endpoints = ImportEndpoints(
        platform_url=world.platform.url,
        annotation_url=world.annotation.url,
        credentials=load_credentials(platform_needed=True),
    )
    options = ImportOptions(first=date(2026, 1, 10), last=date(2026, 1, 10), source="pyronear_french")

    async def hold() -> None:
        async with open_import(endpoints, options, Silent(), publish=None, state_folder=world.folder):
            with pytest.raises(HeadraceError, match="running"):
                await asyncio.to_thread(world.run)

    asyncio.run(hold())
