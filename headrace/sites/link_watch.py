"""Watches one link for its mirror: sets its metrics, and decides when the process has to end."""

import time
from contextlib import ExitStack

from confluent_kafka import KafkaException

from headrace.runtime.errors import Exit, HeadraceError
from headrace.runtime.kafka import kafka_failed
from headrace.runtime.logs import Action, get_log
from headrace.runtime.metrics import (
    mirror_lag_bytes,
    mirror_lag_messages,
    mirror_lag_seconds,
    mirror_lost_offsets_total,
    mirror_reachable,
    mirror_retention_share,
    mirror_tasks,
)
from headrace.runtime.settings import Settings
from headrace.schemas.topics import PartitionKey
from headrace.sites.link_probe import LinkProbe, LinkStatus, PartitionLag, opened
from headrace.sites.memory import Loss, record_loss, record_topic_ids, write_compacted
from headrace.sites.mm2 import offsets_topic
from headrace.sites.topology import Flow

_STATES = ("RUNNING", "FAILED", "PAUSED", "UNASSIGNED", "RESTARTING")


class LinkWatch:
    """Looks at a link again and again; `close` it in the end. Every call blocks."""

    def __init__(self, flow: Flow, source: Settings, target: Settings) -> None:
        """Open its probe.

        Raises:
            HeadraceError: the target does not answer.
        """
        self.status = LinkStatus(link=flow.name)
        self.needs_restart = False
        """Whether a topic of the source was made anew: MirrorMaker has to stop, then `start_anew` and start."""
        self._flow = flow
        self._target = target
        self._stack = ExitStack()
        self._probe: LinkProbe = self._stack.enter_context(opened(flow, source, target))
        self._positions: dict[PartitionKey, int] = {}
        self._moved_at_s = time.monotonic()
        self._before: tuple[dict[PartitionKey, int], dict[PartitionKey, int]] = ({}, {})
        """The positions at the last look, and the ends of the copies."""
        self._waited: tuple[PartitionLag, ...] = ()
        self._recorded: dict[tuple[str, int, int], int] = {}

    def close(self) -> None:
        """Close its connections."""
        self._stack.close()

    def begin(self) -> None:
        """Note where an earlier MirrorMaker ended, and pass over the states of its tasks.

        Raises:
            HeadraceError: the target does not answer.
        """
        try:
            self._probe.read_target()
        except KafkaException as error:
            raise kafka_failed(self._target, error.args[0]) from None
        self._probe.tasks.values.clear()
        self._before = (dict(self._probe.positions.values), self._probe.ends)
        self._moved_at_s = time.monotonic()
        if self._restarted_topics():
            self.start_anew()

    def start_anew(self) -> None:
        """Let MirrorMaker, which must not run, copy topics that were made anew from their beginning.

        It would go on at the offset where it ended in the old topic. A partition in which it has gone back by itself
        is left alone. What waited in the old topic is lost, as far as it was seen.

        Raises:
            HeadraceError: the target does not answer.
        """
        positions, link = self._before[0], self._flow.name
        ids = self._restarted_topics()
        try:
            self._probe.read_target()
        except KafkaException as error:
            raise kafka_failed(self._target, error.args[0]) from None
        now = self._probe.positions
        stale = [key for key in now.values if key[0] in ids and now.values[key] >= positions.get(key, 0)]
        for lag in self._waited:
            if lag.topic in ids and lag.messages:
                names = {"link": link, "topic": lag.topic}
                first = max(lag.position, lag.first)
                self._record(Loss(**names, partition=lag.partition, first=first, until=lag.end, at=time.time()))
        write_compacted(self._target, offsets_topic(self._flow.source), {now.keys[key]: None for key in stale})
        record_topic_ids(self._target, link, ids)
        for topic in ids:
            get_log().error(Action.TOPIC_RESTARTED, link=link, topic=topic)
        self.needs_restart = False

    def _restarted_topics(self) -> dict[str, str]:
        """Return the topics that were made anew, with their new ids; keep those that are seen for the first time."""
        link, known = self._flow.name, self._probe.topic_ids.values
        try:
            ids = self._probe.ids_at_source()
        except KafkaException:
            return {}
        if new := {topic: topic_id for topic, topic_id in ids.items() if (link, topic) not in known}:
            record_topic_ids(self._target, link, new)
        return {topic: topic_id for topic, topic_id in ids.items() if known.get((link, topic), topic_id) != topic_id}

    def look(self, stall_s_max: float) -> LinkStatus:
        """Return how the link is doing, and set its metrics.

        Raises:
            HeadraceError: a task has failed, or nothing was copied for so many seconds although messages wait and the
                source answers; or the target does not answer.
        """
        try:
            status = self._probe.look()
            self.needs_restart = not status.problem and bool(self._restarted_topics())
            losses = [loss for lag in status.lags if (loss := self._loss(lag)) is not None]
        except KafkaException as error:
            raise kafka_failed(self._target, error.args[0]) from None
        if status.problem and status.problem != self.status.problem:
            get_log().warning(Action.WAITING, link=self._flow.name, why=status.problem)
        if not status.problem and not self.needs_restart:
            self._before = (dict(self._probe.positions.values), self._probe.ends)
            self._waited = status.lags
        self.status = status
        self._report()
        for loss in losses:
            self._record(loss)
        self._check(stall_s_max)
        return status

    def _report(self) -> None:
        status, link = self.status, self._flow.name
        mirror_reachable.labels(link).set(not status.problem)
        if not status.problem:
            mirror_lag_messages.labels(link).set(status.messages)
            mirror_lag_bytes.labels(link).set(status.bytes)
            mirror_lag_seconds.labels(link).set(status.seconds)
            mirror_retention_share.labels(link).set(status.retention_share)
        for state in _STATES:
            mirror_tasks.labels(link, state).set(status.states.get(state, 0))

    def _loss(self, lag: PartitionLag) -> Loss | None:
        """Return what the source has deleted of a partition since the last look, before it was copied."""
        key = (lag.topic, lag.partition)
        positions, ends = self._before
        known = positions.get(key)
        if known is None or lag.first <= known:
            return None
        until: int | None = None
        if lag.position > known:  # the first copy since then tells where the gap ends
            until = self._probe.first_copied(key, after=ends.get(key, 0), position=known)
        until = lag.first if until is None else until
        if until <= known:
            return None
        names = {"link": self._flow.name, "topic": lag.topic}
        return Loss(**names, partition=lag.partition, first=known, until=until, at=time.time())

    def _record(self, loss: Loss) -> None:
        """Keep a loss, and report what is new of it; one that grows while nothing is copied replaces itself."""
        key = (loss.topic, loss.partition, loss.first)
        known = self._recorded.get(key, loss.first)
        if loss.until <= known:
            return
        record_loss(self._target, loss)
        self._recorded[key] = loss.until
        mirror_lost_offsets_total.labels(loss.link, loss.topic).inc(loss.until - known)
        get_log().error(
            Action.LOST,
            link=loss.link,
            topic=loss.topic,
            partition=loss.partition,
            first=loss.first,
            until=loss.until,
        )

    def _check(self, stall_s_max: float) -> None:
        link = self._flow.name
        failed = [task for task in self.status.tasks.values() if task.state == "FAILED"]
        if failed:
            raise HeadraceError(
                "mirror_task_failed",
                f"a task of the link {link} failed: {failed[0].error}",
                hint="whatever supervises this process starts it again; its log mirror-maker.log has the whole error",
                exit_code=Exit.BROKEN,
            )
        positions, now = dict(self._probe.positions.values), time.monotonic()
        if positions != self._positions or self.status.problem or not self.status.messages:
            self._positions, self._moved_at_s = positions, now
        elif now - self._moved_at_s > stall_s_max:
            raise HeadraceError(
                "mirror_stuck",
                f"the link {link} copied nothing for {now - self._moved_at_s:.0f} s while "
                f"{self.status.messages} messages wait and {self._flow.source} answers",
                hint="whatever supervises this process starts it again; its log mirror-maker.log may say why",
                exit_code=Exit.STUCK,
            )
