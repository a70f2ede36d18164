"""The checker against hand-made observations: each has one thing wrong, and exactly what should turn red does."""

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from time import perf_counter
from uuid import UUID, uuid4

import pytest

from headrace.runtime.settings import load_settings
from headrace.schemas.digest import blob_key, dead_letter_id, event_id, record_id, sha256_hex
from headrace.schemas.events import Kind
from headrace.schemas.headers import Redrive
from headrace.schemas.reject import RejectCode
from tests.faults.acks import Ack, Attempt, Place
from tests.faults.checker import check
from tests.faults.growth import MIB, Growth, Look
from tests.faults.observed import (
    Announcement,
    Blob,
    Found,
    Heard,
    Letter,
    LetterAnnouncement,
    Message,
    Observed,
    Partition,
    Record,
    RedriveRow,
    Sighting,
    StoredObject,
    WatchFindings,
)
from tests.faults.watch import Standstill, Watch
from tests.processes import free_port

INPUT, OUTPUT, LETTERS = "edge.frames.v1", "ingested.frames.v1", "deadletters.v1"
GROWN = Partition(INPUT, 0)
NOW_US = 1_800_000_000_000_000
DAY_US = 86_400_000_000
SITE = "plant"
Change = Callable[[Observed], Observed]


def place(offset: int, topic: str = INPUT) -> Place:
    return Place(topic, 0, offset)


def digest(name: str) -> str:
    return sha256_hex(name.encode())


def identity(name: str) -> UUID:
    return record_id(Kind.FRAME, digest(name))


class Making:
    """Builds an observation message by message."""

    def __init__(self) -> None:
        self.attempts: dict[int, Attempt] = {}
        self.acks: list[Ack] = []
        self.messages: dict[Place, Message] = {}
        self.sightings: list[Sighting] = []
        self.records: dict[UUID, Record] = {}
        self.blobs: dict[str, Blob] = {}
        self.letters: list[Letter] = []
        self.announced: list[Announcement] = []
        self.told: list[LetterAnnouncement] = []

    def frame(self, source: str, name: str, *, acked: bool = True) -> None:
        offset, record = len(self.messages), identity(name)
        attempt = Attempt(offset, Kind.FRAME, INPUT, source, offset, digest(name), len(name), record, None)
        self.attempts[offset] = attempt
        if acked:
            self.acks.append(Ack(offset, place(offset)))
        self.messages[place(offset)] = Message(source.encode())
        self.sightings.append(Sighting(place(offset), record, SITE, source, offset, NOW_US + offset))
        if record in self.records:
            return
        key = blob_key(digest(name))
        self.records[record] = Record(record, Kind.FRAME, digest(name), len(name), SITE, source)
        self.blobs[digest(name)] = Blob(digest(name), len(name), key, None, Found(len(name), digest(name)))
        at = place(len(self.announced), OUTPUT)
        self.announced.append(Announcement(at, str(event_id(record)), str(record), digest(name), SITE, source))

    def poison(self, source: str, value: bytes) -> None:
        offset, code = len(self.messages), RejectCode.NOT_FRAMED
        self.attempts[offset] = Attempt(
            offset, Kind.FRAME, INPUT, source, offset, sha256_hex(value), len(value), None, code
        )
        self.acks.append(Ack(offset, place(offset)))
        self.messages[place(offset)] = Message(source.encode(), None, sha256_hex(value), b"[]")
        letter = dead_letter_id(INPUT, 0, offset, value)
        kept = Letter(letter, code, "no frame", place(offset), source.encode(), sha256_hex(value), b"[]")
        self.letters.append(kept)
        at = place(len(self.told), LETTERS)
        self.told.append(LetterAnnouncement(at, str(event_id(letter)), code, place(offset), kept.value_digest))

    def observed(self) -> Observed:
        heard = Heard(tuple(self.announced), tuple(self.told))
        return Observed(
            attempts=self.attempts,
            acks=tuple(self.acks),
            messages=self.messages,
            sightings=tuple(self.sightings),
            records=self.records,
            blobs=self.blobs,
            objects=tuple(
                StoredObject(blob.store_key, blob.size_bytes, NOW_US - DAY_US) for blob in self.blobs.values()
            ),
            dead_letters=tuple(self.letters),
            redrives={},
            unpublished=0,
            live=heard,
            afterwards=heard,
            committed={GROWN: len(self.messages)},
            watch=WatchFindings(i12=(), i13=(), samples=1),
            gathered_at_us=NOW_US,
        )


def good() -> Observed:
    """Two sources: offsets 0 to 5 are frames, of which 2 repeats 0 and 4 was never acknowledged; 6 is poison."""
    made = Making()
    made.frame("camera-1", "a")
    made.frame("camera-2", "b")
    made.frame("camera-2", "a")
    made.frame("camera-1", "c")
    made.frame("camera-1", "d", acked=False)
    made.frame("camera-1", "a")
    made.poison("poison-1", b"poison")
    return made.observed()


def without_record(name: str) -> Change:
    return lambda one: replace(one, records={key: row for key, row in one.records.items() if key != identity(name)})


def without_sighting(offset: int) -> Change:
    return lambda one: replace(one, sightings=tuple(row for row in one.sightings if row.place.offset != offset))


def without_letter(one: Observed) -> Observed:
    return replace(one, dead_letters=(), live=replace(one.live, letters=()), afterwards=replace(one.live, letters=()))


def sighting(offset: int, **changes: object) -> Change:
    def change(one: Observed) -> Observed:
        rows = tuple(
            replace(row, **changes) if row.place.offset == offset else row  # type: ignore[arg-type]
            for row in one.sightings
        )
        return replace(one, sightings=rows)

    return change


def record(name: str, **changes: object) -> Change:
    def change(one: Observed) -> Observed:
        row = replace(one.records[identity(name)], **changes)  # type: ignore[arg-type]
        return replace(one, records={**one.records, identity(name): row})

    return change


def announcement(**changes: object) -> Callable[[Heard], Heard]:
    """The first announcement, otherwise than its record."""
    return lambda heard: replace(
        heard,
        announcements=(replace(heard.announcements[0], **changes), *heard.announcements[1:]),  # type: ignore[arg-type]
    )


def unacked_poison(said: str) -> Change:
    """The poison's acknowledgement was lost, and these bytes stand in its place."""

    def change(one: Observed) -> Observed:
        (old,) = one.dead_letters
        there = replace(one.messages[old.place], value_digest=digest(said))
        unacked = replace(one, acks=one.acks[:-1], messages={**one.messages, old.place: there})
        return letters(replace(old, value_digest=digest(said)))(unacked)

    return change


def letter(**changes: object) -> Change:
    return lambda one: replace(one, dead_letters=(replace(one.dead_letters[0], **changes),))  # type: ignore[arg-type]


def letters(*rows: Letter) -> Change:
    """Other dead letters, announced as what they are."""
    told = tuple(
        LetterAnnouncement(place(number, LETTERS), str(event_id(row.letter_id)), row.code, row.place, row.value_digest)
        for number, row in enumerate(rows)
    )
    return lambda one: replace(
        one, dead_letters=rows, live=replace(one.live, letters=told), afterwards=replace(one.live, letters=told)
    )


def blob(name: str, **changes: object) -> Change:
    def change(one: Observed) -> Observed:
        row = replace(one.blobs[digest(name)], **changes)  # type: ignore[arg-type]
        return replace(one, blobs={**one.blobs, digest(name): row})

    return change


def live(change: Callable[[Heard], Heard]) -> Change:
    return lambda one: replace(one, live=change(one.live))


def afterwards(change: Callable[[Heard], Heard]) -> Change:
    return lambda one: replace(one, afterwards=change(one.afterwards))


def swapped(heard: Heard) -> Heard:
    # b is camera-2's; a, c and d are camera-1's.
    a, b, c, d = heard.announcements
    return replace(heard, announcements=(replace(c, place=a.place), b, replace(a, place=c.place), d))


def invented(one: Observed) -> Observed:
    """A record with everything that belongs to it, which nobody attempted."""
    made = Making()
    made.frame("camera-1", "a")
    for number in range(6):
        made.messages[place(number + 1)] = Message(b"camera-1")
    made.frame("camera-9", "z")
    more = made.observed()
    said = tuple(replace(row, place=place(9, OUTPUT)) for row in more.live.announcements[1:])
    heard = replace(one.live, announcements=(*one.live.announcements, *said))
    return replace(
        one,
        messages={**one.messages, place(7): Message(b"camera-9")},
        sightings=(*one.sightings, *(row for row in more.sightings if row.place.offset == 7)),
        records={**one.records, **more.records},
        blobs={**one.blobs, **more.blobs},
        live=heard,
        afterwards=heard,
        committed={GROWN: 8},
    )


def redriven(one: Observed) -> Observed:
    """The poison was understood after all: its message stands at 7 again, its sighting at 6."""
    made = Making()
    for _ in range(6):
        made.messages[place(len(made.messages))] = Message(None)
    made.frame("poison-1", "e")
    more, (old,) = made.observed(), one.dead_letters
    redrive = Redrive(old.letter_id, 1)
    said = tuple(replace(row, place=place(9, OUTPUT)) for row in more.live.announcements)
    heard = replace(one.live, announcements=(*one.live.announcements, *said))
    return replace(
        one,
        messages={**one.messages, place(7): Message(b"poison-1", redrive)},
        sightings=(*one.sightings, *(replace(row, seen_at_us=NOW_US + DAY_US) for row in more.sightings)),
        records={**one.records, **more.records},
        blobs={**one.blobs, **more.blobs},
        dead_letters=(replace(old, redriven_as=identity("e")),),
        redrives={redrive: RedriveRow(True, True, identity("e"))},
        live=heard,
        afterwards=heard,
        committed={GROWN: 8},
    )


def both(*changes: Change) -> Change:
    def change(one: Observed) -> Observed:
        for each in changes:
            one = each(one)
        return one

    return change


def watched(**changes: object) -> Change:
    return lambda one: replace(one, watch=replace(one.watch, **changes))  # type: ignore[arg-type]


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
        lambda one: replace(one, sightings=(*one.sightings, replace(one.sightings[5], place=place(6)))),
    ),
    (
        "a sighting where no message stands",
        "I2",
        lambda one: replace(one, sightings=(*one.sightings, replace(one.sightings[5], place=place(99)))),
    ),
    ("two sightings at one place", "I2", lambda one: replace(one, sightings=(*one.sightings, one.sightings[5]))),
    ("a dead letter where no message stands", "I1 I2 I10 I14", letter(place=place(99))),
    (
        "a dead letter of a code that nobody attempted",
        "I2",
        lambda one: replace(letters(replace(one.dead_letters[0], code=RejectCode.NOT_JSON))(one), acks=one.acks[:-1]),
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
                heard, announcements=(*heard.announcements, replace(heard.announcements[0], event_id=str(uuid4())))
            )
        ),
    ),
    ("an announcement that nobody can read", "I4", live(lambda heard: replace(heard, unreadable=("there",)))),
    ("an announcement of another digest", "I4", live(announcement(digest=digest("b")))),
    ("an announcement of another record", "I4", live(announcement(record_id=str(identity("b"))))),
    ("an announcement of another site", "I4", live(announcement(site="elsewhere"))),
    ("an announcement of another source, heard afterwards", "I4", afterwards(announcement(source_id="camera-9"))),
    ("an announcement in another kind's topic", "I4", live(announcement(place=place(0, "ingested.clips.v1")))),
    # The store.
    (
        "a record of another digest, and announced so",
        "I5",
        both(
            record("a", digest=digest("b")),
            live(announcement(digest=digest("b"))),
            afterwards(announcement(digest=digest("b"))),
        ),
    ),
    ("a record of another kind than was announced", "I4 I5", record("a", kind=Kind.CLIP)),
    ("bytes that hash to something else", "I5", blob("a", found=Found(1, digest("x")))),
    ("bytes that are too many", "I5", blob("a", found=Found(2, digest("a")))),
    ("a row that says another size than its record", "I5", blob("a", size_bytes=2, found=Found(2, digest("a")))),
    ("no object", "I6", blob("a", found=None)),
    (
        "no row for a record's bytes",
        "I6 I7",
        lambda one: replace(one, blobs={key: row for key, row in one.blobs.items() if key != digest("a")}),
    ),
    ("an object that no row names", "I7", lambda one: replace(one, objects=(*one.objects, ORPHAN))),
    (
        "a staged object after its time",
        "I7",
        lambda one: replace(
            one, objects=(*one.objects, replace(ORPHAN, key="staging/a/b/c", modified_at_us=NOW_US - 8 * DAY_US))
        ),
    ),
    # What should have come to rest.
    ("an announcement that waits", "I8", lambda one: replace(one, unpublished=1)),
    ("a message that is not committed", "I8", lambda one: replace(one, committed={GROWN: 6})),
    ("nothing was ever committed", "I8", lambda one: replace(one, committed={})),
    # What a delivery leaves.
    ("a sighting of another record", "I9", sighting(2, record_id=identity("b"))),
    ("a sighting of another source", "I9", sighting(2, source_id="camera-3")),
    ("a sighting of another sequence", "I9", sighting(2, sequence=77)),
    (
        "a valid message as a dead letter",
        "I9",
        lambda one: both(
            without_sighting(5),
            letters(*one.dead_letters, Letter(uuid4(), "not_json", "no", place(5), b"camera-1", None, b"[]")),
        )(one),
    ),
    # Dead letters.
    ("a dead letter without its bytes", "I10", letter(value_digest=None)),
    ("a dead letter with another key", "I10", letter(key=b"x")),
    ("a dead letter with other headers", "I10", letter(headers=b'[["a","b"]]')),
    ("a dead letter without a reason", "I10", letter(reason="")),
    ("a dead letter with the wrong reason", "I10", letter(code=RejectCode.NOT_JSON)),
    (
        "a dead letter announced otherwise than it was kept",
        "I10",
        live(lambda heard: replace(heard, letters=(replace(heard.letters[0], value_digest=None),))),
    ),
    ("redriven as a record that is not there", "I10", lambda one: without_record("e")(redriven(one))),
    (
        "a redrive without an end",
        "I10 I14",
        lambda one: replace(
            redriven(one), redrives={key: replace(row, ended=False) for key, row in redriven(one).redrives.items()}
        ),
    ),
    # Order.
    ("a sequence out of order", "I11", lambda one: replace(sighting(4, sequence=2)(one))),
    ("seen before what stands ahead of it", "I11", sighting(4, seen_at_us=NOW_US)),
    ("announced in another order than seen", "I11", afterwards(swapped)),
    # What was watched.
    ("a standstill", "I12", watched(i12=("it stood",))),
    ("growth", "I13", watched(i13=("it grew",))),
    ("an offset committed too early while nobody looked", "I14", watched(i14=("too early",))),
]


def test_what_is_right_is_green() -> None:
    verdict = check(good())
    assert verdict.ok
    assert verdict.counts == {f"I{number}": 0 for number in range(1, 15)}
    assert (good().deliveries, good().distinct, good().announced) == (7, 5, 4)


def test_what_was_redriven_is_green() -> None:
    verdict = check(redriven(good()))
    assert verdict.ok, verdict.examples


@pytest.mark.parametrize(("red", "change"), [one[1:] for one in WRONG], ids=[one[0] for one in WRONG])
def test_one_thing_wrong_turns_exactly_this_red(red: str, change: Change) -> None:
    verdict = check(change(good()))
    assert verdict.broken == set(red.split()), verdict.examples
    assert not verdict.ok
    assert all(said for name in verdict.broken for said in verdict.examples[name])


def test_every_invariant_has_something_that_turns_it_red() -> None:
    assert {name for _, red, _ in WRONG for name in red.split()} == set(check(good()).counts)


def test_what_was_not_judged_is_not_zero() -> None:
    verdict = check(watched(i12=None, i13=None)(good()))
    assert [name for name, count in verdict.counts.items() if count is None] == ["I12", "I13"]
    assert verdict.ok


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
        live=Heard(),
        afterwards=Heard(),
    )
    verdict = check(nothing)
    assert verdict.broken == {"I1", "I4", "I9"}
    assert verdict.counts["I7"] is None


def test_poison_whose_acknowledgement_was_lost_is_known_by_its_bytes() -> None:
    assert check(unacked_poison("poison")(good())).ok
    empty = Making()
    empty.frame("camera-1", "a")
    empty.poison("poison-1", b"")
    one = empty.observed()
    bare = replace(one, acks=one.acks[:-1], messages={**one.messages, place(1): Message(b"poison-1")})
    without_value = letters(replace(bare.dead_letters[0], value_digest=None))(bare)
    assert check(without_value).ok, "a message without a value is attempted as an empty one"


def test_young_objects_are_left_alone() -> None:
    young = replace(good(), objects=(*good().objects, replace(ORPHAN, modified_at_us=NOW_US - DAY_US // 2)))
    assert check(young).ok
    assert check(young, grace_s=3600).broken == {"I7"}


def test_where_every_object_is_young_they_are_not_judged() -> None:
    observed = good()
    young = [replace(one, modified_at_us=NOW_US - DAY_US // 2) for one in (*observed.objects, ORPHAN)]
    verdict = check(replace(observed, objects=tuple(young)))
    assert (verdict.counts["I7"], verdict.ok) == (None, True)
    assert check(replace(observed, objects=tuple(young)), grace_s=0).counts["I7"] == 1


def test_twenty_thousand_messages_are_judged_in_seconds() -> None:
    made = Making()
    for number in range(20_000):
        made.frame(f"camera-{number % 12}", f"{number - number % 3}")
    observed, began = made.observed(), perf_counter()
    verdict = check(observed)
    assert perf_counter() - began < 20
    assert verdict.broken == set(), verdict.examples


def test_a_standstill_is_found_once() -> None:
    rule = Standstill()
    for second in range(40):
        rule.note(float(second), lag=5, figures=1)
    assert len(rule.found) == 1
    for second in range(40, 49):
        rule.note(float(second), lag=5, figures=2)
    rule.reset()
    for second in range(49, 58):
        rule.note(float(second), lag=5, figures=2)
    rule.note(58.0, lag=0, figures=2)
    for second in range(59, 69):
        rule.note(float(second), lag=3, figures=2)
    assert len(rule.found) == 1
    for second in range(69, 80):
        rule.note(float(second), lag=3, figures=2)
    assert len(rule.found) == 2


def grown(
    *, seconds: int, mib_per_hour: float = 0.0, descriptors: int = 0, threads: int = 0, since_s: float = 90
) -> Growth:
    growth = Growth(Path(__file__).parent)
    growth._looks["worker", 1, 0.0] = looks = []
    for second in range(seconds):
        late = second >= since_s
        rss_bytes = int((100 + mib_per_hour * second / 3600) * MIB)
        looks.append(Look(float(second), rss_bytes, 50 + descriptors * late, 9 + threads * late))
    return growth


def test_growth_is_judged_where_there_is_enough_to_judge_by() -> None:
    short = grown(seconds=100, mib_per_hour=10_000, descriptors=100).judge()
    assert (short.wrong, short.judged) == ([], [])
    assert short.not_judged.keys() == {"memory", "descriptors and threads"}
    middle = grown(seconds=400, mib_per_hour=10_000, threads=9, descriptors=25, since_s=390).judge()
    assert middle.not_judged.keys() == {"memory"}
    assert middle.wrong == [
        "worker (1) holds 25 more file descriptors than half-way",
        "worker (1) has 9 more threads than half-way",
    ]
    filled = grown(seconds=400, threads=20, descriptors=20, since_s=200).judge()
    assert filled.wrong == [], "pools that filled with their first work and stay so"
    steady = grown(seconds=8000, mib_per_hour=6).judge()
    assert (steady.wrong, steady.not_judged) == ([], {})
    assert steady.mib_per_hour == {"worker (1)": 6.0}
    small = grown(seconds=1000, mib_per_hour=60).judge()
    assert small.wrong == [], "60 MiB/h, but 11 MiB in all"
    assert len(grown(seconds=8000, mib_per_hour=12).judge().wrong) == 1


def test_a_temporary_file_that_stays_is_found(tmp_path: Path) -> None:
    (tmp_path / "tmp-before").touch()
    growth = Growth(tmp_path)
    for name in ("headrace-left", "tmp-young", "other"):
        (tmp_path / name).touch()
    for name in ("headrace-left", "other"):
        os.utime(tmp_path / name, (0, 0))
    assert growth.judge().wrong == [f"the temporary file {tmp_path / 'headrace-left'} was left behind"]


def blind_watch(healthy: Callable[[], bool] = lambda: True) -> Watch:
    """A watch of servers that are not there."""
    nobody = f"127.0.0.1:{free_port()}"
    settings = load_settings(
        _env_file=None, kafka_bootstrap=nobody, postgres_dsn=f"postgresql://headrace@{nobody}/headrace"
    )
    return Watch(settings, dict, healthy)


def test_a_watch_that_sees_nothing_never_passes() -> None:
    watch = blind_watch()
    watch.start()
    findings = watch.stop()
    assert findings.samples == 0
    assert check(replace(good(), watch=findings)).broken == {"I12", "I14"}


@pytest.mark.parametrize(("seen", "skipped", "faults", "red"), [(2, 3, 0, True), (3, 3, 0, False), (2, 9, 9, False)])
def test_a_watch_that_mostly_looks_away_is_red(
    monkeypatch: pytest.MonkeyPatch, seen: int, skipped: int, faults: int, red: bool
) -> None:
    looks = iter([True] * seen + [False] * skipped)
    watch = blind_watch(lambda: watch._samples < seen or not faults)

    def sample(*_: object, well: bool) -> None:
        if not next(looks):
            raise OSError("it does not answer")

    monkeypatch.setattr(watch, "_sample", sample)
    for _ in range(seen + skipped):
        watch._look(None, {})  # type: ignore[arg-type]
    findings = watch._findings()
    assert (findings.samples, findings.skipped) == (seen, skipped)
    assert check(replace(good(), watch=findings)).broken == ({"I12", "I14"} if red else set())


def test_a_standstill_is_judged_only_where_work_waited() -> None:
    watch = blind_watch()
    watch._standstill.note(0.0, lag=0, figures=1)
    assert watch._findings().i12 is None
    assert watch._findings().summary()["looks_at_work"] == 0
    watch._standstill.note(1.0, lag=1, figures=1)
    assert watch._findings().i12 == ()
    assert watch._findings().summary()["looks_at_work"] == 1


class Gaps:
    """A catalog that has nothing between 0 and 150."""

    def fetch(self, text: str, *values: object) -> list[tuple[int]]:
        assert "limit" in text
        first, end, most = values[2:]
        assert isinstance(first, int)
        assert isinstance(end, int)
        assert isinstance(most, int)
        return [(place,) for place in range(first, min(end, 150))][:most]


def test_more_gaps_than_one_look_takes_are_looked_at_later(monkeypatch: pytest.MonkeyPatch) -> None:
    watch = blind_watch()
    monkeypatch.setattr(watch, "_unfinished", lambda *_: True)
    for end, found in ((0, 0), (200, 100), (200, 150), (200, 150)):
        watch._prove(Gaps(), {GROWN: end})  # type: ignore[arg-type]
        assert len(watch._findings().i14) == found
