"""I1 to I11 and I14, each as one question: it yields a sentence for everything that breaks it.

Where a verdict itself is wrong it counts like this: a valid message that became a dead letter is an observation lost
(I9), poison that became a record is a record that nobody published (I2), another reason than the right one is I10.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields
from datetime import timedelta

from headrace.schemas.digest import event_id
from headrace.schemas.events import Ingested
from headrace.schemas.topics import DEAD_LETTERS, ingested_topic
from headrace.store.blobs.staging import PROMOTING_DAYS_MAX, PROMOTING_PREFIX, STAGING_PREFIX
from tests.faults.acks import Place
from tests.faults.lookup import Lookup, at
from tests.faults.observed import (
    Blob,
    Letter,
    Message,
    ObservedAnnouncement,
    ObservedLetter,
    Partition,
    ReceivedMessages,
    Record,
)

_OWN_PREFIXES = ("blobs/", "packs/")
_STAGING_DAYS = 7  # less than any setting that makes sense: the input topics keep their messages so long
_DAY_US = timedelta(days=1) // timedelta(microseconds=1)
_ABRIDGED = b"attributes too large to announce"
_READERS = ("the live reader", "the reader afterwards")


def lost(look: Lookup) -> Iterator[str]:
    """I1: acknowledged, and neither in the catalog nor in the dead letters."""
    for place, attempt in look.acked:
        if place not in look.sightings_at and place not in look.letters_at:
            yield f"number {attempt.number} at {at(place)} has neither a sighting nor a dead letter"
        elif attempt.record_id is not None and attempt.record_id not in look.all.records:
            yield f"number {attempt.number} at {at(place)} has no record {attempt.record_id}"


def invented(look: Lookup) -> Iterator[str]:
    """I2: in the catalog or in the dead letters, and never attempted."""
    for place, sightings in look.sightings_at.items():
        if len(sightings) > 1:
            yield f"{at(place)} has {len(sightings)} sightings"
        if place not in look.all.messages and not look.is_deleted(place):
            yield f"there is a sighting of {at(place)}, where no message stands"
    for sighting in look.all.sightings:
        attempt = look.acked_at.get(sighting.place)
        if attempt is not None and attempt.expect is not None and sighting.place not in look.redriven_from:
            yield f"number {attempt.number} at {at(sighting.place)} was to be refused and became a record"
        elif not look.may_be_recorded(sighting.record_id):
            yield f"record {sighting.record_id}, seen at {at(sighting.place)}, was never attempted"
    seen = {sighting.record_id for sighting in look.all.sightings}
    for record in look.all.records:
        if record not in seen and not look.may_be_recorded(record):
            yield f"record {record} was never attempted and never seen"
    for letter in look.all.dead_letters:
        if letter.place not in look.all.messages and not look.is_deleted(letter.place):
            yield f"there is a dead letter of {at(letter.place)}, where no message stands"
        elif letter.place not in look.acked_at and not look.may_be_refused(letter):
            yield f"nobody attempted the {letter.code} of {at(letter.place)}"
    for lost in look.all.lost:
        for place in look.all.messages:
            if place[:2] == lost[:2] and lost.first_offset <= place.offset <= lost.last_offset:
                yield f"{at(place)} is said to be lost, and a message stands there"


def announced_twice(look: Lookup) -> Iterator[str]:
    """I3: one event id more than once, for one reader."""
    for reader, heard in _readers(look):
        ids = Counter(announcement.event.event_id for announcement in heard.announcements)
        ids.update(letter.event_id for letter in heard.letters)
        for event, times in ids.items():
            for _ in range(times - 1):
                yield f"{reader} heard event {event} {times} times"


def announced_wrongly(look: Lookup) -> Iterator[str]:
    """I4: what was announced is not what must be."""
    records, before = look.to_be_announced(), look.announced_before()
    letters = {str(event_id(letter)): f"dead letter {letter}" for letter in look.letters}
    readers_of: dict[str, list[str]] = defaultdict(list)
    for reader, heard in _readers(look):
        for kind, must, ids in (
            ("a record", records, {announcement.event.event_id for announcement in heard.announcements}),
            ("a dead letter", letters, {letter.event_id for letter in heard.letters}),
        ):
            for event in must.keys() - ids:
                readers_of[f"{must[event]} was not announced to"].append(reader)
            for event in ids - must.keys() - before:
                readers_of[f"event {event} announces {kind} that should not be, to"].append(reader)
        for event in heard.unreadable:
            readers_of[f"the message at {event} cannot be read by"].append(reader)
        for complaint in _misannounced(look, heard):
            readers_of[complaint].append(reader)
    for complaint, readers in readers_of.items():
        yield f"{complaint} {' and '.join(readers)}"


def _misannounced(look: Lookup, heard: ReceivedMessages) -> Iterator[str]:
    by_event = {str(event_id(record.record_id)): record for record in look.all.records.values()}
    for announcement in heard.announcements:
        record = by_event.get(announcement.event.event_id)
        if record is not None and (other := _differing(look, announcement, record)):
            yield f"{at(announcement.place)} has another {' and '.join(other)} than record {record.record_id}, for"


def _differing(look: Lookup, announcement: ObservedAnnouncement, record: Record) -> list[str]:
    """Return the fields of an announcement that say something else than the record that it announces."""
    blob, event = look.all.blobs.get(record.digest), announcement.event
    must = _announcement_of(record, blob)
    if event == must and announcement.place.topic == ingested_topic(record.kind).name:
        return []
    ignored: set[str] = set()
    if blob is None or blob.moved:
        ignored |= {"store_key", "store_offset"}
    if announcement.event.event_id in look.all.learned:
        # An older catalog has ingested it again, and perhaps another of its deliveries first.
        ignored |= {"ingested_at_us", "source_id", "site", "sequence", "captured_at_us"}
    if _ABRIDGED in announcement.event.attributes:
        ignored.add("attributes")
    names = (field.name for field in fields(Ingested) if field.name not in ignored)
    other = [name for name in names if getattr(event, name) != getattr(must, name)]
    return other if announcement.place.topic == ingested_topic(record.kind).name else ["topic", *other]


def _announcement_of(record: Record, blob: Blob | None) -> Ingested:
    says = record.says
    return Ingested(
        event_id=str(event_id(record.record_id)),
        record_id=str(record.record_id),
        kind=record.kind.value,
        digest=record.digest,
        source_id=record.source_id,
        sequence=record.sequence,
        ingested_at_us=record.ingested_at_us,
        size_bytes=record.size_bytes,
        store_key=blob.store_key if blob else "",
        store_offset=blob.store_offset if blob else None,
        site=says.site,
        captured_at_us=says.captured_at_us,
        media_type=says.media_type,
        width=says.width,
        height=says.height,
        duration_us=says.duration_us,
        ldo_id=says.ldo_id,
        code=says.code,
        about=says.about,
        attributes=says.attributes.encode(),
    )


def corrupt(look: Lookup) -> Iterator[str]:
    """I5: bytes that do not hash to their name, and records that are not of what was sent."""
    for blob in look.all.blobs.values():
        if blob.found is None:
            continue
        if blob.found.size_bytes != blob.size_bytes:
            yield f"{blob.store_key} holds {blob.found.size_bytes} bytes of {blob.digest} instead of {blob.size_bytes}"
        elif blob.found.digest != blob.digest:
            yield f"{blob.store_key} holds bytes that hash to {blob.found.digest} instead of {blob.digest}"
    for record in look.all.records.values():
        yield from _altered(look, record)
    for announcement in _elsewhere(look):
        found, digest = look.all.announced_bytes.get(announcement.at), announcement.event.digest
        if found is not None and (found.size_bytes, found.digest) != (announcement.event.size_bytes, digest):
            size = f"{found.size_bytes} bytes that hash to {found.digest}"
            yield f"where {at(announcement.place)} says {digest} is, at {announcement.at}, are {size}"


def _altered(look: Lookup, record: Record) -> Iterator[str]:
    stored, attempts = look.all.blobs.get(record.digest), look.attempts_of.get(record.record_id, ())
    if stored is not None and stored.size_bytes != record.size_bytes:
        yield f"record {record.record_id} says {record.size_bytes} bytes, its blob {stored.size_bytes}"
    if not attempts:
        return
    row = (record.kind, record.digest, record.size_bytes)
    sent = (attempts[0].kind, attempts[0].digest, attempts[0].size_bytes)
    if row != sent:
        yield f"record {record.record_id} says {row}, {sent} was sent"
    described = [(attempt.source_id, attempt.sequence, attempt.says) for attempt in attempts if attempt.says]
    if described and (record.source_id, record.sequence, record.says) not in described:
        kept = f"{record.source_id} {record.sequence} {record.says}"
        yield f"record {record.record_id} says {kept}, and nobody sent that: {described[0]}"


def _elsewhere(look: Lookup) -> Iterator[ObservedAnnouncement]:
    """Yield announcements that send their readers to another place than the row of the blob, which is read anyway."""
    for announcement in look.all.afterwards.announcements:
        blob = look.all.blobs.get(announcement.event.digest)
        if blob is None or (not blob.moved and blob.at != announcement.at):
            yield announcement


def without_object(look: Lookup) -> Iterator[str]:
    """I6: rows and announcements whose bytes are nowhere."""
    for blob in look.all.blobs.values():
        if blob.found is None:
            yield f"there is no object {blob.store_key} for {blob.digest}"
    digests = {record.digest for record in look.all.records.values()}
    digests |= {announcement.event.digest for _, heard in _readers(look) for announcement in heard.announcements}
    for digest in digests - look.all.blobs.keys():
        yield f"no row says where {digest} is"
    for announcement in _elsewhere(look):
        if look.all.announced_bytes.get(announcement.at) is None:
            yield f"there is nothing at {announcement.at}, where {at(announcement.place)} says that bytes are"


def without_row(look: Lookup, grace_s: float) -> Iterator[str] | None:
    """I7: objects that nothing names and that should have been collected; None where every object is too young."""
    grown = _grown(look, grace_s)
    if not grown:
        return None
    named = {blob.store_key for blob in look.all.blobs.values()}
    return (
        f"nothing names the object {key}, {age_us / 1_000_000:.0f} s old" for key, age_us in grown if key not in named
    )


def _grown(look: Lookup, grace_s: float) -> list[tuple[str, int]]:
    """Return the key and the age of each object that is too old to be left alone unless something names it."""
    grace_us = {prefix: round(grace_s * 1_000_000) for prefix in _OWN_PREFIXES}
    grace_us |= {STAGING_PREFIX: _STAGING_DAYS * _DAY_US, PROMOTING_PREFIX: PROMOTING_DAYS_MAX * _DAY_US}
    too_old: list[tuple[str, int]] = []
    for stored in look.all.objects:
        limit_us = next((limit for prefix, limit in grace_us.items() if stored.key.startswith(prefix)), None)
        age_us = look.all.gathered_at_us - stored.modified_at_us
        if limit_us is not None and age_us >= limit_us:
            too_old.append((stored.key, age_us))
    return too_old


def waiting(look: Lookup) -> Iterator[str]:
    """I8: what is still to be announced or taken up."""
    for _ in range(look.all.unpublished):
        yield f"{look.all.unpublished} announcements wait in the outbox"
    for place in look.all.messages:
        if place.offset >= look.all.committed.get(Partition(place.topic, place.partition), 0):
            yield f"{at(place)} is not finished"


def unseen(look: Lookup) -> Iterator[str]:
    """I9: acknowledged and valid, and no sighting that says so."""
    for place, attempt in look.acked:
        if attempt.record_id is None:
            continue
        sightings = [
            sighting for sighting in look.sightings_at.get(place, ()) if sighting.record_id == attempt.record_id
        ]
        if not sightings:
            letter = look.letters_at.get(place)
            instead = f", but a dead letter: {letter.code}, {letter.reason}" if letter else ""
            yield f"number {attempt.number} at {at(place)} has no sighting of {attempt.record_id}{instead}"
            continue
        first, says = sightings[0], attempt.says
        if (first.source_id, first.sequence) != (attempt.source_id, attempt.sequence):
            yield f"the sighting of {at(place)} names {first.source_id} {first.sequence}, not what was sent"
        elif says is not None and (first.site, first.captured_at_us) != (says.site, says.captured_at_us):
            yield f"the sighting of {at(place)} names {first.site} {first.captured_at_us}, not what was sent"


def letters_wrong(look: Lookup) -> Iterator[str]:
    """I10: dead letters that do not say all, or whose redrive lost them."""
    for letter in look.all.dead_letters:
        message, attempt = look.all.messages.get(letter.place), look.acked_at.get(letter.place)
        if message is not None and (why := _differs(letter, message)):
            yield f"the dead letter of {at(letter.place)} {why}"
        if not letter.reason or not letter.code:
            yield f"the dead letter of {at(letter.place)} gives no reason"
        elif attempt is not None and attempt.expect is not None and letter.code != attempt.expect:
            yield f"the dead letter of {at(letter.place)} says {letter.code} instead of {attempt.expect}"
        if letter.redriven_as is not None and not _redriven_well(look, letter):
            yield f"the dead letter of {at(letter.place)} was redriven as {letter.redriven_as}, which is not there"
    for redrive, row in look.all.redrives.items():
        if row.published and not row.ended:
            yield f"attempt {redrive.attempt} to redrive {redrive.dead_letter_id} has no end"
    for _, heard in _readers(look):
        by_event = {str(event_id(letter.letter_id)): letter for letter in look.all.dead_letters}
        for announced_letter in heard.letters:
            row_of = by_event.get(announced_letter.event_id)
            is_learned = announced_letter.event_id in look.all.learned
            if row_of is not None and not _tells_of(announced_letter, row_of, again=is_learned):
                yield f"{at(announced_letter.place)} on {DEAD_LETTERS.name} tells another story than the catalog"


def out_of_order(look: Lookup) -> Iterator[str]:
    """I11: sightings or announcements of one source in another order than its messages.

    Times are those at which transactions began: what swaps within one transaction shows in sequences only.
    """
    yield from _sequences(look)
    yield from _announcements(look)


def _sequences(look: Lookup) -> Iterator[str]:
    # What was redriven was recorded late, and says where it first stood.
    rows = [sighting for sighting in look.all.sightings if sighting.place not in look.redriven_from]
    last: dict[tuple[str, int, str, str], int] = {}
    known: set[tuple[str, str, object]] = set()
    latest: dict[tuple[str, int], int] = {}
    for row in sorted(rows, key=lambda sighting: sighting.place):
        partition = (row.place.topic, row.place.partition)
        source, thing = (*partition, row.site, row.source_id), (row.site, row.source_id, row.record_id)
        # A source may send again what it has sent before.
        if row.sequence <= last.get(source, -1) and thing not in known:
            yield f"{row.source_id} {row.sequence} at {at(row.place)} comes after its {last[source]}"
        if row.seen_at_us < latest.get(partition, 0):
            yield f"{at(row.place)} was seen before what stands ahead of it"
        last[source] = max(row.sequence, last.get(source, -1))
        latest[partition] = max(row.seen_at_us, latest.get(partition, 0))
        known.add(thing)


def _announcements(look: Lookup) -> Iterator[str]:
    first: dict[tuple[str, str, str], Place] = {}
    for row in look.all.sightings:
        if row.place in look.redriven_from:
            continue
        thing = (row.site, row.source_id, str(row.record_id))
        first[thing] = min(row.place, first.get(thing, row.place))
    last: dict[tuple[object, ...], Place] = {}
    for announcement in sorted(look.all.afterwards.announcements, key=lambda announcement: announcement.place):
        event = announcement.event
        begun = first.get((event.site, event.source_id, event.record_id))
        if begun is None:
            continue
        stream = (
            announcement.place.topic,
            announcement.place.partition,
            event.site,
            event.source_id,
            begun.topic,
            begun.partition,
            event.event_id in look.all.learned,  # what a recovery adds comes after what was out before it
        )
        if begun < last.get(stream, begun):
            source = f"{event.source_id}'s"
            yield f"{at(announcement.place)} announces {source} {at(begun)} after its {at(last[stream])}"
        last[stream] = max(begun, last.get(stream, begun))


def passed_over(look: Lookup) -> Iterator[str]:
    """I14: a committed offset above a message that was not finished."""
    lowest: dict[Partition, int] = {}
    for place in look.all.messages:
        partition = Partition(place.topic, place.partition)
        if place.offset < lowest.get(partition, place.offset + 1) and not look.finished(place):
            lowest[partition] = place.offset
    for partition, offset in look.all.committed.items():
        unfinished = lowest.get(partition, offset)
        if unfinished < offset:
            yield f"{partition.topic}/{partition.partition} is committed up to {offset}, {unfinished} is not finished"


def _readers(look: Lookup) -> Iterable[tuple[str, ReceivedMessages]]:
    return zip(_READERS, (look.all.live, look.all.afterwards), strict=True)


def _tells_of(announced: ObservedLetter, letter: Letter, *, again: bool) -> bool:
    """Whether an announced dead letter says what its row says; one that is too large comes without its bytes.

    With `again` an older catalog has refused it once more, at another time.
    """
    if (announced.of, announced.code, announced.timestamp_us) != (letter.place, letter.code, letter.timestamp_us):
        return False
    if not again and announced.rejected_at_us != letter.rejected_at_us:
        return False
    whole = (announced.reason, announced.key, announced.value_digest, announced.headers)
    abridged = announced.reason.startswith(f"{letter.reason} (") and whole[1:] == (None, None, b"[]")
    return abridged or whole == (letter.reason, letter.key, letter.value_digest, letter.headers)


def _differs(letter: Letter, message: Message) -> str:
    parts: Mapping[str, tuple[object, object]] = {
        "bytes": (letter.value_digest, message.value_digest),
        "key": (letter.key, message.key),
        "headers": (letter.headers, message.headers),
        "time": (letter.timestamp_us, message.timestamp_us),
    }
    other = [name for name, (kept, sent) in parts.items() if kept != sent]
    return f"does not have its message's {' and '.join(other)}" if other else ""


def _redriven_well(look: Lookup, letter: Letter) -> bool:
    seen = {sighting.record_id for sighting in look.sightings_at.get(letter.place, ())}
    return letter.redriven_as in look.all.records and letter.redriven_as in seen
