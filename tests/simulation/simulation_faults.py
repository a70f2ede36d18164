"""What can go wrong, where and when, as data that Hypothesis can make and shrink; and the step at which it does."""

import asyncio
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from random import Random
from typing import TypeVar

from tests.simulation.simulation_loop import CrashedError, Process, VirtualLoop, this_process

T = TypeVar("T")


class SimulationStep(StrEnum):
    """Every effect that a process has on the outside."""

    PUT = "put"
    PROMOTE = "promote"
    KNOWN = "known"
    COMMIT = "commit"
    ACK = "ack"
    DISCARD = "discard"
    OFFSETS = "offsets"
    LEAD = "lead"
    INIT = "init"
    CHECKPOINTS = "checkpoints"
    TAIL = "tail"
    MARK_SEEN = "mark_seen"
    PENDING = "pending"
    SEND = "send"
    END = "end"
    MARK = "mark"
    CLAIM = "claim"  # only a mutant has it


class Effect(StrEnum):
    """What goes wrong at a step."""

    FAIL = "fail"  # nothing happened, and the process knows
    LOST = "lost"  # it happened, and the answer did not arrive
    LATE = "late"  # it happens later, after the process was told that it failed
    CRASH_BEFORE = "crash before"
    CRASH_AFTER = "crash after"
    PAUSE = "pause"  # the process stands still, and others take over what it had
    OUTAGE = "outage"  # the service is away for a while


SERVICE = {
    SimulationStep.PUT: "store",
    SimulationStep.PROMOTE: "store",
    SimulationStep.DISCARD: "store",
    SimulationStep.KNOWN: "catalog",
    SimulationStep.COMMIT: "catalog",
    SimulationStep.CLAIM: "catalog",
    SimulationStep.LEAD: "catalog",
    SimulationStep.CHECKPOINTS: "catalog",
    SimulationStep.MARK_SEEN: "catalog",
    SimulationStep.PENDING: "catalog",
    SimulationStep.MARK: "catalog",
}


@dataclass(frozen=True)
class Fault:
    """The `nth` time that anybody comes to `step`, `effect` happens, for `seconds` where it takes time."""

    step: SimulationStep
    nth: int
    effect: Effect
    seconds: int


@dataclass(frozen=True)
class SentInput:
    """One message: what it holds, by whom. The same number is the same content."""

    source: int
    what: str
    number: int


@dataclass(frozen=True)
class Schedule:
    """Everything that decides a run."""

    seed: int
    messages: tuple[SentInput, ...]
    faults: tuple[Fault, ...]
    workers: int = 1
    relays: int = 1
    batch_max: int = 3


@dataclass
class Weather:
    """Carries out steps, and lets go wrong what the schedule says."""

    schedule: Schedule
    loop: VirtualLoop = field(init=False)
    trace: list[str] = field(default_factory=list)
    on_pause: list[Callable[[Process], None]] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._random = Random(self.schedule.seed)
        self._hits: Counter[SimulationStep] = Counter()
        self._faults = {(fault.step, fault.nth): fault for fault in self.schedule.faults}
        self._away_until_s: dict[str, float] = {}
        self.loop = VirtualLoop(self.delay_s)

    def delay_s(self) -> float:
        # Mostly quick, now and then slow enough that others overtake.
        return self._random.random() * (0.01 if self._random.random() < 0.8 else 2.0)

    def choose(self, upto: int) -> int:
        return self._random.randint(1, upto)

    def note(self, what: str) -> None:
        self.trace.append(f"{self.loop.time():9.3f} {what}")

    def hold(self, invariant: str, what: str, *, holds: bool) -> None:
        """Keep a violation: raised where it is found, it would look like a fault of the process that found it."""
        if not holds:
            self.note(f"VIOLATED {invariant}: {what}")
            self.violations.append(f"{invariant}: {what}")

    async def step(self, step: SimulationStep, effect: Callable[[], T], *, away: Exception, about: object = "") -> T:
        """Carry one effect out, with time before and after it."""
        process, fault = this_process(), self._due(step, about)
        await asyncio.sleep(self.delay_s())
        process.check()
        if fault is not None and fault.effect is Effect.PAUSE:
            for each in self.on_pause:
                each(process)
            await asyncio.sleep(fault.seconds)
            process.check()
        try:
            result = self._perform(step, fault, effect, away)
        except CrashedError:
            process.kill()
            raise asyncio.CancelledError from None
        await asyncio.sleep(self.delay_s())
        process.check()
        return result

    def step_now(self, step: SimulationStep, effect: Callable[[], T], *, away: Exception, about: object = "") -> T:
        """Carry one effect out, for callers that cannot wait."""
        process, fault = this_process(), self._due(step, about)
        if not process.alive:
            raise CrashedError
        if fault is not None and fault.effect is Effect.PAUSE:
            for each in self.on_pause:
                each(process)
        return self._perform(step, fault, effect, away)

    def _perform(self, step: SimulationStep, fault: Fault | None, effect: Callable[[], T], away: Exception) -> T:
        kind = fault.effect if fault else None
        if kind is Effect.CRASH_BEFORE:
            raise CrashedError
        if fault and kind is Effect.OUTAGE and step in SERVICE:
            self._away_until_s[SERVICE[step]] = self.loop.time() + fault.seconds
        if fault and kind is Effect.LATE:
            self.loop.call_later(fault.seconds, self._late, step, effect)
        if kind in {Effect.FAIL, Effect.LATE} or self.loop.time() < self._away_until_s.get(SERVICE.get(step, ""), 0):
            raise away
        result = effect()
        if kind is Effect.CRASH_AFTER:
            raise CrashedError
        if kind is Effect.LOST:
            raise away
        return result

    def _late(self, step: SimulationStep, effect: Callable[[], object]) -> None:
        self.note(f"late {step} takes effect")
        try:
            effect()
        except Exception as error:  # noqa: BLE001 - nobody is there any more to whom it could be told
            self.note(f"late {step} is refused: {error}")

    def _due(self, step: SimulationStep, about: object) -> Fault | None:
        self._hits[step] += 1
        fault = self._faults.get((step, self._hits[step]))
        effect = f"   <-- {fault.effect} ({fault.seconds} s)" if fault else ""
        self.note(f"{this_process().name:9} {step} #{self._hits[step]} {about}{effect}")
        return fault
