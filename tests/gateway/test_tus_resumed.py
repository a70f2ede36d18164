"""Resumable uploads that are cut off, by the caller, by a gateway that is killed, or by time."""

import asyncio
import re
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from hashlib import sha256
from pathlib import Path
from uuid import UUID, uuid4

import pytest

from headrace.runtime.settings import Settings
from headrace.schemas.limits import KIB, MIB
from headrace.store.blobs.blob_store import Blobs
from headrace.store.requests.uploads import UploadPart, Uploads
from tests.gateway.gateway_world import Gateway, StartGateway, name, picture
from tests.gateway.hostile_http import head, part
from tests.gateway.tus_client import TusClient, id_of, is_held, parts_of
from tests.servers import pool_of
from tests.streams.streams_samples import mp4
from tests.waiting import until

pytestmark = pytest.mark.stack

UNREAD_BYTES_MAX = 1 * MIB  # what may be on its way through the gateway's buffers when a caller is cut off


@pytest.fixture
def client(gateway: Gateway) -> Iterator[TusClient]:
    with TusClient(gateway) as opened:
        yield opened


def clip(size: int) -> bytes:
    """An MP4 of that size that no other test has."""
    return mp4(filler=picture()).ljust(size, b"\0")


def test_a_caller_that_is_cut_off_goes_on_where_it_was(client: TusClient, gateway: Gateway) -> None:
    body = clip(20 * MIB)
    sent = len(body) * 99 // 100
    path = client.begin(len(body), sha256=sha256(body).hexdigest())
    with client.unfinished(path, 0, len(body)) as connection:
        connection.sendall(body[:sent])
    until(lambda: client.offset(path) > 16 * MIB, 90, "the last part, which is smaller")
    offset = client.wait_free(path)
    assert sent - UNREAD_BYTES_MAX <= offset <= sent
    assert sum(parts_of(gateway, path).values()) == offset
    answer = client.patch(path, offset, body[offset:])
    assert (answer.status_code, answer.headers["Headrace-Status"]) == (204, "ingested")
    found = gateway.rows("select kind from records where digest = %s", sha256(body).digest())
    assert found == [("clip",)]
    assert parts_of(gateway, path) == {}


def test_nothing_of_a_body_that_cannot_be_checked_is_kept(client: TusClient, gateway: Gateway) -> None:
    path = client.begin(20 * MIB)
    with client.unfinished(path, 0, 20 * MIB, "Upload-Checksum: sha1 " + "A" * 27 + "=") as connection:
        connection.sendall(bytes(19 * MIB))
        until(lambda: parts_of(gateway, path), 90, "a part in the store")
        assert client.offset(path) == 0
    assert client.wait_free(path) == 0
    assert parts_of(gateway, path) == {}


def test_one_writer_at_a_time(client: TusClient, gateway: Gateway) -> None:
    body = picture()
    path = client.begin(len(body))
    with client.unfinished(path, 0, len(body)) as connection:
        connection.sendall(body[:10])
        until(lambda: is_held(gateway, path), 90, "the first writer to be at work")
        second = client.patch(path, 0, body)
        assert (second.status_code, second.json()["code"]) == (423, "locked")
        assert "Retry-After" in second.headers
        assert client.offset(path) == 0
    assert client.wait_free(path) == 10
    assert client.patch(path, 10, body[10:]).headers["Headrace-Status"] == "ingested"


def test_an_upload_that_is_ended_while_somebody_writes(client: TusClient, gateway: Gateway) -> None:
    path = client.begin(10 * MIB)
    with client.unfinished(path, 0, 10 * MIB) as connection:
        connection.sendall(b"x")
        until(lambda: is_held(gateway, path), 90, "the writer to be at work")
        assert client.http.delete(path).status_code == 204
        connection.sendall(bytes(10 * MIB - 1))
        assert connection.recv(100).startswith(b"HTTP/1.1 409")
    assert client.head(path).status_code == 404
    assert parts_of(gateway, path) == {}


def test_what_is_not_finished_in_time_is_gone(start_gateway: StartGateway) -> None:
    quick = start_gateway(gateway_upload_expiry_hours=4 / 3600)
    quick.rows("insert into audit (at, action) values (now() - interval '366 days', 'a year ago') returning id")
    with TusClient(quick) as client:
        path = client.begin(20 * MIB)
        with client.unfinished(path, 0, 20 * MIB) as connection:
            connection.sendall(bytes(9 * MIB))
            until(lambda: parts_of(quick, path), 90, "a part in the store")
        until(lambda: client.head(path).status_code == 410 or not parts_of(quick, path), 90, "the upload to be over")
        until(lambda: client.head(path).status_code == 404, 90, "the sweeper")
        assert client.patch(path, 0, b"x").status_code == 404
        assert parts_of(quick, path) == {}
        assert quick.rows("select * from upload_parts where upload_id = %s", id_of(path)) == []
    assert quick.rows("select 1 from audit where action = 'a year ago'") == []


@pytest.mark.timeout(300)
def test_another_gateway_goes_on_after_one_was_killed(
    client: TusClient, gateway: Gateway, service_settings: Settings, tmp_path: Path
) -> None:
    body = clip(20 * MIB)
    doomed = Gateway(service_settings, tmp_path / "gateway.log")
    try:
        doomed.process.wait_ready()
        with TusClient(doomed, client.key) as first:
            path = first.begin(len(body))
            with first.unfinished(path, 0, len(body)) as connection:
                connection.sendall(body[: 18 * MIB])
                until(lambda: client.offset(path) == 16 * MIB, 90, "two parts to count")
                doomed.process.kill()
    finally:
        doomed.process.kill()
    assert is_held(gateway, path)
    # The hold of the one that was killed ends by itself; here as if its time were over.
    gateway.rows("update uploads set held_until = now() where upload_id = %s returning 1", id_of(path))
    offset = client.wait_free(path)
    assert offset == 16 * MIB
    answer = client.patch(path, offset, body[offset:])
    assert (answer.status_code, answer.headers["Headrace-Status"]) == (204, "ingested")
    assert len(gateway.rows("select 1 from records where digest = %s", sha256(body).digest())) == 1
    assert parts_of(gateway, path) == {}


def test_head_takes_up_a_join_that_was_cut_short(client: TusClient, gateway: Gateway) -> None:
    body = clip(9 * MIB)
    path = left_before_the_join(client, gateway, body)
    answer = client.head(path)
    assert (answer.status_code, answer.headers["Headrace-Status"]) == (200, "ingested")
    assert answer.headers["Upload-Offset"] == str(len(body))
    assert len(gateway.rows("select 1 from records where digest = %s", sha256(body).digest())) == 1
    assert parts_of(gateway, path) == {}


def test_patch_takes_up_a_join_that_was_cut_short(client: TusClient, gateway: Gateway) -> None:
    body = picture()
    path = left_before_the_join(client, gateway, body)
    answer = client.patch(path, len(body), b"")
    assert (answer.status_code, answer.headers["Headrace-Status"]) == (204, "ingested")


def test_the_sweeper_assembles_an_upload_whose_assembly_was_interrupted(
    client: TusClient, gateway: Gateway, start_gateway: StartGateway
) -> None:
    body = picture()
    path = left_before_the_join(client, gateway, body)
    start_gateway(gateway_upload_expiry_hours=2 / 3600)
    state = "select state from uploads where upload_id = %s"
    until(lambda: gateway.rows(state, id_of(path)) == [("done",)], 90, "the sweeper")
    assert len(gateway.rows("select 1 from records where digest = %s", sha256(body).digest())) == 1
    assert parts_of(gateway, path) == {}


@pytest.mark.slow
def test_a_join_that_finds_no_room_is_not_the_end_of_the_upload(start_gateway: StartGateway) -> None:
    gateway = start_gateway(gateway_buffer_bytes_max=16 * MIB, gateway_body_stall_s_max=120, gateway_answer_s_max=60)
    begun = part(b"a" * (8 * MIB - 2 * KIB))[:-2]  # what two of them leave is less than the join needs
    body = picture()
    with TusClient(gateway) as client, ExitStack() as holding:
        path = left_before_the_join(client, gateway, body)
        for _ in range(2):
            connection = holding.enter_context(socket.create_connection(("127.0.0.1", gateway.http_port)))
            connection.sendall(head("/ingest", gateway.key(), f"Content-Length: {9 * MIB}") + begun)
        full = re.compile(r"^headrace_gateway_buffer_bytes 1\.6\d+e\+07$", re.MULTILINE)
        until(lambda: full.search(client.http.get("/metrics").text), 60, "the room to be taken")
        answer = client.patch(path, len(body), b"")
        assert (answer.status_code, answer.json()["code"]) == (503, "unavailable")
        holding.pop_all().close()
        answer = client.patch(path, len(body), b"")
        assert (answer.status_code, answer.headers["Headrace-Status"]) == (204, "ingested")


def left_before_the_join(client: TusClient, gateway: Gateway, body: bytes) -> str:
    """An upload as a gateway leaves it that dies after the last byte was counted."""
    path = client.begin(len(body), source_id=name("camera"))
    upload_id, by, half = UUID(id_of(path)), uuid4(), len(body) // 2
    assert client.patch(path, 0, body[:half]).status_code == 204

    async def count_the_rest() -> None:
        dsn = gateway.settings.postgres_dsn.get_secret_value()
        async with pool_of(dsn) as pool:
            uploads, blobs = Uploads(pool, dsn), Blobs.from_settings(gateway.settings)
            assert await uploads.hold(upload_id, by, 0.0) is not None
            part = UploadPart(half, len(body) - half, f"staging/~gateway/uploads/{upload_id}/{half}-{by.hex}")
            await blobs.put(part.store_key, body[half:])
            assert await uploads.record(upload_id, by, [part])

    asyncio.run(count_the_rest())
    return path
