"""Of tus 1.0.0: concatenation, creation-defer-length, and headers of extensions that are not offered."""

import asyncio
import base64
import threading
from collections.abc import Iterator
from hashlib import sha1, sha256
from pathlib import Path
from uuid import UUID, uuid4

import httpx
import pytest

from headrace.gateway.tus.protocol import Concat, DeclaredFile
from headrace.runtime.settings import Settings
from headrace.schemas.limits import CLIP_BYTES_MAX, MIB
from headrace.store.requests.uploads import NewUpload, Uploads
from tests.gateway.gateway_world import Gateway, StartGateway, name, picture
from tests.gateway.tus_client import PATH, TusClient, id_of, is_held, metadata, parts_of
from tests.servers import pool_of
from tests.streams.streams_samples import mp4
from tests.waiting import until

pytestmark = pytest.mark.stack

PARTIAL = {"Upload-Concat": "partial"}


@pytest.fixture
def client(gateway: Gateway) -> Iterator[TusClient]:
    with TusClient(gateway) as opened:
        yield opened


def partial(client: TusClient, body: bytes) -> str:
    """The address of a complete partial upload."""
    created = client.create(len(body), headers=PARTIAL)
    assert created.status_code == 201, created.text
    path = str(created.headers["Location"])
    if body:
        answer = client.patch(path, 0, body)
        assert (answer.status_code, answer.headers["Upload-Offset"]) == (204, str(len(body))), answer.text
        assert "Headrace-Status" not in answer.headers
    return path


def final(client: TusClient, *paths: str, **said: str) -> httpx.Response:
    headers = {"Upload-Concat": f"final;{' '.join(paths)}"}
    if said:
        headers["Upload-Metadata"] = metadata(**said)
    return client.http.post(PATH, headers=headers)


def records_of(gateway: Gateway, body: bytes) -> list[tuple[object, ...]]:
    return gateway.rows("select kind, source_id from records where digest = %s", sha256(body).digest())


def test_partial_uploads_become_one_file_in_the_order_of_the_list(client: TusClient, gateway: Gateway) -> None:
    body, source = picture(320, 240), name("camera")
    half = len(body) // 2
    second, first = partial(client, body[half:]), partial(client, body[:half])
    for path, size in ((first, half), (second, len(body) - half)):
        head = client.head(path)
        assert (head.status_code, head.headers["Upload-Concat"]) == (200, "partial")
        assert head.headers["Upload-Offset"] == head.headers["Upload-Length"] == str(size)
        assert "Headrace-Status" not in head.headers
    assert records_of(gateway, body[:half]) == []

    said = {"site": "plant", "camera_id": source, "filename": "a.jpg", "sha256": sha256(body).hexdigest()}
    created = final(client, f"{gateway.url}{first}", second, **said)
    assert (created.status_code, created.headers["Headrace-Status"]) == (201, "ingested"), created.text
    path = created.headers["Location"]
    assert records_of(gateway, body) == [("frame", source)]
    head = client.head(path)
    assert head.headers["Upload-Concat"] == f"final;{gateway.url}{first} {second}"
    assert head.headers["Upload-Offset"] == head.headers["Upload-Length"] == str(len(body))
    assert head.headers["Upload-Metadata"] == metadata(**said)
    assert head.headers["Headrace-Record-Id"] == created.headers["Headrace-Record-Id"]
    assert client.patch(path, len(body), b"").status_code == 403
    assert client.patch(path, 0, b"x").status_code == 403
    assert [parts_of(gateway, upload) for upload in (path, first, second)] == [{}, {}, {}]
    for request_id in (first, second):
        assert gateway.rows("select 1 from ingest_requests where request_id = %s", id_of(request_id)) == []

    # Whoever missed the answer asks again, and nothing is done twice.
    again = final(client, f"{gateway.url}{first}", second, **said)
    assert (again.status_code, again.headers["Location"]) == (201, path)
    assert again.headers["Headrace-Record-Id"] == created.headers["Headrace-Record-Id"]
    assert client.offset(first) == half
    assert final(client, first, second).json()["code"] == "gone"


def test_large_partial_uploads_and_one_that_is_used_twice(client: TusClient, gateway: Gateway) -> None:
    start, filler = mp4(filler=picture()).ljust(9 * MIB, b"\0"), b"\0" * (MIB + 1)
    first, second = partial(client, start), partial(client, filler)
    created = final(client, first, second, partial(client, b""), second)
    assert (created.status_code, created.headers["Headrace-Status"]) == (201, "ingested"), created.text
    assert [kind for kind, _ in records_of(gateway, start + filler * 2)] == ["clip"]


def test_a_final_upload_that_cannot_be_made_changes_nothing(client: TusClient, gateway: Gateway) -> None:
    body = picture()
    whole, complete = client.begin(10), partial(client, body)
    begun = client.create(10, headers=PARTIAL).headers["Location"]
    assert client.patch(begun, 0, b"12345").status_code == 204
    with TusClient(gateway) as neighbour:
        foreign = partial(neighbour, b"1")
    for paths, status in [
        ([complete, begun], 409),
        ([complete, whole], 400),
        ([complete, foreign], 403),
        ([complete, f"{PATH}/{uuid4()}"], 404),
        ([partial(client, b"")], 422),
        (["/elsewhere/" + id_of(complete)], 400),
        (["http://user:secret@host" + complete], 422),
        ([complete, f"{PATH}/x"], 400),
        ([], 400),
    ]:
        answer = final(client, *paths)
        assert (answer.status_code, answer.headers["Tus-Resumable"]) == (status, "1.0.0"), answer.text
    for headers in ({"Upload-Length": str(len(body))}, {"Upload-Defer-Length": "1"}):
        answer = client.http.post(PATH, headers={"Upload-Concat": f"final;{complete}", **headers})
        assert answer.status_code == 400
    octets = {"Upload-Concat": f"final;{complete}", "Content-Type": "application/offset+octet-stream"}
    assert client.http.post(PATH, headers=octets, content=b"x").status_code == 400
    for value in ("Partial", "final", "finale;a", ""):
        assert client.create(10, headers={"Upload-Concat": value}).status_code == 400
    assert final(client, complete, captured_at="soon").status_code == 422
    assert final(client, complete).headers["Headrace-Status"] == "ingested"


def test_a_rejected_final_upload_is_cleared_away(client: TusClient, gateway: Gateway) -> None:
    paths = [partial(client, b"no "), partial(client, b"picture")]
    answer = final(client, *paths)
    assert (answer.status_code, answer.json()["code"]) == (415, "not_an_image")
    assert final(client, *paths).status_code == 410
    assert [parts_of(gateway, path) for path in paths] == [{}, {}]


def test_partial_uploads_of_a_key_for_several_sources(gateway: Gateway) -> None:
    body, source = picture(), name("camera")
    with TusClient(gateway, gateway.key(sources=[f"plant/{source}", "plant/other"])) as client:
        path = partial(client, body)
        assert final(client, path).status_code == 403
        assert final(client, path, site="plant", source_id=source).headers["Headrace-Status"] == "ingested"
    assert records_of(gateway, body) == [("frame", source)]


def test_partial_uploads_count_until_they_are_used(start_gateway: StartGateway) -> None:
    gateway = start_gateway(gateway_uploads_per_caller_max=2)
    with TusClient(gateway) as client:
        body = picture()
        paths = [partial(client, body[:100]), partial(client, body[100:])]
        assert client.create(10, headers=PARTIAL).json()["code"] == "too_many_requests"
        assert final(client, *paths).headers["Headrace-Status"] == "ingested"
        assert client.http.delete(paths[0]).status_code == 204
        assert [client.create(10, headers=PARTIAL).status_code for _ in range(3)] == [201, 201, 429]


def test_partial_uploads_expire(start_gateway: StartGateway) -> None:
    quick = start_gateway(gateway_upload_expiry_hours=3 / 3600)
    with TusClient(quick) as client:
        path = partial(client, b"x" * 100)
        assert list(parts_of(quick, path).values()) == [100]
        until(lambda: client.head(path).status_code == 404, 90, "the sweeper")
        assert parts_of(quick, path) == {}


def left_before_the_join(client: TusClient, gateway: Gateway, paths: list[str]) -> str:
    """A final upload as a gateway leaves it that dies after the upload was stored."""
    ids = tuple(id_of(path) for path in paths)
    partials = tuple(map(UUID, ids))
    [(actor,)] = gateway.rows("select actor from uploads where upload_id = %s", ids[0])
    declared = DeclaredFile(None, None, None, None, "", f"final;{' '.join(paths)}", ids)

    async def add() -> None:
        dsn = gateway.settings.postgres_dsn.get_secret_value()
        async with pool_of(dsn) as pool:
            new = NewUpload(
                upload_id=Concat("", partials).final_id(actor, ""),
                actor=actor,
                site="default",
                source_id="gateway",
                length_bytes=sum(client.offset(path) for path in paths),
                metadata=declared.to_json(),
            )
            for _ in range(2):  # as a repeated request
                assert await Uploads(pool, dsn).add_final(new, partials, 1.0, open_max=10)

    asyncio.run(add())
    return f"{PATH}/{Concat('', partials).final_id(actor, '')}"


@pytest.mark.parametrize("by", ["head", "post", "sweeper"])
def test_a_final_upload_whose_assembly_was_interrupted_is_assembled(
    client: TusClient, gateway: Gateway, start_gateway: StartGateway, by: str
) -> None:
    body = picture()
    paths = [partial(client, body[:100]), partial(client, body[100:])]
    path = left_before_the_join(client, gateway, paths)
    assert client.http.delete(paths[0]).status_code == 409
    if by == "head":
        assert client.head(path).headers["Headrace-Status"] == "ingested"
    elif by == "post":
        assert final(client, *paths).headers["Location"] == path
    else:
        start_gateway(gateway_upload_expiry_hours=2 / 3600)
        state = "select state from uploads where upload_id = %s"
        until(lambda: gateway.rows(state, id_of(path)) == [("done",)], 90, "the sweeper")
    assert [kind for kind, _ in records_of(gateway, body)] == ["frame"]
    assert [parts_of(gateway, upload) for upload in (path, *paths)] == [{}, {}, {}]
    assert client.http.delete(paths[0]).status_code == 204


@pytest.mark.timeout(300)
def test_another_gateway_assembles_after_one_was_killed(
    client: TusClient, gateway: Gateway, service_settings: Settings, tmp_path: Path
) -> None:
    body = mp4(filler=picture()).ljust(160 * MIB, b"\0")
    half = len(body) // 2
    paths = [partial(client, body[:half]), partial(client, body[half:])]
    sql = "select upload_id, held_until > now() from uploads where state = 'joining' and metadata->>'concat' like %s"
    doomed = Gateway(service_settings, tmp_path / "gateway.log")
    try:
        doomed.process.wait_ready()
        with TusClient(doomed, client.key) as first:

            def ask() -> None:
                with pytest.raises(httpx.TransportError):
                    final(first, *paths)

            asking = threading.Thread(target=ask)
            asking.start()
            until(lambda: any(held for _, held in gateway.rows(sql, f"%{paths[0]}%")), 60, "the assembly")
            doomed.process.kill()
            asking.join(60)
    finally:
        doomed.process.kill()
    [(upload_id, _)] = gateway.rows(sql, f"%{paths[0]}%")
    path = f"{PATH}/{upload_id}"
    assert is_held(gateway, path)
    waiting = client.head(path)
    assert (waiting.status_code, waiting.headers["Headrace-Status"]) == (200, "accepted")
    assert "Upload-Offset" not in waiting.headers
    assert waiting.headers["Upload-Length"] == str(len(body))
    # The lock of the gateway that was killed expires by itself; here as if its time were over.
    gateway.rows("update uploads set held_until = now() where upload_id = %s returning 1", upload_id)
    answer = final(client, *paths)
    assert (answer.status_code, answer.headers["Location"]) == (201, path)
    assert answer.headers["Headrace-Status"] == "ingested"
    assert [kind for kind, _ in records_of(gateway, body)] == ["clip"]
    assert [parts_of(gateway, upload) for upload in (path, *paths)] == [{}, {}, {}]


def deferred(client: TusClient, content: bytes = b"", **headers: str) -> str:
    octets = {"Content-Type": "application/offset+octet-stream"} if content else {}
    answer = client.http.post(PATH, headers={"Upload-Defer-Length": "1", **octets, **headers}, content=content)
    assert (answer.status_code, answer.headers["Upload-Offset"]) == (201, str(len(content))), answer.text
    return str(answer.headers["Location"])


@pytest.mark.parametrize("with_last", [True, False], ids=["with the last bytes", "alone"])
def test_a_deferred_length(client: TusClient, gateway: Gateway, with_last: bool) -> None:
    body = picture()
    path = deferred(client, body[:10])
    head = client.head(path)
    assert (head.headers["Upload-Defer-Length"], head.headers["Upload-Offset"]) == ("1", "10")
    assert "Upload-Length" not in head.headers
    end = 100 if with_last else len(body)
    assert client.patch(path, 10, iter([body[10:end]])).headers["Upload-Offset"] == str(end)
    assert client.head(path).headers["Upload-Defer-Length"] == "1"
    last = client.patch(path, end, body[end:], **{"Upload-Length": str(len(body))})
    assert (last.status_code, last.headers["Headrace-Status"]) == (204, "ingested"), last.text
    head = client.head(path)
    assert head.headers["Upload-Length"] == str(len(body))
    assert "Upload-Defer-Length" not in head.headers
    assert [kind for kind, _ in records_of(gateway, body)] == ["frame"]


def test_a_length_is_set_once_and_holds(client: TusClient) -> None:
    path = deferred(client, b"x" * 10)
    for length, content, status in [("9", b"", 400), ("12", b"x" * 3, 400), ("x", b"", 400), ("9" * 12, b"", 413)]:
        assert client.patch(path, 10, content, **{"Upload-Length": length}).status_code == status
    assert client.head(path).headers["Upload-Defer-Length"] == "1"
    bad = {"Upload-Checksum": f"sha1 {base64.b64encode(sha1(b'other').digest()).decode()}", "Upload-Length": "20"}
    assert client.patch(path, 10, b"x", **bad).status_code == 460
    assert client.head(path).headers["Upload-Defer-Length"] == "1"
    assert client.patch(path, 10, b"x", **{"Upload-Length": "20"}).status_code == 204
    assert client.head(path).headers["Upload-Length"] == "20"
    assert client.patch(path, 11, b"x", **{"Upload-Length": "21"}).status_code == 400
    assert client.patch(path, 11, b"x", **{"Upload-Length": "20"}).status_code == 204
    assert client.patch(path, 12, b"x" * 9).status_code == 413
    fixed = client.begin(10)
    assert client.patch(fixed, 0, b"x", **{"Upload-Length": "11"}).status_code == 400
    empty = deferred(client)
    assert client.patch(empty, 0, b"", **{"Upload-Length": "0"}).status_code == 422


def test_a_deferred_length_is_limited_and_may_be_that_of_a_partial_upload(client: TusClient, gateway: Gateway) -> None:
    path = deferred(client)
    with client.unfinished(path, 0, CLIP_BYTES_MAX + 1) as connection:
        assert connection.recv(100).startswith(b"HTTP/1.1 413")
    body = picture()
    part = deferred(client, **PARTIAL)
    assert client.patch(part, 0, body).status_code == 204
    assert final(client, part).status_code == 409
    assert client.patch(part, len(body), b"", **{"Upload-Length": str(len(body))}).status_code == 204
    assert client.head(part).headers["Upload-Length"] == str(len(body))
    assert final(client, part).headers["Headrace-Status"] == "ingested"


@pytest.mark.parametrize(
    ("header", "value"),
    [
        ("Upload-Complete", "?1"),
        ("Upload-Incomplete", "?0"),
        ("Upload-Draft-Interop-Version", "6"),
        ("Upload-Tag", "a"),
        ("Trailer", "X, Upload-Checksum"),
    ],
)
def test_headers_of_extensions_that_are_not_offered_are_refused(client: TusClient, header: str, value: str) -> None:
    path = client.begin(10)
    for answer in (
        client.create(10, headers={header: value}),
        client.patch(path, 0, b"x", **{header: value}),
        client.http.head(path, headers={header: value}),
        client.http.delete(path, headers={header: value}),
    ):
        assert (answer.status_code, answer.headers["Tus-Resumable"]) == (400, "1.0.0")
        if answer.content:
            assert answer.headers["Content-Type"] == "application/problem+json"
            assert header in answer.json()["detail"]
    assert client.offset(path) == 0
