"""What the mirror says of a message: its position in the cluster of the site that it comes from.

A mirrored topic is named SITE.TOPIC, and only the mirror of that site may write to it. So the topic's name says which
site a message is from, and the header where it was there: the offsets of the mirrored topic are of no account, because
they differ each time that it is mirrored from the start.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import orjson

from headrace.schemas.reject import RejectCode, RejectedError
from headrace.schemas.topics import site_of_topic

ORIGIN = "headrace-origin"  # as in headrace/sites/Origin.java
_ORIGIN_BYTES_MAX = 4096
_INT64_MAX = 2**63 - 1
_INT32_MAX = 2**31 - 1


@dataclass(frozen=True, slots=True)
class SitePosition:
    """The position of a message in the cluster of its site."""

    site: str
    topic: str
    partition: int
    offset: int

    @property
    def mirrored_topic(self) -> str:
        """The name of the topic here."""
        return f"{self.site}.{self.topic}"


def origin_header(origin: SitePosition) -> tuple[str, bytes]:
    """Return the header that the mirror adds to a message."""
    members = {"site": origin.site, "topic": origin.topic, "partition": origin.partition, "offset": origin.offset}
    return ORIGIN, orjson.dumps(members)


def origin_of(topic: str, headers: Iterable[tuple[str, bytes | None]]) -> SitePosition | None:
    """Return the origin of a message of this topic; None if the topic is not mirrored, or the header is missing.

    Of several headers the last one counts: the mirror adds its own after those that a source has set.

    Raises:
        RejectedError: ORIGIN_INVALID; the header is malformed, or names another topic or site than `topic`.
    """
    if site_of_topic(topic) is None:
        return None
    values = [value for name, value in headers if name == ORIGIN]
    if not values:
        return None
    origin = _parsed(values[-1])
    if origin is None:
        raise RejectedError(RejectCode.ORIGIN_INVALID, f"the header {ORIGIN} is not a position")
    if origin.mirrored_topic != topic:
        raise RejectedError(RejectCode.ORIGIN_INVALID, f"the header {ORIGIN} names another topic than {topic}")
    return origin


def check_site(topic: str, site: str) -> None:
    """Check that an event of this topic names the site that the topic comes from.

    Raises:
        RejectedError: FOREIGN_SITE.
    """
    expected = site_of_topic(topic)
    if expected is not None and site != expected:
        raise RejectedError(RejectCode.FOREIGN_SITE, f"site is not {expected}, from which {topic} comes")


def _parsed(value: bytes | None) -> SitePosition | None:
    if value is None or len(value) > _ORIGIN_BYTES_MAX:
        return None
    try:
        members = orjson.loads(value)
    except orjson.JSONDecodeError:
        return None
    match members:
        case {"site": str(site), "topic": str(topic), "partition": int(partition), "offset": int(offset)}:
            numbers_fit = 0 <= partition <= _INT32_MAX and 0 <= offset <= _INT64_MAX
            are_numbers = not isinstance(partition, bool) and not isinstance(offset, bool)
            return SitePosition(site, topic, partition, offset) if numbers_fit and are_numbers else None
        case _:
            return None
