"""What a batch puts into the store, and the rows that it commits."""

import base64
from collections.abc import Container
from dataclasses import replace
from typing import Any

import orjson
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.schemas.catalog_rows import CommitResult, LossRow
from headrace.schemas.digest import blob_key, dead_letter_id, record_id, staging_key
from headrace.schemas.events import InputEvent, Kind, kind_of
from headrace.schemas.limits import PACKED_BYTES_MAX
from headrace.streams.core.batch_plan import (
    StoredAt,
    StorePlan,
    headers_json,
    merged,
    one_by_one,
    results_of_each,
    row_batch,
    store_plan,
)
from headrace.streams.core.examine import AcceptedDelivery, DecodedBatch, RejectedDelivery, examine
from tests.streams.streams_samples import NOW_US, cid, clip, delivery, frame, ldo, mp4, png, raw_delivery

EMPTY = StorePlan((), (), ())


def accepted(event: InputEvent, *, offset: int = 0, **changes: Any) -> AcceptedDelivery:
    examined = examine(kind_of(event), delivery(event, offset=offset, **changes))
    assert isinstance(examined, AcceptedDelivery)
    return examined


def refused(value: bytes | None, *, offset: int = 0, **changes: Any) -> RejectedDelivery:
    examined = examine(Kind.CID, raw_delivery(Kind.CID, value, offset=offset, **changes))
    assert isinstance(examined, RejectedDelivery)
    return examined


def decoded(kind: Kind, *examined: AcceptedDelivery | RejectedDelivery) -> DecodedBatch:
    return DecodedBatch(
        kind,
        messages=tuple(result.message for result in examined),
        accepted=tuple(result for result in examined if isinstance(result, AcceptedDelivery)),
        rejected=tuple(result for result in examined if isinstance(result, RejectedDelivery)),
    )


def staged(event: Any, name: str = "a", **changes: Any) -> Any:
    return replace(event, body=None, claim=staging_key(event.site, event.source_id, name), **changes)


def large_ldo(size_bytes: int) -> InputEvent:
    content = {"sensor_data": {}, "context": {}, "prediction": {}, "more": ""}
    empty = accepted(ldo(body=orjson.dumps(content)))
    return ldo(body=orjson.dumps(content | {"more": "x" * (size_bytes - empty.size_bytes)}))


def test_small_bodies_are_packed_and_pictures_and_videos_stand_alone() -> None:
    cid_event, ldo_event, frame_event, clip_event = (
        accepted(cid()),
        accepted(ldo()),
        accepted(frame()),
        accepted(clip()),
    )
    assert store_plan([cid_event, ldo_event, frame_event, clip_event], {}) == StorePlan(
        alone=(frame_event, clip_event), packed=(cid_event, ldo_event), claimed=()
    )


def test_a_body_is_packed_below_the_limit_and_stands_alone_from_it_on() -> None:
    below, at = accepted(large_ldo(PACKED_BYTES_MAX - 1)), accepted(large_ldo(PACKED_BYTES_MAX))
    assert store_plan([below, at], {}) == StorePlan(alone=(at,), packed=(below,), claimed=())


def test_what_comes_twice_is_put_once() -> None:
    first, again = accepted(frame()), accepted(frame(source_id="camera-2"), offset=1)
    assert store_plan([first, again], {}).alone == (first,)
    assert store_plan([accepted(cid()), accepted(cid(sequence=8), offset=1)], {}).packed == (accepted(cid()),)


def test_what_the_catalog_knows_is_not_put_again() -> None:
    for event in (cid(), ldo(), frame(), clip()):
        accepted_event = accepted(event)
        assert store_plan([accepted_event], {accepted_event.digest}) == EMPTY


def test_every_claim_is_promoted_by_itself() -> None:
    first, second = accepted(staged(frame())), accepted(staged(frame(source_id="camera-2")), offset=1)
    inline = accepted(frame(), offset=2)
    assert store_plan([first, second, inline], {}) == StorePlan(alone=(inline,), packed=(), claimed=(first, second))


def test_a_claim_is_looked_at_even_where_its_digest_is_known() -> None:
    claimed = accepted(staged(frame()))
    assert store_plan([claimed], {claimed.digest}).claimed == (claimed,)


def test_a_frame_becomes_a_blob_a_record_and_a_sighting() -> None:
    event = frame(attributes=b'{"lens":1}')
    claimed = accepted(
        event, offset=5, partition=2, headers=(("traceparent", b"00-" + b"a" * 32 + b"-" + b"b" * 16 + b"-01"),)
    )
    batch = row_batch(decoded(Kind.FRAME, claimed), {claimed.digest: StoredAt("key")})
    (blob,), (record,), (sighting,) = batch.blobs, batch.records, batch.sightings
    assert (blob.digest.hex(), blob.size_bytes, blob.media_type) == (claimed.digest, claimed.size_bytes, "image/png")
    assert (blob.store_key, blob.store_offset) == ("key", None)
    assert record.record_id == record_id(Kind.FRAME, claimed.digest) == sighting.record_id
    assert (record.width, record.height, record.attributes) == (4, 3, b'{"lens":1}')
    assert record.traceparent == claimed.traceparent is not None
    assert (sighting.topic, sighting.partition, sighting.offset) == ("edge.frames.v1", 2, 5)
    for row in (record, sighting):
        assert (row.site, row.source_id) == (event.site, event.source_id)
        assert (row.captured_at_us, row.sequence) == (event.captured_at_us, event.sequence)
    assert batch.dead_letters == []


def test_a_record_says_what_its_kind_says() -> None:
    def only(event: InputEvent) -> Any:
        accepted_event = accepted(event)
        return row_batch(decoded(kind_of(event), accepted_event), {}).records[0]

    assert only(cid("C-9")).code == "C-9"
    assert only(ldo("L-9")).ldo_id == "L-9"
    video = only(clip(about="L-9", duration_us=17))
    assert (video.duration_us, video.about) == (17, "L-9")


def test_a_refusal_becomes_a_dead_letter_with_everything_that_came() -> None:
    refused_message = refused(b"junk", offset=9, partition=3, key=b"k", headers=(("a\0b", b"\xff"), ("a", b"")))
    batch = row_batch(decoded(Kind.CID, refused_message), {})
    (row,) = batch.dead_letters
    assert (row.topic, row.partition, row.offset, row.message_timestamp_us) == ("edge.cids.v1", 3, 9, NOW_US)
    assert (row.key, row.value, row.code, row.reason) == (b"k", b"junk", refused_message.code, refused_message.reason)
    assert orjson.loads(row.headers) == [["a\ufffdb", base64.b64encode(b"\xff").decode()], ["a", ""]]
    assert row.dead_letter_id == dead_letter_id("edge.cids.v1", 3, 9, b"junk")
    assert (row.site, row.source_id) == (None, None)
    assert (batch.blobs, batch.records, batch.sightings) == ([], [], [])


def test_a_dead_letter_names_its_source_where_it_is_known() -> None:
    examined = examine(Kind.CID, delivery(cid("")))
    (row,) = row_batch(decoded(Kind.CID, examined), {}).dead_letters
    assert (row.site, row.source_id) == ("plant", "camera-1")


def test_the_same_message_is_the_same_dead_letter_and_another_at_its_place_is_not() -> None:
    def row_id(value: bytes | None) -> object:
        return row_batch(decoded(Kind.CID, refused(value)), {}).dead_letters[0].dead_letter_id

    assert row_id(b"junk") == row_id(b"junk")
    assert len({row_id(b"junk"), row_id(b"other"), row_id(b""), row_id(None)}) == 4


@given(headers=st.lists(st.tuples(st.text(st.characters(codec="utf-8")), st.binary(max_size=20)), max_size=5))
def test_headers_are_kept_in_order_with_their_bytes(headers: list[tuple[str, bytes]]) -> None:
    kept = orjson.loads(headers_json(tuple(headers)))
    assert [base64.b64decode(value) for _, value in kept] == [value for _, value in headers]
    assert [name for name, _ in kept] == [name.replace("\0", "\ufffd") for name, _ in headers]


# A batch is described by which picture each message carries, whether it is staged, and where it is junk.
MESSAGES = st.lists(st.tuples(st.integers(0, 5), st.sampled_from(["inline", "staged", "junk"])), max_size=20)


@settings(max_examples=80, deadline=None)
@given(messages=MESSAGES, known_shades=st.sets(st.integers(0, 5)))
def test_whatever_the_batch_every_message_is_accounted_for_once(
    messages: list[tuple[int, str]], known_shades: set[int]
) -> None:
    examined: list[AcceptedDelivery | RejectedDelivery] = []
    for offset, (shade, how) in enumerate(messages):
        event = frame(png(shade=shade), sequence=offset)
        match how:
            case "inline":
                examined.append(accepted(event, offset=offset))
            case "staged":
                examined.append(accepted(staged(event), offset=offset))
            case _:
                examined.append(refused(b"junk", offset=offset))
    stored_digests: Container[str] = {accepted(frame(png(shade=shade))).digest for shade in known_shades}
    good = [delivery for delivery in examined if isinstance(delivery, AcceptedDelivery)]
    todo = store_plan(good, stored_digests)

    to_put = [delivery.digest for delivery in (*todo.alone, *todo.packed)]
    assert len(to_put) == len(set(to_put)), "each body is put once"
    inline = {delivery.digest for delivery in good if delivery.body is not None}
    assert set(to_put) == {digest for digest in inline if digest not in stored_digests}, (
        "what is new is put, and only that"
    )
    assert todo.claimed == tuple(delivery for delivery in good if delivery.body is None), "every claim is looked at"
    needed = {*to_put, *(delivery.digest for delivery in todo.claimed)}

    places = {digest: StoredAt(blob_key(digest)) for digest in needed}
    batch = row_batch(decoded(Kind.FRAME, *examined), places)
    assert {blob.digest.hex() for blob in batch.blobs} == needed
    assert len(batch.blobs) == len(needed)
    assert [row.offset for row in batch.sightings] == [delivery.message.offset for delivery in good]
    assert [row.digest.hex() for row in batch.records] == [delivery.digest for delivery in good]
    offsets = [row.offset for row in batch.sightings] + [row.offset for row in batch.dead_letters]
    assert sorted(offsets) == list(range(len(messages)))


def test_two_kinds_never_share_a_record() -> None:
    body = mp4()
    assert record_id(Kind.CLIP, accepted(clip(body)).digest) != record_id(Kind.FRAME, accepted(clip(body)).digest)


def test_merged_batches_have_every_row_in_order_and_the_highest_losses_of_each_spool() -> None:
    first = row_batch(decoded(Kind.CID, accepted(cid("A")), refused(b"junk", offset=1)), {})
    second = row_batch(decoded(Kind.CID, accepted(cid("B"), offset=2), accepted(cid("A"), offset=3)), {})
    low, high = (LossRow(site="plant", source_id="s", spool="x", dropped=n, damaged=9 - n) for n in (3, 5))
    together = merged(
        [replace(first, losses=[high], progress={("t", 0): 2}), replace(second, losses=[low], progress={("t", 0): 4})]
    )
    assert together is not None
    assert together.records == [*first.records, *second.records]
    assert [row.offset for row in together.sightings] == [0, 2, 3]
    assert together.dead_letters == first.dead_letters
    assert together.losses == [replace(high, damaged=6)]
    assert together.progress == {("t", 0): 4}
    assert merged([replace(first, collection_epoch=1), replace(second, collection_epoch=2)]) is None
    epochs = merged([replace(first, collection_epoch=None), replace(second, collection_epoch=2)])
    assert epochs is not None
    assert epochs.collection_epoch == 2


def test_what_is_new_of_merged_batches_counts_once_and_for_the_first() -> None:
    first = row_batch(decoded(Kind.CID, accepted(cid("A"))), {})
    second = row_batch(decoded(Kind.CID, accepted(cid("A"), offset=1), accepted(cid("B"), offset=2)), {})
    new = frozenset(row.record_id for row in second.records)
    results = list(results_of_each([first, second], CommitResult(new_records=new, newly_dropped=4)))
    assert [(len(result.new_records), result.duplicates, result.newly_dropped) for result in results] == [
        (1, 0, 4),
        (1, 1, 0),
    ]


def test_each_message_of_a_batch_is_a_batch_of_its_own_in_order() -> None:
    batch = decoded(Kind.CID, refused(b"x"), accepted(cid("C-1"), offset=1), refused(None, offset=2))
    batch = replace(batch, progress={("edge.cids.v1", 0): 3})
    rows = row_batch(batch, {}, collection_epoch=1)
    singles = list(one_by_one(batch, rows))
    assert [single.messages for single, _ in singles] == [(message,) for message in batch.messages]
    assert [(len(single.accepted), len(single.rejected)) for single, _ in singles] == [(0, 1), (1, 0), (0, 1)]
    assert [single.progress for single, _ in singles] == [{}, {}, batch.progress]
    assert merged([row for _, row in singles]) == rows


def test_results_of_transactions_add_up() -> None:
    one, two = frozenset({record_id(Kind.CID, "a" * 64)}), frozenset({record_id(Kind.CID, "b" * 64)})
    assert CommitResult(one, 1, 2, 3, 4, 5) + CommitResult(two, 10, 20, 30, 40, 50) == CommitResult(
        one | two, 11, 22, 33, 44, 55
    )
