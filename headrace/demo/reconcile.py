"""From what was acknowledged, heard and found to the numbers of the report."""

from collections import Counter
from dataclasses import dataclass

from headrace.demo.evidence import DemoEvidence, verified
from headrace.demo.ledger import AckLedger, MessageOffset, RecordKey
from headrace.demo.listener import CONSUMERS, Heard
from headrace.demo.report import Findings
from headrace.demo.sources import Done
from headrace.demo.watch import Awaited
from headrace.runtime.settings import Settings


@dataclass(frozen=True, slots=True)
class Played:
    """What the sources had to publish, None where they were ended before, and what they published."""

    planned: Done | None
    done: Done


async def weigh(
    settings: Settings, evidence: DemoEvidence, ledger: AckLedger, heard: Heard, *, expected: Awaited, played: Played
) -> Findings:
    """Read catalog and store, and count."""
    good, poison = ledger.good, ledger.poison
    sightings = await evidence.sightings(good)
    letters = await evidence.dead_letters(poison)
    stored = await evidence.records(good.values())
    new = {one.identity: one for one in stored if not one.was_there}
    kept = {f"{one.identity.kind} {one.identity.digest}": one for one in new.values()}
    lost = await verified(settings, kept)
    # A frame that was known before this demonstration has its thumbnail from then.
    lost_thumbnails = await verified(settings, heard.thumbnails)
    wrong = [f"{place} was recorded as {sightings[place]}" for place in sightings if sightings[place] != good[place]]
    frames = expected.frames
    return Findings(
        published=ledger.published,
        unacknowledged=len(ledger.faults),
        expected_distinct=len(expected.records),
        expected_dead_letters=ledger.dead_letters(),
        recorded=len(sightings),
        distinct=len(new),
        known_before=len(stored) - len(new),
        dead_letters=dict(sorted(Counter(letters.values()).items())),
        dead_letters_announced=sum(1 for place in letters if place in heard.dead_letters),
        announced=sum(1 for one in new if one in heard.announcements),
        announced_twice=sum(1 for count in heard.event_ids.values() if count > 1),
        frames_distinct=len(frames),
        frames_published=played.done.frames,
        frames_planned=played.planned.frames if played.planned else None,
        reports_published=played.done.reports,
        reports_planned=played.planned.reports if played.planned else None,
        consumed={name: len(heard.frames[name] & frames) for name in CONSUMERS},
        blobs=len({one.identity.digest for one in new.values()}),
        blobs_verified=len(kept) - len(lost),
        thumbnails=len(heard.thumbnails),
        thumbnails_verified=len(heard.thumbnails) - len(lost_thumbnails),
        latencies_ms=latencies_ms(good, heard),
        strange=len(heard.faults) + len(wrong),
        faults=[*ledger.faults, *heard.faults, *wrong, *lost, *lost_thumbnails],
    )


def latencies_ms(good: dict[MessageOffset, RecordKey], heard: Heard) -> list[float]:
    """Return, for each record, the time from its first message's arrival in Kafka to its announcement's."""
    first: dict[RecordKey, int] = {}
    for place, identity in good.items():
        at_ms = heard.appended_at_ms.get(place)
        if at_ms is not None:
            first[identity] = min(at_ms, first.get(identity, at_ms))
    return [float(heard.announced_at_ms[one] - at_ms) for one, at_ms in first.items() if one in heard.announced_at_ms]
