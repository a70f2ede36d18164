"""A password that callers put where it does not belong, and the search for it everywhere that it could stay."""

import base64
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Self
from uuid import uuid4

from headrace.runtime.settings import Settings
from headrace.runtime.topic_reader import TopicReader, offset_bounds, partitions_of, reading_consumer
from headrace.schemas.events import Kind
from headrace.schemas.topics import CAPTURE_REQUESTS, DEAD_LETTERS, input_topic
from tests.gateway.gateway_world import Gateway

CANARY = f"canary{uuid4().hex[:12]}"
TOPICS_SEARCHED = (DEAD_LETTERS.name, CAPTURE_REQUESTS.name, *(input_topic(kind).name for kind in (Kind.CID, Kind.LDO)))
LOOK_EVERY_S = 0.02
READ_S_MAX = 60.0


def forms_of(text: str) -> list[bytes]:
    """How a text may stand there: as it is, in hexadecimal, and in Base64 from each of the three places in a group."""
    encoded = text.encode()
    shifted = [base64.b64encode(bytes(shift) + encoded) for shift in range(3)]
    # The characters at both ends also depend on what stands beside it.
    return [encoded, encoded.hex().encode(), *(one[4:-4] for one in shifted)]


def is_in(data: bytes, text: str) -> bool:
    return any(form in data for form in forms_of(text))


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
    # What is bytes is shown in hexadecimal, so the Base64 within it would be too.
    wanted = [f"%{form.decode()}%" for form in forms_of(text)] + [f"%{form.hex()}%" for form in forms_of(text)]
    found = 'select 1 from "{}" t where t::text like any(%s) limit 1'
    return [table for table in tables if gateway.rows(found.format(table), wanted)]


def logs_with(folders: Iterable[Path], text: str = CANARY) -> list[str]:
    """The logs that hold it."""
    logs = [log for folder in folders for log in folder.rglob("*.log*")]
    assert logs
    return [str(log) for log in logs if is_in(log.read_bytes(), text)]


def topics_with(settings: Settings, text: str = CANARY) -> list[str]:
    """The topics for what could not be ingested, and for captures, that hold it."""
    found = set()
    with reading_consumer(settings, uuid4().hex, isolation_level="read_uncommitted") as consumer:
        keys = [key for topic in TOPICS_SEARCHED for key in partitions_of(consumer, topic)]
        reader = TopicReader(consumer, offset_bounds(consumer, keys))
        deadline = time.monotonic() + READ_S_MAX
        while reader.unfinished:
            assert time.monotonic() < deadline, f"not read to their ends: {reader.unfinished}"
            for message in reader.read():
                whole = b"".join([message.key() or b"", message.value() or b"", repr(message.headers()).encode()])
                if is_in(whole, text):
                    found.add(message.topic())
    return sorted(found)
