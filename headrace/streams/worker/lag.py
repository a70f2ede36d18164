"""How far the group is behind, asked of the broker itself: what a stuck consumer believes of itself proves nothing."""

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from threading import Event, Thread
from typing import TypeAlias

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from headrace.runtime import metrics
from headrace.runtime.errors import HeadraceError
from headrace.runtime.kafka import client_config
from headrace.runtime.logs import Action, get_log
from headrace.runtime.settings import Settings

_LOOK_S = 2.0
_REQUEST_S = 5.0


Partition: TypeAlias = tuple[str, int]


@dataclass(frozen=True, slots=True)
class Standing:
    """How far a partition is: the group's committed offset and the topic's end."""

    committed: int
    end: int

    @property
    def lag(self) -> int:
        """Messages between the two."""
        return max(0, self.end - self.committed)


@dataclass(slots=True)
class Stall:
    """Remembers since when each lagging partition has not moved; times are passed in, in seconds."""

    _since: dict[Partition, tuple[int, float]] = field(default_factory=dict)

    def observe(self, now_s: float, standings: Mapping[Partition, Standing]) -> tuple[Partition, int] | None:
        """Take in where the partitions are; return the longest-standing one with its offset, or None if all move."""
        still: dict[Partition, tuple[int, float]] = {}
        for partition, standing in standings.items():
            if standing.lag:
                offset, since = self._since.get(partition, (standing.committed, now_s))
                still[partition] = (standing.committed, since if offset == standing.committed else now_s)
        self._since = still
        if not still:
            return None
        longest = min(still, key=lambda partition: still[partition][1])
        return longest, still[longest][0]


class LagProbe:
    """Looks every two seconds, in a thread, at where the group and the topics are.

    `assigned` returns this process's partitions; one that stands by has none, and nothing that it could be late with.
    It returns None while the process is not in the group: then all partitions of the topics are watched, so that one
    that never gets its share back is noticed too.
    """

    def __init__(
        self, settings: Settings, group: str, topics: Iterable[str], assigned: Callable[[], Iterable[Partition] | None]
    ) -> None:
        # It never subscribes: it asks for the group's offsets without becoming a member. It fetches as little as it
        # can, for it only ever asks whether there is a message at all.
        self._consumer = Consumer(
            client_config(
                settings,
                group_id=group,
                enable_auto_commit=False,
                isolation_level="read_committed",
                enable_partition_eof=True,
                fetch_message_max_bytes=1,
                queued_min_messages=1,
                queued_max_messages_kbytes=1,
            )
        )
        self._topics = tuple(topics)
        self._assigned = assigned
        self._stall = Stall()
        self._seen: dict[Partition, Standing] = {}
        self._proven: dict[Partition, tuple[Standing, bool]] = {}
        self._longest: tuple[Partition, int] | None = None
        self.answered = False
        """Whether the broker answered the last look."""
        self._stopped = Event()
        self._thread = Thread(target=self._look_on, name="lag", daemon=True)

    async def check(self) -> None:
        """Raise where the broker did not answer the last look; for readiness."""
        if not self.answered:
            raise HeadraceError("kafka_unreachable", "the broker did not answer")

    def waiting(self) -> bool:
        """Say whether a watched partition has messages that nobody has finished."""
        return self._longest is not None

    def progress(self) -> tuple[Partition, int] | None:
        """Return the partition that has stood still longest and its offset: another value means that it moved."""
        return self._longest

    def start(self) -> None:
        """Begin to look."""
        self._thread.start()

    def stop(self) -> None:
        """Look no longer."""
        self._stopped.set()
        self._thread.join(_REQUEST_S)

    def _look_on(self) -> None:
        while not self._stopped.is_set():
            try:
                self._longest = self._stall.observe(time.monotonic(), self._standings())
                self.answered = True
            except KafkaException:
                # The broker is away: that is not this process standing still. It is said by /readyz.
                self._longest = None
                self.answered = False
            except Exception as error:  # noqa: BLE001 - whoever watches must go on; that it failed is said by /readyz
                get_log().error(Action.RETRYING, service="lag", why=type(error).__name__, exc_info=error)
                self._longest = None
                self.answered = False
            self._stopped.wait(_LOOK_S)
        self._consumer.close()

    def _standings(self) -> dict[Partition, Standing]:
        everything, assigned = self._partitions(), self._assigned()
        share = None if assigned is None else set(assigned)
        watched = [one for one in everything if share is None or (one.topic, one.partition) in share]
        standings: dict[Partition, Standing] = {}
        lags = dict.fromkeys(self._topics, 0)
        for one in self._consumer.committed(watched, timeout=_REQUEST_S):
            low, high = self._consumer.get_watermark_offsets(one, timeout=_REQUEST_S, cached=False)
            # Nothing committed yet is a negative number; what retention deleted cannot be waited for.
            standing = self._without_markers(one, Standing(max(one.offset, low), high))
            standings[one.topic, one.partition] = standing
            lags[one.topic] += standing.lag
        for topic, lag in lags.items():
            metrics.worker_lag_messages.labels(topic).set(lag)
        return standings

    def _without_markers(self, one: TopicPartition, standing: Standing) -> Standing:
        """Return where a partition is, without lag where only markers of transactions or aborted messages remain.

        They have offsets but nobody will ever finish them. It is looked at when nothing has moved since the last look,
        and once for each place.
        """
        partition = one.topic, one.partition
        before, self._seen[partition] = self._seen.get(partition), standing
        if not standing.lag or standing != before:
            return standing
        looked_at, holds = self._proven.get(partition, (None, True))
        if looked_at != standing:
            holds = self._holds_a_message(one, standing)
            self._proven[partition] = standing, holds
        return standing if holds else Standing(standing.end, standing.end)

    def _holds_a_message(self, one: TopicPartition, standing: Standing) -> bool:
        self._consumer.assign([TopicPartition(one.topic, one.partition, standing.committed)])
        try:
            message = self._consumer.poll(_REQUEST_S)
        finally:
            self._consumer.unassign()
        error = message.error() if message is not None else None
        return error is None or error.code() != KafkaError._PARTITION_EOF  # noqa: SLF001 - the binding's own name

    def _partitions(self) -> list[TopicPartition]:
        found = []
        for topic in self._topics:
            about = self._consumer.list_topics(topic, timeout=_REQUEST_S).topics[topic]
            found += [TopicPartition(topic, number) for number in about.partitions]
        return found
