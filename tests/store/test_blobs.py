import asyncio
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path

import aiobotocore.session
import pytest

from headrace.native import StackInfo, kill
from headrace.schemas.digest import blob_key, staging_key
from headrace.store.blobs import store_url
from headrace.store.blobs.blob_store import Blobs
from headrace.store.errors import BlobMissingError, StoreRefusedError, StoreUnavailableError
from tests.processes import free_port
from tests.store.conftest import Minio, open_minio

BODY = bytes(range(256)) * 10
KEY = blob_key(sha256(BODY).hexdigest())
MIB = 1024 * 1024


async def test_what_is_put_is_got(blobs: Blobs) -> None:
    assert await blobs.put(KEY, BODY, media_type="image/jpeg") is True
    assert await blobs.get(KEY) == BODY


async def test_putting_again_is_success_and_writes_nothing(blobs: Blobs) -> None:
    await blobs.put(KEY, BODY)
    before = await blobs.stat(KEY)
    assert await blobs.put(KEY, BODY) is False
    assert await blobs.stat(KEY) == before


async def test_an_object_of_another_size_cannot_be_right_and_is_written_again(blobs: Blobs) -> None:
    await blobs.put(KEY, BODY[:-1])
    assert await blobs.put(KEY, BODY) is True
    assert await blobs.get(KEY) == BODY


async def test_many_puts_of_one_key_at_once_leave_one_whole_object(blobs: Blobs) -> None:
    await asyncio.gather(*(blobs.put(KEY, BODY) for _ in range(20)))
    assert await blobs.get(KEY) == BODY


async def test_an_empty_object_is_an_object(blobs: Blobs) -> None:
    await blobs.put("blobs/empty", b"")
    stat = await blobs.stat("blobs/empty")
    assert stat is not None
    assert stat.size_bytes == 0
    assert await blobs.get("blobs/empty") == b""
    assert [chunk async for chunk in blobs.stream("blobs/empty", 10)] == []


@pytest.mark.parametrize(
    ("offset", "length"),
    [
        (0, 1),
        (5, 10),
        (2550, 10),
        (0, 0),
        (7, None),
        (None, 9),
        (0, 10_000),
        (2560, 0),
        (2560, 1),
        (9999, 10),
        (9999, None),
    ],
)
async def test_a_part_of_an_object(blobs: Blobs, offset: int | None, length: int | None) -> None:
    await blobs.put(KEY, BODY)
    start = offset or 0
    end = None if length is None else start + length
    assert await blobs.get(KEY, offset=offset, length=length) == BODY[start:end]


async def test_stat_knows_size_and_age(blobs: Blobs) -> None:
    await blobs.put(KEY, BODY)
    stat = await blobs.stat(KEY)
    assert stat is not None
    assert (stat.key, stat.size_bytes) == (KEY, len(BODY))
    assert abs((datetime.now(UTC) - stat.modified_at).total_seconds()) < 60


async def test_what_is_not_there_is_missing(blobs: Blobs) -> None:
    assert await blobs.stat("blobs/none") is None
    with pytest.raises(BlobMissingError, match="blobs/none"):
        await blobs.get("blobs/none")
    with pytest.raises(BlobMissingError):
        await blobs.get("blobs/none", offset=0, length=3)
    with pytest.raises(BlobMissingError):
        await blobs.copy("blobs/none", "blobs/other")
    with pytest.raises(BlobMissingError):
        await anext(blobs.stream("blobs/none", 10))


async def test_deleting_may_be_repeated(blobs: Blobs) -> None:
    await blobs.put(KEY, BODY)
    await blobs.delete(KEY)
    await blobs.delete(KEY)
    assert await blobs.stat(KEY) is None


async def test_an_object_is_read_in_chunks(blobs: Blobs) -> None:
    await blobs.put(KEY, BODY)
    chunks = [chunk async for chunk in blobs.stream(KEY, 1000)]
    assert [len(chunk) for chunk in chunks] == [1000, 1000, 560]
    assert b"".join(chunks) == BODY


async def test_an_upload_in_parts_is_read_as_it_was_written(blobs: Blobs) -> None:
    parts = [bytes([number]) * (3 * MIB + number) for number in range(7)]

    async def chunks() -> AsyncIterator[bytes]:
        for part in parts:
            yield part

    key = staging_key("site", "cam/1 é", "0" * 64)
    await blobs.put_stream(key, chunks(), media_type="video/mp4")
    assert await blobs.get(key) == b"".join(parts)


async def test_an_upload_that_breaks_off_leaves_no_object(blobs: Blobs) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        yield bytes(9 * MIB)
        raise ConnectionResetError

    with pytest.raises(Exception):  # noqa: B017 - the reader's own fault; what matters is the store
        await blobs.put_stream("staging/a/b/c", chunks())
    assert await blobs.stat("staging/a/b/c") is None


async def test_a_list_names_each_object_below_a_prefix(blobs: Blobs) -> None:
    for key in ("staging/a/1", "staging/a/2", "staging/b/1", "staging-not/1", "other"):
        await blobs.put(key, key.encode())
    listed = {stat.key: stat.size_bytes async for stat in blobs.list("staging/")}
    assert listed == {"staging/a/1": 11, "staging/a/2": 11, "staging/b/1": 11}


async def test_a_list_has_every_page(minio_blobs: Blobs) -> None:
    await asyncio.gather(*(minio_blobs.put(f"staging/{number}", b"x") for number in range(1100)))
    assert len([stat async for stat in minio_blobs.list("staging/")]) == 1100


async def test_a_copy_replaces_what_is_there(blobs: Blobs) -> None:
    await blobs.put("promoting/1", BODY)
    await blobs.put(KEY, b"old")
    await blobs.copy("promoting/1", KEY)
    assert await blobs.get(KEY) == BODY


@pytest.mark.parametrize("key", ["../outside", "staging/../../outside", "staging//x"])
async def test_no_key_leaves_the_store(blobs: Blobs, tmp_path: Path, key: str) -> None:
    with pytest.raises(StoreRefusedError):
        await blobs.put(key, b"x")
    assert not (tmp_path / "outside").exists()


async def test_a_store_that_answers_is_ready(blobs: Blobs) -> None:
    await blobs.check()


async def test_s3_keeps_the_media_type(minio: Minio, minio_blobs: Blobs) -> None:
    await minio_blobs.put(KEY, BODY, media_type="image/webp")
    client = aiobotocore.session.get_session().create_client(
        "s3",
        endpoint_url=minio.endpoint,
        region_name="us-east-1",
        aws_access_key_id=minio.access_key,
        aws_secret_access_key=minio.secret_key,
    )
    async with client as s3:
        head = await s3.head_object(Bucket=minio.bucket, Key=minio_blobs.where.split()[0].split("/", 3)[3] + "/" + KEY)
    assert head["ContentType"] == "image/webp"


@pytest.mark.parametrize(
    ("changed", "hint"),
    [({"secret_key": "canary-wrong-key"}, "HEADRACE_STORE_SECRET_KEY"), ({"access_key": "nobody"}, "ACCESS_KEY")],
)
async def test_wrong_credentials_are_refused_without_being_said(
    minio: Minio, changed: dict[str, str], hint: str
) -> None:
    stranger = open_minio(minio, **changed)
    for attempt in (stranger.put(KEY, BODY), stranger.get(KEY), stranger.check()):
        with pytest.raises(StoreRefusedError) as raised:
            await attempt
        assert hint in raised.value.hint
        assert "canary" not in str(raised.value)
        assert raised.value.__cause__ is None
        assert minio.secret_key not in str(raised.value)


async def test_a_bucket_that_is_not_there_is_refused_by_name(minio: Minio) -> None:
    keys = {"access_key": minio.access_key, "secret_key": minio.secret_key}
    lost = Blobs.open("s3://no-such-bucket", endpoint=minio.endpoint, region="us-east-1", **keys)
    for attempt in (lost.put(KEY, BODY), lost.get(KEY), lost.check()):
        with pytest.raises(StoreRefusedError, match="NoSuchBucket") as raised:
            await attempt
        assert "Create the bucket" in raised.value.hint
        assert "no-such-bucket" in raised.value.where


@pytest.mark.parametrize("url", ["ftp://a/b", "headrace", "", "s3:/x"])
def test_a_url_of_no_known_kind_is_refused(url: str) -> None:
    with pytest.raises(StoreRefusedError) as raised:
        Blobs.open(url)
    assert "HEADRACE_STORE_URL" in raised.value.hint


def test_a_password_in_a_url_is_not_said() -> None:
    with pytest.raises(StoreRefusedError) as raised:
        Blobs.open("ftp://someone:canary@host/x")
    assert "canary" not in str(raised.value)


async def test_a_store_that_is_away_is_unavailable() -> None:
    away = Blobs.open(
        "s3://headrace",
        endpoint=f"http://127.0.0.1:{free_port()}",
        region="us-east-1",
        access_key="a",
        secret_key="canary",
    )
    for attempt in (away.put(KEY, BODY), away.get(KEY), away.stat(KEY), away.delete(KEY), away.check()):
        with pytest.raises(StoreUnavailableError, match="no connection") as raised:
            await attempt
        assert "canary" not in str(raised.value)


@asynccontextmanager
async def answering(status: str, code: str, *, only_if: bytes = b"") -> AsyncIterator[tuple[Blobs, list[bytes]]]:
    """A store that gives one answer to every request that holds `only_if`, and is content with the others."""
    heads: list[bytes] = []
    error = f"<Error><Code>{code}</Code></Error>".encode()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        heads.append(head)
        length = [line.split(b":")[1] for line in head.split(b"\r\n") if line.startswith(b"content-length:")]
        await reader.readexactly(int(length[0]) if length else 0)
        body = error if only_if in head else b""
        writer.write(f'HTTP/1.1 {status if only_if in head else "200 OK"}\r\nETag: "x"\r\n'.encode())
        writer.write(b"Connection: close\r\nLast-Modified: Thu, 01 Jan 2026 00:00:00 GMT\r\n")
        writer.write(b"Content-Length: %d\r\n\r\n" % len(body) + body)
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    keys = {"access_key": "a", "secret_key": "b"}
    try:
        yield Blobs.open("s3://bucket", endpoint=f"http://127.0.0.1:{port}", region="us-east-1", **keys), heads
    finally:
        server.close()


@pytest.mark.parametrize(
    ("status", "code", "expected"),
    [
        ("503 Slow Down", "SlowDown", StoreUnavailableError),
        ("500 Internal Server Error", "InternalError", StoreUnavailableError),
        ("507 Insufficient Storage", "XMinioStorageFull", StoreUnavailableError),
        ("429 Too Many Requests", "", StoreUnavailableError),
        ("400 Bad Request", "InvalidArgument", StoreRefusedError),
        ("403 Forbidden", "AccessDenied", StoreRefusedError),
        ("403 Forbidden", "RequestTimeTooSkewed", StoreRefusedError),
        ("404 Not Found", "NoSuchBucket", StoreRefusedError),
    ],
)
async def test_an_answer_says_whether_to_try_again(status: str, code: str, expected: type[Exception]) -> None:
    async with answering(status, code) as (blobs, _):
        with pytest.raises(expected, match=code or "429"):
            await blobs.put(KEY, BODY)


async def test_a_store_without_conditional_puts_is_asked_once(minio: Minio) -> None:
    async with answering("501 Not Implemented", "NotImplemented", only_if=b"if-none-match") as (blobs, heads):
        assert await blobs.put(KEY, BODY) is True
        asked = len(heads)
        assert await blobs.put(KEY, BODY) is True
        assert len(heads) == asked + 1
        assert b"if-none-match" not in heads[-1]


async def test_payloads_are_not_signed() -> None:
    async with answering("200 OK", "") as (blobs, heads):
        await blobs.put(KEY, BODY)
    assert b"x-amz-content-sha256: unsigned-payload" in heads[0]
    assert b"x-amz-checksum-crc64nvme: " in heads[0]


@asynccontextmanager
async def changing_on_the_way(minio: Minio, times: int) -> AsyncIterator[Blobs]:
    """The way to MinIO, on which one bit of a body is turned over in the first `times` requests."""
    host, port = minio.endpoint.removeprefix("http://").split(":")
    left = times

    ways: list[asyncio.Task[None]] = []

    def turned(data: bytes) -> bytes:
        nonlocal left
        if left and BODY in data:
            left -= 1
            return data.replace(BODY, bytes([BODY[0] ^ 1]) + BODY[1:])
        return data

    async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection(host, int(port))
        ways.append(asyncio.create_task(_pump(reader, far_writer, turned)))
        ways.append(asyncio.create_task(_pump(far_reader, writer, lambda data: data)))

    server = await asyncio.start_server(carry, "127.0.0.1", 0)
    try:
        yield open_minio(minio, endpoint=f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
    finally:
        server.close()
        for way in ways:
            way.cancel()
        await asyncio.gather(*ways, return_exceptions=True)


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, change: Callable[[bytes], bytes]) -> None:
    try:
        while data := await reader.read(65536):
            writer.write(change(data))
            await writer.drain()
    finally:
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()


async def test_what_is_changed_on_the_way_is_refused_and_sent_again(minio: Minio) -> None:
    async with changing_on_the_way(minio, 1) as blobs:
        with pytest.raises(StoreUnavailableError, match="400"):
            await blobs.put(KEY, BODY)
        assert await blobs.stat(KEY) is None
        assert await blobs.put(KEY, BODY) is True
        assert await blobs.get(KEY) == BODY


def test_a_request_ends_long_before_a_batch_is_given_up() -> None:
    # Of a batch's 120 s there must be time left for another try.
    assert max(store_url.QUICK_TIMEOUT_S, store_url.BULK_TIMEOUT_S) <= 45


async def test_a_conflict_is_not_taken_for_being_there() -> None:
    # S3 answers 409 to a conditional PUT while another request for the key runs; the object need not exist afterwards.
    async with answering("409 Conflict", "ConditionalRequestConflict", only_if=b"if-none-match") as (blobs, heads):
        assert await blobs.put(KEY, BODY) is True
    assert [head.split()[0] for head in heads] == [b"put", b"head", b"put"]


async def test_a_store_that_is_silent_is_unavailable_in_time(
    stack: StackInfo, minio: Minio, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_url, "QUICK_TIMEOUT_S", 1)
    monkeypatch.setattr(store_url, "RETRIES_MAX", 0)
    blobs = open_minio(minio)
    kill(stack.state_dir, "minio", signal.SIGSTOP)
    try:
        with pytest.raises(StoreUnavailableError, match="no answer in time"):
            await blobs.put(KEY, BODY)
    finally:
        kill(stack.state_dir, "minio", signal.SIGCONT)
    await blobs.put(KEY, BODY)
    assert await blobs.get(KEY) == BODY


def test_a_directory_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StoreRefusedError):
        Blobs.open(f"file://{tmp_path}/file/store")


@pytest.mark.parametrize(
    ("url", "keys"),
    [
        ("gs://bucket/inside", {}),
        ("az://container", {"access_key": "account", "secret_key": "a2V5"}),
        ("s3://bucket", {"region": "eu-central-1"}),
    ],
)
def test_opening_a_store_sends_nothing(url: str, keys: dict[str, str]) -> None:
    assert Blobs.open(url, **keys).where == url
