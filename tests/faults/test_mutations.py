"""The checker on real servers: what somebody does to rows and objects turns it red; before and after it is green."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest

from headrace.runtime.settings import Settings
from headrace.store.blobs.blob_store import Blobs
from tests.faults.acks import Ack, Acks, Place
from tests.faults.gather import gather
from tests.faults.line import MESSAGES, Line, line_on
from tests.faults.observed import Blob, ReceivedMessages, WatchFindings
from tests.processes import free_port

pytestmark = [pytest.mark.stack, pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def settled(stack_settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Line]:
    """A line that has taken up everything and runs no more. Whoever changes something undoes it."""
    with line_on(stack_settings, tmp_path_factory.mktemp("settled")) as line:
        line.start()
        with line.watched():
            line.publish(line.plan(), MESSAGES)
            line.settle()
            line.stop()
        yield line


def test_what_was_published_is_all_there(settled: Line) -> None:
    settled.expect()
    observed = settled.observed()
    assert len(observed.acks) == MESSAGES
    assert observed.deliveries == MESSAGES
    assert observed.dead_letters
    # A record is announced for each site that delivered it.
    assert observed.announced == len({(row.record_id, row.site) for row in observed.sightings}) >= len(observed.records)
    assert observed.records
    # Between partitions there is no order.
    for reader in (observed.live, observed.afterwards):
        assert len(reader.letters) == len(observed.dead_letters)
    assert set(observed.live.announcements) == set(observed.afterwards.announcements)
    assert settled.findings.samples > 0
    assert not settled.findings.i12
    assert settled.findings.i14 == ()


@contextmanager
def without(line: Line, table: str, condition: str, *values: object) -> Iterator[None]:
    """Delete rows, and put them back afterwards."""
    line.sql(f"create table kept as select * from {table} where {condition}", *values)
    line.sql(f"delete from {table} where {condition}", *values)
    try:
        yield
    finally:
        line.sql(f"insert into {table} select * from kept")
        line.sql("drop table kept")


def test_a_deleted_sighting(settled: Line) -> None:
    settled.expect()
    (record,) = settled.sql("select record_id from sightings group by 1 having count(*) = 1 order by 1 limit 1")
    with without(settled, "sightings", "record_id = $1", record[0]):
        settled.expect("I1", "I9", "I14")
    settled.expect()


def test_a_deleted_record(settled: Line) -> None:
    settled.expect()
    # Without its record, what was announced of a further site cannot be told from what should not have been.
    (record,) = settled.sql(
        "select record_id from sightings group by 1 having count(distinct site) = 1 order by 1 limit 1"
    )
    with without(settled, "records", "record_id = $1", record[0]):
        settled.expect("I1")
    settled.expect()


def test_a_deleted_dead_letter(settled: Line) -> None:
    settled.expect()
    (letter,) = settled.sql("select dead_letter_id from dead_letters order by 1 limit 1")
    with without(settled, "dead_letters", "dead_letter_id = $1", letter[0]):
        settled.expect("I1", "I4", "I14")  # it was announced, too
    settled.expect()


def test_a_deleted_row_of_a_blob(settled: Line) -> None:
    settled.expect()
    (blob,) = settled.sql("select sha256 from blobs where store_offset is null order by 1 limit 1")
    # Two batches at the same time may have packed the same bodies, so some object may be without a row anyway.
    before = settled.verdict(grace_s=0).counts["I7"]
    assert before is not None
    with without(settled, "blobs", "sha256 = $1", blob[0]):
        settled.expect("I6")
        assert settled.verdict(grace_s=0).counts["I7"] == before + 1
    settled.expect()


def some_blob(line: Line, *, packed: bool) -> Blob:
    blobs = line.observed().blobs.values()
    return next(blob for blob in blobs if (blob.store_offset is not None) is packed and blob.size_bytes > 0)


async def overwrite(settings: Settings, key: str, data: bytes) -> None:
    async def whole() -> Any:
        yield data

    # The service's own PUT would see that something is there.
    await Blobs.from_settings(settings).put_stream(key, whole())


@contextmanager
def changed(line: Line, key: str, flip: int | None) -> Iterator[None]:
    """Delete an object, or flip one of its bytes, and put it back afterwards."""
    before = asyncio.run(Blobs.from_settings(line.settings).get(key))
    if flip is None:
        asyncio.run(Blobs.from_settings(line.settings).delete(key))
    else:
        asyncio.run(overwrite(line.settings, key, before[:flip] + bytes([before[flip] ^ 1]) + before[flip + 1 :]))
    try:
        yield
    finally:
        asyncio.run(overwrite(line.settings, key, before))


def test_a_deleted_object(settled: Line) -> None:
    settled.expect()
    with changed(settled, some_blob(settled, packed=False).store_key, None):
        settled.expect("I6")
    settled.expect()


def test_a_flipped_byte(settled: Line) -> None:
    settled.expect()
    with changed(settled, some_blob(settled, packed=False).store_key, 0):
        settled.expect("I5")
    settled.expect()


def test_a_flipped_byte_in_a_pack(settled: Line) -> None:
    settled.expect()
    blob = some_blob(settled, packed=True)
    assert blob.store_offset is not None
    with changed(settled, blob.store_key, blob.store_offset):
        verdict = settled.verdict()
        assert verdict.broken == {"I5"}
        assert verdict.counts["I5"] == 1, "only the body in which it lies"
    settled.expect()


@pytest.mark.parametrize("away", ["kafka", "postgres", "store"])
def test_a_source_that_cannot_be_read_never_passes(settled: Line, away: str) -> None:
    settings, nobody = settled.settings, f"127.0.0.1:{free_port()}"
    secret = type(settings.postgres_dsn)
    changes: dict[str, dict[str, object]] = {
        "kafka": {"kafka_bootstrap": nobody},
        "postgres": {"postgres_dsn": secret(f"postgresql://headrace@{nobody}/headrace")},
        "store": {"store_endpoint": f"http://{nobody}"},
    }
    changed_settings = settings.model_copy(update=changes[away])
    with pytest.raises(Exception, match=r"(?i)kafka|transport|broker|timed out|postgresql|store"):
        asyncio.run(
            gather(changed_settings, settled.acks, settled.listener.heard(), settled.findings, since=settled.since)
        )


@pytest.mark.parametrize("wrong", ["acknowledged but never attempted", "acknowledged at", "used the number"])
async def test_acknowledgements_that_contradict_themselves_never_pass(settled: Line, wrong: str) -> None:
    (acks,) = settled.acks
    place = Place("edge.cids.v1", 0, 1)
    given = {
        "acknowledged but never attempted": [replace(acks, acks=[Ack(-1, place)])],
        "acknowledged at": [Acks(acks.attempts, [acks.acks[0], acks.acks[0]])],
        "used the number": [acks, acks],
    }
    with pytest.raises(ValueError, match=wrong):
        await gather(settled.settings, given[wrong], ReceivedMessages(), WatchFindings(), since=settled.since)
