"""`GET /api/v1/records`: filters, pages, one record with its sightings, and how far each caller reads."""

import asyncio
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
import httpx
import pytest

from headrace.schemas.events import InputEvent
from headrace.schemas.headers import rfc3339
from headrace.store.catalog.pagination import page_query
from headrace.store.catalog.views import RecordFilters
from tests.gateway.gateway_world import Gateway, name, picture
from tests.gateway.reading_world import NOWHERE, cid, clip, digest_of, frame, ingest, ldo, record_of
from tests.waiting import until

pytestmark = pytest.mark.stack

SITE, OTHER_SITE = name("plant"), name("plant")
BOTH_BROUGHT = picture(form=".png")
FRAME = frame(SITE, "cam-1", attributes=b'{"operator":"Ann"}')
SHARED = frame(SITE, "cam-1", BOTH_BROUGHT, attributes=b'{"secret_of":"cam-1"}')
SHARED_AGAIN = frame(OTHER_SITE, "cam-9", BOTH_BROUGHT)
CLIP, CID, LDO = clip(SITE, "cam-2"), cid(SITE, "scan-1", name("a/b?c")), ldo(SITE, "cell-1")
REVISED = replace(LDO, body=LDO.body.replace(b"21.5", b"22.5"))
OTHER = frame(OTHER_SITE, "cam-1")


@pytest.fixture(scope="module")
def world(gateway: Gateway) -> Gateway:
    for event in (FRAME, SHARED, SHARED_AGAIN, CLIP, CID, LDO, REVISED, OTHER):
        ingest(gateway, event)
    return gateway


@pytest.fixture(scope="module")
def operator(world: Gateway) -> Iterator[httpx.Client]:
    with world.client("operator") as client:
        yield client


def listed(client: httpx.Client, **filters: Any) -> list[str]:
    answer = client.get("/api/v1/records", params=filters)
    assert answer.status_code == 200, answer.text
    return [one["record_id"] for one in answer.json()["records"]]


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ({"site": SITE}, [REVISED, LDO, CID, CLIP, SHARED, FRAME]),
        ({"site": SITE, "kind": "ldo"}, [REVISED, LDO]),
        ({"site": SITE, "kind": ["ldo", "cid"]}, [REVISED, LDO, CID]),
        ({"site": OTHER_SITE, "source_id": "cam-1"}, [OTHER]),
        ({"digest": digest_of(FRAME)}, [FRAME]),
        ({"digest": digest_of(FRAME), "kind": "clip"}, []),
        ({"ldo_id": LDO.ldo_id}, [REVISED, LDO]),
        ({"code": CID.code}, [CID]),
        (
            {"site": SITE, "since": "2000-01-01T00:00:00Z", "until": "9999-12-31T23:59:59.999999999+00:00"},
            [REVISED, LDO, CID, CLIP, SHARED, FRAME],
        ),
        ({"site": SITE, "until": "0001-01-01T00:00:00+14:00"}, []),
    ],
)
def test_filters(operator: httpx.Client, filters: dict[str, Any], expected: list[InputEvent]) -> None:
    assert listed(operator, **filters) == [record_of(one) for one in expected]


def test_times_are_those_of_ingestion_and_until_is_excluded(operator: httpx.Client) -> None:
    at = operator.get(f"/api/v1/records/{record_of(CID)}").json()["ingested_at"]
    assert listed(operator, site=SITE, since=at) == [record_of(one) for one in (REVISED, LDO, CID)]
    assert listed(operator, site=SITE, until=at) == [record_of(one) for one in (CLIP, SHARED, FRAME)]


def test_pages_hold_each_record_once(operator: httpx.Client) -> None:
    seen: list[str] = []
    cursor = None
    while True:
        filters = {"site": SITE, "limit": 2} | ({"cursor": cursor} if cursor else {})
        page = operator.get("/api/v1/records", params=filters).json()
        seen += [one["record_id"] for one in page["records"]]
        if (cursor := page["cursor"]) is None:
            break
    assert seen == [record_of(one) for one in (REVISED, LDO, CID, CLIP, SHARED, FRAME)]


@pytest.mark.parametrize(
    "filters",
    [
        {"kind": "video"},
        {"limit": 0},
        {"limit": 501},
        {"digest": "A" * 64},
        {"digest": "a" * 65},
        {"digest": "'; drop table records"},
        {"since": "2026-01-01T00:00:00"},
        {"since": "1700000000"},
        {"since": "2026-13-01T00:00:00Z"},
        {"until": "yesterday"},
        {"cursor": "!"},
        {"cursor": "eA"},
        {"cursor": "OTk5OTk5OTk5OTk5OTk5OTk5OTk5OTkuMGI1ZjRkMGUtMmYwYS01YjBlLTlhNTgtMWY2YzFmNmYyZDEx"},
        {"site": "a\x00b"},
        {"source_id": ""},
        {"ldo_id": "a\nb"},
        {"code": "a\x00"},
        {"code": "a" * 4097},
    ],
)
def test_a_wrong_filter_is_named(operator: httpx.Client, filters: dict[str, Any]) -> None:
    answer = operator.get("/api/v1/records", params=filters)
    assert answer.status_code == 422, answer.text
    assert next(iter(filters)) in answer.json()["detail"]


def test_a_record_is_found_by_every_name_and_shows_its_sightings(operator: httpx.Client) -> None:
    one = operator.get(f"/api/v1/records/{record_of(FRAME)}").json()
    assert (one["kind"], one["digest"], one["site"], one["source_id"]) == ("frame", digest_of(FRAME), SITE, "cam-1")
    assert (one["width"], one["height"], one["attributes"]) == (64, 48, {"operator": "Ann"})
    assert one["captured_at"] == rfc3339(FRAME.captured_at_us)
    assert [(seen["topic"], seen["source_id"]) for seen in one["sightings"]] == [("edge.frames.v1", "cam-1")]
    newest = operator.get(f"/api/v1/records/{LDO.ldo_id}").json()
    assert newest["record_id"] == record_of(REVISED)
    public = f"ldo_{digest_of(LDO)[:12]}_{LDO.captured_at_us // 1_000_000}"
    for wanted in (public, digest_of(LDO), digest_of(LDO)[:16], record_of(LDO)):
        assert operator.get(f"/api/v1/records/{wanted}").json()["id"] == public
    by_code = operator.get(httpx.URL("/api/v1/records/").join(CID.code.replace("/", "%2F").replace("?", "%3F")))
    assert by_code.json()["record_id"] == record_of(CID)


@pytest.mark.parametrize("wanted", ["nothing", "0" * 64, "%00", "..%2f..%2fetc%2fpasswd", "';--", "%f0%9f%92%a9"])
def test_what_is_not_there_is_not_found(operator: httpx.Client, wanted: str) -> None:
    answer = operator.get(f"/api/v1/records/{wanted}")
    assert (answer.status_code, answer.json()["code"]) == (404, "not_found")


def test_a_device_sees_its_only_source_without_a_filter(world: Gateway) -> None:
    with world.client("device", [f"{SITE}/cam-1"]) as client:
        assert listed(client) == [record_of(SHARED), record_of(FRAME)]
        assert listed(client, site=SITE) == [record_of(SHARED), record_of(FRAME)]
        assert listed(client, digest=digest_of(CLIP)) == []
        assert listed(client, ldo_id=LDO.ldo_id) == []


@pytest.mark.parametrize(
    ("role", "sources", "filters", "said"),
    [
        ("device", [f"{SITE}/cam-1"], {"source_id": "cam-2"}, "no access"),
        ("device", [f"{SITE}/cam-1"], {"site": OTHER_SITE}, "name one"),
        ("device", [f"{SITE}/cam-1", f"{SITE}/cam-2"], {}, "name one"),
        ("device", [f"{SITE}/*"], {}, "`site`"),
        ("operator", [f"{SITE}/*", f"{OTHER_SITE}/cam-1"], {}, "`site`"),
        ("operator", [f"{SITE}/*"], {"site": OTHER_SITE}, "no access"),
        ("operator", [f"{SITE}/*"], {"source_id": "cam-1"}, "`site`"),
    ],
)
def test_who_reaches_several_says_which(
    world: Gateway, role: str, sources: list[str], filters: dict[str, str], said: str
) -> None:
    with world.client(role, sources) as client:
        answer = client.get("/api/v1/records", params=filters)
    assert answer.status_code == 403, answer.text
    assert said in answer.json()["detail"]


def test_a_list_holds_nothing_out_of_reach(world: Gateway) -> None:
    with world.client("operator", [f"{SITE}/cam-2", f"{OTHER_SITE}/cam-1"]) as client:
        assert listed(client) == [record_of(OTHER), record_of(CLIP)]
        assert listed(client, site=SITE) == [record_of(CLIP)]
    with world.client("device", [f"{OTHER_SITE}/*"]) as client:
        assert listed(client, site=OTHER_SITE) == [record_of(OTHER), record_of(SHARED)]


def test_a_record_out_of_reach_looks_as_if_it_was_not_there(world: Gateway) -> None:
    with world.client("device", [f"{OTHER_SITE}/cam-9"]) as client:
        for wanted in (record_of(FRAME), digest_of(FRAME), digest_of(FRAME)[:12], LDO.ldo_id, CID.code):
            answer = client.get(httpx.URL(f"/api/v1/records/{wanted.replace('?', '%3F')}"))
            assert answer.status_code == 404, answer.text
            assert SITE not in answer.text


def test_who_brought_the_same_bytes_sees_its_own_part_of_the_record(world: Gateway, operator: httpx.Client) -> None:
    with world.client("device", [f"{OTHER_SITE}/cam-9"]) as client:
        one = client.get(f"/api/v1/records/{record_of(SHARED)}").json()
        assert listed(client) == [record_of(SHARED)]
        receipt = client.get(f"/api/v1/receipts/{digest_of(SHARED)}").json()["receipts"][0]
        assert receipt["ingested_at"] == one["ingested_at"] == one["sightings"][0]["seen_at"]
        assert client.get(f"/api/v1/blobs/{digest_of(SHARED)}").content == BOTH_BROUGHT
    assert (one["site"], one["source_id"], one["attributes"]) == (OTHER_SITE, "cam-9", {})
    assert [seen["source_id"] for seen in one["sightings"]] == ["cam-9"]
    with world.client("device", [f"{SITE}/cam-1"]) as client:
        assert record_of(SHARED) in listed(client)
        assert OTHER_SITE not in client.get("/api/v1/records").text
    whole = operator.get(f"/api/v1/records/{record_of(SHARED)}").json()
    assert [seen["source_id"] for seen in whole["sightings"]] == ["cam-1", "cam-9"]


def test_what_the_caller_has_is_not_sent_again(operator: httpx.Client) -> None:
    for path in (f"/api/v1/records?digest={digest_of(FRAME)}", f"/api/v1/records/{record_of(FRAME)}"):
        first = operator.get(path)
        assert first.headers["cache-control"] == "private, max-age=3"
        assert "X-API-Key" in first.headers["vary"]
        again = operator.get(path, headers={"If-None-Match": f'"x", W/{first.headers["etag"]}'})
        assert (again.status_code, again.content) == (304, b"")
        assert operator.get(path, headers={"If-None-Match": '"x"'}).status_code == 200


@pytest.mark.parametrize(
    ("filters", "index"),
    [
        (RecordFilters(digest="0" * 64, scopes=("a/b",)), "records_pkey"),
        # Of a source with few records it does not matter which of the two is used; tests/store/test_list_plans.py.
        (RecordFilters(scopes=("a/b", "c/*")), "records_by_(source|kind)"),
        (RecordFilters(scopes=("a/b",), ldo_id="part"), "records_by_ldo_id"),
        (RecordFilters(site="a", since_us=0), "records_by_(source|kind)"),
    ],
)
def test_every_list_is_read_through_an_index(world: Gateway, filters: RecordFilters, index: str) -> None:
    async def planned() -> str:
        text, values = page_query(filters, (0, UUID(int=0)), 50)
        connection = await asyncpg.connect(world.settings.postgres_dsn.get_secret_value())
        try:
            # A small table is quicker to read whole; the question is whether it has to be.
            await connection.execute("set enable_seqscan = off; set enable_bitmapscan = off")
            return "\n".join(row[0] for row in await connection.fetch(f"explain {text}", *values))
        finally:
            await connection.close()

    plan = asyncio.run(planned())
    assert re.search(f"using {index} on records", plan), plan
    assert "Seq Scan on records" not in plan, plan


def test_a_kept_list_ends_soon(operator: httpx.Client, world: Gateway) -> None:
    site, source = name("plant"), name("cam")
    assert listed(operator, site=site, source_id=source) == []
    new = frame(site, source)
    ingest(world, new)
    until(lambda: listed(operator, site=site, source_id=source) == [record_of(new)], 30, "the list to be asked anew")


def test_who_shows_no_key_reads_nothing(world: Gateway) -> None:
    with world.anonymous() as client:
        for path in ("records", f"records/{record_of(FRAME)}", f"blobs/{digest_of(FRAME)}", f"receipts/{'0' * 64}"):
            assert client.get(f"/api/v1/{path}").status_code == 401


def test_lists_are_answered_while_redis_is_away(world: Gateway, tmp_path: Path) -> None:
    with (
        Gateway(world.settings, tmp_path / "gateway.log", redis_url=NOWHERE) as alone,
        alone.client("operator") as client,
    ):
        for _ in range(3):
            assert listed(client, site=SITE, kind="cid") == [record_of(CID)]
        until(lambda: client.get("/ready").json()["needs"]["redis"] != "not asked yet", 30, "Redis to be asked")
        ready = client.get("/ready")
        assert (ready.status_code, ready.json()["status"], ready.json()["needs"]["postgres"]) == (200, "degraded", "ok")
