"""Whole imports between fake APIs of both generations: what arrives, and what a second run changes."""

from datetime import datetime, timedelta
from pathlib import Path

import pytest

from headrace.batch.platform.boxes import ClusterRule, Generation
from tests.batch.platform.alert_server import FIRST_DAY, PAGE_ROWS_MAX, PER_DAY, SEQUENCES, picture
from tests.batch.platform.import_world import DETECTIONS, ImportWorld, numbers

pytestmark = pytest.mark.server


def test_everything_arrives_and_a_second_run_changes_nothing(world: ImportWorld) -> None:
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


def test_a_second_run_without_the_state_changes_nothing_there_either(world: ImportWorld, tmp_path: Path) -> None:
    world.run()
    content, changes = world.annotation.content(), world.annotation.changes
    world.folder = tmp_path / "another"
    second = world.run()
    assert numbers(second) == (SEQUENCES, SEQUENCES, 0, 0)
    assert (world.annotation.content(), world.annotation.changes) == (content, changes)
    assert world.is_whole()


def test_what_a_record_says_of_its_frame(world: ImportWorld) -> None:
    world.run(last=FIRST_DAY.date())
    body, origin, output = world.published[10]
    assert body == picture(10)
    assert (origin.source_id, origin.site) == ("tower-2", "SDIS 07")
    assert origin.captured_at_us == round(datetime.fromisoformat("2026-01-10T00:01:00+00:00").timestamp()) * 1_000_000
    assert output["organisation"] == {"id": 1, "name": "SDIS 07"}
    assert output["camera"] == {"id": 2, "name": "tower-2", "angle_of_view": 54.2}
    assert output["position"] == {"lat": 44.5, "lon": 6.25, "elevation": 900.0}
    assert output["azimuth"] == (43.4 if world.platform.generation is Generation.FIRST else 0)
    assert output["sequence"]["id"] == 1
    assert output["predictions"][0] == {"xyxyn": [0.1, 0.1, 0.4, 0.5], "confidence": 0.7, "class_name": "smoke"}
    form = next(sequence for sequence in world.annotation.sequences.values() if sequence["alert_api_id"] == 1)
    # The newest annotation API has a sequence for an object, which has the direction of its box.
    assert (form["azimuth"], form["organisation_name"], form["camera_name"], form["lat"]) == (
        "0" if world.platform.generation is Generation.FIRST else "346",
        "SDIS 07",
        "tower-2",
        "44.5",
    )
    assert form["recorded_at"] == "2026-01-10T00:01:00"
    assert form.get("temporal_model_score") == (None if world.platform.generation is Generation.FIRST else "0.42")


def test_boxes_of_a_sequence_become_tracks(world: ImportWorld) -> None:
    world.run(last=FIRST_DAY.date())
    _, tracks = world.annotation.content()[1]
    expected = [[10, 11, 12], [10, 11, 12]] if world.platform.generation is Generation.FIRST else [[10, 11, 12]]
    assert [[box[0] for box in track] for track in tracks[:-1]] == expected
    (item,) = [row for row in world.annotation.annotations.values() if row["id"] == 1001]
    assert all(track["is_smoke"] for track in item["annotation"]["sequences_bbox"])


def test_what_is_added_while_pages_are_read_is_imported_too(world: ImportWorld) -> None:
    assert PER_DAY > PAGE_ROWS_MAX
    world.platform.inserted = lambda: world.platform.add(99, FIRST_DAY + timedelta(hours=20))
    done = world.run()
    assert numbers(done) == (SEQUENCES + 1, SEQUENCES + 1, 0, SEQUENCES + 1)
    assert world.is_whole()


def test_a_sequence_that_went_on_is_completed_and_annotated_anew(world: ImportWorld) -> None:
    world.run()
    row = world.platform.sequences[0]
    row["last_seen_at"] = (FIRST_DAY + timedelta(minutes=9)).isoformat()
    world.platform.detections[1].append(world.platform._detection(15, FIRST_DAY + timedelta(minutes=9)))
    done = world.run()
    assert numbers(done) == (SEQUENCES, SEQUENCES, 0, 1)
    assert (done.statistics.annotations_overwritten, done.statistics.detections_uploaded) == (1, 1)
    assert world.publications == DETECTIONS + 1
    assert world.is_whole()


def test_what_a_person_finished_is_overwritten_unless_it_is_to_be_kept(world: ImportWorld, tmp_path: Path) -> None:
    world.run(last=FIRST_DAY.date())
    annotation = next(iter(world.annotation.annotations.values()))
    annotation["processing_stage"] = "annotated"
    world.folder = tmp_path / "another"
    assert world.run(last=FIRST_DAY.date(), keep_annotated=True).statistics.annotations_overwritten == 0
    assert annotation["processing_stage"] == "annotated"
    world.folder = tmp_path / "a third"
    assert world.run(last=FIRST_DAY.date()).statistics.annotations_overwritten == 1
    assert annotation["processing_stage"] == "ready_to_annotate"


def test_an_annotation_that_loses_all_its_tracks_is_not_clustered_by_the_servers_defaults(world: ImportWorld) -> None:
    world.run(last=FIRST_DAY.date())
    done = world.run(last=FIRST_DAY.date(), rule=ClusterRule(confidence_threshold=0.95))
    assert done.statistics.faults == []
    assert done.statistics.annotations_overwritten == PER_DAY
    assert [tracks for _, tracks in world.annotation.content().values()] == [["ready_to_annotate"]] * PER_DAY


def test_a_dry_run_says_what_would_come_and_writes_nothing(world: ImportWorld) -> None:
    dry = world.run(last=FIRST_DAY.date(), dry_run=True)
    assert world.annotation.asked == ["POST /auth/login", "GET /openapi.json"]
    assert (world.publications, list(world.folder.iterdir())) == (0, [])
    assert numbers(dry) == (PER_DAY, PER_DAY, 0, PER_DAY)
    planned = {
        item.sequence_id: [[(box.detection_id, *box.box.xyxyn) for box in members] for members in item.clusters]
        for item in dry.planned
    }
    world.run(last=FIRST_DAY.date())
    assert {number: tracks[:-1] for number, (_, tracks) in world.annotation.content().items()} == planned


def test_without_the_platform_what_is_there_is_annotated_again(world: ImportWorld) -> None:
    world.run(last=FIRST_DAY.date())
    world.annotation.annotations.clear()
    asked = len(world.platform.asked)
    done = world.run(platform_url=None, last=FIRST_DAY.date())
    assert numbers(done) == (PER_DAY, PER_DAY, 0, PER_DAY)
    assert len(world.platform.asked) == asked
    assert numbers(world.run(platform_url=None, last=FIRST_DAY.date())) == (PER_DAY, PER_DAY, 0, 0)


def test_boxes_of_one_picture_are_joined_as_before_when_annotated_again(world: ImportWorld) -> None:
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


def test_a_picture_with_several_rows_is_uploaded_once_with_all_its_boxes(world: ImportWorld) -> None:
    rows = world.platform.detections[1]
    rows.append(rows[0] | {"id": 19, "bbox": "[(0.700,0.700,0.900,0.900,0.8)]", "others_bboxes": rows[0].get("bbox")})
    world.run(last=FIRST_DAY.date(), detections_max=3)
    first = world.platform.generation is Generation.FIRST
    assert world.annotation.content()[1][0] == ([10, 11, 19] if first else [10, 11, 12])
    if not first:
        (uploaded,) = [
            detection for detection in world.annotation.detections.values() if detection["alert_api_id"] == 10
        ]
        assert [prediction["xyxyn"] for prediction in uploaded["algo_predictions"]["predictions"]] == [
            [0.1, 0.1, 0.4, 0.5],
        ]  # the other box is seen once only, which makes no object
        assert uploaded["others_bboxes"] is None


def test_more_detections_than_a_page_has_are_read_page_by_page(world: ImportWorld) -> None:
    begin = FIRST_DAY + timedelta(minutes=1)
    world.platform.detections[1] = [
        world.platform._detection(1_000_000 + number, begin + timedelta(seconds=number)) for number in range(230)
    ]
    done = world.run(last=FIRST_DAY.date(), detections_max=220, dry_run=True)
    (planned,) = [item for item in done.planned if item.sequence_id == 1]
    ids = {box.detection_id for members in planned.clusters for box in members}
    expected = 100 if world.platform.generation is Generation.FIRST else 220
    assert ids == set(range(1_000_000, 1_000_000 + expected))


def test_no_more_detections_are_asked_for_than_wanted(world: ImportWorld) -> None:
    """The older platform looks for the image of every row that it is asked for."""
    world.platform.detections[1] += [
        world.platform._detection(1_000 + number, FIRST_DAY + timedelta(minutes=2, seconds=number))
        for number in range(40)
    ]
    world.platform.lost = {1_039}
    done = world.run(last=FIRST_DAY.date())
    assert numbers(done)[:3] == (PER_DAY, PER_DAY, 0)
    assert len(world.annotation.content()[1][0]) == 30


def test_a_cap_of_the_platform_is_said(world: ImportWorld) -> None:
    world.platform.detections[1] += [
        world.platform._detection(1_000 + number, FIRST_DAY + timedelta(minutes=2, seconds=number))
        for number in range(120)
    ]
    done = world.run(last=FIRST_DAY.date(), detections_max=110, dry_run=True)
    capped = ["sequence 1: the platform returns at most 100 detections of a sequence"]
    assert done.statistics.notes == (capped if world.platform.generation is Generation.FIRST else [])


def test_a_picture_that_is_gone_costs_the_older_apis_one_detection(world: ImportWorld) -> None:
    if world.platform.generation is Generation.SECOND:
        return
    world.platform.lost = {11}
    done = world.run(last=FIRST_DAY.date())
    assert numbers(done) == (PER_DAY, PER_DAY, 0, PER_DAY)
    assert world.annotation.content()[1][0] == [10, 12]
    assert "image is missing" in done.statistics.notes[0]
    world.platform.lost = set()
    assert world.run(last=FIRST_DAY.date()).statistics.detections_uploaded == 1
    assert world.annotation.content()[1][0] == [10, 11, 12]


def test_a_sequence_without_detections_leaves_nothing_behind(world: ImportWorld) -> None:
    world.platform.detections[1] = []
    done = world.run(last=FIRST_DAY.date())
    assert numbers(done) == (PER_DAY, PER_DAY, 0, PER_DAY - 1)
    assert (done.statistics.sequences_empty, done.statistics.complete) == (1, True)
    assert 1 not in world.annotation.content()


def test_without_the_platform_every_source_is_annotated_again(world: ImportWorld) -> None:
    world.run(last=FIRST_DAY.date())
    next(iter(world.annotation.sequences.values()))["source_api"] = "alert_wildfire"
    world.annotation.annotations.clear()
    assert numbers(world.run(platform_url=None, last=FIRST_DAY.date())) == (PER_DAY, PER_DAY, 0, PER_DAY)


def test_a_limit_takes_the_first_or_the_last_detections(world: ImportWorld) -> None:
    world.run(last=FIRST_DAY.date(), detections_max=2)
    assert world.annotation.content()[1][0] == [10, 11]
    world.run(last=FIRST_DAY.date(), detections_max=2, newest_first=True)
    assert world.annotation.content()[1][0] == [10, 11, 12]


def test_what_the_platform_holds_for_unlikely_is_imported_too(world: ImportWorld) -> None:
    world.platform.unlikely = {2, 3}
    assert numbers(world.run()) == (SEQUENCES, SEQUENCES, 0, SEQUENCES)
    assert world.is_whole()


def test_an_api_whose_labels_are_yes_or_no_is_given_those(world: ImportWorld) -> None:
    world.annotation.labels_have_names = False
    assert numbers(world.run()) == (SEQUENCES, SEQUENCES, 0, SEQUENCES)
    labels = {row["alert_api_id"]: row.get("is_wildfire_alertapi") for row in world.annotation.sequences.values()}
    assert (labels[1], labels[2], labels[3]) == ("true", "false", None)


def test_a_sequence_over_midnight_is_of_the_day_on_which_it_began(world: ImportWorld) -> None:
    world.platform.add(99, FIRST_DAY + timedelta(hours=23, minutes=59, seconds=50))
    assert str(world.platform.detections[99][2]["created_at"]).startswith("2026-01-11")
    assert numbers(world.run(last=FIRST_DAY.date())) == (PER_DAY + 1, PER_DAY + 1, 0, PER_DAY + 1)
    assert world.annotation.content()[99][0] == [990, 991, 992]
    world.annotation.annotations.clear()
    assert numbers(world.run(platform_url=None, last=FIRST_DAY.date())) == (PER_DAY + 1, PER_DAY + 1, 0, PER_DAY + 1)
