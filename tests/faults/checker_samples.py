"""Hand-made observations for the tests of the checker, and changes that make one thing wrong in them."""

from collections.abc import Callable
from dataclasses import replace
from uuid import UUID

from headrace.schemas.digest import blob_key, dead_letter_id, event_id, record_id, sha256_hex
from headrace.schemas.events import Ingested, Kind
from headrace.schemas.headers import Redrive
from headrace.schemas.reject import RejectCode
from tests.faults.acks import Ack, Attempt, Description, Place
from tests.faults.observed import (
    Blob,
    BytesAt,
    Letter,
    LostOffsets,
    Message,
    Observed,
    ObservedAnnouncement,
    ObservedLetter,
    ObservedRedrive,
    ObservedSighting,
    Partition,
    ReceivedMessages,
    Record,
    StoredBytes,
    StoredObject,
    WatchFindings,
)

INPUT, OUTPUT, LETTERS = "edge.frames.v1", "ingested.frames.v1", "deadletters.v1"
GROWN = Partition(INPUT, 0)
NOW_US = 1_800_000_000_000_000
DAY_US = 86_400_000_000
SITE = "plant"
SAYS = Description(site=SITE, captured_at_us=7, media_type="image/png", width=4, height=3, attributes='{"a":1}')
Change = Callable[[Observed], Observed]


def place(offset: int, topic: str = INPUT) -> Place:
    return Place(topic, 0, offset)


def digest(name: str) -> str:
    return sha256_hex(name.encode())


def identity(name: str) -> UUID:
    return record_id(Kind.FRAME, digest(name))


def announced(row: Record) -> Ingested:
    return Ingested(
        event_id=str(event_id(row.record_id)),
        record_id=str(row.record_id),
        kind=row.kind,
        digest=row.digest,
        source_id=row.source_id,
        site=row.says.site,
        captured_at_us=row.says.captured_at_us,
        sequence=row.sequence,
        ingested_at_us=row.ingested_at_us,
        media_type=row.says.media_type,
        size_bytes=row.size_bytes,
        store_key=blob_key(row.digest),
        width=row.says.width,
        height=row.says.height,
        attributes=row.says.attributes.encode(),
    )


def announced_letter(at: Place, row: Letter) -> ObservedLetter:
    event = str(event_id(row.letter_id))
    return ObservedLetter(at, event, row.code, row.place, row.value_digest, row.key, row.headers, row.reason)


class ObservationBuilder:
    """Builds an observation message by message."""

    def __init__(self) -> None:
        self.attempts: dict[int, Attempt] = {}
        self.acks: list[Ack] = []
        self.messages: dict[Place, Message] = {}
        self.sightings: list[ObservedSighting] = []
        self.records: dict[UUID, Record] = {}
        self.blobs: dict[str, Blob] = {}
        self.letters: list[Letter] = []
        self.announced: list[ObservedAnnouncement] = []
        self.announced_letters: list[ObservedLetter] = []

    def frame(self, source: str, name: str, *, acked: bool = True) -> None:
        offset, record = len(self.messages), identity(name)
        attempt = Attempt(offset, Kind.FRAME, INPUT, source, offset, digest(name), len(name), record, None, SAYS)
        self.attempts[offset] = attempt
        if acked:
            self.acks.append(Ack(offset, place(offset)))
        self.messages[place(offset)] = Message(source.encode())
        self.sightings.append(ObservedSighting(place(offset), record, SITE, source, offset, NOW_US + offset, 7))
        if record in self.records:
            return
        key = blob_key(digest(name))
        row = Record(record, Kind.FRAME, digest(name), len(name), source, offset, NOW_US, SAYS)
        self.records[record] = row
        self.blobs[digest(name)] = Blob(digest(name), len(name), key, None, StoredBytes(len(name), digest(name)))
        self.announced.append(ObservedAnnouncement(place(len(self.announced), OUTPUT), announced(row)))

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
        at = place(len(self.announced_letters), LETTERS)
        self.announced_letters.append(announced_letter(at, kept))

    def observed(self) -> Observed:
        heard = ReceivedMessages(tuple(self.announced), tuple(self.announced_letters))
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
            announced_bytes={blob.at: blob.found for blob in self.blobs.values()},
        )


def good() -> Observed:
    """Two sources: offsets 0 to 5 are frames, of which 2 repeats 0 and 4 was never acknowledged; 6 is poison."""
    made = ObservationBuilder()
    made.frame("camera-1", "a")
    made.frame("camera-2", "b")
    made.frame("camera-2", "a")
    made.frame("camera-1", "c")
    made.frame("camera-1", "d", acked=False)
    made.frame("camera-1", "a")
    made.poison("poison-1", b"poison")
    return made.observed()


def without_record(name: str) -> Change:
    return lambda observed: replace(
        observed, records={key: row for key, row in observed.records.items() if key != identity(name)}
    )


def without_sighting(offset: int) -> Change:
    return lambda observed: replace(
        observed, sightings=tuple(row for row in observed.sightings if row.place.offset != offset)
    )


def without_letter(observed: Observed) -> Observed:
    return replace(
        observed,
        dead_letters=(),
        live=replace(observed.live, letters=()),
        afterwards=replace(observed.live, letters=()),
    )


def sighting(offset: int, **changes: object) -> Change:
    def change(observed: Observed) -> Observed:
        rows = tuple(
            replace(row, **changes) if row.place.offset == offset else row  # type: ignore[arg-type]
            for row in observed.sightings
        )
        return replace(observed, sightings=rows)

    return change


def record(name: str, **changes: object) -> Change:
    def change(observed: Observed) -> Observed:
        row = replace(observed.records[identity(name)], **changes)  # type: ignore[arg-type]
        return replace(observed, records={**observed.records, identity(name): row})

    return change


def announcement(at: Place | None = None, /, **changes: object) -> Callable[[ReceivedMessages], ReceivedMessages]:
    """The first announcement, otherwise than its record, or at another place."""

    def change(heard: ReceivedMessages) -> ReceivedMessages:
        old, *others = heard.announcements
        changed = ObservedAnnouncement(at or old.place, replace(old.event, **changes))  # type: ignore[arg-type]
        return replace(heard, announcements=(changed, *others))

    return change


def unacked_poison(value: str) -> Change:
    """The poison's acknowledgement was lost, and these bytes stand in its place."""

    def change(observed: Observed) -> Observed:
        (old,) = observed.dead_letters
        message = replace(observed.messages[old.place], value_digest=digest(value))
        unacked = replace(observed, acks=observed.acks[:-1], messages={**observed.messages, old.place: message})
        return letters(replace(old, value_digest=digest(value)))(unacked)

    return change


def letter(**changes: object) -> Change:
    return lambda observed: replace(observed, dead_letters=(replace(observed.dead_letters[0], **changes),))  # type: ignore[arg-type]


def letters(*rows: Letter) -> Change:
    """Other dead letters, announced as what they are."""
    announced = tuple(announced_letter(place(number, LETTERS), row) for number, row in enumerate(rows))
    return lambda observed: replace(
        observed,
        dead_letters=rows,
        live=replace(observed.live, letters=announced),
        afterwards=replace(observed.live, letters=announced),
    )


def blob(name: str, **changes: object) -> Change:
    def change(observed: Observed) -> Observed:
        row = replace(observed.blobs[digest(name)], **changes)  # type: ignore[arg-type]
        return replace(observed, blobs={**observed.blobs, digest(name): row})

    return change


def recorded(**changes: object) -> Change:
    """The record of a with other columns, and announced as it is."""

    def change(observed: Observed) -> Observed:
        says = replace(observed.records[identity("a")].says, **changes)  # type: ignore[arg-type]
        announced_too = {name: value.encode() if name == "attributes" else value for name, value in changes.items()}  # type: ignore[attr-defined]
        both_hear = both(live(announcement(**announced_too)), afterwards(announcement(**announced_too)))
        return both(record("a", says=says), both_hear)(observed)

    return change


def renumbered(observed: Observed) -> Observed:
    """The record of a with a sequence that none of its deliveries had, announced so."""
    change = announcement(sequence=77)
    return both(record("a", sequence=77), live(change), afterwards(announcement(sequence=77)))(observed)


def bytes_at(at: BytesAt, found: StoredBytes) -> Change:
    return lambda observed: replace(observed, announced_bytes={**observed.announced_bytes, at: found})


def deleted(observed: Observed) -> Observed:
    """Retention deleted offsets 0 and 1, and of 1, the only delivery of b, nothing is left."""
    heard = replace(
        observed.live,
        announcements=tuple(row for row in observed.live.announcements if row.event.digest != digest("b")),
    )
    return replace(
        without_record("b")(without_sighting(1)(observed)),
        messages={at: message for at, message in observed.messages.items() if at.offset > 1},
        blobs={key: row for key, row in observed.blobs.items() if key != digest("b")},
        objects=tuple(stored for stored in observed.objects if stored.key != blob_key(digest("b"))),
        begins={GROWN: 2},
        live=heard,
        afterwards=heard,
    )


def learned(observed: Observed) -> Observed:
    """A recovery has learned every announcement from the topics."""
    return replace(observed, learned=frozenset(row.event.event_id for row in observed.live.announcements))


def lost(offset: int) -> Change:
    return lambda observed: replace(observed, lost=(LostOffsets(INPUT, 0, offset, offset),))


def live(change: Callable[[ReceivedMessages], ReceivedMessages]) -> Change:
    return lambda observed: replace(observed, live=change(observed.live))


def afterwards(change: Callable[[ReceivedMessages], ReceivedMessages]) -> Change:
    return lambda observed: replace(observed, afterwards=change(observed.afterwards))


def swapped(heard: ReceivedMessages) -> ReceivedMessages:
    # b is camera-2's; a, c and d are camera-1's.
    a, b, c, d = heard.announcements
    return replace(heard, announcements=(replace(c, place=a.place), b, replace(a, place=c.place), d))


def invented(observed: Observed) -> Observed:
    """A record with everything that belongs to it, which nobody attempted."""
    made = ObservationBuilder()
    made.frame("camera-1", "a")
    for number in range(6):
        made.messages[place(number + 1)] = Message(b"camera-1")
    made.frame("camera-9", "z")
    more = made.observed()
    announced = tuple(replace(row, place=place(9, OUTPUT)) for row in more.live.announcements[1:])
    heard = replace(observed.live, announcements=(*observed.live.announcements, *announced))
    return replace(
        observed,
        messages={**observed.messages, place(7): Message(b"camera-9")},
        sightings=(*observed.sightings, *(row for row in more.sightings if row.place.offset == 7)),
        records={**observed.records, **more.records},
        blobs={**observed.blobs, **more.blobs},
        live=heard,
        afterwards=heard,
        committed={GROWN: 8},
    )


def redriven(observed: Observed) -> Observed:
    """The poison was understood after all: its message stands at 7 again, its sighting at 6."""
    made = ObservationBuilder()
    for _ in range(6):
        made.messages[place(len(made.messages))] = Message(None)
    made.frame("poison-1", "e")
    more, (old,) = made.observed(), observed.dead_letters
    redrive = Redrive(old.letter_id, 1)
    announced = tuple(replace(row, place=place(9, OUTPUT)) for row in more.live.announcements)
    heard = replace(observed.live, announcements=(*observed.live.announcements, *announced))
    return replace(
        observed,
        messages={**observed.messages, place(7): Message(b"poison-1", redrive)},
        sightings=(*observed.sightings, *(replace(row, seen_at_us=NOW_US + DAY_US) for row in more.sightings)),
        records={**observed.records, **more.records},
        blobs={**observed.blobs, **more.blobs},
        dead_letters=(replace(old, redriven_as=identity("e")),),
        redrives={redrive: ObservedRedrive(True, True, identity("e"))},
        live=heard,
        afterwards=heard,
        committed={GROWN: 8},
    )


def both(*changes: Change) -> Change:
    def change(observed: Observed) -> Observed:
        for each in changes:
            observed = each(observed)
        return observed

    return change


def watched(**changes: object) -> Change:
    return lambda observed: replace(observed, watch=replace(observed.watch, **changes))  # type: ignore[arg-type]
