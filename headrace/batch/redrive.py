"""Dead letters, published again where they came from, as far as today's checks would take them.

Exactly once in effect, without a Kafka transaction: publishing is at least once, and taking up is idempotent. An
attempt is claimed in the catalog, published, and noted as published; killed in between, the next run publishes the
claimed ones again under the same number. The worker takes a redriven message for the message that it was: its sighting
stands at the topic, partition and offset at which the source published it, and that key is unique, so the second copy
finds everything there (`headrace/streams/core/redrive.py`). A transaction would not do better: the note in the
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
from typing import Protocol, TypeAlias

from headrace.runtime.crash_points import CrashPoint, reached
from headrace.store.catalog.dead_letters import Candidate, Claims, DeadLetters, LetterFilters
from headrace.store.catalog.rows import DeadLetterRow

GROUP_BYTES_MAX = 32 * 1024 * 1024  # of messages that are read, judged and published together
GROUP_LETTERS_MAX = 100


@dataclass(frozen=True, slots=True)
class Claimed:
    """A body that a message does not hold: where it is staged, and where it belongs."""

    staging_key: str
    blob_key: str
    size_bytes: int


@dataclass(frozen=True, slots=True)
class ValidationResult:
    """What today's checks say to a message. `code` is None where they accept it, given what it claims."""

    code: str | None = None
    claim: Claimed | None = None


class Objects(Protocol):
    """The store, as far as a claim needs it."""

    async def size(self, key: str) -> int | None:
        """Return the size of an object in bytes; None where there is none."""


class RawPublisher(Protocol):
    """Where messages go."""

    def publish(self, letters: Sequence[tuple[DeadLetterRow, int]]) -> None:
        """Publish messages, each with the number of its attempt, and wait for the acknowledgements."""


Validator: TypeAlias = Callable[[DeadLetterRow], ValidationResult]


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
        objects: Objects,
        judge: Validator,
        *,
        attempts_max: int,
        progress: Callable[[Redriven], None] = lambda _so_far: None,
    ) -> None:
        self._letters = letters
        self._objects = objects
        self._judge = judge
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
            verdicts = await asyncio.to_thread(self._judged, [letter for letter, _ in there])
            accepted = []
            for (letter, candidate), verdict in zip(there, verdicts, strict=True):
                code = await self._settled(verdict)
                if code is None:
                    accepted.append((letter, candidate.ended + 1))
                else:
                    done.refused[code] += 1
            done.accepted += len(accepted)
            if accepted:
                yield accepted

    def _judged(self, letters: Sequence[DeadLetterRow]) -> list[ValidationResult]:
        return [self._judge(letter) for letter in letters]

    async def _settled(self, verdict: ValidationResult) -> str | None:
        """Return the code of a refusal: a claim is worth what is there for it."""
        claim = verdict.claim
        if verdict.code is not None or claim is None:
            return verdict.code
        found = [await self._objects.size(key) for key in (claim.staging_key, claim.blob_key)]
        return None if claim.size_bytes in found else "claim_missing"

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
