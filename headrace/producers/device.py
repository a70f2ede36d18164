from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from headrace.producers.bodies import describe_clip
from headrace.producers.delivery import Delivery, EventPublisher
from headrace.producers.source import Source, fields_of, unix_us
from headrace.schemas.events import Cid, InputEvent, Ldo
from headrace.schemas.reject import RejectCode, RejectedError


class Reported(NamedTuple):
    """The deliveries of one report; `clip` is None without a clip."""

    ldo: Delivery
    clip: Delivery | None


class Device:
    """A device that scans components (CIDs) and reports labelled data objects (LDOs).

    Times are microseconds since 1970, UTC; the default is now. `on_published` is called with every published event.

    Raises:
        RejectedError: `source_id` or `site` is not a valid name.
    """

    def __init__(
        self,
        publisher: EventPublisher,
        source_id: str,
        site: str = "default",
        *,
        on_published: Callable[[InputEvent, Delivery], None] | None = None,
        clock_us: Callable[[], int] = unix_us,
    ) -> None:
        """Publish as `source_id` at `site`."""
        self._publisher = publisher
        self._source = Source(source_id, site, clock_us)
        self._on_published = on_published

    def scan(
        self, code: str, symbology: str = "QRCode", *, captured_at_us: int | None = None, seen_in: str | None = None
    ) -> Delivery:
        """Publish one scan. The same code at the same time is the same record; at another time it is a new record.

        Raises:
            RejectedError: the code is empty, too long or contains U+0000.
        """
        origin = self._source.origin(captured_at_us)
        return self._publish(Cid(**fields_of(origin), code=code, symbology=symbology, seen_in=seen_in))

    def report(  # noqa: PLR0913 - the parameters are the public interface
        self,
        ldo_id: str,
        *,
        sensor_data: dict[str, Any],
        context: dict[str, Any],
        prediction: dict[str, Any],
        clip: bytes | Path | None = None,
        captured_at_us: int | None = None,
    ) -> Reported:
        """Publish one LDO and its MP4 clip, if there is one.

        Raises:
            RejectedError: the parts are not JSON, the LDO is too large, or the clip is not an MP4.
        """
        body = _body(sensor_data, context, prediction)
        return self.report_json(ldo_id, body, clip=clip, captured_at_us=captured_at_us)

    def report_json(
        self, ldo_id: str, body: bytes, *, clip: bytes | Path | None = None, captured_at_us: int | None = None
    ) -> Reported:
        """Publish one LDO with an encoded body, which is stored byte for byte, including numbers of any length.

        The same values in another encoding are another record.

        Raises:
            RejectedError: as `report`.
        """
        origin = self._source.origin(captured_at_us)
        if clip is None:
            return Reported(self._publish(Ldo(**fields_of(origin), ldo_id=ldo_id, body=body)), None)
        clip_event = describe_clip(clip, self._source.origin(origin.captured_at_us), about=ldo_id)
        ldo = Ldo(**fields_of(origin), ldo_id=ldo_id, body=body, clip_sha256=clip_event.sha256)
        # The LDO goes first: it is small, and must not wait until the clip is staged.
        ldo_delivery = self._publish(ldo)
        return Reported(ldo_delivery, self._publish(clip_event, body_path=clip if isinstance(clip, Path) else None))

    def _publish(self, event: InputEvent, *, body_path: Path | None = None) -> Delivery:
        delivery = self._publisher.publish(event, body_path=body_path)
        if self._on_published is not None:
            self._on_published(event, delivery)
        return delivery


def _body(sensor_data: dict[str, Any], context: dict[str, Any], prediction: dict[str, Any]) -> bytes:
    try:
        return orjson.dumps(
            {"sensor_data": sensor_data, "context": context, "prediction": prediction}, option=orjson.OPT_SORT_KEYS
        )
    except TypeError as error:  # orjson's own error is one
        raise RejectedError(RejectCode.NOT_JSON, f"the LDO cannot be written as JSON: {error}") from None
