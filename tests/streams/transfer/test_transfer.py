"""A centre brings from a site what it lacks, over a link that is counted: two catalogs and stores, one cluster."""

import json
import os
import time
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
import pytest

from headrace.schemas.codec import decode, encode
from headrace.schemas.digest import canonical_body, event_id, record_id, sha256_hex
from headrace.schemas.events import Clip, Frame, Ingested, InputEvent, Kind, kind_of
from headrace.schemas.topics import ingested_topic
from headrace.store.blobs.blob_store import Blobs
from headrace.store.blobs.verified_read import read_placed
from headrace.streams.transfer.limits import HoursLimit
from headrace.streams.transfer.site_link import Pace
from tests.streams.streams_samples import cid, clip, frame, ldo, mp4, png
from tests.streams.transfer.transfer_rig import Centre, CountingProxy, Site

pytestmark = pytest.mark.stack


def body_of(event: InputEvent) -> bytes:
    return event.body or b"" if isinstance(event, Frame | Clip) else canonical_body(event)


def size_of(event: InputEvent) -> int:
    return len(body_of(event))


def digest_of(event: InputEvent) -> bytes:
    return bytes.fromhex(sha256_hex(body_of(event)))


def picture(site: Site, shade: int, size_bytes: int) -> Frame:
    return frame(png(shade=shade, padding_bytes=size_bytes), site=site.name, source_id="camera-1")


def film(site: Site, size_bytes: int) -> Clip:
    return clip(mp4(filler=bytes(size_bytes)), site=site.name, source_id="camera-1")


def told(measure: str, **figures: object) -> None:
    """Print what was measured, for docs/evidence."""
    print(json.dumps({"measure": measure, **figures}))


async def arrived(rows: asyncpg.Connection) -> list[bytes]:
    return [row[0] for row in await rows.fetch("select sha256 from blobs order by created_at")]


async def test_what_is_lacking_comes_in_order_and_is_announced_when_it_is_here(
    places: tuple[Site, Centre], rows: asyncpg.Connection, tmp_path: Path
) -> None:
    site, centre = places
    known = picture(site, 1, 400_000)
    await centre.ingest(replace(known, site="centre"))
    small, large, moving = picture(site, 2, 200_000), picture(site, 3, 700_000), film(site, 1_800_000)
    scan, item = cid(site=site.name), ldo(site=site.name, clip_sha256=moving.sha256)
    await site.ingest(known, moving, large, small, scan, item)
    assert await site.mirror() == 6
    await centre.hear(site, 6)

    announced = [row["event_id"] for row in await rows.fetch("select event_id from outbox")]
    shared = record_id(Kind.FRAME, known.sha256)
    assert announced == [event_id(shared), event_id(shared, site.name)], "what is here needs no transfer"
    lacking = [item, scan, small, large, moving]
    waiting = await centre.transfers.waiting()
    assert [(row.site, row.bodies, row.size_bytes) for row in waiting] == [(site.name, 5, sum(map(size_of, lacking)))]

    endpoint = urlsplit(site.settings.store_endpoint)
    proxy = CountingProxy(endpoint.hostname or "", endpoint.port or 0)
    async with proxy.listening() as port:
        far = site.settings.model_copy(update={"store_endpoint": f"http://127.0.0.1:{port}"})
        await centre.bring_all(centre.link(site, tmp_path, Blobs.from_settings(far)))
    came = await arrived(rows)
    assert came[3:] == [digest_of(event) for event in (small, large, moving)]
    assert set(came[1:3]) == {digest_of(item), digest_of(scan)}, "in one pack"
    assert proxy.bytes <= 1.02 * sum(map(size_of, lacking))
    told("link", link_bytes=proxy.bytes, distinct_bytes=sum(map(size_of, lacking)), bodies=len(lacking))

    for event in lacking:
        record = (await centre.queries.record(digest_of(event).hex())).record
        assert await read_placed(centre.blobs, record) == body_of(event)
        assert (record.store_offset is not None) == (event in {item, scan})
    ids = [event_id(record_id(kind_of(event), digest_of(event).hex())) for event in lacking]
    outbox = await rows.fetch("select event_id, created_at from outbox order by id offset 2")
    assert [row["event_id"] for row in outbox][2:] == ids[2:]
    assert sorted(row["event_id"] for row in outbox) == sorted(ids), "each once, as the site has announced it"
    assert set(ids) < set(site.announced)
    times = await rows.fetch("select ingested_at from records where site = $1 order by ingested_at", site.name)
    assert [row[0] for row in times] == [row["created_at"] for row in outbox], "ingested when the bytes are here"
    assert await rows.fetchval("select encode(clip_sha256, 'hex') from records where kind = 'ldo'") == moving.sha256
    assert not await centre.transfers.waiting()
    assert not os.listdir(tmp_path)  # noqa: PTH208 - in a coroutine


async def test_what_is_asked_for_by_hand_comes_first_also_before_the_rest_of_a_body(
    places: tuple[Site, Centre], rows: asyncpg.Connection, tmp_path: Path
) -> None:
    site, centre = places
    first, second, wanted = picture(site, 1, 1_200_000), picture(site, 2, 1_300_000), film(site, 900_000)
    await site.ingest(first, second, wanted)
    await site.mirror()
    await centre.hear(site, 3)
    record = record_id(Kind.CLIP, wanted.sha256)
    parts: list[int] = []

    class Asking(Blobs):
        """The site's store; once its first part is read, somebody asks for the clip."""

        async def get(self, key: str, *, offset: int | None = None, length: int | None = None) -> bytes:
            data = await super().get(key, offset=offset, length=length)
            parts.append(len(data))
            if len(parts) == 1:
                assert await centre.transfers.request(record)
            return data

    await centre.bring_all(centre.link(site, tmp_path, Asking.from_settings(site.settings)))
    assert await arrived(rows) == [digest_of(event) for event in (wanted, first, second)]
    assert sum(parts) == sum(map(size_of, (first, second, wanted))), "and no part is read twice"
    told("by_hand", parts_of_others_before_it=1, arrived_as=1, of=3)
    assert not await centre.transfers.request(record), "it is here"


async def test_what_the_site_does_not_have_waits_and_the_others_come(
    places: tuple[Site, Centre], rows: asyncpg.Connection, tmp_path: Path
) -> None:
    site, centre = places
    missing, wrong, good = picture(site, 1, 1000), picture(site, 2, 2000), picture(site, 3, 3000)
    await site.ingest(missing, wrong, good)
    await site.mirror()
    await centre.hear(site, 3)
    await site.blobs.delete(f"blobs/sha256/{_path(digest_of(missing))}")
    await site.blobs.replace(f"blobs/sha256/{_path(digest_of(wrong))}", bytes(size_of(wrong)))
    await centre.bring_all(centre.link(site, tmp_path))
    assert await arrived(rows) == [digest_of(good)]
    (state,) = await centre.transfers.of_digest(digest_of(wrong))
    assert "SHA-256" in (state.why or "")
    await site.blobs.replace(f"blobs/sha256/{_path(digest_of(wrong))}", body_of(wrong))
    await rows.execute("update transfers set retry_at = now()")
    await centre.bring_all(centre.link(site, tmp_path))
    assert await arrived(rows) == [digest_of(good), digest_of(wrong)]


async def test_small_bodies_come_together_and_one_that_is_missing_holds_up_none(
    places: tuple[Site, Centre], rows: asyncpg.Connection, tmp_path: Path
) -> None:
    site, centre = places
    scans = [cid(f"C-{number}", site=site.name) for number in range(30)]
    await site.ingest(*scans)
    await site.mirror()
    await centre.hear(site, len(scans))
    await rows.execute("update transfers set store_key = 'packs/none' where digest = $1", digest_of(scans[7]))
    await centre.bring_all(centre.link(site, tmp_path))
    assert set(await arrived(rows)) == {digest_of(scan) for scan in scans if scan is not scans[7]}
    assert await rows.fetchval("select count(distinct store_key) from blobs") == 1, "one pack"
    (state,) = await centre.transfers.of_digest(digest_of(scans[7]))
    assert state.why is not None


async def test_closed_hours_bring_only_what_is_asked_for(
    places: tuple[Site, Centre], rows: asyncpg.Connection, tmp_path: Path
) -> None:
    site, centre = places
    first, wanted = picture(site, 1, 1000), picture(site, 2, 2000)
    await site.ingest(first, wanted)
    await site.mirror()
    await centre.hear(site, 2)
    closed = Pace((HoursLimit(22, 6, 0.0),), hour=lambda: 23)
    await centre.transfers.request(record_id(Kind.FRAME, wanted.sha256))
    await centre.bring_all(centre.link(site, tmp_path, pace=closed))
    assert await arrived(rows) == [digest_of(wanted)]
    await centre.bring_all(centre.link(site, tmp_path, pace=replace(closed, hour=lambda: 7)))
    assert await arrived(rows) == [digest_of(wanted), digest_of(first)]


async def test_the_centres_own_delivery_of_the_bytes_ends_the_waiting(
    places: tuple[Site, Centre], rows: asyncpg.Connection, tmp_path: Path
) -> None:
    site, centre = places
    same = picture(site, 1, 1000)
    await site.ingest(same)
    await site.mirror()
    await centre.hear(site, 1)
    await centre.ingest(replace(same, site="centre"))
    record = record_id(Kind.FRAME, same.sha256)
    outbox = [row[0] for row in await rows.fetch("select event_id from outbox order by id")]
    assert sorted(outbox) == sorted([event_id(record), event_id(record, "centre")])
    assert not await centre.transfers.waiting()
    assert await centre.link(site, tmp_path).bring_next(), "there is nothing to bring"


async def test_an_announcement_that_lies_is_refused(places: tuple[Site, Centre], rows: asyncpg.Connection) -> None:
    site, centre = places
    await site.ingest(picture(site, 1, 1000), picture(site, 2, 1000))
    topic = ingested_topic(Kind.FRAME).name
    site.write(topic, b"?")
    for value in await _values(site):
        event = decode(value, Ingested)
        site.write(topic, encode(replace(event, site="factory-b")))
        site.write(topic, encode(replace(event, digest="0" * 64)))
        site.write(topic, encode(replace(event, kind="film")))
    await site.mirror()
    await centre.hear(site, 2)
    assert await rows.fetchval("select count(*) from records") == 2
    assert await rows.fetchval("select count(*) from sightings") == 2


@pytest.mark.slow
async def test_a_limit_is_held_over_a_volume(places: tuple[Site, Centre], tmp_path: Path) -> None:
    site, centre = places
    pictures = [picture(site, shade, 500_000) for shade in range(5)]
    await site.ingest(*pictures)
    await site.mirror()
    await centre.hear(site, len(pictures))
    began_s = time.monotonic()
    await centre.bring_all(centre.link(site, tmp_path, pace=Pace((HoursLimit(0, 0, 125_000),))))
    took_s = time.monotonic() - began_s
    # The last body need not wait for the time that it took.
    sent_bytes = sum(map(size_of, pictures[:-1]))
    told("limit", limit_kbit_per_s=1000, measured_kbit_per_s=round(sent_bytes * 8 / took_s / 1000), bytes=sent_bytes)
    assert took_s >= 0.99 * sent_bytes / 125_000


async def _values(site: Site) -> list[bytes]:
    from headrace.store.catalog.outbox import Outbox
    from headrace.streams.relay.announcement import announce

    outbox = await Outbox.open(site.settings.postgres_dsn.get_secret_value())
    try:
        return [announce(row, 10**6).value for row in await outbox.pending(ingested_topic(Kind.FRAME).name, 1)]
    finally:
        await outbox.close()


def _path(digest: bytes) -> str:
    text = digest.hex()
    return f"{text[:2]}/{text[2:4]}/{text}"
