"""What goes to the archive, into which objects, and how fast: the decisions."""

from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.batch.archive.job import open_archive
from headrace.batch.archive.move import Throttle
from headrace.batch.archive.plan import (
    PACK_BODIES_MAX,
    PACK_BYTES_MAX,
    PackedMove,
    SingleMove,
    delay_s,
    in_reading_order,
    is_due,
    is_separate,
    plan_objects,
)
from headrace.runtime.errors import Exit, HeadraceError
from headrace.runtime.settings import load_settings
from headrace.schemas.catalog_rows import BlobLocation
from headrace.schemas.events import Kind
from headrace.schemas.limits import PACKED_BYTES_MAX
from headrace.store.catalog.archives import BodyOwner

BEFORE_US = 1_000_000


def body(number: int, size_bytes: int = 100, media_type: str = "application/json") -> BlobLocation:
    digest = sha256(str(number).encode()).digest()
    return BlobLocation(digest, size_bytes, media_type, f"packs/{number % 3}", number)


def owner(kind: Kind, ingested_at_us: int) -> BodyOwner:
    return BodyOwner(b"d" * 32, kind, ingested_at_us)


@pytest.mark.parametrize(
    ("owners", "due"),
    [
        ([owner(Kind.LDO, BEFORE_US - 1)], True),
        ([owner(Kind.CLIP, BEFORE_US - 1)], True),
        ([owner(Kind.LDO, BEFORE_US)], False),
        ([owner(Kind.CLIP, 1), owner(Kind.FRAME, 1)], False),
        ([owner(Kind.LDO, 1), owner(Kind.CLIP, BEFORE_US)], False),
        ([owner(Kind.LDO, 1), owner(Kind.CLIP, 2)], True),
        ([owner(Kind.LDO, 1), owner(Kind.CID, 1)], False),
    ],
)
def test_bytes_go_only_when_everything_that_has_them_may_go(owners: list[BodyOwner], due: bool) -> None:
    assert is_due(owners, BEFORE_US) is due


@given(
    st.lists(
        st.tuples(st.integers(1, 2 * PACKED_BYTES_MAX), st.sampled_from(["application/json", "video/mp4"])), max_size=80
    )
)
def test_every_body_is_in_one_object_and_only_small_ones_are_packed(text: list[tuple[int, str]]) -> None:
    bodies = [body(number, size, media_type) for number, (size, media_type) in enumerate(text)]
    objects = list(plan_objects(bodies))
    held = [
        item for several in objects for item in (several.bodies if isinstance(several, PackedMove) else (several.body,))
    ]
    assert sorted(item.digest for item in held) == sorted(item.digest for item in bodies)
    for portion in objects:
        match portion:
            case PackedMove(packed):
                assert len(packed) > 1
                assert all(item.size_bytes < PACKED_BYTES_MAX and item.media_type.endswith("json") for item in packed)
            case SingleMove():
                pass
    assert list(plan_objects(bodies)) == objects


def test_a_pack_ends_at_its_number_of_bodies_and_at_its_bytes() -> None:
    by_number = list(plan_objects([body(number, 1) for number in range(PACK_BODIES_MAX + 2)]))
    assert [len(item.bodies) for item in by_number if isinstance(item, PackedMove)] == [PACK_BODIES_MAX, 2]
    large = PACKED_BYTES_MAX - 1
    by_bytes = list(plan_objects([body(number, large) for number in range(PACK_BYTES_MAX // large + 3)]))
    sizes = [sum(item.size_bytes for item in by_byte.bodies) for by_byte in by_bytes if isinstance(by_byte, PackedMove)]
    assert len(sizes) == 2
    assert max(sizes) <= PACK_BYTES_MAX


def test_bodies_of_one_object_are_read_together_and_once() -> None:
    ordered = in_reading_order([body(number) for number in (5, 0, 3, 1, 0)])
    assert [(item.store_key, item.store_offset) for item in ordered] == [
        ("packs/0", 0),
        ("packs/0", 3),
        ("packs/1", 1),
        ("packs/2", 5),
    ]


@pytest.mark.parametrize(
    ("archive", "apart"),
    [
        ("s3://headrace-archive", True),
        ("s3://headrace/archive", True),
        ("s3://headrace/archive/deep", True),
        ("s3://headrace", False),
        ("s3://headrace/", False),
        ("s3://headrace/packs", False),
        ("s3://headrace/blobs/old", False),
        ("s3://headrace/staging", False),
        ("file:///mnt/archive", True),
    ],
)
def test_the_archive_is_not_where_the_store_keeps_its_own(archive: str, apart: bool) -> None:
    assert is_separate(archive, "s3://headrace") is apart


def test_a_prefix_beside_or_around_that_of_the_store_is_apart() -> None:
    assert is_separate("s3://one/cold", "s3://one/hot")
    assert is_separate("s3://one", "s3://one/hot")
    assert not is_separate("s3://one/hot/packs", "s3://one/hot")


@pytest.mark.parametrize(
    ("given_", "named"),
    [
        ({"archive_url": "ftp://old"}, "HEADRACE_ARCHIVE_URL"),
        ({"archive_url": "file:///mnt/old", "archive_storage_class": "GLACIER"}, "HEADRACE_ARCHIVE_STORAGE_CLASS"),
        ({"archive_storage_class": "GLACIER"}, "HEADRACE_ARCHIVE_STORAGE_CLASS"),
        ({"archive_url": "s3://old", "archive_storage_class": "cold one"}, "HEADRACE_ARCHIVE_STORAGE_CLASS"),
        ({"archive_after_days": -1}, "HEADRACE_ARCHIVE_AFTER_DAYS"),
        ({"archive_bytes_per_s": 0}, "HEADRACE_ARCHIVE_BYTES_PER_S"),
    ],
)
def test_a_wrong_setting_is_named(given_: dict[str, object], named: str) -> None:
    with pytest.raises(HeadraceError, match=named):
        load_settings(_env_file=None, **given_)


@pytest.mark.parametrize("url", ["", "s3://headrace", "s3://headrace/blobs"])
def test_an_archive_that_is_none_or_the_stores_own_is_refused_with_what_to_set(url: str) -> None:
    settings = load_settings(_env_file=None, store_url="s3://headrace", archive_url=url)
    with pytest.raises(HeadraceError) as refused:
        open_archive(settings)
    assert refused.value.exit_code == Exit.USAGE
    assert "s3://headrace" in refused.value.hint


@given(st.integers(0, 2**40), st.floats(0, 1e6), st.integers(1024, 2**34))
def test_waiting_holds_the_rate(taken_bytes: int, elapsed_s: float, bytes_per_s: int) -> None:
    wait_s = delay_s(taken_bytes, elapsed_s, bytes_per_s)
    assert wait_s >= 0
    assert taken_bytes <= (elapsed_s + wait_s) * bytes_per_s * (1 + 1e-9) + 1e-6


async def test_bytes_wait_for_those_before_them() -> None:
    now_s, slept = 0.0, []

    async def sleep(seconds: float) -> None:
        nonlocal now_s
        slept.append(seconds)
        now_s += seconds

    throttle = Throttle(1000, now_s=lambda: now_s, sleep=sleep)
    for _ in range(3):
        await throttle.acquire(2000)
    assert slept == [2.0, 2.0]
