"""The report of an erasure: what was deleted, and what lies where nothing can be deleted."""

import asyncio
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from typing import Any, TypeAlias
from uuid import UUID

import orjson
from confluent_kafka import Message

from headrace.runtime.settings import Settings
from headrace.runtime.topic_reader import TopicReader, headers_of, offset_bounds, partitions_of, reading_consumer
from headrace.schemas.codec import decode
from headrace.schemas.digest import event_id
from headrace.schemas.events import Kind, PerceivedFrame, PreprocessedFrame
from headrace.schemas.headers import rfc3339
from headrace.schemas.reject import RejectedError
from headrace.schemas.topics import DEAD_LETTERS, PERCEIVED, PREPROCESSED, ingested_topic
from headrace.store.catalog.erasures import NAMED_MAX, Erasure, Erasures, HoldingExport, OffsetRange

GROUP_ID = "headrace-erase"
OUTPUTS = (*(ingested_topic(kind).name for kind in Kind), DEAD_LETTERS.name, PREPROCESSED.name, PERCEIVED.name)
_RESULTS = {PREPROCESSED.name: PreprocessedFrame, PERCEIVED.name: PerceivedFrame}

SignReport: TypeAlias = Callable[[str, dict[str, Any]], str | None]
"""Signs the report of an erasure, by its id; returns None without a key."""


@dataclass(frozen=True, slots=True)
class ErasureReport:
    """A report as JSON, and the same as a signed JWT; None without a key."""

    body: dict[str, Any]
    signed: str | None


async def write_report(settings: Settings, erasures: Erasures, erasure: Erasure, sign: SignReport) -> ErasureReport:
    """Write the report of an erasure whose rows and objects are deleted, and end it; may be repeated.

    Raises:
        HeadraceError: Kafka or PostgreSQL does not answer.
    """
    messages, is_exact = await erasures.messages(erasure)
    erased_any = await erasures.has_announcements(erasure)
    announcements = await _announcements(settings, erasures, erasure) if erased_any else []
    in_topics = {
        "exact": is_exact,
        "messages": [asdict(item) for item in messages],
        "announcements": [asdict(item) for item in announcements],
    }
    exports = [export_as_json(export) for export in await erasures.exports(erasure)]
    body = report_of(await erasures.summary(erasure), in_topics, exports)
    signed = sign(str(erasure.erasure_id), body)
    await erasures.finish(erasure, orjson.dumps(body).decode(), signed)
    return ErasureReport(body, signed)


def report_of(summary: dict[str, Any], in_topics: dict[str, Any], exports: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the report as JSON values, from the figures of an erasure and what it could not delete."""
    ids = [str(subject) for subject in summary["subject_ids"]]
    return {
        "erasure_id": str(summary["erasure_id"]),
        "site": summary["site"] or None,
        "source_id": summary["source_id"] or None,
        "actor": summary["actor"],
        "reason": summary["reason"],
        "began_at": rfc3339(summary["began_at_us"]),
        "ended_at": rfc3339(summary["now_us"]),
        "records_and_dead_letters": summary["subjects"],
        "ids": ids if summary["subjects"] <= NAMED_MAX else [],
        "records_kept_for_other_sources": summary["records_kept"],
        "kept_by_legal_hold": summary["subjects_held"],
        "keeps_out": summary["keeps_out"],
        "objects_deleted": summary["objects_deleted"],
        "packs_rewritten": summary["packs_rewritten"],
        "tombstones": summary["tombstones"],
        "tombstones_sha256": summary["tombstones_sha256"],
        "in_topics": in_topics,
        "in_exports": exports,
    }


def export_as_json(export: HoldingExport) -> dict[str, Any]:
    """Return an export as the report names it."""
    return {
        "host": export.host or None,
        "target": export.target,
        "format": export.format,
        "began_at": None if export.began_at_us is None else rfc3339(export.began_at_us),
        "until": None if export.until_us is None else rfc3339(export.until_us),
        "complete": export.complete,
        "shards": export.shards,
        "shards_total": export.shards_total,
    }


def ranges_of(positions: Iterable[tuple[str, int, int]]) -> list[OffsetRange]:
    """Return (topic, partition, offset) positions as ranges without gaps, in their order."""
    ordered = sorted(set(positions))
    ranges = []
    for (topic, partition, _), run in groupby(enumerate(ordered), lambda item: (*item[1][:2], item[1][2] - item[0])):
        offsets = [position[2] for _, position in run]
        ranges.append(OffsetRange(topic, partition, offsets[0], offsets[-1]))
    return ranges


async def _announcements(settings: Settings, erasures: Erasures, erasure: Erasure) -> list[OffsetRange]:
    """Read the output topics, and return where they name something erased."""
    positions: list[tuple[str, int, int]] = []
    batches = _events(settings)
    while (batch := await asyncio.to_thread(next, batches, None)) is not None:
        erased = await erasures.announced(erasure, list({event for event, _ in batch})) if batch else set()
        positions += [position for event, position in batch if event in erased]
    return ranges_of(positions)


def _events(settings: Settings) -> Iterator[list[tuple[UUID, tuple[str, int, int]]]]:
    """Yield, in batches, the event ids of the announcements that messages are or follow, with their positions."""
    with reading_consumer(settings, GROUP_ID) as consumer:
        keys = [key for topic in OUTPUTS for key in partitions_of(consumer, topic)]
        reader = TopicReader(consumer, offset_bounds(consumer, keys))
        while reader.unfinished:
            yield [
                (event, (message.topic() or "", message.partition() or 0, message.offset() or 0))
                for message in reader.read()
                if (event := _event_of(message)) is not None
            ]


def _event_of(message: Message) -> UUID | None:
    """Return the id of the announcement that a message is, or whose record it is about; None for a foreign one."""
    result = _RESULTS.get(message.topic() or "")
    try:
        if result is not None:
            return event_id(UUID(decode(message.value(), result).record_id))
        ids = [value for name, value in headers_of(message) or () if name == "ce_id" and value is not None]
        return UUID(ids[-1].decode("ascii")) if ids else None
    except (RejectedError, ValueError):
        return None
