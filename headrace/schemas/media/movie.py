"""Parser of MP4, QuickTime and 3GP (ISO/IEC 14496-12), whose movie header may be anywhere in the file.

Boxes are read where they lie: before the media data, behind it, or in fragments. The media data are skipped.
"""

import struct
from dataclasses import dataclass, field
from typing import NoReturn

from headrace.schemas.media.headers import VideoHeader
from headrace.schemas.media.heif import box_start
from headrace.schemas.media.reading import EndOfFileError, Parser, Skip, Take
from headrace.schemas.reject import RejectCode, RejectedError

BOXES_MAX = 65_536  # an hour of fragments of a second has about 40,000
TRACKS_MAX = 64
DEPTH_MAX = 8  # of boxes within boxes: files have six
LEAF_BYTES_MAX = 64 * 1024  # held of one box

_CONTAINERS = frozenset({b"moov", b"trak", b"mdia", b"minf", b"stbl", b"mvex", b"moof", b"traf"})
_NEEDED = frozenset({b"mdat", b"moof", b"moov"})
_TO_THE_END = 1 << 62


@dataclass(slots=True)
class _Track:
    """One track."""

    number: int = 0
    handler: bytes = b""
    codec: str | None = None
    timescale: int = 0
    duration: int = 0
    samples: int = 0
    shown: tuple[int, int] | None = None
    coded: tuple[int, int] | None = None
    rotation: int = 0
    last_chunk: int = 0
    default_duration: int = 0

    @property
    def is_video(self) -> bool:
        """Whether it shows pictures; without a handler, whether it has a size."""
        return self.handler == b"vide" or (not self.handler and self.shown is not None)


@dataclass(slots=True)
class _Movie:
    """What was read so far."""

    boxes: int = 0
    seen_header: bool = False
    timescale: int = 0
    duration_us: int | None = None
    tracks: list[_Track] = field(default_factory=list)
    fragment: _Track | None = None
    fragment_duration: int = 0

    def count_box(self) -> None:
        """Count a box."""
        self.boxes += 1
        if self.boxes > BOXES_MAX:
            raise RejectedError(RejectCode.FIELD_OUT_OF_RANGE, f"the video has more than {BOXES_MAX} boxes")


def movie(media_type: str, name: str) -> Parser[VideoHeader]:
    """Parse a file whose format is known by its beginning, where `name` is that of its format."""
    state = _Movie()
    size_bytes = 0
    while True:
        state.count_box()
        try:
            head = yield Take(8)
        except EndOfFileError as end:
            size_bytes = end.size_bytes
            break
        kind = head[4:]
        size: int | None = 0
        try:
            kind, size = yield from box_start(head)
            content = _TO_THE_END if size is None else size
            if kind in {b"moov", b"moof"}:
                yield from _children(state, content)
            else:
                yield Skip(content)
        except EndOfFileError as end:
            size_bytes = end.size_bytes
            if size is not None and (not state.seen_header or kind in _NEEDED):
                _refuse(f"the {name} ends too early, after {size_bytes} bytes")
            break
        except RejectedError:
            if not state.seen_header:
                raise
            break  # what follows the movie are no boxes
    return _header(state, size_bytes, media_type, name)


def _children(state: _Movie, left: int, depth: int = 1) -> Parser[None]:
    """Parse the boxes in one box of `left` bytes; those deeper than DEPTH_MAX are skipped."""
    while left >= 8:
        state.count_box()
        head = yield Take(8)
        size, kind = int.from_bytes(head[:4], "big"), head[4:]
        taken = 8
        if size == 1:
            size, taken = int.from_bytes((yield Take(8)), "big"), 16
        elif size == 0:
            size = left
        if size < taken or size > left:
            yield Skip(left - taken)
            return
        left -= size
        size -= taken
        if kind == b"trak" and len(state.tracks) >= TRACKS_MAX:
            yield Skip(size)
        elif kind in _CONTAINERS and depth < DEPTH_MAX:
            if kind == b"trak":
                state.tracks.append(_Track())
            yield from _children(state, size, depth + 1)
        elif kind in _LEAVES:
            kept = yield Take(min(size, LEAF_BYTES_MAX))
            if kind in {b"stco", b"co64"} and size > len(kept):
                yield Skip(max(0, size - len(kept) - 8))
                kept = kept + (yield Take(min(8, size - len(kept))))
            else:
                yield Skip(size - len(kept))
            _leaf(state, kind, kept)
        else:
            yield Skip(size)
    yield Skip(left)


def _leaf(state: _Movie, kind: bytes, data: bytes) -> None:
    """Read one box; one that is too short declares nothing."""
    if kind in _OF_MOVIE:
        _OF_MOVIE[kind](state, data)
    elif state.tracks:
        _OF_TRACK[kind](state.tracks[-1], data)


def _movie_header(state: _Movie, data: bytes) -> None:
    if state.seen_header:
        return
    wide = _width_of_times(data)
    state.seen_header = True
    state.timescale = _number(data, 4 + 2 * wide, 4)
    duration = _known(_number(data, 8 + 2 * wide, wide), wide)
    state.duration_us = (duration * 1_000_000 // state.timescale or None) if state.timescale else None


def _fragments_header(state: _Movie, data: bytes) -> None:
    duration = _number(data, 4, _width_of_times(data))
    if state.timescale:
        state.duration_us = max(state.duration_us or 0, duration * 1_000_000 // state.timescale) or None


def _track_defaults(state: _Movie, data: bytes) -> None:
    for track in state.tracks:
        if track.number == _number(data, 4, 4):
            track.default_duration = _number(data, 12, 4)


def _media_header(track: _Track, data: bytes) -> None:
    wide = _width_of_times(data)
    track.timescale = _number(data, 4 + 2 * wide, 4)
    track.duration = _known(_number(data, 8 + 2 * wide, wide), wide)


def _handler(track: _Track, data: bytes) -> None:
    track.handler = track.handler or data[8:12]


def _samples(track: _Track, data: bytes) -> None:
    track.samples = _number(data, 8, 4)


def _chunks(track: _Track, data: bytes) -> None:
    track.last_chunk = _number(data, len(data) - 4, 4) if _number(data, 4, 4) else 0


def _chunks_64(track: _Track, data: bytes) -> None:
    track.last_chunk = _number(data, len(data) - 8, 8) if _number(data, 4, 4) else 0


def _track_header(track: _Track, data: bytes) -> None:
    wide = _width_of_times(data)
    track.number = _number(data, 4 + 2 * wide, 4)
    if len(data) < 76 + 2 * (wide - 4) + wide:
        return
    # It ends with a matrix of nine numbers, width and height, each 16 bits and 16 bits of fraction.
    size = _number(data, len(data) - 8, 2), _number(data, len(data) - 4, 2)
    track.shown = size if all(size) else None
    right, down = struct.unpack_from(">ii", data, len(data) - 44)
    if right == 0 and down:
        track.rotation = 90 if down > 0 else 270
    elif right < 0 and down == 0:
        track.rotation = 180


def _sample_description(track: _Track, data: bytes) -> None:
    track.codec = data[12:16].decode("ascii", "replace").strip() or None
    size = _number(data, 40, 2), _number(data, 42, 2)
    if track.handler != b"soun" and all(size):
        track.coded = size


def _track_fragment(state: _Movie, data: bytes) -> None:
    flags, number = _number(data, 1, 3), _number(data, 4, 4)
    state.fragment = next((each for each in state.tracks if each.number == number), None)
    at = 8 + (8 if flags & 1 else 0) + (4 if flags & 2 else 0)
    default = state.fragment.default_duration if state.fragment else 0
    state.fragment_duration = _number(data, at, 4) if flags & 8 else default


def _track_run(state: _Movie, data: bytes) -> None:
    track, flags, count = state.fragment, _number(data, 1, 3), _number(data, 4, 4)
    if track is None:
        return
    at = 8 + (4 if flags & 1 else 0) + (4 if flags & 4 else 0)
    width = sum(4 for flag in (0x100, 0x200, 0x400, 0x800) if flags & flag)
    track.samples += count
    if flags & 0x100:
        count = min(count, max(0, len(data) - at) // width)
        track.duration += sum(_number(data, at + width * index, 4) for index in range(count))
    else:
        track.duration += count * state.fragment_duration


_OF_MOVIE = {
    b"mvhd": _movie_header,
    b"mehd": _fragments_header,
    b"trex": _track_defaults,
    b"tfhd": _track_fragment,
    b"trun": _track_run,
}
_OF_TRACK = {
    b"tkhd": _track_header,
    b"mdhd": _media_header,
    b"hdlr": _handler,
    b"stsd": _sample_description,
    b"stsz": _samples,
    b"stz2": _samples,
    b"stco": _chunks,
    b"co64": _chunks_64,
}
_LEAVES = frozenset(_OF_MOVIE) | frozenset(_OF_TRACK)


def _header(state: _Movie, size_bytes: int, media_type: str, name: str) -> VideoHeader:
    if not state.seen_header:
        _refuse(f"the {name} has no movie header")
    video = next((track for track in state.tracks if track.is_video), None)
    if video is None:
        _refuse(f"the {name} has no video track")
    if any(track.last_chunk >= size_bytes > 0 for track in state.tracks):
        _refuse(f"the {name} ends too early, after {size_bytes} bytes")
    seconds = [track.duration / track.timescale for track in state.tracks if track.timescale and track.duration]
    duration_us = state.duration_us
    if duration_us is None or state.fragment is not None:
        longest_us = round(max(seconds, default=0.0) * 1_000_000)
        duration_us = max(duration_us or 0, longest_us) or None
    rate = video.samples * video.timescale / video.duration if video.duration and video.timescale else 0.0
    width, height = video.coded or video.shown or (None, None)
    return VideoHeader(
        media_type,
        duration_us,
        width,
        height,
        video.rotation,
        video.codec,
        round(rate, 3) or None,
        next((track.codec for track in state.tracks if track.handler == b"soun"), None),
    )


def _width_of_times(data: bytes) -> int:
    return 8 if data[:1] == b"\x01" else 4  # version 1 has 64-bit times


def _known(duration: int, wide: int) -> int:
    """Return a duration; all ones means that it is not known."""
    return 0 if duration == (1 << 8 * wide) - 1 else duration


def _number(data: bytes, start: int, width: int) -> int:
    return int.from_bytes(data[start : start + width], "big") if start >= 0 else 0


def _refuse(reason: str) -> NoReturn:
    raise RejectedError(RejectCode.NOT_A_VIDEO, reason)
