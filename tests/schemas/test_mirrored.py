"""Where a mirrored message was at its site, and whose it is."""

from typing import Any

import orjson
import pytest

from headrace.schemas.mirrored import ORIGIN, SitePosition, check_site, origin_header, origin_of
from headrace.schemas.reject import RejectCode, RejectedError

TOPIC = "factory-a.edge.frames.v1"
AT = SitePosition("factory-a", "edge.frames.v1", 2, 1234)
MEMBERS: dict[str, Any] = {"site": "factory-a", "topic": "edge.frames.v1", "partition": 2, "offset": 1234}


def test_the_origin_is_what_the_mirror_wrote() -> None:
    assert origin_of(TOPIC, [("ce_id", b"7"), origin_header(AT)]) == AT
    assert AT.mirrored_topic == TOPIC


def test_a_message_of_this_cluster_and_one_without_the_header_have_none() -> None:
    assert origin_of("edge.frames.v1", [origin_header(AT)]) is None, "any device may set it there"
    assert origin_of(TOPIC, []) is None


def test_the_mirrors_own_header_counts_and_not_one_that_a_source_has_set() -> None:
    forged = origin_header(SitePosition("factory-a", "edge.frames.v1", 0, 0))
    assert origin_of(TOPIC, [forged, origin_header(AT)]) == AT


@pytest.mark.parametrize(
    "value",
    [
        None,
        b"",
        b"7",
        b"[]",
        b"{",
        b"\xff",
        b"[" * 3000,
        *[orjson.dumps({name: value for name, value in MEMBERS.items() if name != left_out}) for left_out in MEMBERS],
        *[
            orjson.dumps(MEMBERS | changed)
            for changed in (
                {"offset": -1},
                {"offset": 2**63},
                {"offset": 1.0},
                {"offset": True},
                {"offset": "7"},
                {"partition": 2**31},
                {"partition": None},
                {"site": 7},
                {"topic": None},
                {"site": "factory-b"},
                {"topic": "edge.clips.v1"},
                {"more": "x" * 5000},
            )
        ],
    ],
)
def test_a_header_that_is_no_position_of_this_topic_is_rejected(value: bytes | None) -> None:
    with pytest.raises(RejectedError) as rejected:
        origin_of(TOPIC, [(ORIGIN, value)])
    assert rejected.value.code is RejectCode.ORIGIN_INVALID


def test_a_site_cannot_deliver_under_the_name_of_another_one() -> None:
    check_site(TOPIC, "factory-a")
    check_site("edge.frames.v1", "factory-b")
    for other in ("factory-b", "Factory-a", "factory-a ", ""):
        with pytest.raises(RejectedError) as rejected:
            check_site(TOPIC, other)
        assert rejected.value.code is RejectCode.FOREIGN_SITE
