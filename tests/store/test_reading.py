from hashlib import sha256

import pytest

from headrace.store.blobs.blob_store import Blobs
from headrace.store.blobs.verified_read import RANGE_BYTES, read_verified
from headrace.store.errors import BlobCorruptError, BlobMissingError

LARGE = bytes(range(256)) * (RANGE_BYTES // 256) * 2 + b"end"


async def test_a_large_body_is_read_in_ranges_and_is_whole(blobs: Blobs) -> None:
    digest = sha256(LARGE).hexdigest()
    await blobs.put("blobs/x", b"before" + LARGE)
    await blobs.put("blobs/y", LARGE)
    part = await read_verified(blobs, "blobs/x", offset=6, size_bytes=len(LARGE), digest=digest)
    whole = await read_verified(blobs, "blobs/y", offset=None, size_bytes=len(LARGE), digest=digest)
    assert part == whole == LARGE


@pytest.mark.parametrize("held", [b"short", LARGE[: RANGE_BYTES * 2]])
async def test_a_large_body_cut_short_is_corrupt(blobs: Blobs, held: bytes) -> None:
    await blobs.put("blobs/x", held)
    with pytest.raises(BlobCorruptError, match=f"{len(held)} bytes instead of {len(LARGE)}"):
        await read_verified(blobs, "blobs/x", offset=None, size_bytes=len(LARGE), digest="ab" * 32)


@pytest.mark.parametrize("size_bytes", [3, len(LARGE)])
async def test_an_absent_body_is_missing(blobs: Blobs, size_bytes: int) -> None:
    with pytest.raises(BlobMissingError):
        await read_verified(blobs, "blobs/gone", offset=None, size_bytes=size_bytes, digest="ab" * 32)
