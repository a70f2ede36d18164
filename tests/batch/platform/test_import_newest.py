"""Imports into the newest annotation API: a sequence for each object, scores, parked alerts, and fetched images."""

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from headrace.batch.platform.boxes import Generation
from headrace.batch.platform.objects import SIBLING_ID_BASE
from headrace.batch.platform.options import ImageTransfer
from headrace.runtime.errors import HeadraceError
from tests.batch.platform.alert_server import FIRST_DAY, PER_DAY, PlatformServer
from tests.batch.platform.annotation_server import AnnotationServer
from tests.batch.platform.api_server import Fault, served
from tests.batch.platform.import_world import ImportWorld, numbers

pytestmark = pytest.mark.server

DAY = FIRST_DAY.date()
AWAY = "(0.700,0.700,0.900,0.900,0.8)"


@pytest.fixture
def newest(tmp_path: Path, credentials: None) -> Iterator[ImportWorld]:
    platform = PlatformServer(Generation.SECOND, has_siblings=True)
    made = ImportWorld(platform, AnnotationServer(Generation.SECOND), tmp_path)
    with served(made.platform, made.annotation):
        yield made


def sibling(number: int, position: int = 1) -> int:
    return SIBLING_ID_BASE + number * 1000 + position


def test_each_object_becomes_a_sequence_with_its_direction_and_one_track(newest: ImportWorld) -> None:
    done = newest.run(last=DAY)
    assert numbers(done) == (PER_DAY, PER_DAY, 0, 2 * PER_DAY)
    content = newest.annotation.content()
    assert set(content) == {*range(1, PER_DAY + 1), *map(sibling, range(1, PER_DAY + 1))}
    by_alert = {row["alert_api_id"]: row for row in newest.annotation.sequences.values()}
    first, second = by_alert[1], by_alert[sibling(1)]
    assert (first["platform_alert_id"], second["platform_alert_id"]) == (1, 1)
    # 54.2 degrees around 359.7; the boxes' centres are at 0.25 and 0.8 of the image.
    assert (first["azimuth"], second["azimuth"]) == ("346", "16")
    assert (first.get("temporal_model_score"), second.get("temporal_model_score")) == ("0.42", None)
    assert (second["recorded_at"], second["last_seen_at"]) == ("2026-01-10T00:01:00", "2026-01-10T00:01:40")
    (track, _stage) = content[sibling(1)][1]
    assert track == [(number, 0.7, 0.7, 0.9, 0.9) for number in (10, 11, 12)]
    detection = next(row for row in newest.annotation.detections.values() if row["alert_api_id"] == 10)
    assert [box["xyxyn"] for box in detection["others_bboxes"]["predictions"]] == [[0.7, 0.7, 0.9, 0.9]]
    assert newest.publications == 3 * PER_DAY
    assert newest.platform.number_of("GET /bucket") == 3 * PER_DAY


def test_a_second_run_changes_nothing_with_or_without_the_state(newest: ImportWorld, tmp_path: Path) -> None:
    newest.run()
    content = newest.annotation.content()
    assert newest.run().statistics.annotations_created == 0
    newest.folder = tmp_path / "another"
    done = newest.run()
    assert (done.statistics.annotations_created, done.statistics.failed) == (0, 0)
    assert newest.annotation.content() == content
    assert newest.run(platform_url=None).statistics.annotations_created == 0


def test_a_dry_run_shows_the_objects(newest: ImportWorld) -> None:
    dry = newest.run(last=DAY, dry_run=True)
    assert numbers(dry) == (PER_DAY, PER_DAY, 0, 2 * PER_DAY)
    assert newest.annotation.changes == 0
    assert {item.sequence_id for item in dry.planned} >= {1, sibling(1)}


def test_an_overlap_threshold_of_zero_joins_as_any_other(newest: ImportWorld) -> None:
    """The newest importer has no such threshold: an object is what overlaps at all."""
    newest.run(last=DAY)
    content = newest.annotation.content()
    newest.annotation.annotations.clear()
    newest.run(last=DAY, platform_url=None)
    assert newest.annotation.content() == content


def test_an_object_that_the_platform_has_made_a_sequence_is_not_imported_twice(newest: ImportWorld) -> None:
    for own, other in zip(newest.platform.detections[1], newest.platform.detections[2], strict=True):
        other |= {"bbox": f"[{AWAY}]", "others_bboxes": own["bbox"], "bucket_key": own["bucket_key"]}
    newest.run(last=DAY)
    content = newest.annotation.content()
    assert sibling(1) not in content
    assert sibling(2) not in content
    assert [box[0] for box in content[2][1][0]] == [20, 21, 22]
    assert sibling(3) in content


def test_a_picture_of_two_sequences_names_both(newest: ImportWorld) -> None:
    for own, other in zip(newest.platform.detections[1], newest.platform.detections[2], strict=True):
        other["bucket_key"] = own["bucket_key"]
    newest.run(last=DAY)
    for number in (10, 20):
        assert newest.published[number][2]["sequences"] == [{"id": 1, "detection": 10}, {"id": 2, "detection": 20}]


def test_scores_are_refreshed_and_never_erased_for_want_of_knowledge(newest: ImportWorld) -> None:
    newest.run(last=DAY)
    newest.platform.sequences[0]["temporal_model_score"] = 0.9
    del newest.platform.sequences[1]["temporal_model_score"]  # an older platform does not say
    done = newest.run(last=DAY)
    by_alert = {row["alert_api_id"]: row for row in newest.annotation.sequences.values()}
    assert by_alert[1]["temporal_model_score"] == 0.9
    assert by_alert[sibling(1)]["temporal_model_score"] is None
    assert by_alert[2]["temporal_model_score"] == "0.42"
    assert done.statistics.scores_refreshed == 2


def test_an_alert_without_boxes_is_parked_once(newest: ImportWorld) -> None:
    for row in newest.platform.detections[1]:
        row |= {"bbox": "[]", "others_bboxes": "[]"}
    done = newest.run(last=DAY)
    assert newest.annotation.parked == {("pyronear_french", 1)}
    assert done.statistics.alerts_parked == 1
    newest.platform.sequences[0]["last_seen_at"] = (FIRST_DAY + timedelta(minutes=9)).isoformat()
    again = newest.run(last=DAY)
    assert (again.statistics.alerts_parked, again.statistics.failed, again.statistics.notes) == (0, 0, [])


@pytest.mark.parametrize("path", ["POST /detections", "POST /annotations"])
def test_a_new_sequence_that_is_not_complete_is_rolled_back(newest: ImportWorld, path: str) -> None:
    newest.annotation.faults = [Fault(path, 422)]
    done = newest.run(last=DAY)
    assert (done.statistics.failed, done.statistics.sequences_rolled_back) == (1, 1)
    assert len(newest.annotation.content()) == 2 * PER_DAY - 1
    assert newest.run(last=DAY).statistics.complete
    assert len(newest.annotation.content()) == 2 * PER_DAY


def test_a_picture_that_is_gone_leaves_nothing_of_its_objects(newest: ImportWorld) -> None:
    newest.platform.lost = {11}
    done = newest.run(last=DAY)
    assert (done.statistics.failed, done.statistics.sequences_rolled_back) == (1, 2)
    assert not {1, sibling(1)} & set(newest.annotation.content())


@pytest.mark.parametrize("transfer", [ImageTransfer.BUCKET_COPY, ImageTransfer.URL])
def test_the_annotation_api_fetches_the_pictures_itself(newest: ImportWorld, transfer: ImageTransfer) -> None:
    done = newest.run(last=DAY, transfer=transfer)
    assert numbers(done) == (PER_DAY, PER_DAY, 0, 2 * PER_DAY)
    fetched = set(newest.annotation.fetched)
    assert ("10.png" if transfer is ImageTransfer.BUCKET_COPY else newest.platform._address(10)) in fetched
    assert newest.annotation.number_of("POST /detections/from-") == 6 * PER_DAY


def test_an_older_annotation_api_cannot_fetch_pictures(world: ImportWorld) -> None:
    if world.annotation.generation is Generation.FIRST:
        with pytest.raises(HeadraceError, match="--image-transfer"):
            world.run(transfer=ImageTransfer.BUCKET_COPY)
        assert world.annotation.changes == 0


def test_only_the_named_sequences_and_no_more_than_the_maximum(newest: ImportWorld) -> None:
    assert newest.run(only=frozenset({3, 7, 99})).statistics.total == 2
    assert set(newest.annotation.content()) == {3, 7, sibling(3), sibling(7)}
    done = newest.run(sequences_max=6)
    assert (done.statistics.total, done.statistics.complete) == (6, True)
    assert [day.fetched for day in done.statistics.days] == [PER_DAY, 1, 0]


def test_a_new_platform_and_an_old_annotation_api_make_one_sequence(tmp_path: Path, credentials: None) -> None:
    platform = PlatformServer(Generation.SECOND, has_siblings=True)
    made = ImportWorld(platform, AnnotationServer(Generation.FIRST), tmp_path)
    with served(made.platform, made.annotation):
        assert numbers(made.run(last=DAY)) == (PER_DAY, PER_DAY, 0, PER_DAY)
        assert set(made.annotation.content()) == set(range(1, PER_DAY + 1))
