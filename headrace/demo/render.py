"""What the cameras watch: the synthetic line, drawn into a folder of images, or a video file."""

from collections.abc import Sequence
from pathlib import Path

import av
from av.error import FFmpegError

from headrace.demo.line import Line
from headrace.producers.clips import cut
from headrace.producers.video_frames import VideoFrame, to_jpeg
from headrace.runtime.errors import Exit, HeadraceError

PICTURES_PER_S = 10
_CLIP_S = 5
_CLIP_EVERY_PICTURES = 2  # half the pictures show as much, and encoding them is what costs most in a demonstration
_JPEG_QUALITY = 88


def draw(line: Line, folder: Path, *, pictures: int) -> list[Path]:
    """Write the line's pictures as JPEG files, in the order of their names."""
    folder.mkdir(parents=True)
    paths = [folder / f"{index:06d}.jpg" for index in range(pictures)]
    for index, path in enumerate(paths):
        path.write_bytes(to_jpeg(line.picture(index), _JPEG_QUALITY))
    return paths


def clip_of(pictures: Sequence[Path], last: int) -> bytes | None:
    """Return an MP4 of the 5 seconds up to the `last`-th picture; None where there is no picture yet."""
    shown = pictures[max(0, last - _CLIP_S * PICTURES_PER_S) : last + 1 : _CLIP_EVERY_PICTURES]
    period_us = _CLIP_EVERY_PICTURES * 1_000_000 // PICTURES_PER_S
    return cut([VideoFrame(path.read_bytes(), index * period_us, 0) for index, path in enumerate(shown)])


def frames_in(video: Path) -> int:
    """Return how many frames a video file has.

    Raises:
        HeadraceError: it is not there, or is no video.
    """
    if not video.is_file():
        raise _unusable(video, "there is no such file")
    try:
        with av.open(f"file:{video}", options={"protocol_whitelist": "file"}) as container:
            if not container.streams.video:
                raise _unusable(video, "it has no video track")
            stream = container.streams.video[0]
            # Not every container says how many there are; each packet of the ones we read holds one frame.
            return stream.frames or sum(1 for packet in container.demux(stream) if packet.size)
    except (FFmpegError, OSError) as error:
        raise _unusable(video, error.strerror or str(error)) from None


def _unusable(video: Path, why: str) -> HeadraceError:
    return HeadraceError(
        "video_unreadable",
        f"the video cannot be used: {why}",
        where=str(video),
        hint="give the path of a video file, or leave --video out to see a synthetic line",
        exit_code=Exit.USAGE,
    )
