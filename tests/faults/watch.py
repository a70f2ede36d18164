"""What only shows while it happens: standstill of workers and relay (I12), growth (I13), offsets too early (I14)."""

import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from headrace.runtime.kafka import client_config
from headrace.runtime.settings import Settings
from headrace.runtime.topic_reader import headers_of
from headrace.schemas.events import Kind
from headrace.schemas.headers import Redrive, redrive_of
from headrace.schemas.topics import input_topic
from headrace.streams.worker.lag import PartitionOffsets
from headrace.streams.worker.profile import LARGE, SMALL
from tests.faults.catalog import FaultsCatalog
from tests.faults.growth import Growth
from tests.faults.observed import Partition, WatchFindings

__all__ = ["Watch", "WatchFindings"]

STANDSTILL_S_MAX = 10.0
SAMPLE_S = 1.0
SAMPLE_S_MAX = 5.0
"""A look that took longer says nothing about the time in between."""
_REQUEST_S = 3.0
_STOP_S_MAX = 60.0
_FINDINGS_MAX = 1000
_GAPS_MAX = 100

_GAPS = """
select place from generate_series($3::bigint, $4::bigint - 1) as place
where not exists (select from sightings as s where (s.topic, s.partition, s."offset") = ($1, $2, place))
    and not exists (select from dead_letters as d where (d.topic, d.partition, d."offset") = ($1, $2, place))
order by place limit $5
"""
_REDRIVEN = "select ended_at is not null from redrives where dead_letter_id = $1 and attempt = $2"


class Standstill:
    """I12 as a rule on times and figures, without a clock; `what` is what waits, in a sentence."""

    def __init__(self, what: str) -> None:
        self._what = what
        self.found: list[str] = []
        self.looks_at_work = 0
        self._since: float | None = None
        self._figures: object = None
        self._said = False

    def reset(self) -> None:
        """Begin anew: nothing is known, or nothing is expected to move."""
        self._since, self._figures, self._said = None, None, False

    def note(self, now: float, *, lag: int, figures: object) -> None:
        """Take one look at a service of which everything is up; work that was done since the last look shows too."""
        self.looks_at_work += lag > 0 or self._figures not in {None, figures}
        if lag == 0 or figures != self._figures or self._since is None:
            self.reset()
            self._since, self._figures = (now if lag else None), figures
        elif now - self._since > STANDSTILL_S_MAX and not self._said:
            self._said = True
            self.found.append(f"{lag} {self._what} waited for {now - self._since:.0f} s while everything was up")


class Watch:
    """Looks about every second, in a thread. Samples for which Kafka or PostgreSQL do not answer are skipped."""

    def __init__(
        self,
        settings: Settings,
        processes: Callable[[], Mapping[str, int]],
        healthy: Callable[[], bool],
        growth: Growth | None = None,
    ) -> None:
        """`growth` has what was seen of the same processes before."""
        self._settings = settings
        self._processes = processes
        self._healthy = healthy
        self._standstill = Standstill("messages")
        self._relay_standstill = Standstill("announcements")
        self._growth = growth or Growth()
        self._early: list[str] = []
        self._proven: dict[Partition, int] = {}
        self._samples = self._skipped = self._skipped_well = 0
        self._fault: str = ""
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> WatchFindings:
        """End, and return what was found; a watch that could not look has found that, so it never passes."""
        self._stop.set()
        self._thread.join(_STOP_S_MAX)
        if self._thread.is_alive():
            self._fault = "it does not end"
        elif not self._samples:
            self._fault = self._fault or "Kafka and PostgreSQL never answered together"
        return self._findings()

    @property
    def judged(self) -> bool:
        """Whether workers and relay were seen with work, while everything was up: else I12 says nothing."""
        return bool(self._standstill.looks_at_work and self._relay_standstill.looks_at_work)

    def _findings(self) -> WatchFindings:
        blind = [f"the watch has failed: {self._fault}"] if self._fault else []
        looks = self._samples + self._skipped
        if 2 * self._skipped_well > looks:
            blind.append(f"{self._skipped_well} of {looks} looks were skipped although no fault was open")
        stood = (*blind, *self._standstill.found, *self._relay_standstill.found)
        growth = self._growth.evaluate()
        return WatchFindings(
            i12=stood if stood or self.judged else None,
            i13=tuple(growth.wrong) if growth.judged or growth.wrong else None,
            i14=(*blind, *self._early),
            samples=self._samples,
            skipped=self._skipped,
            looks_at_work=min(self._standstill.looks_at_work, self._relay_standstill.looks_at_work),
            judged=tuple(growth.judged),
            not_judged=growth.not_judged,
            growth_mib_per_hour=growth.mib_per_hour,
        )

    def _run(self) -> None:
        catalog = FaultsCatalog(self._settings.postgres_dsn.get_secret_value())
        consumers = {
            group: Consumer(client_config(self._settings, group_id=group.name, enable_auto_commit=False))
            for group in (SMALL, LARGE)
        }
        try:
            while not self._stop.is_set():
                began = time.monotonic()
                self._look(catalog, {group.name: consumer for group, consumer in consumers.items()})
                self._stop.wait(max(0.0, SAMPLE_S - (time.monotonic() - began)))
        except Exception as error:  # noqa: BLE001 - whoever stops it is told
            self._fault = f"{type(error).__name__}: {error}"
        finally:
            for consumer in consumers.values():
                consumer.close()
            catalog.close()

    def _look(self, catalog: FaultsCatalog, consumers: Mapping[str, Consumer]) -> None:
        well = False
        try:
            well = self._healthy()
            self._sample(catalog, consumers, well=well)
            self._samples += 1
        except (KafkaException, OSError):
            self._skipped += 1
            # A fault that began or ended during the look explains it as well.
            self._skipped_well += well and self._healthy()
            self._reset()

    def _reset(self) -> None:
        self._standstill.reset()
        self._relay_standstill.reset()

    def _sample(self, catalog: FaultsCatalog, consumers: Mapping[str, Consumer], *, well: bool) -> None:
        began = time.monotonic()
        self._growth.look(self._processes())
        committed: dict[Partition, int] = {}
        lag = 0
        # Offsets first and the catalog afterwards: what is committed by now must be there by then.
        for group in (SMALL, LARGE):
            consumer = consumers[group.name]
            for kind in group.kinds:  # with several brokers it forgets whom to ask for a topic's ends
                consumer.list_topics(input_topic(kind).name, timeout=_REQUEST_S)
            for committed_partition in consumer.committed(self._partitions(group.kinds), timeout=_REQUEST_S):
                if committed_partition.error is not None:
                    raise KafkaException(committed_partition.error)
                marks = consumer.get_watermark_offsets(committed_partition, timeout=_REQUEST_S, cached=False)
                if marks is None:
                    raise KafkaException(KafkaError(KafkaError._TIMED_OUT))
                position = PartitionOffsets.within(committed_partition.offset, marks)
                committed[Partition(committed_partition.topic, committed_partition.partition)] = position.committed
                lag += position.lag
        deliveries, (unpublished, announced) = catalog.deliveries(), catalog.relay_progress()
        self._prove(catalog, committed)
        now = time.monotonic()
        if well and self._healthy() and now - began < SAMPLE_S_MAX:
            # A redelivered message leaves nothing new, but moves the group.
            self._standstill.note(now, lag=lag, figures=(deliveries, sum(committed.values())))
            self._relay_standstill.note(now, lag=unpublished, figures=announced)
        else:
            self._reset()

    def _partitions(self, kinds: frozenset[Kind]) -> list[TopicPartition]:
        return [
            TopicPartition(input_topic(kind).name, number)
            for kind in sorted(kinds)
            for number in range(self._settings.kafka_partitions)
        ]

    def _prove(self, catalog: FaultsCatalog, committed: Mapping[Partition, int]) -> None:
        """I14: everything below a committed offset is in the catalog; what was proven once needs no second look."""
        for at, offset in committed.items():
            proven = self._proven.setdefault(at, offset)
            if offset <= proven:
                continue
            gaps = [gap for (gap,) in catalog.fetch(_GAPS, at.topic, at.partition, proven, offset, _GAPS_MAX)]
            for gap in gaps:
                if self._unfinished(catalog, at, gap) and len(self._early) < _FINDINGS_MAX:
                    claim = f"{at.topic}/{at.partition} was committed up to {offset}"
                    self._early.append(f"{claim} while {gap} was not finished")
            # There may be more gaps behind the last one that was asked for: the next look goes on there.
            self._proven[at] = offset if len(gaps) < _GAPS_MAX else gaps[-1] + 1

    def _unfinished(self, catalog: FaultsCatalog, at: Partition, offset: int) -> bool:
        """Whether a message stands there that has left nothing; a redriven one leaves it where it first stood."""
        stands, redrive = self._message_at(at, offset)
        if not stands or redrive is None:
            return stands
        rows = catalog.fetch(_REDRIVEN, redrive.dead_letter_id, redrive.attempt)
        return not (rows and rows[0][0])

    def _message_at(self, at: Partition, offset: int) -> tuple[bool, Redrive | None]:
        config = client_config(self._settings, group_id="headrace-faults", enable_auto_commit=False)
        consumer = Consumer(config | {"enable.partition.eof": True})
        try:
            consumer.assign([TopicPartition(at.topic, at.partition, offset)])
            message = consumer.poll(_REQUEST_S)
            if message is None:
                raise KafkaException(KafkaError(KafkaError._TIMED_OUT))
            error = message.error()
            if error is not None and error.code() != KafkaError._PARTITION_EOF:
                raise KafkaException(error)
            stands = error is None and message.offset() == offset
            headers: Any = (headers_of(message) or []) if stands else []
            return stands, redrive_of(headers)
        finally:
            consumer.close()
