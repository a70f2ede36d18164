from dataclasses import replace
from uuid import UUID

import pytest

from headrace.schemas.catalog_rows import RowBatch
from headrace.schemas.digest import record_id
from headrace.schemas.events import Kind
from headrace.store.catalog import queries as queries_module
from headrace.store.catalog.catalog import Catalog
from headrace.store.catalog.queries import Queries
from headrace.store.catalog.views import RecordFilters
from headrace.store.errors import RecordAmbiguousError, RecordMissingError
from tests.store.store_rows import batch, blob, digest_of, id_of, letter, record, sighting


async def add(catalog: Catalog, number: int, **more: object) -> UUID:
    row = record(number, **more)  # type: ignore[arg-type]
    await catalog.commit(
        RowBatch(
            blobs=[blob(number)],
            records=[row],
            sightings=[sighting(number, kind=row.kind, source_id=row.source_id, site=row.site)],
            dead_letters=[],
        )
    )
    return row.record_id


async def ids(queries: Queries, filters: RecordFilters) -> list[UUID]:
    return [record.record_id for record in (await queries.list_records(filters)).records]


async def test_the_newest_comes_first(catalog: Catalog, queries: Queries) -> None:
    added = [await add(catalog, number, kind=kind) for number, kind in enumerate(Kind)]
    assert await ids(queries, RecordFilters()) == added[::-1]


async def test_pages_hold_each_record_once_whatever_arrives_meanwhile(catalog: Catalog, queries: Queries) -> None:
    for kind in Kind:
        await catalog.commit(batch(range(25), kind=kind))
    seen: list[UUID] = []
    cursor, filters = None, RecordFilters()
    while True:
        page = await queries.list_records(filters, cursor=cursor, limit=7)
        seen += [record.record_id for record in page.records]
        await add(catalog, 1000 + len(seen))
        cursor = page.cursor
        if cursor is None:
            break
    assert len(seen) == len(set(seen)) == 100


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        (RecordFilters(kinds=frozenset({Kind.LDO})), {3, 4}),
        (RecordFilters(kinds=frozenset({Kind.LDO, Kind.CID})), {3, 4, 5}),
        (RecordFilters(site="north"), {2, 4}),
        (RecordFilters(source_id="cam-1"), {1, 2}),
        (RecordFilters(site="north", source_id="cam-1"), {2}),
        (RecordFilters(source_id="nobody"), set()),
        (RecordFilters(ldo_id="part-7"), {3, 4}),
        (RecordFilters(ldo_id="part-7", site="north"), {4}),
        (RecordFilters(code="QR-1"), {5}),
        (RecordFilters(code="QR-1", kinds=frozenset({Kind.FRAME})), set()),
        (RecordFilters(site="north", kinds=frozenset({Kind.LDO})), {4}),
        (RecordFilters(since_us=0), {1, 2, 3, 4, 5}),
        (RecordFilters(until_us=1), set()),
    ],
)
async def test_filters(catalog: Catalog, queries: Queries, filters: RecordFilters, expected: set[int]) -> None:
    added = {
        await add(catalog, 1, source_id="cam-1", site="south"): 1,
        await add(catalog, 2, source_id="cam-1", site="north"): 2,
        await add(catalog, 3, kind=Kind.LDO, source_id="cell-1", ldo_id="part-7", site="south"): 3,
        await add(catalog, 4, kind=Kind.LDO, source_id="cell-2", ldo_id="part-7", site="north"): 4,
        await add(catalog, 5, kind=Kind.CID, source_id="scan-1", code="QR-1"): 5,
    }
    assert {added[record_id] for record_id in await ids(queries, filters)} == expected


async def test_a_site_lists_what_another_delivered_first_as_it_delivered_it(catalog: Catalog, queries: Queries) -> None:
    shared = await add(catalog, 1, site="south", attributes=b'{"secret": 1}', about="x")
    own = await add(catalog, 2, site="north", source_id="cam-9")
    again = record(1, site="north", source_id="cam-9", attributes=b'{"own": 1}')
    seen_again = sighting(1, site="north", source_id="cam-9", offset=77)
    await catalog.commit(RowBatch(blobs=[blob(1)], records=[again], sightings=[seen_again], dead_letters=[]))
    for filters in (
        RecordFilters(site="north"),
        RecordFilters(scopes=("north/*",)),
        RecordFilters(scopes=("north/cam-9",), kinds=frozenset({Kind.FRAME})),
        RecordFilters(source_id="cam-9"),
    ):
        assert await ids(queries, filters) == [shared, own]
        first = await queries.list_records(filters, limit=1)
        [seen] = first.records
        assert (seen.site, seen.source_id, seen.attributes, seen.about) == ("north", "cam-9", '{"own": 1}', None)
        rest = await queries.list_records(filters, cursor=first.cursor, limit=1)
        assert [record.record_id for record in rest.records] == [own]
    assert await ids(queries, RecordFilters(scopes=("north/*",), digest=digest_of(1).hex())) == [shared]
    [of_south] = (await queries.list_records(RecordFilters(site="south"))).records
    assert (of_south.record_id, of_south.attributes) == (shared, '{"secret": 1}')
    assert await ids(queries, RecordFilters()) == [own, shared]
    [of_digest] = await queries.records_of(digest_of(1).hex(), ["north/*"])
    assert (of_digest.site, of_digest.attributes) == ("north", "{}")
    assert of_digest.ingested_at_us > of_south.ingested_at_us


async def test_times_bound_the_list_exactly(catalog: Catalog, queries: Queries) -> None:
    first, second = await add(catalog, 1), await add(catalog, 2)
    newest = (await queries.list_records(RecordFilters())).records[0]
    assert await ids(queries, RecordFilters(since_us=newest.ingested_at_us)) == [second]
    assert await ids(queries, RecordFilters(until_us=newest.ingested_at_us)) == [first]


@pytest.mark.parametrize("limit", [0, -1, 1001])
async def test_a_page_has_a_limit(queries: Queries, limit: int) -> None:
    with pytest.raises(ValueError, match="1 to 1000"):
        await queries.list_records(RecordFilters(), limit=limit)


@pytest.mark.parametrize("cursor", ["", "x", "1.", "1.not-a-uuid", "1;drop table records"])
async def test_a_cursor_of_another_kind_is_refused(queries: Queries, cursor: str) -> None:
    with pytest.raises(ValueError):
        await queries.list_records(RecordFilters(), cursor=cursor)


async def test_a_record_is_found_by_every_name_it_has(catalog: Catalog, queries: Queries) -> None:
    wanted = await add(catalog, 1, kind=Kind.LDO, ldo_id="part-7", code="QR-9")
    await add(catalog, 2)
    found_record = (await queries.record(str(wanted))).record
    digest = digest_of(1).hex()
    names = [wanted.hex, str(wanted)[:9], digest, digest[:8], found_record.public_id, "part-7", "QR-9", f" {wanted} "]
    assert [(await queries.record(name)).record for name in names] == [found_record] * len(names)
    assert found_record.public_id == f"ldo_{digest[:12]}_1790000000"


@pytest.mark.parametrize("by", ["digest", "id"])
async def test_a_prefix_finds_the_readers_own_record_among_those_of_others(
    catalog: Catalog, queries: Queries, by: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queries_module, "_DIGESTS_PAGE", 3)
    for number in range(9):
        digest = bytes.fromhex(f"abcd{number:060x}") if by == "digest" else digest_of(number)
        row_id = record_id(Kind.FRAME, digest.hex()) if by == "digest" else UUID(f"abcd{number:028x}")
        site = "mine" if number == 8 else "factory"
        row = record(number, site=site, digest=digest, record_id=row_id)
        seen = sighting(number, site=site, record_id=row_id)
        stored = replace(blob(number), digest=digest)
        await catalog.commit(RowBatch(blobs=[stored], records=[row], sightings=[seen], dead_letters=[]))
    assert (await queries.record("abcd", ["mine/*"])).record.record_id == row_id
    with pytest.raises(RecordMissingError):
        await queries.record("abcd", ["other/*"])
    with pytest.raises(RecordAmbiguousError):
        await queries.record("abcd", ["factory/*"])


async def test_ldos_whose_digests_begin_alike_are_told_apart_by_their_seconds(
    catalog: Catalog, queries: Queries
) -> None:
    digests = [bytes.fromhex("abcdefabcdef" + digit * 52) for digit in "012"]
    times_us = [1_790_000_000_000_000, 1_790_000_001_000_000, 1_790_000_001_999_999]
    rows = [
        replace(record(number, kind=Kind.LDO), digest=digest, record_id=record_id(Kind.LDO, digest.hex()))
        for number, digest in enumerate(digests)
    ]
    rows = [replace(row, captured_at_us=time_us) for row, time_us in zip(rows, times_us, strict=True)]
    blobs = [replace(blob(number), digest=digest) for number, digest in enumerate(digests)]
    await catalog.commit(RowBatch(blobs=blobs, records=rows, sightings=[], dead_letters=[]))
    assert (await queries.record("ldo_abcdefabcdef_1790000000")).record.record_id == rows[0].record_id
    with pytest.raises(RecordMissingError):
        await queries.record("ldo_abcdefabcdef_1790000002")
    with pytest.raises(RecordAmbiguousError):
        await queries.record("ldo_abcdefabcdef_1790000001")


@pytest.mark.parametrize("page", [3, 500])
async def test_a_public_id_finds_the_readers_own_ldo_among_those_of_others(
    catalog: Catalog, queries: Queries, page: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queries_module, "_DIGESTS_PAGE", page)
    for number in range(9):
        digest = bytes.fromhex(f"abcdefabcdef{number:052x}")
        site, second = ("mine", 7) if number == 8 else ("factory", number % 2)
        row = record(number, kind=Kind.LDO, site=site, digest=digest, record_id=record_id(Kind.LDO, digest.hex()))
        row = replace(row, captured_at_us=second * 1_000_000)
        seen = sighting(number, kind=Kind.LDO, site=site, record_id=row.record_id)
        stored = replace(blob(number), digest=digest)
        await catalog.commit(RowBatch(blobs=[stored], records=[row], sightings=[seen], dead_letters=[]))
    for scopes in (["mine/*"], None):
        assert (await queries.record("ldo_abcdefabcdef_7", scopes)).record.record_id == row.record_id
    with pytest.raises(RecordMissingError):
        await queries.record("ldo_abcdefabcdef_1", ["mine/*"])
    with pytest.raises(RecordAmbiguousError):
        await queries.record("ldo_abcdefabcdef_1", ["factory/*"])


async def test_an_ldo_id_of_a_device_may_look_like_a_public_id(catalog: Catalog, queries: Queries) -> None:
    wanted = await add(catalog, 1, kind=Kind.LDO, ldo_id="ldo_ffffffffffff_7")
    assert (await queries.record("ldo_ffffffffffff_7")).record.record_id == wanted


async def test_a_revised_ldo_is_shown_in_its_newest_revision(catalog: Catalog, queries: Queries) -> None:
    await add(catalog, 1, kind=Kind.LDO, ldo_id="part-7")
    newest = await add(catalog, 2, kind=Kind.LDO, ldo_id="part-7")
    assert (await queries.record("part-7")).record.record_id == newest


async def test_a_record_shows_its_sightings_oldest_first(catalog: Catalog, queries: Queries) -> None:
    wanted = await add(catalog, 1)
    again = sighting(1, source_id="cam-2", offset=9, partition=3)
    await catalog.commit(RowBatch(blobs=[], records=[], sightings=[again], dead_letters=[]))
    seen = (await queries.record(str(wanted))).sightings
    assert [(sighting.source_id, sighting.partition, sighting.offset, sighting.sequence) for sighting in seen] == [
        ("cam-1", 0, 1, 1),
        ("cam-2", 3, 9, 1),
    ]
    assert seen[0].seen_at_us < seen[1].seen_at_us


async def test_bytes_of_two_kinds_are_ambiguous_by_their_digest(catalog: Catalog, queries: Queries) -> None:
    await add(catalog, 1, kind=Kind.FRAME)
    await add(catalog, 1, kind=Kind.CLIP)
    with pytest.raises(RecordAmbiguousError, match="clip"):
        await queries.record(digest_of(1).hex())


@pytest.mark.parametrize(
    "wanted", ["", "abc", "nothing", "ffffffff", "f" * 65, "ldo_ffffffffffff_1", str(id_of(1)), "'; drop", "%"]
)
async def test_what_is_not_there_is_missing(queries: Queries, wanted: str) -> None:
    with pytest.raises(RecordMissingError):
        await queries.record(wanted)


async def test_counts(catalog: Catalog, queries: Queries) -> None:
    await catalog.commit(batch([1, 2], letters=[letter(1), letter(2, code="too_large")]))
    counts = await queries.counts()
    assert counts.records == {"cid": 0, "frame": 2, "clip": 0, "ldo": 0}
    assert (counts.sightings, counts.unpublished) == (2, 4)
    assert counts.dead_letters == {"too_large": 1, "undecodable": 1}
