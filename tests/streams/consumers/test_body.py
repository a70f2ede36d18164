from pathlib import Path

import pytest

from headrace.schemas.digest import (
    HASH_IN_THREAD_BYTES_MIN,
    derived_prefix,
    erased_key,
    event_id,
    record_id,
    sha256_hex,
)
from headrace.schemas.events import Ingested, Kind
from headrace.store.blobs.blob_store import Blobs
from headrace.store.blobs.body import Body
from headrace.store.errors import BlobCorruptError, BlobErasedError, BlobMissingError
from headrace.streams.consumers.preprocessing import Preprocessing
from tests.streams.consumers.consumer_samples import moving_block


def ingested(data: bytes, key: str, offset: int | None = None, **changes: object) -> Ingested:
    values = {
        "source_id": "camera",
        "site": "here",
        "captured_at_us": 1,
        "sequence": 1,
        "event_id": "e",
        "record_id": "r",
        "kind": "ldo",
        "digest": sha256_hex(data),
        "ingested_at_us": 1,
        "media_type": "application/json",
        "size_bytes": len(data),
        "store_key": key,
        "store_offset": offset,
    }
    return Ingested(**(values | changes))


@pytest.fixture
def blobs(tmp_path: Path) -> Blobs:
    return Blobs.open(tmp_path.as_uri())


@pytest.mark.parametrize("size", [1, HASH_IN_THREAD_BYTES_MIN])
async def test_a_body_is_an_object_of_its_own(blobs: Blobs, size: int):
    data = bytes(size)
    await blobs.put("blobs/x", data)
    body = Body(ingested(data, "blobs/x"), blobs)
    assert body.size_bytes == size
    assert await body.read() == data
    assert await body.read() == data


async def test_or_a_part_of_a_pack(blobs: Blobs):
    await blobs.put("packs/x", b"before" + b"body" + b"after")
    assert await Body(ingested(b"body", "packs/x", 6), blobs).read() == b"body"


async def test_other_bytes_of_the_same_size_are_corrupt(blobs: Blobs):
    await blobs.put("blobs/x", b"bodies")
    with pytest.raises(BlobCorruptError, match="SHA-256"):
        await Body(ingested(b"goodie", "blobs/x"), blobs).read()


async def test_too_few_bytes_are_corrupt(blobs: Blobs):
    await blobs.put("packs/x", b"before" + b"bo")
    with pytest.raises(BlobCorruptError, match="2 bytes instead of 4"):
        await Body(ingested(b"body", "packs/x", 6), blobs).read()


async def test_a_missing_object_is_named(blobs: Blobs):
    with pytest.raises(BlobMissingError, match="blobs/gone"):
        await Body(ingested(b"body", "blobs/gone"), blobs).read()


@pytest.mark.parametrize("offset", [None, 6])
async def test_erased_bytes_are_told_from_missing_and_corrupt_ones(blobs: Blobs, offset: int | None) -> None:
    event = ingested(b"body", "blobs/gone" if offset is None else "packs/x", offset)
    await blobs.put("packs/x", b"before" + bytes(4) + b"after")
    body = Body(event, blobs)
    with pytest.raises(BlobMissingError if offset is None else BlobCorruptError):
        await body.read()
    await blobs.create(erased_key(event.digest), b"")
    with pytest.raises(BlobErasedError, match="were erased"):
        await body.read()


async def test_what_is_derived_from_a_frame_that_is_erased_meanwhile_does_not_stay(blobs: Blobs) -> None:
    [picture] = moving_block(1)
    record = record_id(Kind.FRAME, sha256_hex(picture))
    identity = {"record_id": str(record), "event_id": str(event_id(record))}
    event = ingested(picture, "blobs/x", kind="frame", media_type="image/png", **identity)
    await blobs.put("blobs/x", picture)
    preprocessing = Preprocessing(blobs)
    result = await preprocessing.compute(event, Body(event, blobs), ("t", 0))
    assert result.thumbnail_key.startswith(derived_prefix(record))

    class ReadBefore(Body):
        async def read(self) -> bytes:
            data = await super().read()
            await blobs.delete("blobs/x")
            return data

    with pytest.raises(BlobErasedError):
        await preprocessing.compute(event, ReadBefore(event, blobs), ("t", 0))
    assert await blobs.stat(result.thumbnail_key) is None
