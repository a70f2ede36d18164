"""Moves that are ended at each of their steps, with real objects: a body is always readable, and in the end once."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from headrace.batch.archive import move as move_module
from headrace.batch.archive.move import ArchiveReport
from headrace.runtime.crash_points import CrashPoint
from headrace.schemas.digest import blob_key, sha256_hex
from headrace.store.blobs.blob_store import BULK_BYTES_MIN
from headrace.store.catalog.archives import Location
from headrace.store.errors import BlobCorruptError
from tests.batch.archive.archive_samples import Two

POINTS = [point for point in CrashPoint if point.startswith("move_")]
DIRECTIONS = list(Location)


class EndedError(BaseException):
    """Nobody catches it, as nobody catches the end of a process."""


@pytest.fixture
async def two(tmp_path: Path) -> Two:
    made = Two.below(tmp_path)
    await made.pack([b'{"ldo": %d}' % number for number in range(7)])
    await made.pack([b'{"ldo": %d, "more": "%b"}' % (number, b"x" * number) for number in range(5)])
    await made.alone(b"a clip")
    await made.alone(b"another clip" * (BULK_BYTES_MIN // 12 + 1))
    return made


async def test_bodies_go_there_and_come_back(two: Two) -> None:
    report = ArchiveReport()
    await two.mover(Location.ARCHIVE, report).run(two.there(Location.STORE))
    await two.read_all()
    assert await two.is_tidy()
    assert await two.objects(Location.STORE) == set()
    assert len(two.there(Location.ARCHIVE)) == len(two.bodies) == 14
    assert (report.bodies, report.objects_written, report.objects_removed) == (14, 3, 4)
    assert report.body_bytes == sum(map(len, two.bodies.values()))

    part = two.there(Location.ARCHIVE)[:4]
    await two.mover(Location.STORE).run(part)
    await two.read_all()
    assert {row.digest for row in two.there(Location.STORE)} == {row.digest for row in part}
    assert await two.is_tidy()


@pytest.mark.parametrize("nth", [1, 2])
@pytest.mark.parametrize("point", POINTS)
@pytest.mark.parametrize("to", DIRECTIONS)
async def test_a_move_that_is_ended_there_loses_nothing_and_goes_on(
    two: Two, to: Location, point: CrashPoint, nth: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    origin = Location.STORE if to is Location.ARCHIVE else Location.ARCHIVE
    if origin is Location.ARCHIVE:
        await two.mover(Location.ARCHIVE).run(two.there(Location.STORE))
    hits = 0

    def reached(local: CrashPoint) -> None:
        nonlocal hits
        hits += local is point
        if local is point and hits == nth:
            raise EndedError

    with monkeypatch.context() as armed:
        armed.setattr(move_module, "reached", reached)
        with pytest.raises(EndedError):
            await two.mover(to).run(two.there(origin))
    await two.read_all()

    again = two.mover(to)
    await again.delete_stale_objects()
    await two.read_all()
    await again.run(two.there(origin))
    await two.read_all()
    assert {row.digest for row in two.there(to)} == two.bodies.keys()
    assert await two.is_tidy()


async def test_a_pack_stays_as_long_as_something_in_it_does(two: Two) -> None:
    packed = [row for row in two.there(Location.STORE) if row.store_offset is not None]
    shared = packed[0].store_key
    inside = [row for row in packed if row.store_key == shared]
    await two.mover(Location.ARCHIVE).run(inside[1:])
    assert shared in await two.objects(Location.STORE)
    assert await two.is_tidy()
    await two.mover(Location.ARCHIVE).run(inside[:1])
    assert shared not in await two.objects(Location.STORE)
    await two.read_all()
    assert await two.is_tidy()


async def test_what_is_lost_or_damaged_stays_where_it_is_and_is_named(two: Two) -> None:
    store = two.places[Location.STORE]
    lost, damaged = blob_key(sha256_hex(b"a clip")), next(row for row in two.there(Location.STORE) if row.store_offset)
    await store.delete(lost)
    tar = bytearray(await store.get(damaged.store_key))
    assert damaged.store_offset is not None
    tar[damaged.store_offset] ^= 1
    await store.put_stream(damaged.store_key, once(bytes(tar)))
    report = ArchiveReport()
    await two.mover(Location.ARCHIVE, report).run(two.there(Location.STORE))
    assert report.failed == {sha256_hex(b"a clip"): "blob_missing", damaged.digest.hex(): "blob_corrupt"}
    assert {row.digest.hex() for row in two.there(Location.STORE)} == report.failed.keys()
    assert damaged.store_key in await two.objects(Location.STORE)
    assert two.rows.left == set()


@pytest.mark.parametrize("left_bytes", [0, 100, 600, 1500])
async def test_a_pack_that_was_cut_off_stops_nothing_else(two: Two, left_bytes: int) -> None:
    store = two.places[Location.STORE]
    packed = [row for row in two.there(Location.STORE) if row.store_offset is not None]
    cut = [row for row in packed if row.store_key == packed[0].store_key]
    await store.put_stream(cut[0].store_key, once((await store.get(cut[0].store_key))[:left_bytes]))
    lost = {row.digest.hex() for row in cut if (row.store_offset or 0) + row.size_bytes > left_bytes}
    report = ArchiveReport()
    await two.mover(Location.ARCHIVE, report).run(two.there(Location.STORE))
    assert report.failed == dict.fromkeys(lost, "blob_corrupt")
    assert {row.digest.hex() for row in two.there(Location.STORE)} == lost


async def test_wrong_bytes_under_the_right_name_in_the_archive_are_written_again(two: Two) -> None:
    wrong = b"b clip"
    await two.places[Location.ARCHIVE].put(blob_key(sha256_hex(b"a clip")), wrong)
    await two.mover(Location.ARCHIVE).run(two.there(Location.STORE))
    await two.read_all()


async def test_an_archive_that_does_not_keep_what_is_written_costs_nothing(
    two: Two, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = await two.objects(Location.STORE)

    async def hash_of(*_: object) -> str:
        return "0" * 64

    monkeypatch.setattr(move_module, "hash_of", hash_of)
    with pytest.raises(BlobCorruptError, match="the bytes read differ from the bytes written"):
        await two.mover(Location.ARCHIVE).run(
            [row for row in two.there(Location.STORE) if row.store_offset is not None]
        )
    assert await two.objects(Location.STORE) == before
    assert two.there(Location.ARCHIVE) == []


async def once(data: bytes) -> AsyncIterator[bytes]:
    yield data
