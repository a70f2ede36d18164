import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from hashlib import sha256
from typing import Any

import pytest

from headrace.schemas.digest import blob_key, staging_key
from headrace.schemas.media_probe import ImageHeader, MediaProbe
from headrace.store.blobs import staging
from headrace.store.blobs.blob_store import Blobs
from headrace.store.blobs.staging import Promoted, StagedBody, discard, stage, verify_and_promote
from headrace.store.errors import ClaimMismatchError, ClaimMissingError

# A JPEG whose header is behind a megabyte of metadata.
BODY = (
    b"\xff\xd8" + (b"\xff\xe1\xff\xff" + bytes(0xFFFD)) * 16 + b"\xff\xc0\x00\x0b\x08\x00\x1e\x00\x28\x01\x01\x11\x00"
    b"\xff\xda\x00\x08\x01\x01\x00\x00\x3f\x00" + b"\x00\xff\xd9"
)
DIGEST = sha256(BODY).hexdigest()
CLAIM = staging_key("factory", "cam-1", DIGEST)
STAGED = StagedBody(CLAIM, DIGEST, len(BODY))


async def parts(body: bytes = BODY) -> AsyncIterator[bytes]:
    for start in range(0, len(body), 300_000):
        yield body[start : start + 300_000]


async def promote(blobs: Blobs, **changed: Any) -> Promoted:
    return await verify_and_promote(blobs, replace(STAGED, **changed), moved=lambda: None)


async def keys(blobs: Blobs, prefix: str) -> list[str]:
    return [stat.key async for stat in blobs.list(prefix)]


async def test_a_claim_that_holds_becomes_a_blob(blobs: Blobs) -> None:
    await stage(blobs, CLAIM, parts())
    promoted = await promote(blobs)
    assert promoted.created
    assert promoted.probe.header() == ImageHeader("image/jpeg", 40, 30), "the probe read all of it"
    assert await blobs.get(blob_key(DIGEST)) == BODY
    assert await keys(blobs, "promoting/") == []


async def test_the_staged_body_stays_until_it_is_discarded(blobs: Blobs) -> None:
    await stage(blobs, CLAIM, parts())
    await promote(blobs)
    assert await keys(blobs, "staging/") == [CLAIM]
    await discard(blobs, CLAIM)
    await discard(blobs, CLAIM)
    assert await keys(blobs, "staging/") == []


async def test_promoting_may_be_repeated(blobs: Blobs) -> None:
    await stage(blobs, CLAIM, parts())
    await promote(blobs)
    assert not (await promote(blobs)).created


async def test_a_claim_that_was_discarded_is_missing_although_the_blob_exists(blobs: Blobs) -> None:
    await stage(blobs, CLAIM, parts())
    await promote(blobs)
    await discard(blobs, CLAIM)
    with pytest.raises(ClaimMissingError):
        await promote(blobs)


async def test_an_empty_body_is_promoted(blobs: Blobs) -> None:
    digest = sha256(b"").hexdigest()
    claim = staging_key("factory", "cam-1", digest)
    await stage(blobs, claim, parts(b""))
    promoted = await promote(blobs, claim=claim, sha256_hex=digest, size_bytes=0)
    assert promoted.created


async def test_a_claim_without_bytes_is_missing(blobs: Blobs) -> None:
    with pytest.raises(ClaimMissingError, match="staging/factory/cam-1"):
        await promote(blobs)


@pytest.mark.parametrize(
    "changed", [{"size_bytes": len(BODY) - 1}, {"size_bytes": len(BODY) + 1}, {"sha256_hex": "0" * 64}]
)
async def test_bytes_that_are_not_as_said_are_never_promoted(blobs: Blobs, changed: dict[str, Any]) -> None:
    await stage(blobs, CLAIM, parts())
    with pytest.raises(ClaimMismatchError):
        await promote(blobs, **changed)
    assert await keys(blobs, "blobs/") == []
    assert await keys(blobs, "promoting/") == []
    assert await keys(blobs, "staging/") == [CLAIM]


async def test_what_has_another_size_is_not_even_copied(blobs: Blobs, monkeypatch: pytest.MonkeyPatch) -> None:
    """A store may refuse to copy what is far too large, and that would not be the message's fault."""
    await stage(blobs, CLAIM, parts())

    async def refused(*_args: Any) -> None:
        raise AssertionError("it was copied")

    monkeypatch.setattr(blobs, "copy", refused)
    with pytest.raises(ClaimMismatchError, match="instead of 10"):
        await promote(blobs, size_bytes=10)


async def test_whoever_watches_sees_that_a_slow_copy_moves(blobs: Blobs, monkeypatch: pytest.MonkeyPatch) -> None:
    await stage(blobs, CLAIM, parts())
    monkeypatch.setattr(staging, "MOVED_EVERY_S", 0.01)
    copy, seen, enough = blobs.copy, [], asyncio.Event()

    async def slow(source: str, target: str) -> None:
        await enough.wait()
        await copy(source, target)

    def moved() -> None:
        seen.append(1)
        if len(seen) > 3:
            enough.set()

    monkeypatch.setattr(blobs, "copy", slow)
    await verify_and_promote(blobs, STAGED, moved=moved)
    assert len(seen) > 3


@pytest.mark.parametrize(
    "claim", [blob_key(DIGEST), "promoting/x", "packs/x", "../staging/x", "/staging/x", "staging", ""]
)
async def test_a_claim_outside_of_staging_is_neither_read_nor_deleted(blobs: Blobs, claim: str) -> None:
    await blobs.put(blob_key(DIGEST), BODY)
    with pytest.raises(ClaimMissingError):
        await promote(blobs, claim=claim)
    await discard(blobs, claim)
    assert await keys(blobs, "blobs/") == [blob_key(DIGEST)]


async def test_a_body_that_is_replaced_while_it_is_checked_is_not_promoted(
    blobs: Blobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The classic attack: good bytes for the check, others for the use."""
    await stage(blobs, CLAIM, parts())
    checked = staging._verified

    async def checked_then_replaced(*args: Any) -> MediaProbe:
        probe = await checked(*args)
        await blobs.put_stream(CLAIM, parts(b"evil" * 1000))
        return probe

    monkeypatch.setattr(staging, "_verified", checked_then_replaced)
    await promote(blobs)
    assert await blobs.get(blob_key(DIGEST)) == BODY


async def test_a_wrong_object_under_the_blobs_name_is_replaced(blobs: Blobs) -> None:
    await stage(blobs, CLAIM, parts())
    await blobs.put(blob_key(DIGEST), b"torn")
    assert (await promote(blobs)).created
    assert await blobs.get(blob_key(DIGEST)) == BODY


async def test_only_staging_is_staged_into(blobs: Blobs) -> None:
    with pytest.raises(ValueError, match="staging/"):
        await stage(blobs, blob_key(DIGEST), parts())
