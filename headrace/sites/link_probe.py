"""How a link is doing: what still waits at the source, how old it is, and the states of the tasks that copy."""

import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace

from confluent_kafka import Consumer, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient

from headrace.runtime.errors import HeadraceError
from headrace.runtime.kafka import client_config, kafka_failed, topic_ids
from headrace.runtime.settings import Settings
from headrace.runtime.topic_reader import headers_of, reading_consumer
from headrace.schemas.mirrored import origin_of
from headrace.schemas.topics import PartitionKey
from headrace.sites.clusters import offset_ranges, retentions_s
from headrace.sites.internal_topic import InternalTopic, TaskStatus, parse_offset, parse_status, patient_reader
from headrace.sites.memory import Loss, parse_loss, parse_topic_id
from headrace.sites.mm2 import MEMORY_TOPIC, offsets_topic, status_topic
from headrace.sites.topology import Flow

ALARM_SHARE = 0.5
"""Of the source's retention: what has waited longer is in danger of being deleted before it is copied."""

_REQUEST_S = 5.0
_SAMPLE_MESSAGES = 3
_CONTROL_RECORDS_MAX = 10
_SMALL_KIB = 64
_ROUNDS_MAX = 22
_RESOLUTION_S = 1.0
_SPAN_S = 60 * 86_400
"""No message is older: it is more than twice the longest retention."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PartitionLag:
    """One partition of the source: offsets from `first` (inclusive) to `end` are there, `position` is copied next."""

    topic: str
    partition: int
    position: int
    first: int
    end: int

    @property
    def messages(self) -> int:
        """How many messages wait; control records of transactions count too."""
        return max(self.end - max(self.position, self.first), 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkStatus:
    """What is known of a link; `problem` says why the source does not tell, and is empty where it does.

    `bytes` is an estimate: the waiting messages, as large as the last ones that were copied. `retention_share` is the
    age of the oldest waiting message as a share of its topic's retention at the source.
    """

    link: str
    problem: str = ""
    lags: tuple[PartitionLag, ...] = ()
    bytes: int = 0
    seconds: float = 0.0
    retention_share: float = 0.0
    tasks: Mapping[str, TaskStatus] = field(default_factory=dict)
    losses: tuple[Loss, ...] = ()

    @property
    def messages(self) -> int:
        """How many messages wait."""
        return sum(lag.messages for lag in self.lags)

    @property
    def alarm(self) -> bool:
        """Whether messages may soon be deleted before they are copied, or have been within the last day."""
        return self.retention_share >= ALARM_SHARE or any(loss.is_recent for loss in self.losses)

    @property
    def states(self) -> dict[str, int]:
        """How many tasks are in each state."""
        states = [task.state for task in self.tasks.values()]
        return {state: states.count(state) for state in sorted(set(states))}

    @property
    def error(self) -> str:
        """The error of a task, or why the source does not tell."""
        return next((task.error for task in self.tasks.values() if task.error), self.problem)

    def public(self) -> dict[str, object]:
        """Return it for `headrace sites --json`."""
        return {
            "link": self.link,
            "messages": self.messages,
            "bytes": self.bytes,
            "seconds": round(self.seconds, 1),
            "retention_share": round(self.retention_share, 4),
            "alarm": self.alarm,
            "tasks": self.states,
            "error": self.error,
            "lost": [
                {"topic": loss.topic, "partition": loss.partition, "from": loss.first, "until": loss.until}
                for loss in self.losses
            ],
        }


class LinkProbe:
    """Looks at one link again and again. Every call blocks and belongs on one thread at a time."""

    def __init__(self, flow: Flow, clusters: tuple[Settings, Settings], consumers: tuple[Consumer, Consumer]) -> None:
        """Ask the source and the target, with their settings and through these consumers."""
        source, target = clusters
        self._flow = flow
        self._settings = source
        self._source, self._target = consumers
        self._admin, self._near = AdminClient(client_config(source)), AdminClient(client_config(target))
        self.positions = InternalTopic(self._target, offsets_topic(flow.source), parse_offset)
        self.tasks = InternalTopic(self._target, status_topic(flow.source), parse_status)
        self.ends: dict[PartitionKey, int] = {}
        """The end of each copy, before `positions` was read; by the partitions of the source."""
        self.topic_ids = InternalTopic(self._target, MEMORY_TOPIC, parse_topic_id)
        self._losses = InternalTopic(self._target, MEMORY_TOPIC, parse_loss)

    def look(self) -> LinkStatus:
        """Return how the link is doing.

        Raises:
            KafkaException: the target does not answer.
            HeadraceError: the target does not answer.
        """
        self.read_target()
        tasks = dict(self.tasks.values)
        losses = tuple(loss for loss in self._losses.values.values() if loss.link == self._flow.name)
        try:
            lags = self._lags()
            ages = self._ages([lag for lag in lags if lag.messages])
            retentions = retentions_s(self._admin, [topic.name for topic in self._flow.topics]) if ages else {}
        except KafkaException as error:
            problem = f"{self._flow.source} does not answer: {kafka_failed(self._settings, error.args[0]).what}"
            return LinkStatus(link=self._flow.name, problem=problem, tasks=tasks, losses=losses)
        shares = [age / retentions[topic] for (topic, _), age in ages.items() if topic in retentions]
        return LinkStatus(
            link=self._flow.name,
            lags=tuple(lags),
            bytes=sum(self._bytes(lag) for lag in lags if lag.messages),
            seconds=max(ages.values(), default=0.0),
            retention_share=max(shares, default=0.0),
            tasks=tasks,
            losses=losses,
        )

    def read_target(self) -> None:
        """Read what the target knows.

        Raises:
            KafkaException: it does not answer.
        """
        topics = self._target.list_topics(timeout=_REQUEST_S).topics
        copies = {self._flow.mirrored(topic.name): topic.name for topic in self._flow.topics}
        keys = [(copy, number) for copy in copies if copy in topics for number in topics[copy].partitions]
        bounds = offset_ranges(self._near, keys)
        self.ends = {(copies[copy], number): end for (copy, number), (_, end) in bounds.items()}
        for topic in (self.positions, self.tasks, self.topic_ids, self._losses):
            topic.refresh()

    def ids_at_source(self) -> dict[str, str]:
        """Return the id of each topic of the source that exists; one that is made anew has another.

        Raises:
            KafkaException: the source does not answer.
        """
        return topic_ids(self._admin, [topic.name for topic in self._flow.topics])

    def first_copied(self, key: PartitionKey, *, after: int, position: int) -> int | None:
        """Return the offset at the source of the first message at or behind `position` in a copy; None without any.

        The copy is read from its own offset `after` on.

        Raises:
            KafkaException: the target does not answer.
        """
        copy = (self._flow.mirrored(key[0]), key[1])
        bounds = offset_ranges(self._near, [copy])[copy]
        for message in patient_reader(self._target, {copy: (max(after, bounds[0]), bounds[1])}):
            origin = origin_of(copy[0], headers_of(message) or [])
            if origin is not None and origin.offset >= position:
                return origin.offset
        return None

    def _lags(self) -> list[PartitionLag]:
        topics = self._source.list_topics(timeout=_REQUEST_S).topics
        names = [topic.name for topic in self._flow.topics if topic.name in topics and not topics[topic.name].error]
        keys = [(name, partition) for name in names for partition in topics[name].partitions]
        bounds = offset_ranges(self._admin, keys)
        lags = [
            PartitionLag(
                topic=topic,
                partition=partition,
                position=self.positions.values.get((topic, partition), first),
                first=first,
                end=end,
            )
            for (topic, partition), (first, end) in bounds.items()
        ]
        return [lag if self._has_messages(lag) else replace(lag, end=lag.position) for lag in lags]

    def _has_messages(self, lag: PartitionLag) -> bool:
        """Return whether anything but control records of transactions waits."""
        if not 0 < lag.messages <= _CONTROL_RECORDS_MAX:
            return lag.messages > 0
        reader = patient_reader(self._source, {(lag.topic, lag.partition): (max(lag.position, lag.first), lag.end)})
        return any(True for _ in reader)

    def _ages(self, lags: list[PartitionLag]) -> dict[PartitionKey, float]:
        """Return the age of the first message that waits in each partition, in seconds.

        It is found by asking which offset belongs to a time, so that no message crosses the link for it.
        """
        now = time.time()
        positions = {(lag.topic, lag.partition): max(lag.position, lag.first) for lag in lags}
        between = dict.fromkeys(positions, (now - _SPAN_S, now))
        for _ in range(_ROUNDS_MAX):
            middles = {key: (low + high) / 2 for key, (low, high) in between.items() if high - low > _RESOLUTION_S}
            if not middles:
                break
            asked = [TopicPartition(*key, int(at * 1000)) for key, at in middles.items()]
            for answer in self._source.offsets_for_times(asked, timeout=_REQUEST_S):
                key = (answer.topic, answer.partition)
                low, high = between[key]
                is_before = 0 <= answer.offset <= positions[key]
                between[key] = (middles[key], high) if is_before else (low, middles[key])
        return {key: now - low for key, (low, _) in between.items()}

    def _bytes(self, lag: PartitionLag) -> int:
        """Estimate the bytes that wait in a partition by the last messages of its copy."""
        key = (self._flow.mirrored(lag.topic), lag.partition)
        try:
            first, end = offset_ranges(self._near, [key])[key]
        except KafkaException:
            return 0  # it is not made yet
        reader = patient_reader(self._target, {key: (max(first, end - _SAMPLE_MESSAGES), end)})
        sizes = [len(message.value() or b"") + len(message.key() or b"") for message in reader]
        return lag.messages * sum(sizes) // len(sizes) if sizes else 0


@contextmanager
def opened(flow: Flow, source: Settings, target: Settings) -> Iterator[LinkProbe]:
    """Open the probe of a link.

    Raises:
        HeadraceError: the target does not answer.
    """
    with ExitStack() as stack:
        # Little is fetched over the link: one message shows that there is one.
        small = {"fetch_message_max_bytes": _SMALL_KIB * 1024, "queued_max_messages_kbytes": _SMALL_KIB}
        far = stack.enter_context(reading_consumer(source, "headrace-sites", **small))
        near = stack.enter_context(reading_consumer(target, "headrace-sites"))
        yield LinkProbe(flow, (source, target), (far, near))


def look_once(flow: Flow, source: Settings, target: Settings) -> LinkStatus:
    """Return how a link is doing; a target that does not answer is its problem."""
    try:
        with opened(flow, source, target) as probe:
            return probe.look()
    except HeadraceError as error:
        return LinkStatus(link=flow.name, problem=f"{flow.target} does not answer: {error.what}")
