"""What a tombstone matches becomes a dead letter without bytes, and nothing else does."""

from dataclasses import replace

import pytest

from headrace.schemas.catalog_rows import Tombstone
from headrace.schemas.digest import sha256_hex, staging_key
from headrace.schemas.events import Frame, Kind
from headrace.schemas.reject import RejectCode
from headrace.streams.core.batch_plan import row_batch
from headrace.streams.core.erased import erasable_digests, erased_claims, is_out, without_erased
from headrace.streams.core.examine import DecodedBatch, examine_batch
from tests.streams.streams_samples import delivery, frame, raw_delivery


def batch_of(*values: Frame | bytes | None) -> DecodedBatch:
    messages = [
        delivery(value, offset=offset) if isinstance(value, Frame) else raw_delivery(Kind.FRAME, value, offset=offset)
        for offset, value in enumerate(values)
    ]
    return examine_batch(Kind.FRAME, messages)


def tombstone(digest: str, site: str = "", source_id: str = "") -> Tombstone:
    return Tombstone(bytes.fromhex(digest), site, source_id)


def digests_of(batch: DecodedBatch, *, with_values: bool = False) -> set[bytes]:
    return set().union(*erasable_digests(batch, with_values=with_values).values())


def kept(batch: DecodedBatch, tombstones: list[Tombstone], *, with_values: bool = False) -> DecodedBatch:
    return without_erased(batch, erasable_digests(batch, with_values=with_values), tombstones)


def codes(batch: DecodedBatch) -> list[tuple[int, RejectCode]]:
    return [(rejection.message.offset, rejection.code) for rejection in batch.rejected]


def test_a_tombstone_finds_bodies_and_the_values_of_rejected_messages() -> None:
    batch = batch_of(frame(), b"junk", None)
    assert {digest.hex() for digest in digests_of(batch)} == {batch.accepted[0].digest, sha256_hex(b"junk")}
    out = kept(batch, [tombstone(digest.hex()) for digest in digests_of(batch)])
    assert out.accepted == ()
    assert codes(out) == [(0, RejectCode.ERASED), (1, RejectCode.ERASED), (2, RejectCode.EMPTY_VALUE)]
    assert [is_out(rejection) for rejection in out.rejected] == [True, True, False]
    for letter in row_batch(out, {}).dead_letters[:2]:
        assert (letter.key, letter.value, letter.headers) == (None, None, b"[]")
    assert kept(batch, []) is batch


def test_a_message_that_is_accepted_by_now_is_matched_by_the_tombstone_of_its_value() -> None:
    event = frame(site="plant", source_id="camera-1")
    batch = batch_of(event)
    value = batch.accepted[0].message.value
    assert value is not None
    assert digests_of(batch, with_values=True) == digests_of(batch) | {bytes.fromhex(sha256_hex(value))}
    for site, expected in (("plant", [(0, RejectCode.ERASED)]), ("", [(0, RejectCode.ERASED)]), ("yard", [])):
        assert codes(kept(batch, [tombstone(sha256_hex(value), site)], with_values=True)) == expected
    assert kept(batch, [], with_values=True) is batch


@pytest.mark.parametrize(
    ("site", "source_id", "is_erased"),
    [
        ("", "", True),
        ("plant", "", True),
        ("plant", "camera-1", True),
        ("plant", "camera-2", False),
        ("yard", "", False),
        ("yard", "camera-1", False),
    ],
)
def test_a_tombstone_of_a_source_or_site_keeps_out_only_what_comes_from_there(
    site: str, source_id: str, *, is_erased: bool
) -> None:
    event = frame(site="plant", source_id="camera-1")
    batch = batch_of(event)
    out = kept(batch, [tombstone(batch.accepted[0].digest, site, source_id)])
    assert bool(out.rejected) == is_erased
    assert bool(out.accepted) != is_erased


def test_a_message_of_unknown_origin_is_matched_by_tombstones_of_any_origin_only() -> None:
    batch = batch_of(b"junk")
    assert codes(kept(batch, [tombstone(sha256_hex(b"junk"), "plant")])) == codes(batch)
    assert codes(kept(batch, [tombstone(sha256_hex(b"junk"))])) == [(0, RejectCode.ERASED)]


def test_the_staged_body_of_an_erased_message_is_named_and_no_claim_that_was_never_checked() -> None:
    whole = frame(site="plant", source_id="camera-1")
    claim = staging_key("plant", "camera-1", whole.sha256)
    staged = replace(whole, body=None, claim=claim)
    thief = replace(staged, claim=staging_key("plant", "camera-2", whole.sha256))
    batch = batch_of(staged, whole, thief)
    assert codes(batch) == [(2, RejectCode.CLAIM_REFUSED)]
    out = kept(batch, [tombstone(digest.hex()) for digest in digests_of(batch)])
    assert codes(out) == [(number, RejectCode.ERASED) for number in range(3)]
    assert erased_claims(out) == [claim]
    assert erased_claims(batch) == []
