"""A device at the edge, as a process of its own: `python -m tests.faults.edge SPOOL ACKS DURABLE SEED FIRST COUNT`.

Three threads publish through one spool, each for sources of its own. The number of an event goes into DURABLE when the
spool has said that it is durable, and not before; what was given to fsync goes into a file beside it. With COUNT 0 it
only brings what is in the spool to Kafka.
"""

import os
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path

from headrace.producers import Delivery, NotDeliveredError, SpooledPublisher
from headrace.runtime.errors import Exit
from headrace.runtime.settings import load_settings
from tests.faults.acks import AckFile, Place
from tests.faults.plan import Mix, Planned, planned
from tests.faults.tearing import fsyncs

SYNCED = ".synced"
"""The suffix of the file beside DURABLE with the inode and the size of each file that was made durable."""
SPOOL_BYTES_MAX = 8 * 1024 * 1024
THREADS = 3
THREAD_NUMBERS = 1_000_000
"""How far the numbers of the threads lie apart."""
DRAIN_S_MAX = 60.0
_EVENT_BYTES_MAX = 20_000
_APART_S = 0.01
_MIX = Mix(duplicates=0, poison=0, wrong_digests=0, bytes_max=_EVENT_BYTES_MAX)


def main() -> int:
    """Publish, and wait until Kafka has everything."""
    spool, acks, durable = map(Path, sys.argv[1:4])
    seed, first, count = map(int, sys.argv[4:7])
    settings = load_settings(_env_file=None)
    synced_file = os.open(durable.with_suffix(SYNCED), os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    durable_file = os.open(durable, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    with (
        fsyncs(lambda inode, size: _append(synced_file, inode, size)),
        AckFile(acks) as file,
        SpooledPublisher.from_settings(settings, spool, spool_bytes_max=SPOOL_BYTES_MAX) as out,
    ):
        threads = [
            threading.Thread(target=_publish, args=(out, file, durable_file, islice(_plan(seed, first, index), count)))
            for index in range(THREADS)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return Exit.OK if out.flush(DRAIN_S_MAX) == 0 else Exit.FAILED


def _append(file: int, *numbers: int) -> None:
    os.write(file, b"%b\n" % b" ".join(b"%d" % number for number in numbers))


def _plan(seed: int, first: int, index: int) -> Iterator[Planned]:
    return planned(seed, first=first + index * THREAD_NUMBERS, mix=replace(_MIX, names=f"edge-{index}-"))


def _publish(out: SpooledPublisher, file: AckFile, durable_file: int, messages: Iterable[Planned]) -> None:
    for message in messages:
        assert message.event is not None
        file.attempt(message.attempt)
        delivery = out.publish(message.event)
        _append(durable_file, message.attempt.number)
        delivery.add_done_callback(partial(_settle, file, message.attempt.number))
        time.sleep(_APART_S)


def _settle(file: AckFile, number: int, delivery: Delivery) -> None:
    try:
        at = delivery.result(0)
    except NotDeliveredError:
        return
    file.ack(number, Place(at.topic, at.partition, at.offset))


if __name__ == "__main__":
    sys.exit(main())
