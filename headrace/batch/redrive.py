"""Publishes dead letters again on their original topic, if the current validation accepts them.

A redrive takes effect exactly once without a Kafka transaction: publishing is at least once, and ingestion is
idempotent. An attempt is claimed in the catalog, published, and marked as published. If the process is killed between
these steps, the next run publishes the claimed attempts again under the same number. The worker maps a redriven message
to its original topic, partition and offset; a sighting is unique there, so a second copy changes nothing
(`headrace/streams/core/delivery.py`). A transaction would not help, since the mark in the catalog is not part of it.

A dead letter that validation would reject again is left unchanged, so a second run right after the first does nothing.
A worker that is older than this command may still reject a message: the attempt then ends with the reason, and
`attempts_max` ends the loop.
"""

import asyncio
import base64
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from uuid import UUID

import orjson
from confluent_kafka import KafkaError, KafkaException, Producer

from headrace.runtime.crash_points import CrashPoint, reached
from headrace.runtime.errors import Exit, HeadraceError
from headrace.runtime.kafka import DeliveryErrors, client_config, kafka_failed
from headrace.runtime.settings import Settings
from headrace.schemas.catalog_rows import DeadLetterRow
from headrace.schemas.codec import decode
from headrace.schemas.events import Clip, Frame, Kind
from headrace.schemas.headers import REPLAY, Redrive, redrive_headers, unix_us_of
from headrace.schemas.mirrored import check_site, origin_of
from headrace.schemas.reject import RejectCode, RejectedError
from headrace.schemas.topics import TOPICS, input_topic, kind_of_topic
from headrace.schemas.validate import INPUT_EVENTS, ValidEvent, validate
from headrace.store.blobs.blob_store import Blobs
from headrace.store.catalog.dead_letters import Candidate, Claims, DeadLetters, DeadLetterState, LetterFilters
from headrace.store.installation import require_installation

GROUP_BYTES_MAX = 32 * 1024 * 1024  # of messages that are validated and published together
GROUP_LETTERS_MAX = 100
ACKNOWLEDGED_S_MAX = 30
_REQUEST_S = 10
_POLL_S_MAX = 0.2
ALLOWED = ("id", "code", "source", "site", "topic", "since", "until", "state")
_TOPICS = tuple(input_topic(kind).name for kind in Kind)


@dataclass
class RedrivePublisher:
    """Publishes the messages of dead letters unchanged, with `acks=all` and idempotence, in order.

    `rate` limits the messages per second. Every call blocks and belongs on one thread.
    """

    settings: Settings
    rate: float
    clock: Callable[[], float] = time.monotonic
    _next_s: float = 0.0
    _partitions: dict[str, int] = field(default_factory=dict)
    _producer: Producer | None = None

    def publish(self, letters: Sequence[tuple[DeadLetterRow, int]]) -> None:
        """Publish messages, each with its attempt number, and wait until Kafka has acknowledged all of them.

        Raises:
            HeadraceError: a message was not acknowledged; any of them may have been published.
        """
        producer = self._open_producer()
        errors = DeliveryErrors()
        try:
            for letter, attempt in letters:
                self._throttle(producer)
                reached(CrashPoint.REDRIVE_BEFORE_PUBLISH)
                self._produce(producer, letter, attempt, errors)
            unacknowledged = producer.flush(ACKNOWLEDGED_S_MAX)
        except (KafkaException, BufferError) as error:
            raise self._error(error.args[0]) from None
        if errors.first is not None:
            raise self._error(errors.first)
        if unacknowledged:
            raise self._error(KafkaError(KafkaError._TIMED_OUT))  # noqa: SLF001
        reached(CrashPoint.REDRIVE_AFTER_PUBLISH)

    def _produce(self, producer: Producer, letter: DeadLetterRow, attempt: int, errors: DeliveryErrors) -> None:
        redrive = Redrive(letter.dead_letter_id, attempt)
        partitions = self._partition_count(producer, letter.topic)
        # The original partition keeps a source's messages together, even without a key. -1 partitions by key.
        partition = letter.partition if letter.partition < partitions else -1
        headers = redrive_headers(original_headers(letter), redrive, (letter.topic, letter.partition, letter.offset))
        producer.produce(
            letter.topic, letter.value, letter.key, partition=partition, on_delivery=errors.note, headers=list(headers)
        )

    def _open_producer(self) -> Producer:
        if self._producer is None:
            self._producer = Producer(
                client_config(
                    self.settings,
                    acks="all",
                    enable_idempotence=True,
                    linger_ms=5,
                    message_max_bytes=max(topic.message_bytes_max for topic in TOPICS.values()),
                    delivery_timeout_ms=ACKNOWLEDGED_S_MAX * 1000,
                    partitioner="murmur2_random",
                )
            )
        return self._producer

    def _partition_count(self, producer: Producer, topic: str) -> int:
        if topic not in self._partitions:
            self._partitions[topic] = len(producer.list_topics(topic, timeout=_REQUEST_S).topics[topic].partitions)
        return self._partitions[topic]

    def _throttle(self, producer: Producer) -> None:
        interval_s = 1 / self.rate
        start_s = max(self._next_s, self.clock())
        self._next_s = start_s + interval_s
        while (wait_s := start_s - self.clock()) > 0:
            producer.poll(min(wait_s, _POLL_S_MAX))

    def _error(self, error: KafkaError | str) -> HeadraceError:
        if isinstance(error, KafkaError):
            failed = kafka_failed(self.settings, error)
            if failed.exit_code == Exit.UNREACHABLE:
                failed.hint = "run the command again; it resumes, and nothing is ingested twice"
            return failed
        return HeadraceError("redrive_failed", str(error), where=self.settings.kafka_bootstrap)


@dataclass
class RedriveResult:
    """The counts of a redrive. `accepted` are published or, in a dry run, would be; `refused` is by code."""

    looked_at: int = 0
    accepted: int = 0
    published: int = 0
    exhausted: int = 0
    refused: Counter[str] = field(default_factory=Counter)


class RedriveRun:
    """One run over the dead letters of a filter."""

    def __init__(
        self,
        letters: DeadLetters,
        blobs: Blobs,
        *,
        now_us: int,
        attempts_max: int,
        progress: Callable[[RedriveResult], None] = lambda _result: None,
    ) -> None:
        self._letters = letters
        self._blobs = blobs
        self._now_us = now_us
        self._attempts_max = attempts_max
        self._progress = progress

    async def run(self, filters: LetterFilters, publisher: RedrivePublisher | None) -> RedriveResult:
        """Publish the dead letters that validation accepts, by topic, partition and offset; None is a dry run.

        An interrupted run resumes when it is repeated.

        Raises:
            HeadraceError: Kafka, PostgreSQL or the store is unreachable, they do not belong together, or another
                redrive is running.
        """
        result = RedriveResult()
        if publisher is None:
            async for _ in self._accepted(filters, result):
                pass
            return result
        await require_installation(publisher.settings, self._blobs)
        async with self._letters.redriving() as claims:
            async for group in self._accepted(filters, result):
                await self._publish(group, claims, publisher, result)
                self._progress(result)
        return result

    async def _publish(
        self, group: list[tuple[DeadLetterRow, int]], claims: Claims, publisher: RedrivePublisher, result: RedriveResult
    ) -> None:
        reached(CrashPoint.REDRIVE_BEFORE_CLAIM)
        claimed = await claims.claim([(letter.dead_letter_id, attempt) for letter, attempt in group])
        reached(CrashPoint.REDRIVE_AFTER_CLAIM)
        group = [(letter, attempt) for letter, attempt in group if letter.dead_letter_id in claimed]
        if group:
            await asyncio.to_thread(publisher.publish, group)
            reached(CrashPoint.REDRIVE_BEFORE_MARK)
            await self._letters.published([(letter.dead_letter_id, attempt) for letter, attempt in group])
            result.published += len(group)

    async def _accepted(
        self, filters: LetterFilters, result: RedriveResult
    ) -> AsyncIterator[list[tuple[DeadLetterRow, int]]]:
        async for candidates in self._groups(filters, result):
            rows = await self._letters.letters([candidate.dead_letter_id for candidate in candidates])
            known = [candidate for candidate in candidates if candidate.dead_letter_id in rows]
            letters = [rows[candidate.dead_letter_id] for candidate in known]
            validated = await asyncio.to_thread(self._validated, letters)
            accepted = []
            for letter, candidate, valid in zip(letters, known, validated, strict=True):
                code = valid if isinstance(valid, str) else await self._claim_code(valid)
                if code is None:
                    accepted.append((letter, candidate.ended + 1))
                else:
                    result.refused[code] += 1
            result.accepted += len(accepted)
            if accepted:
                yield accepted

    def _validated(self, letters: Sequence[DeadLetterRow]) -> list[ValidEvent | str]:
        return [_validate(letter, self._now_us) for letter in letters]

    async def _claim_code(self, valid: ValidEvent) -> str | None:
        """Return `claim_missing` if an event claims a body that is not staged, else None."""
        event = valid.event
        if not isinstance(event, Frame | Clip) or valid.body is not None or event.claim is None:
            return None
        stored = await self._blobs.stat(event.claim)
        is_staged = stored is not None and stored.size_bytes == valid.size_bytes
        return None if is_staged else RejectCode.CLAIM_MISSING.value

    async def _groups(self, filters: LetterFilters, result: RedriveResult) -> AsyncIterator[list[Candidate]]:
        """Yield candidates in groups of bounded size, without those whose attempts are exhausted."""
        group: list[Candidate] = []
        size_bytes = 0
        async for candidate in self._letters.candidates(filters):
            result.looked_at += 1
            if candidate.ended >= self._attempts_max:
                result.exhausted += 1
                continue
            if group and (size_bytes + candidate.bytes > GROUP_BYTES_MAX or len(group) == GROUP_LETTERS_MAX):
                yield group
                group, size_bytes = [], 0
            group.append(candidate)
            size_bytes += candidate.bytes
        if group:
            yield group


def _validate(letter: DeadLetterRow, now_us: int) -> ValidEvent | str:
    """Return the event of a dead letter that the worker would accept now, or the code with which it would reject it."""
    kind = kind_of_topic(letter.topic)
    if kind is None:
        return "unknown_topic"
    if any(name == REPLAY for name, _ in original_headers(letter)):
        return RejectCode.REPLAYED.value
    try:
        event = decode(letter.value, INPUT_EVENTS[kind])
        check_site(letter.topic, event.site)
        origin_of(letter.topic, original_headers(letter))
        return validate(event, now_us)
    except RejectedError as rejected:
        return rejected.code.value


def original_headers(letter: DeadLetterRow) -> tuple[tuple[str, bytes], ...]:
    """Return the headers of a dead letter's message."""
    return tuple((name, base64.b64decode(value)) for name, value in orjson.loads(letter.headers))


def letter_filters(wheres: Iterable[str]) -> LetterFilters:
    """Parse texts of the form `name=value,name=value`; times are ISO 8601, in UTC unless they have an offset.

    Raises:
        HeadraceError: a name or a value is not allowed; the hint names the allowed ones.
    """
    values: dict[str, str] = {}
    for part in (part.strip() for where in wheres for part in where.split(",")):
        if not part:
            continue
        name, equals, value = (piece.strip() for piece in part.partition("="))
        if name not in ALLOWED or not equals or not value:
            raise _invalid(f"{part!r} is not a filter", f"name=value, with one of: {', '.join(ALLOWED)}")
        if name in values:
            raise _invalid(f"{name} is given twice", "give each filter once")
        values[name] = value
    topic = values.get("topic")
    if topic is not None and kind_of_topic(topic) is None:
        raise _invalid(f"{topic!r} is not an input topic", f"one of: {', '.join(_TOPICS)}")
    return LetterFilters(
        id=_id(values["id"]) if "id" in values else None,
        code=_one_of(RejectCode, "code", values.get("code")),
        site=values.get("site"),
        source=values.get("source"),
        topic=topic,
        since_us=_time_us("since", values.get("since")),
        until_us=_time_us("until", values.get("until")),
        state=DeadLetterState(state) if (state := _one_of(DeadLetterState, "state", values.get("state"))) else None,
    )


def _one_of(kind: type[StrEnum], name: str, value: str | None) -> str | None:
    if value is not None and value not in {member.value for member in kind}:
        raise _invalid(f"{value!r} is not a {name}", f"one of: {', '.join(member.value for member in kind)}")
    return value


def _id(text: str) -> UUID:
    try:
        return UUID(text)
    except ValueError:
        raise _invalid(f"{text!r} is not the id of a dead letter", "`headrace dlq ls` prints them") from None


def _time_us(name: str, text: str | None) -> int | None:
    if text is None:
        return None
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        raise _invalid(f"{text!r} is not a time for {name}", "ISO 8601, for example 2026-11-21T03:00:00") from None
    return unix_us_of(time)


def _invalid(what: str, hint: str) -> HeadraceError:
    return HeadraceError("filter_invalid", what, hint=hint, exit_code=Exit.USAGE)
