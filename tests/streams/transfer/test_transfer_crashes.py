"""A transfer that ends anywhere goes on: no byte of a body is read twice, and each record is announced once."""

from pathlib import Path
from typing import Any

import asyncpg
import pytest

from headrace.runtime.crash_points import CrashPoint
from headrace.runtime.errors import Exit
from headrace.runtime.settings import Settings
from headrace.schemas.digest import event_id, record_id
from headrace.schemas.events import Frame, Kind
from headrace.store.blobs.blob_store import Blobs
from headrace.streams.transfer.body_files import PART_BYTES
from tests.commands import CrashError, headrace
from tests.processes import ServiceProcess
from tests.streams.streams_samples import frame, png
from tests.streams.transfer.transfer_rig import Centre, Site
from tests.waiting import until

pytestmark = pytest.mark.stack

POINTS = [point for point in CrashPoint if point.startswith("transfer_")]
ARRIVES_S_MAX = 60.0


def pictures(site: Site) -> list[Frame]:
    """Two pictures of several parts, the smaller one first."""
    return [
        frame(png(shade=shade, padding_bytes=size_bytes), site=site.name)
        for shade, size_bytes in ((1, 3 * PART_BYTES), (2, 4 * PART_BYTES))
    ]


class CountingBlobs(Blobs):
    """Counts what is read."""

    read_bytes = 0

    async def get(self, key: str, *, offset: int | None = None, length: int | None = None) -> bytes:
        data = await super().get(key, offset=offset, length=length)
        self.read_bytes += len(data)
        return data


@pytest.mark.parametrize("point", POINTS)
async def test_a_transfer_that_is_ended_there_goes_on(
    places: tuple[Site, Centre], rows: asyncpg.Connection, tmp_path: Path, point: CrashPoint
) -> None:
    site, centre = places
    bodies = pictures(site)
    await site.ingest(*bodies)
    await site.mirror()
    await centre.hear(site, 2)
    store = CountingBlobs.from_settings(site.settings)
    ends = 0

    def reached(current: CrashPoint) -> None:
        nonlocal ends
        if current is point:
            ends += 1
            if ends % 2:
                raise CrashError(point)

    for _ in range(20):
        try:
            await centre.bring_all(centre.link(site, tmp_path, store, reached=reached))
            break
        except CrashError:
            continue
    assert ends >= 2
    await check(rows, bodies)
    assert store.read_bytes == sum(body.size_bytes for body in bodies)


async def test_what_a_power_cut_did_to_a_file_is_read_again(
    places: tuple[Site, Centre], rows: asyncpg.Connection, tmp_path: Path
) -> None:
    site, centre = places
    bodies = pictures(site)
    await site.ingest(*bodies)
    await site.mirror()
    await centre.hear(site, 2)
    for body, left in zip(bodies, (b"\0" * PART_BYTES, b"\0" * 5 * PART_BYTES), strict=True):
        (tmp_path / f"{body.sha256}.part").write_bytes(left)
    await centre.bring_all(centre.link(site, tmp_path))
    await rows.execute("update transfers set retry_at = now()")
    await centre.bring_all(centre.link(site, tmp_path))
    await check(rows, bodies)


async def check(rows: asyncpg.Connection, bodies: list[Frame]) -> None:
    ids = [event_id(record_id(Kind.FRAME, body.sha256)) for body in bodies]
    assert sorted(row[0] for row in await rows.fetch("select event_id from outbox")) == sorted(ids)
    stored = await rows.fetch("select encode(sha256, 'hex') from blobs")
    assert sorted(row[0] for row in stored) == sorted(body.sha256 for body in bodies)
    assert await rows.fetchval("select count(*) from transfers") == 0


async def test_a_process_brings_what_is_asked_for_and_says_what_is_not_here(
    places: tuple[Site, Centre], rows: asyncpg.Connection, tmp_path: Path
) -> None:
    site, centre = places
    first, wanted = pictures(site)
    await site.ingest(first, wanted)
    await site.mirror()
    await centre.hear(site, 2)
    shown = headrace(centre.settings, "show", wanted.sha256)
    assert f"not here yet: at {site.name}" in shown.out
    refused = headrace(centre.settings, "get", wanted.sha256, code=Exit.FAILED)
    assert f"headrace fetch {wanted.sha256}" in " ".join(refused.err.split())
    assert "come next" in headrace(centre.settings, "fetch", wanted.sha256).err
    headrace(centre.settings, "fsck")

    process = transfer(centre.settings, site, tmp_path).wait_ready()
    try:
        until(lambda: not waiting(centre.settings), ARRIVES_S_MAX, "the bodies to be here")
        assert process.stop() == 0
    finally:
        process.kill()
    assert await order(rows) == [wanted.sha256, first.sha256]
    assert "are here" in headrace(centre.settings, "fetch", wanted.sha256).err
    headrace(centre.settings, "get", wanted.sha256, "-o", str(tmp_path / "body"))
    assert (tmp_path / "body").read_bytes() == wanted.body
    await check(rows, [first, wanted])


def transfer(settings: Settings, site: Site, directory: Path, **environment: Any) -> ServiceProcess:
    secret, file = directory / "secret", directory / "transfer.toml"
    secret.write_text(site.settings.store_secret_key.get_secret_value())
    file.write_text(
        f"""
        [{site.name}]
        store_url = "{site.settings.store_url}"
        store_endpoint = "{site.settings.store_endpoint}"
        store_access_key = "{site.settings.store_access_key.get_secret_value()}"
        store_secret_key_file = "{secret}"
        """
    )
    return ServiceProcess(
        settings,
        "transfer",
        log=directory / "transfer.log",
        environment=environment,
        transfer_sites=file,
        transfer_dir=directory / "parts",
    )


def waiting(settings: Settings) -> bool:
    """Whether a body is still to come."""
    import psycopg

    with psycopg.connect(settings.postgres_dsn.get_secret_value()) as connection:
        row = connection.execute("select exists (select from transfers)").fetchone()
    return bool(row and row[0])


async def order(rows: asyncpg.Connection) -> list[str]:
    return [row[0] for row in await rows.fetch("select encode(sha256, 'hex') from blobs order by created_at")]


@pytest.mark.slow
async def test_processes_that_are_killed_in_the_middle_of_bodies_go_on(
    places: tuple[Site, Centre], rows: asyncpg.Connection, tmp_path: Path
) -> None:
    site, centre = places
    bodies = pictures(site)
    await site.ingest(*bodies)
    await site.mirror()
    await centre.hear(site, 2)
    for nth in (2, 3, 1):  # of the parts that each process reads
        process = transfer(centre.settings, site, tmp_path, HEADRACE_CRASH_AT=f"transfer_after_part:{nth}")
        assert process.process.wait(ARRIVES_S_MAX) == Exit.CRASHED
    process = transfer(centre.settings, site, tmp_path).wait_ready()
    try:
        until(lambda: not waiting(centre.settings), ARRIVES_S_MAX, "the bodies to be here")
        metrics = process.get("/metrics")[1]
    finally:
        process.kill()
    await check(rows, bodies)
    read = f'headrace_transfer_bytes_total{{site="{site.name}"}} '
    last = float(metrics.split(read)[1].split("\n")[0])
    # The first two have read the three parts of the first body, the little that follows them, and one part of the
    # second body; the third one another part.
    assert last == bodies[1].size_bytes - 2 * PART_BYTES, "the last one read only what was missing"
