"""One batch: its durable steps in their order, and what becomes of each of its messages."""

import asyncio
import io
import tarfile
from dataclasses import replace
from typing import Any

import pytest

from headrace.runtime import metrics
from headrace.runtime.errors import Exit
from headrace.schemas.digest import blob_key, canonical_body, record_id, sha256_hex, staging_key
from headrace.schemas.events import Kind
from headrace.store.errors import CatalogRefusedError, StoreRefusedError
from headrace.streams.worker.body_store import PUTS_AT_ONCE_MAX
from tests.streams.streams_fakes import CATALOG_AWAY, STORE_AWAY
from tests.streams.streams_rig import HASTY, Rig
from tests.streams.streams_samples import cid, clip, frame, ldo, png


def staged(rig: Rig, event: Any, name: str = "a", *, body: bytes | None = None, **changes: Any) -> Any:
    """The event as a claim on its body, which is staged; or on another body, or on none where that is empty."""
    key = staging_key(event.site, event.source_id, name)
    held = event.body if body is None else body
    if held:
        rig.claims.staged[key] = held
    return replace(event, body=None, claim=key, **changes)


def codes(rig: Rig) -> dict[int, str]:
    return {row.offset: row.code for row in rig.catalog.dead_letters.values()}


def stored(rig: Rig) -> list[int]:
    return sorted(row.offset for row in rig.catalog.sightings.values())


async def test_the_blobs_are_stored_before_the_commit_and_the_commit_before_the_acknowledgement() -> None:
    rig = Rig()
    await rig.run(frame(png(shade=1)), frame(png(shade=2)))
    assert rig.journal.kinds() == ["known", "put", "commit", "ack"]
    assert len(rig.journal.of("put")) == 2
    assert rig.acked == [0, 1]


async def test_a_claim_is_promoted_before_the_commit_and_discarded_after_the_acknowledgement() -> None:
    rig = Rig()
    event = staged(rig, frame())
    await rig.run(event)
    assert rig.journal.kinds() == ["known", "promote", "commit", "ack", "discard"]
    assert rig.claims.staged == {}
    assert rig.blobs.objects[blob_key(event.sha256)] == png()
    assert stored(rig) == [0]


async def test_small_events_go_into_one_object_from_which_each_can_be_read() -> None:
    rig = Rig(Kind.LDO)
    events = [ldo(f"L-{number}") for number in range(20)]
    await rig.run(*events)
    (key,) = rig.journal.of("put")
    assert list(rig.blobs.objects) == [key]
    for event in events:
        body = canonical_body(event)
        row = rig.catalog.blobs[bytes.fromhex(sha256_hex(body))]
        assert (row.store_key, row.size_bytes) == (key, len(body))
        assert row.store_offset is not None
        assert rig.blobs.objects[key][row.store_offset : row.store_offset + row.size_bytes] == body
    with tarfile.open(fileobj=io.BytesIO(rig.blobs.objects[key])) as tar:
        assert len(tar.getnames()) == 20


async def test_the_same_small_events_again_give_the_same_object() -> None:
    first, two = Rig(Kind.CID), Rig(Kind.CID)
    for rig in (first, two):
        await rig.run(cid("A"), cid("B"))
    assert first.blobs.objects == two.blobs.objects


async def test_pictures_and_videos_are_objects_of_their_own() -> None:
    rig = Rig()
    await rig.run(frame(png(shade=1)), frame(png(shade=2)))
    assert sorted(rig.journal.of("put")) == sorted(blob_key(sha256_hex(png(shade=shade))) for shade in (1, 2))
    assert all(row.store_offset is None for row in rig.catalog.blobs.values())


async def test_the_same_picture_twice_in_a_batch_is_put_once_and_seen_twice() -> None:
    rig = Rig()
    await rig.run(frame(), frame(source_id="camera-2"), frame())
    assert len(rig.journal.of("put")) == 1
    assert len(rig.catalog.records) == 1
    assert stored(rig) == [0, 1, 2]
    assert {row.source_id for row in rig.catalog.sightings.values()} == {"camera-1", "camera-2"}


async def test_what_the_catalog_knows_is_not_put_again_and_still_seen() -> None:
    rig = Rig()
    await rig.take(frame())
    await rig.run(frame(source_id="camera-2"))
    rig = rig_with_the_state_of(rig)
    await rig.run(frame(source_id="camera-3"))
    assert rig.journal.of("put") == []
    assert stored(rig) == [0, 1, 2]


def rig_with_the_state_of(before: Rig) -> Rig:
    """The worker that comes after a restart."""
    after = Rig(before.kind)
    after.blobs.objects, after.claims.staged = before.blobs.objects, before.claims.staged
    for name in ("blobs", "records", "sightings", "dead_letters", "announced"):
        setattr(after.catalog, name, getattr(before.catalog, name))
    after._offset = before._offset
    return after


async def test_bad_messages_become_dead_letters_and_the_good_ones_around_them_go_through() -> None:
    rig = Rig()
    await rig.run(
        frame(png(shade=1)), b"junk", None, frame(sha256="0" * 64), frame(png(shade=2)), frame(captured_at_us=-1)
    )
    assert codes(rig) == {1: "not_framed", 2: "empty_value", 3: "digest_mismatch", 5: "absurd_time"}
    assert stored(rig) == [0, 4]
    assert rig.acked == [0, 1, 2, 3, 4, 5]


async def test_a_batch_of_nothing_good_touches_no_blob_and_is_committed_before_it_is_acknowledged() -> None:
    rig = Rig()
    await rig.run(b"junk", None)
    assert rig.journal.kinds() == ["known", "commit", "ack"]
    assert len(codes(rig)) == 2


async def test_a_staged_body_that_is_not_what_it_should_be_is_a_dead_letter() -> None:
    rig = Rig()
    await rig.run(
        staged(rig, frame(png(shade=1)), "gone", body=b""),
        staged(rig, frame(png(shade=2)), "other", body=png(shade=200)),
        staged(rig, frame(png(shade=3)), "short", body=b"abc"),
        staged(rig, frame(b"GIF89a" + bytes(50), width=1, height=1), "gif"),
        staged(rig, frame(png(4, 3, shade=4)), "size", width=3),
        frame(png(shade=5)),
    )
    assert codes(rig) == {
        0: "claim_missing",
        1: "digest_mismatch",
        2: "digest_mismatch",
        3: "not_an_image",
        4: "image_mismatch",
    }
    assert stored(rig) == [5]
    assert len(rig.catalog.blobs) == 1


async def test_a_staged_video_is_looked_at_too() -> None:
    rig = Rig(Kind.CLIP)
    await rig.run(staged(rig, clip(b"#EXTM3U" * 20), "a"), staged(rig, clip(), "b"))
    assert codes(rig) == {0: "not_a_video"}
    assert stored(rig) == [1]


async def test_a_bad_claim_says_nothing_about_a_good_one_on_the_same_digest() -> None:
    rig = Rig()
    event = frame()
    await rig.run(
        staged(rig, frame(source_id="liar"), body=b""),
        staged(rig, event),
        staged(rig, frame(source_id="other")),
        frame(source_id="inline"),
    )
    assert codes(rig) == {0: "claim_missing"}
    assert stored(rig) == [1, 2, 3]


@pytest.mark.parametrize("inline_first", [True, False])
async def test_a_claim_cannot_change_what_is_recorded_of_an_honest_frame(*, inline_first: bool) -> None:
    rig = Rig()
    honest = frame()
    lie = staged(rig, frame(source_id="liar"), width=30_000, height=1, size_bytes=5)
    await rig.run(*([honest, lie] if inline_first else [lie, honest]))
    (record,) = rig.catalog.records.values()
    (blob,) = rig.catalog.blobs.values()
    assert (record.width, record.height, record.size_bytes) == (4, 3, len(png()))
    assert blob.size_bytes == len(png())
    assert list(codes(rig).values()) == ["digest_mismatch"]


async def test_a_claim_whose_body_is_gone_holds_only_for_the_source_that_committed_it() -> None:
    """Also where the bytes themselves are in the archive."""
    rig = Rig(Kind.CLIP)
    own = staged(rig, clip(source_id="own"))
    await rig.run(own)
    rig = rig_with_the_state_of(rig)
    rig.blobs.objects.clear()
    other = staged(rig, clip(source_id="other"), body=b"")
    lie = replace(other, source_id="liar", claim=staging_key("plant", "liar", "a"), size_bytes=7)
    await rig.run(own, other, lie)
    assert stored(rig) == [0, 1]
    assert codes(rig) == {2: "claim_missing", 3: "claim_missing"}


async def test_a_site_cannot_claim_the_bytes_of_another() -> None:
    rig = Rig(Kind.CLIP)
    await rig.run(clip(site="plant-a", source_id="camera"))
    rig = rig_with_the_state_of(rig)
    await rig.run(staged(rig, clip(site="plant-b", source_id="camera"), body=b""))
    assert codes(rig) == {1: "claim_missing"}
    assert {row.site for row in rig.catalog.sightings.values()} == {"plant-a"}


async def test_bodies_are_put_side_by_side_but_not_all_at_once() -> None:
    rig = Rig()
    await rig.run(*(frame(png(shade=shade)) for shade in range(3 * PUTS_AT_ONCE_MAX)))
    assert rig.blobs.under_way_max == PUTS_AT_ONCE_MAX


FAULTS = [("known", CATALOG_AWAY), ("put", STORE_AWAY), ("promote", STORE_AWAY), ("commit", CATALOG_AWAY)]


@pytest.mark.parametrize(("step", "fault"), [*FAULTS, ("discard", STORE_AWAY)])
async def test_a_step_is_repeated_while_its_service_is_away(step: str, fault: Exception) -> None:
    rig = Rig()
    rig.journal.faults[step] = [fault] * 3
    await rig.run(frame(png(shade=1)), staged(rig, frame(png(shade=2))))
    assert rig.journal.kinds() == ["known", "promote", "put", "commit", "ack", "discard"]
    assert rig.journal.faults[step] == []
    assert rig.process.exit_code is None
    assert stored(rig) == rig.acked == [0, 1]


@pytest.mark.parametrize(("step", "fault"), FAULTS)
async def test_a_service_that_stays_away_ends_the_process_and_nothing_is_acknowledged(
    step: str, fault: Exception
) -> None:
    rig = Rig(policy=HASTY)
    rig.journal.faults[step] = [fault] * 10**5
    await rig.take(frame(png(shade=1)), staged(rig, frame(png(shade=2))))
    await rig.ended()
    assert rig.process.exit_code == Exit.TRANSIENT
    assert "memory" in rig.process.why
    assert rig.acked == []
    assert rig.claims.staged != {}


BROKEN = [
    *((step, fault) for step, _ in FAULTS for fault in (RuntimeError("unforeseen"), MemoryError())),
    ("put", StoreRefusedError("403", where="memory", hint="")),
    ("promote", StoreRefusedError("403", where="memory", hint="")),
    ("known", CatalogRefusedError("no such table", where="memory")),
    ("commit", CatalogRefusedError("no such table", where="memory")),
]


@pytest.mark.parametrize(("step", "fault"), BROKEN, ids=[f"{step}-{type(fault).__name__}" for step, fault in BROKEN])
async def test_a_fault_that_nobody_foresaw_ends_the_process_and_nothing_is_acknowledged(
    step: str, fault: BaseException
) -> None:
    rig = Rig()
    rig.journal.faults[step] = [fault]
    await rig.take(frame(png(shade=1)), staged(rig, frame(png(shade=2))))
    await rig.ended()
    assert rig.process.exit_code == Exit.BROKEN
    assert type(fault).__name__ in rig.process.why
    assert rig.acked == []


async def test_one_of_many_puts_that_fails_ends_the_others() -> None:
    rig = Rig()
    rig.journal.faults["put"] = [StoreRefusedError("403", where="memory", hint="")]
    await rig.take(*(frame(png(shade=shade)) for shade in range(40)))
    await rig.ended()
    assert rig.process.exit_code == Exit.BROKEN
    assert "StoreRefused" in rig.process.why
    assert rig.blobs.under_way == 0


async def test_a_commit_whose_answer_was_lost_is_repeated_whole_and_changes_nothing() -> None:
    rig = Rig()
    rig.catalog.lost_answers = 2
    await rig.run(frame(), b"junk")
    assert len(rig.journal.of("commit")) == 3
    assert rig.catalog.announced == [record_id(Kind.FRAME, sha256_hex(png()))]
    assert (stored(rig), len(codes(rig))) == ([0], 1)
    assert rig.acked == [0, 1]


async def test_every_message_is_counted_once_by_what_became_of_it() -> None:
    rig = Rig()
    counted = metrics.worker_deliveries_total

    def counts() -> dict[str, float]:
        return {
            outcome: counted.labels("frame", outcome)._value.get() for outcome in ("stored", "duplicate", "rejected")
        }

    before = counts()
    await rig.run(frame(), frame(), b"junk")
    assert {name: value - before[name] for name, value in counts().items()} == {
        "stored": 1,
        "duplicate": 1,
        "rejected": 1,
    }


async def test_hashing_many_bytes_leaves_the_event_loop_free() -> None:
    rig = Rig()
    beats = 0

    async def beat() -> None:
        nonlocal beats
        while True:
            beats += 1
            await asyncio.sleep(0.001)

    beating = asyncio.create_task(beat())
    await rig.run(*(frame(png(shade=shade, padding_bytes=4_000_000)) for shade in range(10)))
    beating.cancel()
    assert beats > 3
