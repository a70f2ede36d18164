"""A password that callers put where it does not belong, and the search for it everywhere that it could stay."""

import threading
import time
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Self
from uuid import uuid4

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, TopicPartition
from gateway_world import Gateway

from runtime.kafka import client_config
from runtime.settings import Settings
from schemas.topics import CAPTURE_REQUESTS, DEAD_LETTERS

CANARY = f"canary{uuid4().hex[:12]}"
TOPICS_SEARCHED = (DEAD_LETTERS.name, CAPTURE_REQUESTS.name)
LOOK_EVERY_S = 0.02
READ_S_MAX = 60.0


class ProcessWatch:
    """Looks at every process's arguments and environment, again and again: `seen` has those that held the canary.

    `others` has those words of `also` that some process held, which shows that it was looked at.
    """

    def __init__(self, *also: str, every_s: float = LOOK_EVERY_S) -> None:
        self.seen: set[str] = set()
        self.others: set[str] = set()
        self._also = also
        self._every_s = every_s
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._over.wait(self._every_s):
            for process in Path("/proc").glob("[0-9]*"):
                for what in ("cmdline", "environ"):
                    try:
                        text = (process / what).read_bytes()
                    except OSError:
                        continue
                    if CANARY.encode() in text:
                        self.seen.add(str(process / what))
                    self.others |= {word for word in self._also if word.encode() in text}


def tables_with(gateway: Gateway, text: str = CANARY) -> list[str]:
    """The tables of which a row holds it."""
    tables = [row[0] for row in gateway.rows("select tablename from pg_tables where schemaname = 'public'")]
    assert {"ingest_requests", "request_events", "idempotency", "audit", "uploads", "dead_letters"} <= set(tables)
    # What is bytes is shown in hexadecimal.
    return [
        table
        for table in tables
        if gateway.rows(
            f'select 1 from "{table}" t where t::text like %s or t::text like %s limit 1',
            f"%{text}%", f"%{text.encode().hex()}%",
        )
    ]  # fmt: skip


def logs_with(folders: Iterable[Path], text: str = CANARY) -> list[str]:
    """The logs that hold it."""
    logs = [log for folder in folders for log in folder.rglob("*.log")]
    assert logs
    return [str(log) for log in logs if text.encode() in log.read_bytes()]


def topics_with(settings: Settings, text: str = CANARY) -> list[str]:
    """The topics for what could not be ingested, and for captures, that hold it."""
    found = set()
    about = {"group.id": uuid4().hex, "enable.auto.commit": False, "enable.partition.eof": True}
    consumer = Consumer({**client_config(settings), **about})
    try:
        places = {
            (topic, number)
            for topic in TOPICS_SEARCHED
            for number in consumer.list_topics(topic, timeout=30).topics[topic].partitions
        }
        consumer.assign([TopicPartition(*place, OFFSET_BEGINNING) for place in places])
        deadline = time.monotonic() + READ_S_MAX
        while places:
            assert time.monotonic() < deadline, f"not read to their ends: {places}"
            message = consumer.poll(1.0)
            if message is None:
                continue
            if (error := message.error()) is not None:
                assert error.code() == KafkaError._PARTITION_EOF, error
                places.discard((message.topic(), message.partition()))
                continue
            whole = b"".join([message.key() or b"", message.value() or b"", repr(message.headers()).encode()])
            if text.encode() in whole:
                found.add(message.topic())
        return sorted(found)
    finally:
        consumer.close()
