"""Resumable uploads as tus 1.0.0 describes them: https://tus.io/protocols/resumable-upload."""

import base64
from collections.abc import Iterator
from hashlib import new, sha256

import pytest

from headrace.gateway.tus.parts import PARTS_MAX
from headrace.schemas.limits import CLIP_BYTES_MAX, MIB
from tests.gateway.gateway_world import Gateway, name, picture
from tests.gateway.tus_client import PATH, TusClient, id_of, metadata, parts_of
from tests.streams.streams_samples import mp4

pytestmark = pytest.mark.stack


@pytest.fixture
def client(gateway: Gateway) -> Iterator[TusClient]:
    with TusClient(gateway) as opened:
        yield opened


def checksum(algorithm: str, data: bytes) -> str:
    return f"{algorithm} {base64.b64encode(new(algorithm, data).digest()).decode()}"


def test_what_is_known_of_the_protocol(client: TusClient) -> None:
    del client.http.headers["Tus-Resumable"]
    answer = client.http.options(PATH)
    assert answer.status_code == 204
    assert {name: value for name, value in answer.headers.items() if name.startswith("tus-")} == {
        "tus-resumable": "1.0.0",
        "tus-version": "1.0.0",
        "tus-extension": (
            "creation,creation-with-upload,creation-defer-length,termination,checksum,expiration,concatenation"
        ),
        "tus-max-size": str(CLIP_BYTES_MAX),
        "tus-checksum-algorithm": "sha1,sha256",
    }


@pytest.mark.parametrize("version", [None, "0.2.2", "1.0.0, 0.2.2"])
@pytest.mark.parametrize("method", ["POST", "HEAD", "PATCH", "DELETE"])
def test_another_version_is_refused_with_the_one_that_is_spoken(
    client: TusClient, method: str, version: str | None
) -> None:
    path = client.begin(10)
    del client.http.headers["Tus-Resumable"]
    headers = {} if version is None else {"Tus-Resumable": version}
    answer = client.http.request(method, PATH if method == "POST" else path, headers=headers)
    assert answer.status_code == 412
    assert answer.headers["Tus-Version"] == "1.0.0"
    assert answer.headers["Tus-Resumable"] == "1.0.0"


def test_a_file_in_two_requests(client: TusClient, gateway: Gateway) -> None:
    body, source = picture(), name("camera")
    said = {
        "filename": "../../é.jpg",
        "site": "plant",
        "camera_id": source,
        "sha256": sha256(body).hexdigest(),
        "captured_at": "2026-01-31T12:00:00Z",
    }
    created = client.create(len(body), **said)
    assert created.status_code == 201, created.text
    path = created.headers["Location"]
    assert created.headers["Upload-Expires"].endswith(" GMT")

    first = client.patch(path, 0, body[:1000])
    assert (first.status_code, first.headers["Upload-Offset"], first.content) == (204, "1000", b"")
    assert "Headrace-Status" not in first.headers

    head = client.head(path)
    assert head.status_code == 200
    assert head.headers["Upload-Offset"] == "1000"
    assert head.headers["Upload-Length"] == str(len(body))
    assert head.headers["Upload-Metadata"] == metadata(**said)
    assert head.headers["Cache-Control"] == "no-store"
    assert head.headers["Upload-Expires"] == created.headers["Upload-Expires"]

    last = client.patch(path, 1000, body[1000:])
    assert (last.status_code, last.headers["Upload-Offset"]) == (204, str(len(body)))
    assert last.headers["Headrace-Status"] == "ingested"
    sql = """
        select r.kind, encode(r.digest, 'hex'), r.source_id, r.attributes->>'filename',
            to_char(r.captured_at at time zone 'UTC', 'YYYY-MM-DD HH24:MI:SS')
        from records as r where r.record_id = %s
    """
    record = last.headers["Headrace-Record-Id"]
    assert gateway.rows(sql, record) == [("frame", said["sha256"], source, "é.jpg", "2026-01-31 12:00:00")]
    assert parts_of(gateway, path) == {}
    items = gateway.rows("select filename from request_items where request_id = %s", path.rsplit("/", 1)[-1])
    assert items == [("é.jpg",)]
    assert last.headers["Headrace-Status-Url"] == f"/api/v1/ingest/status/{path.rsplit('/', 1)[-1]}"

    # Whoever missed that answer asks again, and nothing is done twice.
    for again in (client.head(path), client.patch(path, len(body), b"")):
        assert again.status_code in {200, 204}
        assert again.headers["Headrace-Record-Id"] == record
        assert again.headers["Headrace-Status"] == "ingested"
    assert gateway.rows("select count(*) from sightings where record_id = %s", record) == [(1,)]
    assert client.patch(path, len(body), b"x").status_code == 413


def test_a_file_with_its_creation(client: TusClient) -> None:
    body = picture()
    answer = client.create(len(body), content=body)
    assert answer.status_code == 201, answer.text
    assert answer.headers["Upload-Offset"] == str(len(body))
    assert answer.headers["Headrace-Status"] == "ingested"


def test_a_creation_with_the_first_bytes(client: TusClient) -> None:
    body = picture()
    answer = client.create(len(body), content=body[:99], headers={"Upload-Checksum": checksum("sha1", body[:99])})
    assert (answer.status_code, answer.headers["Upload-Offset"]) == (201, "99")
    assert client.offset(answer.headers["Location"]) == 99
    assert client.patch(answer.headers["Location"], 99, body[99:]).headers["Headrace-Status"] == "ingested"


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 411),
        ({"Upload-Defer-Length": "1"}, 201),
        ({"Upload-Defer-Length": "0"}, 400),
        ({"Upload-Defer-Length": "true"}, 400),
        ({"Upload-Length": "10", "Upload-Defer-Length": "1"}, 400),
        ({"Upload-Length": "ten"}, 400),
        ({"Upload-Length": "-1"}, 400),
        ({"Upload-Length": "9" * 40}, 400),
        ({"Upload-Length": "0"}, 422),
        ({"Upload-Length": str(CLIP_BYTES_MAX + 1)}, 413),
        ({"Upload-Length": "10", "Upload-Metadata": "filename !!!"}, 400),
        ({"Upload-Length": "10", "Upload-Metadata": "filename"}, 201),
        ({"Upload-Length": "10", "Upload-Metadata": metadata(site="a") + "," + metadata(site="b")}, 400),
        ({"Upload-Length": "10", "Upload-Metadata": "filename " + base64.b64encode(b"\xff").decode()}, 400),
        ({"Upload-Length": "10", "Upload-Metadata": ",".join(f"k{n}" for n in range(100))}, 400),
        ({"Upload-Length": "10", "Upload-Metadata": metadata(sha256="A" * 64)}, 422),
        ({"Upload-Length": "10", "Upload-Metadata": metadata(site="a\nb")}, 422),
        ({"Upload-Length": "10", "Upload-Metadata": metadata(about="a\0b")}, 422),
        ({"Upload-Length": "10", "Upload-Metadata": metadata(filename="\0\u202e'; drop table records --")}, 201),
        ({"Upload-Length": "10", "Upload-Metadata": metadata(captured_at="0001-01-01T00:00:00+14:00")}, 422),
        ({"Upload-Length": "10", "Upload-Metadata": metadata(captured_at="9999-01-01")}, 422),
        ({"Upload-Length": "10", "Upload-Metadata": metadata(captured_at="soon")}, 422),
        ({"Upload-Length": "10", "Upload-Checksum": "md5 AAAA"}, 400),
    ],
)
def test_how_an_upload_may_begin(client: TusClient, headers: dict[str, str], status: int) -> None:
    answer = client.http.post(PATH, headers=headers)
    assert answer.status_code == status, answer.text
    assert answer.headers["Tus-Resumable"] == "1.0.0"
    if status >= 400:
        assert answer.headers["Content-Type"] == "application/problem+json"


def test_a_first_body_that_is_refused_leaves_nothing(client: TusClient, gateway: Gateway) -> None:
    marker = name("camera")
    bad = {"Upload-Checksum": checksum("sha256", b"other")}
    assert client.create(100, content=b"x" * 50, headers=bad, source_id=marker).status_code == 460
    assert client.create(100, content=b"x" * 100, source_id=marker).status_code == 415
    assert client.create(10, content=b"x" * 50, source_id=marker).status_code == 413
    other = client.create(100, content=b"x", headers={"Content-Type": "text/plain"}, source_id=marker)
    assert other.status_code == 415
    assert gateway.rows("select * from uploads where source_id = %s", marker) == []


def test_who_may_go_on_with_an_upload(gateway: Gateway) -> None:
    mine, other = name("camera"), name("camera")
    with (
        TusClient(gateway, gateway.key(sources=[f"plant/{mine}"])) as device,
        TusClient(gateway, gateway.key(sources=["plant/*"])) as neighbour,
        TusClient(gateway, gateway.key(sources=[f"plant/{other}"])) as stranger,
        TusClient(gateway, gateway.key("operator", ["plant/*"])) as operator,
        TusClient(gateway, gateway.key("operator", ["elsewhere/*"])) as distant,
    ):
        path = device.begin(10)
        for refused in (neighbour, stranger, distant):
            assert refused.head(path).status_code == 403
            assert refused.patch(path, 0, b"x").status_code == 403
            assert refused.http.delete(path).status_code == 403
        assert device.create(10, site="plant", source_id=other).status_code == 403
        assert operator.patch(path, 0, b"x").status_code == 204
        assert device.offset(path) == 1
        del device.http.headers["X-API-Key"]
        answer = device.http.options(PATH)
        assert (answer.status_code, answer.headers["Tus-Resumable"]) == (401, "1.0.0")


def test_a_patch_that_does_not_fit_changes_nothing(client: TusClient) -> None:
    path = client.begin(100)
    assert client.patch(path, 0, b"x" * 10).status_code == 204
    wrong = client.patch(path, 0, b"x" * 10)
    assert (wrong.status_code, wrong.headers["Upload-Offset"], wrong.json()["code"]) == (409, "10", "conflict")
    assert client.patch(path, 11, b"x").status_code == 409
    assert client.patch(path, "ten", b"x").status_code == 400
    assert client.http.patch(path, headers={"Content-Type": "application/offset+octet-stream"}).status_code == 400
    assert client.http.patch(path, headers={"Upload-Offset": "10"}, content=b"x").status_code == 415
    assert client.patch(path, 10, b"x" * 91).status_code == 413
    assert client.patch(path, 10, iter([b"x" * 91])).status_code == 413
    assert client.patch(path, 10, b"").status_code == 204
    assert client.offset(path) == 10
    for missing in (f"{PATH}/00000000-0000-4000-8000-000000000000", f"{PATH}/none"):
        assert client.head(missing).status_code == 404
        assert client.patch(missing, 0, b"x").json()["code"] == "not_found"


def test_bytes_without_a_length(client: TusClient) -> None:
    body = picture()
    path = client.begin(len(body))
    answer = client.patch(path, 0, iter([body[:100], body[100:]]))
    assert (answer.status_code, answer.headers["Headrace-Status"]) == (204, "ingested")


@pytest.mark.parametrize("algorithm", ["sha1", "sha256"])
def test_a_checksum_that_holds(client: TusClient, gateway: Gateway, algorithm: str) -> None:
    body = mp4(filler=picture() * 1) + b"\0" * (9 * MIB)
    path = client.begin(len(body) + 1)
    answer = client.patch(path, 0, body, **{"Upload-Checksum": checksum(algorithm, body)})
    assert (answer.status_code, answer.headers["Upload-Offset"]) == (204, str(len(body)))
    assert sorted(parts_of(gateway, path).values()) == sorted([8 * MIB, len(body) - 8 * MIB])


@pytest.mark.parametrize("size", [1000, 17 * MIB])
def test_a_checksum_that_does_not_hold_keeps_nothing(client: TusClient, gateway: Gateway, size: int) -> None:
    path = client.begin(20 * MIB)
    assert client.patch(path, 0, b"x" * 10).status_code == 204
    answer = client.patch(path, 10, b"x" * size, **{"Upload-Checksum": checksum("sha1", b"other")})
    assert (answer.status_code, answer.json()["code"]) == (460, "checksum_mismatch")
    assert client.offset(path) == 10
    assert list(parts_of(gateway, path).values()) == [10]


@pytest.mark.parametrize("given", ["md5 AAAA", "sha1", "sha1 !!!", "sha1 AAAA"])
def test_a_checksum_that_cannot_be_checked_is_refused(client: TusClient, given: str) -> None:
    path = client.begin(10)
    assert client.patch(path, 0, b"x", **{"Upload-Checksum": given}).status_code == 400
    assert client.offset(path) == 0


def test_an_upload_that_is_ended_is_gone(client: TusClient, gateway: Gateway) -> None:
    path = client.begin(100)
    assert client.patch(path, 0, b"x" * 10).status_code == 204
    assert len(parts_of(gateway, path)) == 1
    ended = client.http.delete(path)
    assert (ended.status_code, ended.headers["Tus-Resumable"]) == (204, "1.0.0")
    assert parts_of(gateway, path) == {}
    assert client.head(path).status_code == 404
    assert client.patch(path, 10, b"x").status_code == 404
    assert client.http.delete(path).status_code == 404


def test_a_file_whose_digest_is_another_is_refused_and_cleared_away(client: TusClient, gateway: Gateway) -> None:
    body = picture()
    path = client.begin(len(body), sha256="0" * 64)
    answer = client.patch(path, 0, body)
    assert (answer.status_code, answer.json()["code"]) == (422, "digest_mismatch")
    assert parts_of(gateway, path) == {}
    assert client.head(path).status_code == 410
    gone = client.patch(path, len(body), b"")
    assert (gone.status_code, gone.json()["code"]) == (410, "gone")
    assert "digest_mismatch" in gone.json()["detail"]
    assert gateway.rows("select * from records where digest = %s", sha256(body).digest()) == []


@pytest.mark.parametrize("size", [1000, 9 * MIB])
def test_a_file_of_another_kind_is_refused_and_cleared_away(client: TusClient, gateway: Gateway, size: int) -> None:
    path = client.begin(size)
    answer = client.patch(path, 0, b"\x7fELF" + bytes(size - 4))
    assert (answer.status_code, answer.json()["code"]) == (415, "not_an_image")
    assert parts_of(gateway, path) == {}
    assert client.head(path).status_code == 410


def test_callers_that_can_only_post(client: TusClient) -> None:
    body = picture()
    path = client.begin(len(body))
    headers = {
        "Content-Type": "application/offset+octet-stream",
        "Upload-Offset": "0",
        "X-HTTP-Method-Override": "PATCH",
    }
    assert client.http.post(path, headers=headers, content=body[:10]).headers["Upload-Offset"] == "10"
    assert client.http.post(path, headers={"X-HTTP-Method-Override": "DELETE"}).status_code == 204
    assert client.http.post(path).status_code == 405


def test_a_caller_has_so_many_unfinished_uploads_and_an_upload_so_many_parts(
    client: TusClient, gateway: Gateway
) -> None:
    path = client.begin(10 * PARTS_MAX)
    copies = """
        insert into uploads (upload_id, actor, site, source_id, length_bytes, expires_at)
        select gen_random_uuid(), actor, site, source_id, length_bytes, expires_at
        from uploads, generate_series(2, 100) where upload_id = %s returning upload_id
    """
    added = [row[0] for row in gateway.rows(copies, id_of(path))]
    refused = client.create(10)
    assert (refused.status_code, refused.json()["code"]) == (429, "too_many_requests")
    gateway.rows("delete from uploads where upload_id = any(%s) returning 1", added[:1])
    assert client.create(10).status_code == 201
    gateway.rows("delete from uploads where upload_id = any(%s) returning 1", added)
    parts = """
        insert into upload_parts select %s, part, 1, 'none' from generate_series(1, %s) as part returning 1
    """
    gateway.rows(parts, id_of(path), PARTS_MAX)
    refused = client.patch(path, 0, b"x")
    assert (refused.status_code, refused.json()["code"]) == (413, "too_large")
