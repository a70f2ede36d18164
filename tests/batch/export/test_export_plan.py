import asyncio
import subprocess
import sys
from hashlib import sha256
from itertools import pairwise
from pathlib import Path
from uuid import uuid4

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.batch.export.reading import read_ahead
from headrace.batch.export.request import (
    QualityBound,
    ShardFill,
    Split,
    is_within,
    parse_bounds,
    shard_name,
    split_of,
    validate_request,
)
from headrace.runtime.errors import Exit, HeadraceError
from headrace.schemas.events import Kind, PreprocessedFrame
from headrace.store.catalog.exports import ExportSelection
from tests.batch.export.export_samples import request

DIGESTS = [sha256(b"%d" % number).hexdigest() for number in range(4000)]


def test_the_share_of_validation_is_what_was_asked_for() -> None:
    for share in (0.0, 0.1, 0.5, 1.0):
        chosen = sum(split_of(digest, None, share) is Split.VALIDATION for digest in DIGESTS)
        assert abs(chosen / len(DIGESTS) - share) < 0.03


def test_a_larger_share_keeps_what_a_smaller_one_chose() -> None:
    small, large = (
        {digest for digest in DIGESTS if split_of(digest, None, share) is Split.VALIDATION} for share in (0.1, 0.3)
    )
    assert small < large


def test_an_ldo_is_where_its_clip_is() -> None:
    assert all(split_of(item, other, 0.5) is split_of(other, None, 0.5) for item, other in pairwise(DIGESTS))


def test_names_of_shards_sort_as_their_numbers_do() -> None:
    assert shard_name(Split.TRAIN, 12, "tar") == "train-000012.tar"


@settings(max_examples=50)
@given(st.lists(st.integers(1, 100), min_size=1, max_size=40), st.integers(1, 150), st.integers(1, 9))
def test_no_shard_is_empty_or_over_its_limits(sizes: list[int], bytes_max: int, samples_max: int) -> None:
    shards = [ShardFill(bytes_max, samples_max)]
    for size in sizes:
        if not shards[-1].fits(size):
            shards.append(ShardFill(bytes_max, samples_max))
            assert shards[-1].fits(size)
        shards[-1].add(size)
    assert all(shard.samples <= samples_max and (shard.bytes <= bytes_max or shard.samples == 1) for shard in shards)
    assert sum(shard.samples for shard in shards) == len(sizes)
    assert min(shard.samples for shard in shards) > 0


def test_bounds_are_the_same_however_they_are_written() -> None:
    assert parse_bounds("sharpness>=50, dark_share<=0.4") == parse_bounds("dark_share<=0.40,sharpness>=50.0")
    assert str(QualityBound("sharpness", at_least=True, value=50.0)) == "sharpness>=50"


def test_bounds_that_differ_in_any_digit_are_asked_for_apart() -> None:
    asked = [
        request(quality=parse_bounds(text)).as_json() for text in ("sharpness>=50.1234567", "sharpness>=50.1234568")
    ]
    assert asked[0] != asked[1]
    assert parse_bounds(asked[0]["quality"][0]) == parse_bounds("sharpness>=50.1234567")


@pytest.mark.parametrize("text", ["", "sharpness", "sharpness>50", "sharpness>=", "beauty>=1", "sharpness>=nan", "a=1"])
def test_what_is_no_bound_is_refused(text: str) -> None:
    with pytest.raises(HeadraceError, match="not a bound of a frame's quality"):
        parse_bounds(text)


def measured(**changes: object) -> PreprocessedFrame:
    given_: dict[str, object] = {
        "event_id": str(uuid4()),
        "record_id": str(uuid4()),
        "digest": DIGESTS[0],
        "source_id": "cam",
        "site": "plant",
        "captured_at_us": 1,
        "sequence": 1,
        "width": 640,
        "height": 480,
        "sharpness": 60.0,
        "brightness": 0.5,
        "dark_share": 0.1,
        "bright_share": 0.1,
        "perceptual_hash": "0" * 16,
        "thumbnail_sha256": "",
        "thumbnail_key": "",
        "thumbnail_width": 0,
        "thumbnail_height": 0,
    }
    return PreprocessedFrame(**(given_ | changes))  # type: ignore[arg-type]


def test_a_frame_keeps_every_bound_or_is_left_out() -> None:
    bounds = parse_bounds("sharpness>=60,dark_share<=0.1,width>=640")
    assert is_within(measured(), bounds)
    assert not is_within(measured(sharpness=59.9), bounds)
    assert not is_within(measured(dark_share=0.2), bounds)
    assert not is_within(measured(error="not decodable"), parse_bounds("dark_share<=1"))


@pytest.mark.parametrize("kinds", [None, (Kind.CLIP,), (Kind.CLIP, Kind.FRAME)])
def test_quality_is_of_frames_only(kinds: tuple[Kind, ...] | None) -> None:
    bounds = parse_bounds("sharpness>=1")
    with pytest.raises(HeadraceError, match="frames only"):
        validate_request(request(quality=bounds, wanted=ExportSelection(until_us=1, kinds=kinds)))
    validate_request(request(quality=bounds, wanted=ExportSelection(until_us=1, kinds=(Kind.FRAME,))))


@pytest.mark.parametrize("share", [float("nan"), -0.1, 1.1])
def test_a_share_that_is_none_is_refused(share: float) -> None:
    with pytest.raises(HeadraceError, match="validation share"):
        validate_request(request(validation_share=share))


@pytest.mark.server
def test_without_pyarrow_parquet_says_what_to_install_and_asks_nothing_of_the_service(tmp_path: Path) -> None:
    """As in the service's image, which has none."""
    script = "import sys; sys.modules['pyarrow'] = None; from headrace.cli.app import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", script, "export", "parquet", str(tmp_path / "out")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == Exit.USAGE
    assert done.stderr.startswith("package_missing: the Parquet format requires pyarrow, which is not installed")
    assert "pip install 'headrace[export]'" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()


async def test_what_is_read_ahead_keeps_its_order_and_its_bounds() -> None:
    under_way: set[int] = set()
    most = [0, 0]

    async def numbers():
        for number in range(200):
            yield number

    async def read(number: int) -> int:
        under_way.add(number)
        most[0] = max(most[0], len(under_way))
        for _ in range(number * 7 % 5):
            await asyncio.sleep(0)
        under_way.discard(number)
        return number

    result = [item async for item in read_ahead(numbers(), read, lambda _: 10, items_max=8, bytes_max=50)]
    assert result == list(range(200))
    assert 1 < most[0] <= 5


async def test_what_is_under_way_is_ended_when_one_fails() -> None:
    ended: list[int] = []

    async def numbers():
        for number in range(20):
            yield number

    async def read(number: int) -> int:
        if number == 0:
            raise HeadraceError("store_unreachable", "the store is away")
        try:
            await asyncio.sleep(3600)
        finally:
            ended.append(number)
        return number

    with pytest.raises(HeadraceError, match="away"):
        _ = [item async for item in read_ahead(numbers(), read, lambda _: 1, items_max=4)]
    assert ended == [1, 2, 3]
