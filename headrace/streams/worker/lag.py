"""The lag of the consumer group, queried from the broker: a stuck consumer's own view of it proves nothing."""

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from threading import Event, Thread
from typing import Self

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from headrace.runtime import metrics
from headrace.runtime.errors import HeadraceError
from headrace.runtime.kafka import client_config
from headrace.runtime.logs import Action, get_log
from headrace.runtime.settings import Settings
from headrace.schemas.topics import PartitionKey

_INTERVAL_S = 2.0
_REQUEST_S = 5.0


@dataclass(frozen=True, slots=True)
class PartitionOffsets:
    """The group's committed offset and the end offset of a partition."""

    committed: int
    end: int

    @classmethod
    def within(cls, committed: int, bounds: tuple[int, int]) -> Self:
        """Return the offsets of a group in a partition with these bounds: its first offset, and its end.

        `committed` is negative where the group has committed nothing, and may be below the first offset: what retention
        has deleted is no lag.
        """
        first, end = bounds
        return cls(max(committed, first), end)

    @property
    def lag(self) -> int:
        """The messages between the two."""
        return max(0, self.end - self.committed)


@dataclass(slots=True)
class ProgressTracker:
    """Tracks since when each lagging partition has made no progress; times are passed in, in seconds."""

    _since: dict[PartitionKey, tuple[int, float]] = field(default_factory=dict)

    def observe(
        self, now_s: float, offsets_by_partition: Mapping[PartitionKey, PartitionOffsets]
    ) -> tuple[PartitionKey, int] | None:
        """Record the offsets; return the partition without progress for longest and its offset, or None."""
        stalled: dict[PartitionKey, tuple[int, float]] = {}
        for partition, offsets in offsets_by_partition.items():
            if offsets.lag:
                offset, since = self._since.get(partition, (offsets.committed, now_s))
                stalled[partition] = (offsets.committed, since if offset == offsets.committed else now_s)
        self._since = stalled
        if not stalled:
            return None
        longest = min(stalled, key=lambda partition: stalled[partition][1])
        return longest, stalled[longest][0]


class LagProbe:
    """Queries the group's offsets and the topics' ends every two seconds, in a thread; `topics` may change.

    `assigned` returns this process's partitions; a standby member has none, and no lag. It returns None while the
    process is not in the group: then all partitions of the topics are watched, so that a process that never gets its
    partitions back is noticed too.
    """

    def __init__(
        self,
        settings: Settings,
        group: str,
        topics: Iterable[str],
        assigned: Callable[[], Iterable[PartitionKey] | None],
    ) -> None:
        # It never subscribes: it queries the group's offsets without becoming a member. It fetches as little as
        # possible, because it only tests whether there is a message.
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
        self._topics = topics
        self._assigned = assigned
        self.on_markers: Callable[[PartitionKey, int], bool] = lambda _partition, _end: True
        """Called where only offsets without a message remain below the end; returns False if it is to be repeated."""
        self.on_look: Callable[[], None] = lambda: None
        """Called with each query, in this thread; may raise KafkaException."""
        self._tracker = ProgressTracker()
        self._seen: dict[PartitionKey, PartitionOffsets] = {}
        self._tested: dict[PartitionKey, tuple[PartitionOffsets, bool | None]] = {}
        self._longest: tuple[PartitionKey, int] | None = None
        self.answered = False
        """Whether the broker answered the last query."""
        self._stopped = Event()
        self._thread = Thread(target=self._run, name="lag", daemon=True)

    async def check(self) -> None:
        """Raise if the broker did not answer the last query; for readiness."""
        if not self.answered:
            raise HeadraceError("kafka_unreachable", "the broker did not answer")

    def waiting(self) -> bool:
        """Return whether a watched partition has lag."""
        return self._longest is not None

    def progress(self) -> tuple[PartitionKey, int] | None:
        """Return the partition without progress for longest and its offset: another value means progress."""
        return self._longest

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Stop the thread."""
        self._stopped.set()
        self._thread.join(_REQUEST_S)

    def _run(self) -> None:
        while not self._stopped.is_set():
            try:
                self._longest = self._tracker.observe(time.monotonic(), self._read_offsets())
                self.on_look()
                self.answered = True
            except KafkaException:
                # The broker is unavailable, which is no stall of this process; /readyz reports it.
                self._longest = None
                self.answered = False
            except Exception as error:  # noqa: BLE001 - the probe must continue; /readyz reports the failure
                get_log().error(Action.RETRYING, service="lag", why=type(error).__name__, exc_info=error)
                self._longest = None
                self.answered = False
            self._stopped.wait(_INTERVAL_S)
        self._consumer.close()

    def _read_offsets(self) -> dict[PartitionKey, PartitionOffsets]:
        topics = tuple(self._topics)
        partitions, assigned = self._partitions(topics), self._assigned()
        if assigned is not None:
            own = set(assigned)
            partitions = [partition for partition in partitions if (partition.topic, partition.partition) in own]
        offsets_by_partition: dict[PartitionKey, PartitionOffsets] = {}
        lags = dict.fromkeys(topics, 0)
        for committed in self._consumer.committed(partitions, timeout=_REQUEST_S):
            bounds = self._consumer.get_watermark_offsets(committed, timeout=_REQUEST_S, cached=False)
            offsets = self._without_markers(committed, PartitionOffsets.within(committed.offset, bounds))
            offsets_by_partition[committed.topic, committed.partition] = offsets
            lags[committed.topic] += offsets.lag
        for topic, lag in lags.items():
            metrics.worker_lag_messages.labels(topic).set(lag)
        return offsets_by_partition

    def _without_markers(self, partition: TopicPartition, offsets: PartitionOffsets) -> PartitionOffsets:
        """Return the offsets without lag if only transaction markers or aborted messages remain.

        They have offsets, but no consumer gets them. It is tested if there was no progress since the last query, and
        once for each offset.
        """
        key = partition.topic, partition.partition
        before, self._seen[key] = self._seen.get(key), offsets
        if not offsets.lag or offsets != before:
            return offsets
        tested, has_message = self._tested.get(key, (None, None))
        if tested != offsets or has_message is None:
            has_message = self._has_message(partition, offsets)
            is_noted = has_message is not False or self.on_markers(key, offsets.end)
            self._tested[key] = offsets, has_message if is_noted else None
        return PartitionOffsets(offsets.end, offsets.end) if has_message is False else offsets

    def _has_message(self, partition: TopicPartition, offsets: PartitionOffsets) -> bool | None:
        """Return whether there is a message after the committed offset; None if the broker gave no answer in time."""
        self._consumer.assign([TopicPartition(partition.topic, partition.partition, offsets.committed)])
        try:
            message = self._consumer.poll(_REQUEST_S)
        finally:
            self._consumer.unassign()
        if message is None:
            return None
        if (error := message.error()) is None:
            return True
        # Any other error, such as a lost connection, answers nothing: it is tested again at the next query.
        return False if error.code() == KafkaError._PARTITION_EOF else None  # noqa: SLF001 - the binding's own name

    def _partitions(self, topics: Iterable[str]) -> list[TopicPartition]:
        partitions = []
        for topic in topics:
            metadata = self._consumer.list_topics(topic, timeout=_REQUEST_S).topics[topic]
            partitions += [TopicPartition(topic, number) for number in metadata.partitions]
        return partitions
