"""The checker against hand-made observations: each has one thing wrong, and exactly what should turn red does."""

from dataclasses import replace
from time import perf_counter
from uuid import uuid4

import pytest

from headrace.schemas.digest import blob_key
from headrace.schemas.events import Kind
from headrace.schemas.reject import RejectCode
from tests.faults.checker import check
from tests.faults.checker_samples import (
    DAY_US,
    GROWN,
    NOW_US,
    OUTPUT,
    Change,
    ObservationBuilder,
    afterwards,
    announcement,
    blob,
    both,
    bytes_at,
    deleted,
    digest,
    good,
    identity,
    invented,
    learned,
    letter,
    letters,
    live,
    lost,
    place,
    record,
    recorded,
    redriven,
    renumbered,
    sighting,
    swapped,
    unacked_poison,
    watched,
    without_letter,
    without_record,
    without_sighting,
)
from tests.faults.observed import (
    BytesAt,
    Letter,
    Message,
    ReceivedMessages,
    StoredBytes,
    StoredObject,
)

ORPHAN = StoredObject("blobs/sha256/00/00/orphan", 1, NOW_US - 2 * DAY_US)

WRONG: list[tuple[str, str, Change]] = [
    # A row of the catalog is gone, or one too many.
    ("no record", "I1", without_record("b")),
    ("no sighting: the group has passed the message", "I1 I9 I14", without_sighting(1)),
    ("no sighting of a message whose acknowledgement was lost", "I14", without_sighting(4)),
    ("no dead letter", "I1 I14", without_letter),
    ("a record that nobody attempted", "I2 I4", invented),
    (
        "poison that became a record",
        "I2",
        lambda observed: replace(
            observed, sightings=(*observed.sightings, replace(observed.sightings[5], place=place(6)))
        ),
    ),
    (
        "a sighting where no message stands",
        "I2",
        lambda observed: replace(
            observed, sightings=(*observed.sightings, replace(observed.sightings[5], place=place(99)))
        ),
    ),
    (
        "two sightings at one place",
        "I2",
        lambda observed: replace(observed, sightings=(*observed.sightings, observed.sightings[5])),
    ),
    ("a dead letter where no message stands", "I1 I2 I10 I14", letter(place=place(99))),
    (
        "a dead letter of a code that nobody attempted",
        "I2",
        lambda observed: replace(
            letters(replace(observed.dead_letters[0], code=RejectCode.NOT_JSON))(observed), acks=observed.acks[:-1]
        ),
    ),
    ("a dead letter of bytes that nobody attempted", "I2", unacked_poison("other")),
    # Announcements.
    (
        "announced twice, heard live",
        "I3",
        live(
            lambda heard: replace(
                heard, announcements=(*heard.announcements, replace(heard.announcements[-1], place=place(9, OUTPUT)))
            )
        ),
    ),
    (
        "announced twice, heard afterwards",
        "I3",
        afterwards(
            lambda heard: replace(
                heard, announcements=(*heard.announcements, replace(heard.announcements[-1], place=place(9, OUTPUT)))
            )
        ),
    ),
    ("a dead letter announced twice", "I3", live(lambda heard: replace(heard, letters=heard.letters * 2))),
    (
        "not announced to the live reader",
        "I4",
        live(lambda heard: replace(heard, announcements=heard.announcements[:-1])),
    ),
    (
        "not announced to the reader afterwards",
        "I4",
        afterwards(lambda heard: replace(heard, announcements=heard.announcements[1:])),
    ),
    ("a dead letter not announced", "I4", afterwards(lambda heard: replace(heard, letters=()))),
    (
        "an announcement of nothing",
        "I4",
        live(
            lambda heard: replace(
                heard, announcements=(*heard.announcements, announcement(event_id=str(uuid4()))(heard).announcements[0])
            )
        ),
    ),
    ("an announcement that nobody can read", "I4", live(lambda heard: replace(heard, unreadable=("there",)))),
    ("an announcement of another digest", "I4", live(announcement(digest=digest("b")))),
    ("an announcement of another record", "I4", live(announcement(record_id=str(identity("b"))))),
    ("an announcement of another site", "I4", live(announcement(site="elsewhere"))),
    ("an announcement of another source, heard afterwards", "I4", afterwards(announcement(source_id="camera-9"))),
    ("an announcement in another kind's topic", "I4", live(announcement(place(0, "ingested.clips.v1")))),
    *(
        (f"an announcement of another {name}", "I4", live(announcement(**{name: value})))
        for name, value in {
            "captured_at_us": 8,
            "sequence": 9,
            "ingested_at_us": 1,
            "media_type": "image/jpeg",
            "size_bytes": 2,
            "store_key": "blobs/elsewhere",
            "store_offset": 512,
            "width": 5,
            "height": None,
            "duration_us": 1,
            "ldo_id": "x",
            "code": "x",
            "about": "x",
            "attributes": b"{}",
        }.items()
    ),
    ("an announcement of a place where nothing is", "I4 I6", afterwards(announcement(store_key="blobs/elsewhere"))),
    (
        "an announcement of a place where other bytes are",
        "I4 I5",
        both(
            afterwards(announcement(store_key="packs/x", store_offset=512)),
            bytes_at(BytesAt("packs/x", 512, 1), StoredBytes(1, digest("x"))),
        ),
    ),
    # The store.
    (
        "a record of another digest, and announced so",
        "I5",
        both(
            record("a", digest=digest("b")),
            live(announcement(digest=digest("b"), store_key=blob_key(digest("b")))),
            afterwards(announcement(digest=digest("b"), store_key=blob_key(digest("b")))),
        ),
    ),
    ("a record of another kind than was announced", "I4 I5", record("a", kind=Kind.CLIP)),
    *(
        (f"a record with another {name}, announced so", "I5", recorded(**{name: value}))
        for name, value in {
            "captured_at_us": 8,
            "media_type": "image/jpeg",
            "width": 5,
            "height": None,
            "duration_us": 1,
            "attributes": "{}",
        }.items()
    ),
    ("a record of another site, while its own was not told", "I4 I5", recorded(site="elsewhere")),
    ("a record of another sequence, announced so", "I5", renumbered),
    ("bytes that hash to something else", "I5", blob("a", found=StoredBytes(1, digest("x")))),
    ("bytes that are too many", "I5", blob("a", found=StoredBytes(2, digest("a")))),
    ("a row that says another size than its record", "I5", blob("a", size_bytes=2, found=StoredBytes(2, digest("a")))),
    ("no object", "I6", blob("a", found=None)),
    (
        "no row for a record's bytes",
        "I6 I7",
        lambda observed: replace(
            observed, blobs={key: row for key, row in observed.blobs.items() if key != digest("a")}
        ),
    ),
    ("an object that no row names", "I7", lambda observed: replace(observed, objects=(*observed.objects, ORPHAN))),
    (
        "a staged object after its time",
        "I7",
        lambda observed: replace(
            observed,
            objects=(*observed.objects, replace(ORPHAN, key="staging/a/b/c", modified_at_us=NOW_US - 8 * DAY_US)),
        ),
    ),
    # What should have come to rest.
    ("an announcement that waits", "I8", lambda observed: replace(observed, unpublished=1)),
    ("a message that is not committed", "I8", lambda observed: replace(observed, committed={GROWN: 6})),
    ("nothing was ever committed", "I8", lambda observed: replace(observed, committed={})),
    # What a delivery leaves.
    ("a sighting of another record", "I9", sighting(2, record_id=identity("b"))),
    ("a sighting of another source", "I9", sighting(2, source_id="camera-3")),
    ("a sighting of another sequence", "I9", sighting(2, sequence=77)),
    ("a sighting of another site, which would have to be announced", "I4 I9", sighting(2, site="elsewhere")),
    ("a sighting of another time", "I9", sighting(2, captured_at_us=8)),
    (
        "a valid message as a dead letter",
        "I9",
        lambda observed: both(
            without_sighting(5),
            letters(*observed.dead_letters, Letter(uuid4(), "not_json", "no", place(5), b"camera-1", None, b"[]")),
        )(observed),
    ),
    # Dead letters.
    ("a dead letter without its bytes", "I10", letter(value_digest=None)),
    ("a dead letter with another key", "I10", letter(key=b"x")),
    ("a dead letter with other headers", "I10", letter(headers=b'[["a","b"]]')),
    ("a dead letter without a reason", "I10", letter(reason="")),
    ("a dead letter with the wrong reason", "I10", letter(code=RejectCode.NOT_JSON)),
    ("a dead letter with another time", "I10", letter(timestamp_us=9)),
    *(
        (
            f"a dead letter announced with another {name}",
            "I10",
            live(lambda heard, change={name: value}: replace(heard, letters=(replace(heard.letters[0], **change),))),
        )
        for name, value in {
            "key": b"x",
            "headers": b"[1]",
            "reason": "x",
            "timestamp_us": 9,
            "rejected_at_us": 9,
        }.items()
    ),
    (
        "a dead letter announced otherwise than it was kept",
        "I10",
        live(lambda heard: replace(heard, letters=(replace(heard.letters[0], value_digest=None),))),
    ),
    ("redriven as a record that is not there", "I10", lambda observed: without_record("e")(redriven(observed))),
    (
        "a redrive without an end",
        "I10 I14",
        lambda observed: replace(
            redriven(observed),
            redrives={key: replace(row, ended=False) for key, row in redriven(observed).redrives.items()},
        ),
    ),
    # What retention deleted.
    ("a message said to be lost that stands there", "I2", lost(1)),
    ("a message that is gone and not said to be lost", "I1 I4 I9", deleted),
    # Order.
    ("a sequence out of order", "I11", lambda observed: replace(sighting(4, sequence=2)(observed))),
    ("seen before what stands ahead of it", "I11", sighting(4, seen_at_us=NOW_US)),
    ("announced in another order than seen", "I11", afterwards(swapped)),
    # What was watched.
    ("a standstill", "I12", watched(i12=("it stood",))),
    ("growth", "I13", watched(i13=("it grew",))),
    ("an offset committed too early while nobody looked", "I14", watched(i14=("too early",))),
]


def test_what_is_right_is_green() -> None:
    result = check(good())
    assert result.ok
    assert result.counts == {f"I{number}": 0 for number in range(1, 15)}
    assert (good().deliveries, good().distinct, good().announced) == (7, 5, 4)


def test_what_was_redriven_is_green() -> None:
    result = check(redriven(good()))
    assert result.ok, result.examples


@pytest.mark.parametrize(("red", "change"), [case[1:] for case in WRONG], ids=[case[0] for case in WRONG])
def test_one_thing_wrong_turns_exactly_this_red(red: str, change: Change) -> None:
    result = check(change(good()))
    assert result.broken == set(red.split()), result.examples
    assert not result.ok
    assert all(example for name in result.broken for example in result.examples[name])


def test_every_invariant_has_something_that_turns_it_red() -> None:
    assert {name for _, red, _ in WRONG for name in red.split()} == set(check(good()).counts)


def test_what_was_not_judged_has_not_passed() -> None:
    result = check(watched(i12=None, i13=None)(good()))
    assert [name for name, count in result.counts.items() if count is None] == ["I12", "I13"]
    assert result.unjudged == {"I12", "I13"}
    assert not result.broken
    assert not result.ok


def test_what_an_older_catalog_ingested_again_may_have_come_from_another_delivery() -> None:
    again = both(record("a", source_id="camera-2", sequence=2, ingested_at_us=NOW_US + 1), learned)
    assert check(again(good())).broken == set()
    assert check(both(again, live(announcement(width=5)))(good())).broken == {"I4"}


def test_what_retention_deleted_and_the_catalog_says_so_is_not_missed() -> None:
    result = check(both(deleted, lost(1))(good()))
    assert result.ok, result.examples


def test_where_nothing_was_acknowledged_there_is_nothing_to_check() -> None:
    with pytest.raises(ValueError, match="nothing was acknowledged"):
        check(replace(good(), acks=()))


def test_a_service_that_did_nothing_is_not_green() -> None:
    nothing = replace(
        good(),
        messages={},
        sightings=(),
        records={},
        blobs={},
        objects=(),
        dead_letters=(),
        committed={},
        live=ReceivedMessages(),
        afterwards=ReceivedMessages(),
    )
    result = check(nothing)
    assert result.broken == {"I1", "I4", "I9"}
    assert result.counts["I7"] is None


def test_poison_whose_acknowledgement_was_lost_is_known_by_its_bytes() -> None:
    assert check(unacked_poison("poison")(good())).ok
    empty = ObservationBuilder()
    empty.frame("camera-1", "a")
    empty.poison("poison-1", b"")
    observed = empty.observed()
    bare = replace(observed, acks=observed.acks[:-1], messages={**observed.messages, place(1): Message(b"poison-1")})
    without_value = letters(replace(bare.dead_letters[0], value_digest=None))(bare)
    assert check(without_value).ok, "a message without a value is attempted as an empty one"


def test_young_objects_are_left_alone() -> None:
    young = replace(good(), objects=(*good().objects, replace(ORPHAN, modified_at_us=NOW_US - DAY_US // 2)))
    assert check(young).ok
    assert check(young, grace_s=3600).broken == {"I7"}


def test_where_every_object_is_young_they_are_not_judged() -> None:
    observed = good()
    young = [replace(stored, modified_at_us=NOW_US - DAY_US // 2) for stored in (*observed.objects, ORPHAN)]
    result = check(replace(observed, objects=tuple(young)))
    assert (result.counts["I7"], result.broken, result.ok) == (None, set(), False)
    assert check(replace(observed, objects=tuple(young)), grace_s=0).counts["I7"] == 1


def test_twenty_thousand_messages_are_judged_in_seconds() -> None:
    made = ObservationBuilder()
    for number in range(20_000):
        made.frame(f"camera-{number % 12}", f"{number - number % 3}")
    observed, began = made.observed(), perf_counter()
    result = check(observed)
    assert perf_counter() - began < 20
    assert result.broken == set(), result.examples
