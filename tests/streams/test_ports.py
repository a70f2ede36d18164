"""The ports' facts, held to the fakes that the other tests use and to the real store and catalog alike."""

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from headrace.schemas.catalog_rows import RowBatch
from headrace.schemas.digest import blob_key, sha256_hex, staging_key
from headrace.schemas.events import InputEvent, Kind
from headrace.schemas.media_probe import image_header_of
from headrace.store.blobs import staging
from headrace.store.blobs.blob_store import Blobs
from headrace.store.blobs.staging import StagedBodies, StagedBody
from headrace.store.catalog.catalog import Catalog
from headrace.store.errors import ClaimMismatchError, ClaimMissingError
from headrace.streams.core.batch_plan import StoredAt, row_batch
from headrace.streams.core.examine import examine_batch
from headrace.streams.worker.ports import BlobPort, CatalogPort, StagedBodyPort
from tests.streams.streams_fakes import FakeBlobs, FakeCatalog, FakeClaims, Journal
from tests.streams.streams_samples import cid, delivery, png, raw_delivery

BODY = png(shade=3)
CLAIM = staging_key("plant", "camera-1", sha256_hex(BODY))


def moved() -> None:
    """Nobody watches."""


class Bodies:
    """Blobs and claims of one kind, and how to look behind them."""

    def __init__(self, blobs: Any, claims: StagedBodyPort) -> None:
        self.blobs: BlobPort = blobs
        self.claims = claims

    async def stage(self, key: str, body: bytes) -> None:
        if isinstance(self.claims, FakeClaims):
            self.claims.staged[key] = body
            return
        assert isinstance(self.blobs, Blobs)

        async def chunks() -> AsyncIterator[bytes]:
            yield body

        await staging.stage(self.blobs, key, chunks())

    async def read(self, key: str) -> bytes | None:
        if isinstance(self.blobs, FakeBlobs):
            assert isinstance(self.claims, FakeClaims)
            return (self.blobs.objects | self.claims.staged).get(key)
        assert isinstance(self.blobs, Blobs)
        return await self.blobs.get(key) if await self.blobs.stat(key) else None


@pytest.fixture(params=["fake", "directory"])
def bodies(request: pytest.FixtureRequest, tmp_path: Path) -> Bodies:
    if request.param == "fake":
        blobs = FakeBlobs(Journal())
        return Bodies(blobs, FakeClaims(blobs))
    real = Blobs.open(f"file://{tmp_path}")
    return Bodies(real, StagedBodies(real))


@pytest.fixture(params=["fake", pytest.param("postgres", marks=pytest.mark.stack)])
def catalog_port(request: pytest.FixtureRequest) -> CatalogPort:
    if request.param == "fake":
        return FakeCatalog(Journal(), None)
    catalog: Catalog = request.getfixturevalue("catalog")
    return catalog


def claimed(**changes: Any) -> StagedBody:
    return replace(StagedBody(CLAIM, sha256_hex(BODY), len(BODY)), **changes)


def batch(*events: InputEvent, first_offset: int = 0, junk: tuple[bytes, ...] = ()) -> RowBatch:
    messages = [delivery(event, offset=first_offset + number) for number, event in enumerate(events)]
    messages += [raw_delivery(Kind.CID, value, offset=1000 + number) for number, value in enumerate(junk)]
    decoded = examine_batch(Kind.CID, messages)
    assert (len(decoded.accepted), len(decoded.rejected)) == (len(events), len(junk))
    return row_batch(
        decoded,
        {accepted_event.digest: StoredAt(blob_key(accepted_event.digest)) for accepted_event in decoded.accepted},
    )


async def test_the_second_put_of_the_same_bytes_finds_them_there(bodies: Bodies) -> None:
    key = blob_key(sha256_hex(BODY))
    assert await bodies.blobs.put(key, BODY, media_type="image/png") is True
    assert await bodies.blobs.put(key, BODY, media_type="image/png") is False
    assert await bodies.read(key) == BODY


async def test_a_staged_body_is_promoted_to_its_address_and_stays_staged_until_discarded(bodies: Bodies) -> None:
    await bodies.stage(CLAIM, BODY)
    for _ in range(2):
        probe = await bodies.claims.promote(claimed(), moved=moved)
        assert probe.header() == image_header_of(BODY)
    assert await bodies.read(blob_key(sha256_hex(BODY))) == await bodies.read(CLAIM) == BODY
    await bodies.claims.discard(CLAIM)
    await bodies.claims.discard(CLAIM)
    assert await bodies.read(CLAIM) is None
    assert await bodies.read(blob_key(sha256_hex(BODY))) == BODY


async def test_a_claim_that_was_promoted_and_discarded_before_is_missing(bodies: Bodies) -> None:
    await bodies.stage(CLAIM, BODY)
    await bodies.claims.promote(claimed(), moved=moved)
    await bodies.claims.discard(CLAIM)
    with pytest.raises(ClaimMissingError, match="does not exist"):
        await bodies.claims.promote(claimed(), moved=moved)


async def test_a_claim_on_nothing_is_missing(bodies: Bodies) -> None:
    with pytest.raises(ClaimMissingError, match="does not exist"):
        await bodies.claims.promote(claimed(), moved=moved)


@pytest.mark.parametrize("changes", [{"size_bytes": 3}, {"sha256_hex": "0" * 64}])
async def test_a_claim_on_other_bytes_is_a_mismatch_and_promotes_nothing(
    bodies: Bodies, changes: dict[str, Any]
) -> None:
    await bodies.stage(CLAIM, BODY)
    with pytest.raises(ClaimMismatchError):
        await bodies.claims.promote(claimed(**changes), moved=moved)
    assert await bodies.read(blob_key("0" * 64)) is None
    assert await bodies.read(CLAIM) == BODY


async def test_only_what_was_staged_can_be_discarded(bodies: Bodies) -> None:
    key = blob_key(sha256_hex(BODY))
    await bodies.blobs.put(key, BODY, media_type="image/png")
    await bodies.claims.discard(key)
    assert await bodies.read(key) == BODY


async def test_a_commit_says_what_was_new_and_repeating_it_says_nothing_was(catalog_port: CatalogPort) -> None:
    rows = batch(cid("A"), cid("B"), cid("A", sequence=8), junk=(b"x", b"y"))
    first = await catalog_port.commit(rows)
    assert (len(first.new_records), first.new_sightings, first.duplicates, first.new_dead_letters) == (2, 3, 1, 2)
    again = await catalog_port.commit(rows)
    assert (len(again.new_records), again.new_sightings, again.duplicates, again.new_dead_letters) == (0, 0, 3, 0)


async def test_a_record_that_comes_again_elsewhere_is_a_sighting_and_no_record(catalog_port: CatalogPort) -> None:
    await catalog_port.commit(batch(cid("A")))
    again = await catalog_port.commit(batch(cid("A"), first_offset=7))
    assert (len(again.new_records), again.new_sightings, again.duplicates) == (0, 1, 1)


async def test_only_committed_blobs_are_known(catalog_port: CatalogPort) -> None:
    rows = batch(cid("A"))
    digest = rows.blobs[0].digest
    assert (await catalog_port.look_up([digest])).blobs == {}
    await catalog_port.commit(rows)
    known = (await catalog_port.look_up([digest, bytes(32)])).blobs
    assert list(known) == [digest]
    place = known[digest]
    assert (place.size_bytes, place.media_type) == (rows.blobs[0].size_bytes, "application/json")
    assert (place.store_key, place.store_offset) == (rows.blobs[0].store_key, None)


async def test_an_empty_batch_is_nothing(catalog_port: CatalogPort) -> None:
    done = await catalog_port.commit(batch())
    assert (done.new_records, done.new_sightings, done.duplicates, done.new_dead_letters) == (frozenset(), 0, 0, 0)
