"""Dead letters, published again where they came from, as far as today's checks would take them.

Exactly once in effect, without a Kafka transaction: publishing is at least once, and taking up is idempotent. An
attempt is claimed in the catalog, published, and noted as published; killed in between, the next run publishes the
claimed ones again under the same number. The worker takes a redriven message for the message that it was: its sighting
stands at the topic, partition and offset at which the source published it, and that key is unique, so the second copy
finds everything there (`headrace/streams/core/delivery.py`). A transaction would not do better: the note in the
catalog is no
part of it, and a redrive that is killed between its commit and the note publishes again all the same.

Only what the checks accept today is published. What would be refused again stays as it is, so a second run right after
the first finds nothing to do, and a decoder that does not help costs nothing. A worker that is older than this command
may still refuse: the attempt then ends with its reason, and `attempts_max` ends the loop.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from headrace.runtime.crash_points import CrashPoint, reached
from headrace.schemas.catalog_rows import DeadLetterRow
from headrace.schemas.codec import decode
from headrace.schemas.digest import blob_key
from headrace.schemas.events import Clip, Frame
from headrace.schemas.reject import RejectCode, RejectedError
from headrace.schemas.topics import kind_of_topic
from headrace.schemas.validate import INPUT_EVENTS, ValidEvent, validate
from headrace.store.blobs.blob_store import Blobs
from headrace.store.catalog.dead_letters import Candidate, Claims, DeadLetters, LetterFilters

GROUP_BYTES_MAX = 32 * 1024 * 1024  # of messages that are read, judged and published together
GROUP_LETTERS_MAX = 100


class RawPublisher(Protocol):
    """Where messages go."""

    def publish(self, letters: Sequence[tuple[DeadLetterRow, int]]) -> None:
        """Publish messages, each with the number of its attempt, and wait for the acknowledgements."""


@dataclass
class Redriven:
    """What a redrive found and did. `refused` is by code; `claimed` counts what was published or, dry, would be."""

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
        progress: Callable[[Redriven], None] = lambda _so_far: None,
    ) -> None:
        self._letters = letters
        self._blobs = blobs
        self._now_us = now_us
        self._attempts_max = attempts_max
        self._progress = progress

    async def run(self, filters: LetterFilters, publisher: RawPublisher | None) -> Redriven:
        """Publish again what the checks accept, oldest place first; with no publisher only say what would happen.

        May be repeated, and goes on where it was interrupted.

        Raises:
            HeadraceError: Kafka, PostgreSQL or the store is away, or another redrive runs.
        """
        done = Redriven()
        if publisher is None:
            async for _ in self._accepted(filters, done):
                pass
            return done
        async with self._letters.redriving() as claims:
            async for group in self._accepted(filters, done):
                await self._publish(group, claims, publisher, done)
                self._progress(done)
        return done

    async def _publish(
        self, group: list[tuple[DeadLetterRow, int]], claims: Claims, publisher: RawPublisher, done: Redriven
    ) -> None:
        reached(CrashPoint.REDRIVE_BEFORE_CLAIM)
        wanted = await claims.claim([(letter.dead_letter_id, attempt) for letter, attempt in group])
        reached(CrashPoint.REDRIVE_AFTER_CLAIM)
        group = [(letter, attempt) for letter, attempt in group if letter.dead_letter_id in wanted]
        if group:
            await asyncio.to_thread(publisher.publish, group)
            reached(CrashPoint.REDRIVE_BEFORE_MARK)
            await self._letters.published([(letter.dead_letter_id, attempt) for letter, attempt in group])
            done.published += len(group)

    async def _accepted(self, filters: LetterFilters, done: Redriven) -> AsyncIterator[list[tuple[DeadLetterRow, int]]]:
        async for candidates in self._groups(filters, done):
            letters = await self._letters.letters([one.dead_letter_id for one in candidates])
            there = [(letters[one.dead_letter_id], one) for one in candidates if one.dead_letter_id in letters]
            results = await asyncio.to_thread(self._validated, [letter for letter, _ in there])
            accepted = []
            for (letter, candidate), result in zip(there, results, strict=True):
                code = result if isinstance(result, str) else await self._claim_code(result)
                if code is None:
                    accepted.append((letter, candidate.ended + 1))
                else:
                    done.refused[code] += 1
            done.accepted += len(accepted)
            if accepted:
                yield accepted

    def _validated(self, letters: Sequence[DeadLetterRow]) -> list[ValidEvent | str]:
        return [_validate(letter, self._now_us) for letter in letters]

    async def _claim_code(self, valid: ValidEvent) -> str | None:
        """Return `claim_missing` if an event claims a body that is neither staged nor ingested, else None."""
        event = valid.event
        if not isinstance(event, Frame | Clip) or valid.body is not None or event.claim is None:
            return None
        for key in (event.claim, blob_key(valid.digest)):
            stored = await self._blobs.stat(key)
            if stored is not None and stored.size_bytes == valid.size_bytes:
                return None
        return RejectCode.CLAIM_MISSING.value

    async def _groups(self, filters: LetterFilters, done: Redriven) -> AsyncIterator[list[Candidate]]:
        """Yield candidates in runs of a bounded size, leaving out those that were tried often enough."""
        group: list[Candidate] = []
        size = 0
        async for candidate in self._letters.candidates(filters):
            done.looked_at += 1
            if candidate.ended >= self._attempts_max:
                done.exhausted += 1
                continue
            if group and (size + candidate.bytes > GROUP_BYTES_MAX or len(group) == GROUP_LETTERS_MAX):
                yield group
                group, size = [], 0
            group.append(candidate)
            size += candidate.bytes
        if group:
            yield group


def _validate(letter: DeadLetterRow, now_us: int) -> ValidEvent | str:
    """Return the event of a dead letter that the worker would accept now, or the code of its refusal."""
    kind = kind_of_topic(letter.topic)
    if kind is None:
        return "unknown_topic"
    try:
        return validate(decode(letter.value, INPUT_EVENTS[kind]), now_us)
    except RejectedError as rejected:
        return rejected.code.value
