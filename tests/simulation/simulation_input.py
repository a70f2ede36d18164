"""The input topics: their messages, and a consumer group that hands them out the way that hurts most.

Every rebalance sends everybody back to what is committed, and what is committed is simply the highest acknowledged
offset: nothing but the order of the acknowledgements protects a lower one.
"""

from asyncio import CancelledError
from dataclasses import dataclass, field, replace
from functools import cache
from uuid import UUID

from headrace.schemas.codec import encode
from headrace.schemas.digest import dead_letter_id, event_id, record_id, sha256_hex, staging_key
from headrace.schemas.events import InputEvent, Kind
from headrace.schemas.topics import input_topic
from headrace.streams.core.delivery import ConsumedMessage
from headrace.streams.core.examine import AcceptedDelivery, examine
from tests.simulation.simulation_faults import SentInput, SimulationStep, Weather
from tests.simulation.simulation_loop import CrashedError, Process
from tests.streams.streams_samples import cid, frame, png, raw_delivery

KINDS = (Kind.CID, Kind.FRAME)
PARTITIONS = 2
WHATS = ("cid", "frame", "staged", "poison", "false_digest", "false_claim")
KAFKA_AWAY = ConnectionError("no broker answers")


@dataclass(frozen=True)
class Expected:
    """What has to become of a message: a record, or a dead letter."""

    place: tuple[str, int, int]
    source: str
    record: UUID | None
    letter: UUID | None

    @property
    def event(self) -> UUID:
        known = self.record or self.letter
        assert known is not None
        return event_id(known)


@cache
def content(sent: SentInput) -> tuple[Kind, bytes, tuple[str, bytes] | None]:
    """The kind of a message, its bytes, and what has to be staged before."""
    source, body = {"source_id": f"camera-{sent.source}"}, png(shade=sent.number)
    key = staging_key("plant", source["source_id"], sha256_hex(body))
    event: InputEvent
    match sent.what:
        case "poison":
            return Kind.CID, b"\x01poison", None
        case "cid":
            event = cid(f"C-{sent.number}", **source)
            return Kind.CID, encode(event), None
        case "frame":
            event = frame(body, **source)
        case "false_digest":
            event = frame(body, **source, sha256="0" * 64)
        case "false_claim":
            digest = sha256_hex(b"%d" % sent.number)
            event = replace(frame(body, **source), body=None, claim=key + "-missing", sha256=digest)
        case _:
            event = replace(frame(body, **source), body=None, claim=key)
            return Kind.FRAME, encode(event), (key, body)
    return Kind.FRAME, encode(event), None


class Topics:
    """What is in the input topics, and what has to become of it."""

    def __init__(self, messages: tuple[SentInput, ...]) -> None:
        self.logs: dict[tuple[str, int], list[ConsumedMessage]] = {
            (input_topic(kind).name, partition): [] for kind in KINDS for partition in range(PARTITIONS)
        }
        self.staged: dict[str, bytes] = {}
        self.expected: list[Expected] = []
        for sent in messages:
            self._add(sent)

    def _add(self, sent: SentInput) -> None:
        kind, value, staged = content(sent)
        if staged is not None:
            self.staged[staged[0]] = staged[1]
        log = self.logs[input_topic(kind).name, sent.source % PARTITIONS]
        delivery = raw_delivery(kind, value, offset=len(log), partition=sent.source % PARTITIONS)
        log.append(delivery)
        place = (delivery.topic, delivery.partition, delivery.offset)
        examined = examine(kind, delivery)
        good = isinstance(examined, AcceptedDelivery) and sent.what != "false_claim"
        self.expected.append(
            Expected(
                place,
                f"camera-{sent.source}",
                record_id(kind, examined.digest) if good and isinstance(examined, AcceptedDelivery) else None,
                None if good else dead_letter_id(*place, value),
            )
        )


@dataclass
class Member:
    """One worker's part of the group."""

    process: Process
    positions: dict[tuple[str, int], int] = field(default_factory=dict)
    acked: dict[tuple[str, int], int] = field(default_factory=dict)


class SimulationGroup:
    """Who reads which partition, and how far each is committed."""

    def __init__(self, weather: Weather, topics: Topics) -> None:
        self._weather = weather
        self._logs = topics.logs
        self.committed = dict.fromkeys(topics.logs, 0)
        self.done: set[tuple[str, int, int]] = set()  # kept by the catalog
        self._members: list[Member] = []
        weather.on_pause.append(self._missed)

    def join(self, process: Process) -> Member:
        member = Member(process)
        self._members.append(member)
        process.on_death.append(lambda: self._left(member))
        self._rebalance()
        return member

    def take(self, member: Member, topic: str, upto: int) -> list[ConsumedMessage]:
        """The next messages of a topic, from all partitions that the member has."""
        taken: list[ConsumedMessage] = []
        for place in sorted(member.positions):
            if place[0] == topic and len(taken) < upto:
                position = member.positions[place]
                some = self._logs[place][position : position + upto - len(taken)]
                member.positions[place] = position + len(some)
                taken += some
        return taken

    def ack(self, member: Member, delivery: ConsumedMessage) -> None:
        place = delivery.topic, delivery.partition
        if place in member.positions:
            member.acked[place] = max(member.acked.get(place, 0), delivery.offset + 1)

    def commit(self, member: Member) -> None:
        """Commit what the member acknowledged, as far as it still has the partitions."""
        for place, offset in member.acked.items():
            if place in member.positions and offset > self.committed[place]:
                self.committed[place] = offset
                self._weather.note(f"committed {place} up to {offset}")
                lost = [below for below in range(offset) if (*place, below) not in self.done]
                self._weather.hold("I14", f"{place} is committed up to {offset} without {lost}", holds=not lost)

    def finished(self) -> bool:
        return all(self.committed[place] == len(log) for place, log in self._logs.items())

    def rejoin(self, member: Member) -> None:
        if member not in self._members and member.process.alive:
            self._members.append(member)
            self._rebalance()

    def _missed(self, process: Process) -> None:
        for member in [member for member in self._members if member.process is process]:
            self._left(member)

    def _left(self, member: Member) -> None:
        if member in self._members:
            self._members.remove(member)
            member.positions.clear()
            member.acked.clear()
            self._rebalance()

    def _rebalance(self) -> None:
        self._weather.note(f"rebalance among {[member.process.name for member in self._members]}")
        for member in self._members:
            member.positions.clear()
            member.acked.clear()
        if self._members:
            for number, place in enumerate(sorted(self._logs)):
                self._members[number % len(self._members)].positions[place] = self.committed[place]


class SimulatedFetch:
    """Messages of one partition; a fault may hit the note that each of them is durable."""

    def __init__(
        self, weather: Weather, group: SimulationGroup, member: Member, messages: list[ConsumedMessage]
    ) -> None:
        self._weather, self._group, self._member = weather, group, member
        self.messages = messages
        self._unfinished = messages

    def finish(self, next_offset: int) -> None:
        done = [message for message in self._unfinished if message.offset < next_offset]
        self._unfinished = self._unfinished[len(done) :]
        for message in done:
            self._ack(message)

    def _ack(self, message: ConsumedMessage) -> None:
        try:
            self._weather.step_now(
                SimulationStep.ACK,
                lambda: self._group.ack(self._member, message),
                away=KAFKA_AWAY,
                about=message.position,
            )
        except ConnectionError:
            self._group.ack(self._member, message)  # a note in memory, which only the process's end can prevent
        except CrashedError:
            self._member.process.kill()
            raise CancelledError from None
