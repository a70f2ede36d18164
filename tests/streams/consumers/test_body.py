from pathlib import Path

import pytest

from headrace.schemas.digest import sha256_hex
from headrace.schemas.events import Ingested
from headrace.store.blobs.blob_store import Blobs
from headrace.store.blobs.verified_read import HASH_IN_THREAD_BYTES_MIN
from headrace.store.errors import BlobCorruptError, BlobMissingError
from headrace.streams.consumers.body import Body


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
