"""A camera: its frames, the codes that appear in them, and clips around what happens."""

import threading
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeAlias

from headrace.producers.bodies import describe_clip, describe_frame
from headrace.producers.clips import Clipper, cut
from headrace.producers.delivery import Delivery, DeliveryStats, EventPublisher
from headrace.producers.publisher import DELIVERY_S_MAX
from headrace.producers.qr import Appearances, find_codes
from headrace.producers.source import Source, fields_of, unix_us
from headrace.producers.video_frames import (
    Skipped,
    VideoFrame,
    VideoFrames,
    from_image,
    image_files,
    image_shots,
    live_shots,
    video_shots,
)
from headrace.runtime.errors import Exit, HeadraceError
from headrace.schemas.events import Cid, InputEvent, Kind
from headrace.schemas.limits import KIB
from headrace.schemas.media_probe import image_header
from headrace.schemas.reject import RejectCode, RejectedError

_HEAD_BYTES = 64 * KIB  # enough to tell an image from a video

OnPublished: TypeAlias = Callable[[InputEvent, Delivery], None]


@dataclass(frozen=True, slots=True)
class CameraReport:
    """What a run published, what became of it, and the first sentences on what went wrong; sizes are bytes."""

    frames: int
    codes: int
    clips: int
    acknowledged: int
    failed: int
    bytes: int
    faults: tuple[str, ...]


class Camera:
    """Publishes a folder of images as they are, a video file's frames, or those of a camera on this machine.

    `source` is a path, or a number for a local camera. `fps` chooses frames from a faster source (None: all). With
    `realtime`, files are published at their own pace and as captured now. `tally` counts several
    cameras, or runs, together; `on_published` is called with everything that is handed over, from more than one thread.

    Raises:
        Rejected: `source_id` or `site` may not be a name.
        HeadraceError: source_missing.
    """

    def __init__(  # noqa: PLR0913 - each is one choice of whoever sets a camera up
        self,
        publisher: EventPublisher,
        source: int | str | Path,
        source_id: str,
        site: str = "default",
        *,
        fps: float | None = None,
        jpeg_quality: int = 90,
        find_codes: bool = True,
        clip_on_code: bool = False,
        realtime: bool = False,
        tally: DeliveryStats | None = None,
        on_published: OnPublished | None = None,
        clock_us: Callable[[], int] = unix_us,
    ) -> None:
        """Prepare; nothing is read yet."""
        if fps is not None and not fps > 0:
            raise ValueError("fps must be above 0")
        if not 1 <= jpeg_quality <= 100:
            raise ValueError("jpeg_quality must be from 1 to 100")
        self._publisher = publisher
        self._feed = source if isinstance(source, int) else _existing(Path(source))
        self._source = Source(source_id, site, clock_us)
        self._fps = fps
        self._jpeg_quality = jpeg_quality
        self._finds_codes = find_codes or clip_on_code
        self._clip_on_code = clip_on_code
        self._realtime = realtime and not isinstance(source, int)
        self._tally_given = tally
        self._on_published = on_published
        self._stopped = threading.Event()
        self._begin()

    def run(self, frames_max: int | None = None) -> CameraReport:
        """Publish until the source ends, `stop` is called or `frames_max` frames are out; returns when all is settled.

        `frames_max` is 1 or more. May be called again: a file begins anew, and its frames are then sightings of the
        same records.

        Raises:
            HeadraceError: video_unreadable or camera_unavailable; what was read before is published.
        """
        self._begin()
        began_s = time.monotonic()
        left = frames_max
        try:
            with closing(self._shots()) as shots:
                for shot in shots:
                    if isinstance(shot, Skipped):
                        self._tally.fail(f"{shot.name} was not published: {shot.why}")
                        continue
                    self._take(self._paced(shot, began_s))
                    left = None if left is None else left - 1
                    if left == 0 or self._stopped.is_set():
                        break
        finally:
            self._clipper.finish()
            self._tally.wait(DELIVERY_S_MAX + 1)
        return _report(self._tally)

    def clip(self, about: str | None = None) -> Delivery:
        """Cut an MP4 clip of CLIP_S seconds around now and publish it; may be called from any thread.

        It is cut once its second half has been seen. When the camera does not run, it is the last CLIP_S seconds.
        `about` is the LDO id or code that the clip belongs to.

        Raises:
            HeadraceError: no_frames_yet.
        """
        return self._clipper.wish(about)

    def stop(self) -> None:
        """Let `run` return after the frame that it is at; may be called from any thread."""
        self._stopped.set()

    def _begin(self) -> None:
        self._stopped.clear()
        self._tally = self._tally_given or DeliveryStats()
        self._appearances = Appearances()
        self._clipper = Clipper(self._publish_clip)

    def _shots(self) -> VideoFrames:
        clock_us = self._source.clock_us
        match self._feed:
            case int(index):
                return live_shots(index, fps=self._fps, jpeg_quality=self._jpeg_quality, clock_us=clock_us)
            case Path() as path if path.is_dir():
                return image_shots(image_files(path), fps=self._fps, clock_us=clock_us)
            case Path() as path if _is_image(path):
                return image_shots([path], fps=self._fps, clock_us=clock_us)
            case Path() as path:
                return video_shots(path, fps=self._fps, jpeg_quality=self._jpeg_quality, clock_us=clock_us)

    def _paced(self, shot: VideoFrame, began_s: float) -> VideoFrame:
        if not self._realtime:
            return shot
        self._stopped.wait(max(0.0, began_s + shot.at_us / 1_000_000 - time.monotonic()))
        return replace(shot, captured_at_us=self._source.clock_us())

    def _take(self, shot: VideoFrame) -> None:
        frame = describe_frame(shot.body, self._source.origin(shot.captured_at_us))
        self._publish(frame)
        self._clipper.see(shot)
        if not self._finds_codes:
            return
        pixels = from_image(shot.body) if shot.pixels is None else shot.pixels
        found = [] if pixels is None else find_codes(pixels)
        for code in self._appearances.new(found, shot.at_us):
            origin = self._source.origin(shot.captured_at_us)
            self._publish(Cid(**fields_of(origin), code=code, seen_in=frame.sha256))
            if self._clip_on_code:
                self._clipper.wish(code)

    def _publish_clip(self, shots: Sequence[VideoFrame], about: str | None) -> Delivery:
        try:
            body = cut(shots)
            if body is None:
                raise RejectedError(RejectCode.NOT_AN_IMAGE, "no frame of the clip can be decoded")  # noqa: TRY301
            clip = describe_clip(body, self._source.origin(shots[0].captured_at_us), about=about)
            return self._publish(clip)
        except Exception as error:
            self._tally.fail(f"the clip about {about} was not published: {error}")
            raise

    def _publish(self, event: InputEvent) -> Delivery:
        delivery = self._publisher.publish(event)
        self._tally.add(event, delivery)
        if self._on_published is not None:
            self._on_published(event, delivery)
        return delivery


def _report(tally: DeliveryStats) -> CameraReport:
    counts = tally.counts()
    return CameraReport(
        frames=counts.by_kind[Kind.FRAME],
        codes=counts.by_kind[Kind.CID],
        clips=counts.by_kind[Kind.CLIP],
        acknowledged=counts.acknowledged,
        failed=counts.failed,
        bytes=counts.bytes,
        faults=counts.faults,
    )


def _existing(path: Path) -> Path:
    if not path.exists():
        raise HeadraceError(
            "source_missing",
            "there is no such file or folder",
            where=str(path),
            hint="give an image folder, a video file, or the number of a local camera",
            exit_code=Exit.USAGE,
        )
    return path


def _is_image(path: Path) -> bool:
    with path.open("rb") as file:
        head = file.read(_HEAD_BYTES)
    return head[:2] == b"\xff\xd8" or image_header(head) is not None
