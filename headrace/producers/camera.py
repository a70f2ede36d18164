"""A camera: its frames, the codes that appear in them, and clips around events."""

import threading
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import NamedTuple, TypeAlias

import cv2

from headrace.producers.bodies import describe_clip, describe_frame
from headrace.producers.clips import Clipper, cut
from headrace.producers.delivery import Delivery, DeliveryStats, EventPublisher
from headrace.producers.publisher import DELIVERY_S_MAX
from headrace.producers.rtsp_frames import is_stream, read_stream
from headrace.producers.source import Source, fields_of, unix_us
from headrace.producers.video_frames import (
    Pixels,
    Skipped,
    VideoFrame,
    VideoFrames,
    from_image,
    image_files,
    read_camera,
    read_images,
    read_video,
)
from headrace.runtime.errors import Exit, HeadraceError
from headrace.schemas.events import Cid, InputEvent, Kind
from headrace.schemas.media.formats import SNIFF_BYTES, format_of
from headrace.schemas.reject import RejectCode, RejectedError

OnPublished: TypeAlias = Callable[[InputEvent, Delivery], None]
CODE_GONE_S = 2.0


@dataclass(frozen=True, slots=True)
class CameraReport:
    """Counts of one run by kind and result, the bytes published, and the first errors."""

    frames: int
    codes: int
    clips: int
    acknowledged: int
    failed: int
    bytes: int
    faults: tuple[str, ...]


class Camera:
    """Publishes a folder of images as they are, a video file's frames, or those of a camera on this machine.

    `source` is a path, or the number of a local camera. `fps` limits the frame rate (None: all frames). With
    `realtime`, files are published at their own pace and as captured now. `tally` counts several cameras or runs
    together. `on_published` is called with every published event, from more than one thread.

    Raises:
        RejectedError: `source_id` or `site` is not a valid name.
        HeadraceError: source_missing.
    """

    def __init__(  # noqa: PLR0913 - the parameters are the public interface
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
        """Check the options; nothing is read yet."""
        if fps is not None and not fps > 0:
            raise ValueError("fps must be above 0")
        if not 1 <= jpeg_quality <= 100:
            raise ValueError("jpeg_quality must be from 1 to 100")
        self._publisher = publisher
        self._feed = _feed_of(source)
        self._source = Source(source_id, site, clock_us)
        self._fps = fps
        self._jpeg_quality = jpeg_quality
        self._finds_codes = find_codes or clip_on_code
        self._clip_on_code = clip_on_code
        self._realtime = realtime and isinstance(self._feed, Path)
        self._given_stats = tally
        self._on_published = on_published
        self._stopped = threading.Event()
        self._begin()

    def run(self, frames_max: int | None = None) -> CameraReport:
        """Publish until the source ends, `stop` is called or `frames_max` frames were read; wait for all deliveries.

        `frames_max` is 1 or more. May be repeated: a file is read from its start, and its frames become sightings of
        the same records.

        Raises:
            HeadraceError: video_unreadable or camera_unavailable; the frames before the fault are published.
        """
        self._begin()
        began_s = time.monotonic()
        left = frames_max
        try:
            with closing(self._video_frames()) as video_frames:
                for video_frame in video_frames:
                    if isinstance(video_frame, Skipped):
                        self._delivery_stats.fail(f"{video_frame.name} was not published: {video_frame.why}")
                        continue
                    self._take(self._paced(video_frame, began_s))
                    left = None if left is None else left - 1
                    if left == 0 or self._stopped.is_set():
                        break
        finally:
            self._clipper.finish()
            self._delivery_stats.wait(DELIVERY_S_MAX + 1)
        return _report(self._delivery_stats)

    def clip(self, about: str | None = None) -> Delivery:
        """Cut an MP4 clip of CLIP_S seconds around now and publish it; may be called from any thread.

        It is cut once its second half was read. If the camera does not run, the clip has the last CLIP_S seconds.
        `about` is the LDO id or code that the clip belongs to.

        Raises:
            HeadraceError: no_frames_yet.
        """
        return self._clipper.request(about)

    def stop(self) -> None:
        """Let `run` return after the current frame; may be called from any thread."""
        self._stopped.set()

    def _begin(self) -> None:
        self._stopped.clear()
        self._delivery_stats = self._given_stats or DeliveryStats()
        self._appearances = Appearances()
        self._clipper = Clipper(self._publish_clip)

    def _video_frames(self) -> VideoFrames:
        clock_us = self._source.clock_us
        match self._feed:
            case int(index):
                return read_camera(index, fps=self._fps, jpeg_quality=self._jpeg_quality, clock_us=clock_us)
            case str(url):
                return read_stream(url, fps=self._fps, jpeg_quality=self._jpeg_quality, clock_us=clock_us)
            case Path() as path if path.is_dir():
                return read_images(image_files(path), fps=self._fps, clock_us=clock_us)
            case Path() as path if _is_image(path):
                return read_images([path], fps=self._fps, clock_us=clock_us)
            case Path() as path:
                return read_video(path, fps=self._fps, jpeg_quality=self._jpeg_quality, clock_us=clock_us)

    def _paced(self, video_frame: VideoFrame, began_s: float) -> VideoFrame:
        if not self._realtime:
            return video_frame
        self._stopped.wait(max(0.0, began_s + video_frame.at_us / 1_000_000 - time.monotonic()))
        return replace(video_frame, captured_at_us=self._source.clock_us())

    def _take(self, video_frame: VideoFrame) -> None:
        origin = self._source.origin(video_frame.captured_at_us)
        frame = describe_frame(video_frame.body, origin, attributes=video_frame.attributes)
        try:
            self._publish(frame)
        except RejectedError as rejected:
            self._delivery_stats.fail(f"a frame was not published: {rejected.reason}")
            return
        self._clipper.see(video_frame)
        if not self._finds_codes:
            return
        pixels = from_image(video_frame.body) if video_frame.pixels is None else video_frame.pixels
        codes = [] if pixels is None else find_codes(pixels)
        for code in self._appearances.new(codes, video_frame.at_us):
            origin = self._source.origin(video_frame.captured_at_us)
            try:
                self._publish(Cid(**fields_of(origin), code=code.text, symbology=code.symbology, seen_in=frame.sha256))
            except RejectedError as rejected:
                self._delivery_stats.fail(
                    f"the {code.symbology} code {code.text[:20]!r}… was not published: {rejected.reason}"
                )
                continue
            if self._clip_on_code:
                self._clipper.request(code.text)

    def _publish_clip(self, video_frames: Sequence[VideoFrame], about: str | None) -> Delivery:
        try:
            body = cut(video_frames)
            if body is None:
                raise RejectedError(RejectCode.NOT_AN_IMAGE, "no frame of the clip can be decoded")  # noqa: TRY301
            clip = describe_clip(body, self._source.origin(video_frames[0].captured_at_us), about=about)
            return self._publish(clip)
        except Exception as error:
            self._delivery_stats.fail(f"the clip about {about} was not published: {error}")
            raise

    def _publish(self, event: InputEvent) -> Delivery:
        delivery = self._publisher.publish(event)
        self._delivery_stats.add(event, delivery)
        if self._on_published is not None:
            self._on_published(event, delivery)
        return delivery


def _report(delivery_stats: DeliveryStats) -> CameraReport:
    counts = delivery_stats.counts()
    return CameraReport(
        frames=counts.by_kind[Kind.FRAME],
        codes=counts.by_kind[Kind.CID],
        clips=counts.by_kind[Kind.CLIP],
        acknowledged=counts.acknowledged,
        failed=counts.failed,
        bytes=counts.bytes,
        faults=counts.faults,
    )


def _feed_of(source: int | str | Path) -> int | str | Path:
    """Return the number of a camera, the URL of a stream, or the path of something that exists."""
    if isinstance(source, int) or is_stream(source):
        return source
    path = Path(source)
    if not path.exists():
        raise HeadraceError(
            "source_missing",
            "no such file or folder",
            where=str(path),
            hint="give an image folder, a video file, rtsp://host/path, or the number of a local camera",
            exit_code=Exit.USAGE,
        )
    return path


def _is_image(path: Path) -> bool:
    with path.open("rb") as file:
        return format_of(file.read(SNIFF_BYTES)).is_image


class ScannedCode(NamedTuple):
    """A code as it is printed, with its control characters; not as a scanner displays it."""

    text: str
    symbology: str = "QRCode"


def find_codes(pixels: Pixels) -> list[ScannedCode]:
    """Return the distinct QR codes in BGR pixels, in the order of detection."""
    return list(dict.fromkeys(code for code in _scan(pixels) if code.text))


class Appearances:
    """Tracks the codes in view, so that a code that stays in view is reported once.

    A code that was out of view for more than `gone_s` seconds is new again, and is forgotten after that time.
    """

    def __init__(self, gone_s: float = CODE_GONE_S) -> None:
        """Begin with nothing in view."""
        self._gone_us = round(gone_s * 1_000_000)
        self._seen_at_us: dict[ScannedCode, int] = {}

    def new(self, codes: Iterable[ScannedCode], at_us: int) -> list[ScannedCode]:
        """Return the codes in view now that were not in view before; times never decrease."""
        since_us = at_us - self._gone_us
        in_view = {code: seen for code, seen in self._seen_at_us.items() if seen >= since_us}
        now = list(codes)
        self._seen_at_us = in_view | dict.fromkeys(now, at_us)
        return [code for code in now if code not in in_view]


def _with_opencv(pixels: Pixels) -> list[ScannedCode]:
    _, texts, _, _ = cv2.QRCodeDetector().detectAndDecodeMulti(pixels)
    return [ScannedCode(text) for text in texts]


def _qr_reader() -> Callable[[Pixels], list[ScannedCode]]:
    try:
        import zxingcpp
    except ImportError:
        return _with_opencv  # there is no wheel for some machines; OpenCV finds fewer codes but is always installed
    formats = zxingcpp.BarcodeFormats(zxingcpp.BarcodeFormat.QRCode)
    read = partial(zxingcpp.read_barcodes, formats=formats, text_mode=zxingcpp.TextMode.Plain)
    return lambda pixels: [ScannedCode(barcode.text, barcode.format.name) for barcode in read(pixels)]


_scan = _qr_reader()
