"""`GET /api/v1/blobs/{sha256}` and `GET /api/v1/receipts/{digest}`."""

import asyncio
from collections.abc import Callable, Iterator
from hashlib import sha256

import httpx
import jwt
import pytest

from headrace.runtime.receipt_key import RECEIPT_AUDIENCE, ReceiptKey, verify
from headrace.schemas.digest import blob_key, canonical_body
from headrace.store.blobs.blob_store import Blobs
from tests.gateway.gateway_world import Gateway, StartGateway, name, picture, secret_of
from tests.gateway.reading_world import cid, digest_of, frame, ingest, ldo, passage, record_of

pytestmark = pytest.mark.stack

SITE, OTHER_SITE = name("plant"), name("plant")
LARGE = picture(1200, 900, ".png")  # more than one piece
FRAME, AGAIN = frame(SITE, "cam-1", LARGE), frame(OTHER_SITE, "cam-9", LARGE)
CID, LDO = cid(SITE, "scan-1"), ldo(SITE, "cell-1")
LOST = frame(SITE, "cam-3")


@pytest.fixture(scope="module")
def world(gateway: Gateway) -> Gateway:
    ingest(gateway, FRAME, CID, LDO, LOST)
    ingest(gateway, AGAIN)
    asyncio.run(Blobs.from_settings(gateway.settings).delete(blob_key(digest_of(LOST))))
    return gateway


@pytest.fixture(scope="module")
def client(world: Gateway) -> Iterator[httpx.Client]:
    with world.client("operator") as opened:
        yield opened


def blob_of(event: object) -> str:
    return f"/api/v1/blobs/{digest_of(event)}"  # type: ignore[arg-type]


def test_the_bytes_come_whole_and_as_a_file(client: httpx.Client) -> None:
    answer = client.get(blob_of(FRAME))
    assert (answer.status_code, answer.content == LARGE) == (200, True)
    said = answer.headers
    assert (said["etag"], said["content-length"]) == (f'"{FRAME.sha256}"', str(len(LARGE)))
    assert (said["content-type"], said["accept-ranges"]) == ("image/png", "bytes")
    assert said["content-disposition"].startswith("attachment")
    assert said["x-content-type-options"] == "nosniff"
    assert said["cache-control"] == "private, max-age=31536000, immutable"


def test_head_says_the_same_without_the_bytes(client: httpx.Client) -> None:
    whole, head = client.get(blob_of(FRAME)), client.head(blob_of(FRAME), headers={"Range": "bytes=0-1"})
    assert (head.status_code, head.content) == (200, b"")
    for header in ("etag", "content-length", "content-type", "content-disposition", "accept-ranges", "cache-control"):
        assert head.headers[header] == whole.headers[header]


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize(
    "tag",
    [f'"{FRAME.sha256}"', f'W/"{FRAME.sha256}"', f'"x", "{FRAME.sha256}"', "*"],
    ids=["strong", "weak", "list", "any"],
)
def test_what_the_caller_has_is_not_sent_again(client: httpx.Client, method: str, tag: str) -> None:
    answer = client.request(method, blob_of(FRAME), headers={"If-None-Match": tag, "Range": "bytes=0-1"})
    assert (answer.status_code, answer.content) == (304, b"")
    assert answer.headers["etag"] == f'"{FRAME.sha256}"'


SIZE = len(LARGE)


@pytest.mark.parametrize(
    ("asked", "first", "end"),
    [
        ("bytes=0-0", 0, 1),
        ("bytes=5-9", 5, 10),
        ("bytes=1048570-1048590", 1048570, 1048591),
        (f"bytes=100-{10**15}", 100, SIZE),
        ("bytes=1000000-", 1000000, SIZE),
        ("bytes=-7", SIZE - 7, SIZE),
        (f"bytes=-{SIZE + 9}", 0, SIZE),
    ],
    ids=lambda value: value if isinstance(value, str) and str(SIZE) not in value else "",
)
def test_a_range_is_answered_with_its_bytes(client: httpx.Client, asked: str, first: int, end: int) -> None:
    answer = client.get(blob_of(FRAME), headers={"Range": asked})
    assert answer.status_code == 206
    assert answer.headers["content-range"] == f"bytes {first}-{end - 1}/{SIZE}"
    assert answer.headers["content-length"] == str(end - first)
    assert answer.content == LARGE[first:end]


@pytest.mark.parametrize(
    "asked", [f"bytes={SIZE}-", f"bytes={SIZE + 5}-{SIZE + 9}", "bytes=-0"], ids=["at the end", "behind it", "none"]
)
def test_a_range_outside_is_refused(client: httpx.Client, asked: str) -> None:
    answer = client.get(blob_of(FRAME), headers={"Range": asked})
    assert (answer.status_code, answer.json()["code"]) == (416, "range_not_satisfiable")
    assert answer.headers["content-range"] == f"bytes */{SIZE}"


@pytest.mark.parametrize(
    "asked", ["bytes=0-1,5-6", "bytes=9-5", "bytes=-", "lines=1-2", "bytes=a-b", "bytes=" + "9" * 40 + "-"]
)
def test_a_range_that_is_none_is_passed_over(client: httpx.Client, asked: str) -> None:
    answer = client.get(blob_of(FRAME), headers={"Range": asked})
    assert (answer.status_code, answer.content == LARGE) == (200, True)


@pytest.mark.parametrize(
    ("tag", "status"),
    [(f'"{FRAME.sha256}"', 206), ('"x"', 200), (f'W/"{FRAME.sha256}"', 200), ("Sun, 01 Nov 2026 00:00:00 GMT", 200)],
    ids=["same", "other", "weak", "date"],
)
def test_a_range_of_other_bytes_gives_the_whole(client: httpx.Client, tag: str, status: int) -> None:
    assert client.get(blob_of(FRAME), headers={"Range": "bytes=0-4", "If-Range": tag}).status_code == status


def test_a_packed_body_is_its_own_bytes(world: Gateway, client: httpx.Client) -> None:
    for event in (CID, LDO):
        packed = world.rows("select store_offset from blobs where encode(sha256, 'hex') = %s", digest_of(event))
        assert packed[0][0] is not None
        body = canonical_body(event)
        answer = client.get(blob_of(event))
        assert (answer.content, answer.headers["content-type"]) == (body, "application/json")
        assert client.get(blob_of(event), headers={"Range": "bytes=3-8"}).content == body[3:9]
        # An address of the pack would show what others have in it.
        assert client.get(blob_of(event), params={"redirect": "true"}).content == body


def test_a_redirect_leads_to_the_bytes_without_a_key(client: httpx.Client) -> None:
    answer = client.get(blob_of(FRAME), params={"redirect": "true"})
    assert (answer.status_code, answer.headers["cache-control"]) == (307, "no-store")
    link = answer.headers["location"]
    assert "X-Amz-Expires=300" in link
    assert sha256(httpx.get(link).content).hexdigest() == FRAME.sha256


def _longer(link: str) -> str:
    return link.replace("X-Amz-Expires=300", "X-Amz-Expires=3000")


@pytest.mark.parametrize(
    ("method", "changed"),
    [
        ("PUT", str),
        ("DELETE", str),
        ("POST", str),
        ("GET", _longer),
        ("GET", lambda link: link.replace(FRAME.sha256, LOST.sha256)),
        ("GET", lambda link: link.partition("?")[0]),
        ("GET", lambda link: f"{link.partition('/blobs/')[0]}/?list-type=2"),
        ("GET", lambda link: f"{link.partition('/blobs/')[0]}/?policy"),
        ("DELETE", lambda link: link.partition("?")[0]),
    ],
    ids=["written", "deleted", "posted", "for longer", "of another", "unsigned", "list", "policy", "deleted unsigned"],
)
def test_an_address_in_the_store_is_for_reading_those_bytes_and_no_more(
    client: httpx.Client, method: str, changed: Callable[[str], str]
) -> None:
    link = client.get(blob_of(FRAME), params={"redirect": "true"}).headers["location"]
    answer = httpx.request(method, changed(link), content=b"other" if method in {"PUT", "POST"} else None)
    assert 400 <= answer.status_code < 500, answer.text
    assert sha256(httpx.get(link).content).hexdigest() == FRAME.sha256


@pytest.mark.parametrize(
    "wanted",
    ["0" * 64, FRAME.sha256.upper(), FRAME.sha256 + "0", "x" * 64, "da39a3ee", "%00"],
    ids=["unknown", "upper case", "too long", "no digits", "too short", "nul"],
)
@pytest.mark.parametrize("what", ["blobs", "receipts"])
def test_what_is_not_there_is_not_found(client: httpx.Client, what: str, wanted: str) -> None:
    assert client.get(f"/api/v1/{what}/{wanted}").status_code == 404


def test_bytes_are_for_those_who_reach_a_sighting_of_them(world: Gateway) -> None:
    with world.client("device", [f"{OTHER_SITE}/cam-9"]) as brought_them_too:
        assert brought_them_too.get(blob_of(FRAME)).content == LARGE
        assert brought_them_too.get(blob_of(CID)).status_code == 404
        assert brought_them_too.head(blob_of(LDO)).status_code == 404
        assert brought_them_too.get(blob_of(LOST), params={"redirect": "true"}).status_code == 404
    with world.client("device", [f"{SITE}/*"]) as whole_site:
        assert whole_site.get(blob_of(CID)).status_code == 200


def test_bytes_that_the_store_lost_are_gone(client: httpx.Client) -> None:
    answer = client.get(blob_of(LOST))
    assert (answer.status_code, answer.json()["code"]) == (410, "gone")


@pytest.mark.parametrize("event", [FRAME, CID, LDO], ids=["frame", "cid", "ldo"])
def test_a_receipt_proves_that_bytes_are_durable(world: Gateway, client: httpx.Client, event: object) -> None:
    digest = digest_of(event)  # type: ignore[arg-type]
    answer = client.get(f"/api/v1/receipts/{digest}")
    assert (answer.status_code, answer.headers["cache-control"]) == (200, "no-store")
    [one] = answer.json()["receipts"]
    size = world.rows("select size_bytes from blobs where encode(sha256, 'hex') = %s", digest)[0][0]
    assert (one["record_id"], one["digest"], one["size_bytes"]) == (record_of(event), digest, size)  # type: ignore[arg-type]
    assert one["stored"] is True
    with world.anonymous() as anybody:
        keys = anybody.get("/.well-known/jwks.json").json()
    claims = verify(answer.json()["receipt"], keys)
    assert (claims["sub"], claims["receipts"]) == (digest, [one])
    [other] = ReceiptKey(secret_of("another")).keys["keys"]
    for wrong in (other, other | {"kid": keys["keys"][0]["kid"]}):
        with pytest.raises(ValueError, match="invalid receipt"):
            verify(answer.json()["receipt"], {"keys": [wrong]})


def test_a_receipt_lets_nobody_in(world: Gateway, client: httpx.Client) -> None:
    receipt = client.get(f"/api/v1/receipts/{FRAME.sha256}").json()["receipt"]
    assert jwt.decode(receipt, options={"verify_signature": False})["aud"] == RECEIPT_AUDIENCE
    with world.anonymous() as anybody:
        refused = anybody.get(blob_of(FRAME), headers={"Authorization": f"Bearer {receipt}"})
    assert refused.status_code == 401


def test_there_is_no_receipt_for_what_the_store_does_not_have(client: httpx.Client) -> None:
    answer = client.get(f"/api/v1/receipts/{LOST.sha256}")
    assert (answer.status_code, answer.headers["cache-control"]) == (404, "no-store")
    assert "stored" not in answer.text


def test_there_is_no_receipt_for_an_object_of_another_size(world: Gateway, client: httpx.Client) -> None:
    cut = frame(SITE, "cam-4")
    ingest(world, cut)
    blobs = Blobs.from_settings(world.settings)

    async def pieces():  # type: ignore[no-untyped-def]
        yield cut.body[:100]

    asyncio.run(blobs.put_stream(blob_key(cut.sha256), pieces()))
    assert client.get(f"/api/v1/receipts/{cut.sha256}").status_code == 404
    assert client.get(blob_of(cut)).status_code == 410


def test_a_device_gets_receipts_of_its_own_alone(world: Gateway) -> None:
    with world.client("device", [f"{OTHER_SITE}/cam-9"]) as device:
        assert device.get(f"/api/v1/receipts/{FRAME.sha256}").status_code == 200
        assert device.get(f"/api/v1/receipts/{digest_of(CID)}").status_code == 404


def test_a_store_that_is_away_is_said_so(world: Gateway, start_gateway: StartGateway) -> None:
    with passage(world.settings.store_endpoint) as way:
        cut_off = start_gateway(store_endpoint=way.url)
        with cut_off.client("operator") as client:
            assert client.get(blob_of(FRAME)).content == LARGE
            way.shut()
            for path in (blob_of(FRAME), f"/api/v1/receipts/{FRAME.sha256}"):
                answer = client.get(path)
                assert (answer.status_code, answer.json()["code"]) == (503, "unavailable")
                assert "Retry-After" in answer.headers
                assert way.url not in answer.text


def test_what_is_archived_is_said_with_how_to_restore_it(world: Gateway, client: httpx.Client) -> None:
    old = ldo(SITE, "cell-2")
    ingest(world, old)
    digest = digest_of(old)
    moved = "update blobs set archived_at = now() where encode(sha256, 'hex') = %s returning store_key"
    assert len(world.rows(moved, digest)) == 1
    for path in (blob_of(old), f"/api/v1/receipts/{digest}"):
        answer = client.get(path)
        assert (answer.status_code, answer.json()["code"]) == (409, "archived")
        assert answer.headers["cache-control"] == "no-store"
        assert f"headrace restore {digest}" in answer.json()["hint"]
    assert client.head(blob_of(old)).status_code == 409
    known = client.get(f"/api/v1/records/{record_of(old)}").json()
    assert (known["digest"], known["archived_at"] is None) == (digest, False), "what is known of it stays"
    with world.client("device", [f"{OTHER_SITE}/cam-9"]) as elsewhere:
        assert elsewhere.get(blob_of(old)).status_code == 404


def test_what_a_site_still_has_is_said_and_can_be_asked_for(world: Gateway, client: httpx.Client) -> None:
    far = ldo(SITE, "cell-3")
    ingest(world, far)
    digest, record = digest_of(far), record_of(far)
    path = f"/api/v1/transfers/{record}"
    answer = client.post(path)
    assert (answer.status_code, answer.json()) == (200, {"record_id": record, "state": "here"})
    world.rows(
        "with gone as (delete from blobs where encode(sha256, 'hex') = %s returning *)"
        " insert into transfers"
        " (record_id, site, store_key, digest, size_bytes, media_type, event_id, topic, is_further, priority)"
        " select %s, %s, store_key, sha256, size_bytes, media_type, gen_random_uuid(), '', false, 0 from gone"
        " returning record_id",
        *(digest, record, SITE),
    )
    for answer in (client.get(blob_of(far)), client.get(blob_of(far), headers={"Range": "bytes=0-1"})):
        assert (answer.status_code, answer.json()["code"]) == (409, "at_site")
        assert SITE in answer.json()["detail"]
        assert path in answer.json()["hint"]
        assert (answer.headers["cache-control"], answer.headers["retry-after"]) == ("no-store", "10")
    assert client.head(blob_of(far)).status_code == 409
    assert client.get(f"/api/v1/receipts/{digest}").status_code == 404
    assert client.get(f"/api/v1/records/{record}").json()["at_site"] == SITE
    with world.client("device", [f"{OTHER_SITE}/cam-9"]) as elsewhere:
        assert elsewhere.get(blob_of(far)).status_code == 404
        assert elsewhere.post(path).status_code == 404
    answer = client.post(path)
    assert (answer.status_code, answer.json()) == (202, {"record_id": record, "state": "requested"})
    requested = "select requested_at is not null from transfers where record_id::text = %s"
    assert world.rows(requested, record) == [(True,)]
