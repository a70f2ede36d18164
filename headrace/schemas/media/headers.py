"""What the header of an image or a video declares."""

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class ImageHeader:
    """The header of an image; width and height are the stored pixels before they are turned, never 0.

    `orientation` is that of a HEIF or AVIF's own boxes, in the values of EXIF (1 to 8); other formats declare theirs in
    EXIF, which is not read here.
    """

    media_type: str
    width: int
    height: int
    orientation: int = field(default=1, compare=False)


@dataclass(frozen=True, slots=True)
class VideoHeader:
    """The header of an MP4, QuickTime or 3GP file; a field is None where the file does not declare it.

    Width and height are the stored pixels; `rotation` is by how many degrees they are turned clockwise to be shown, a
    multiple of 90.
    """

    media_type: str = "video/mp4"
    duration_us: int | None = None
    width: int | None = None
    height: int | None = None
    rotation: int = 0
    codec: str | None = None
    frame_rate: float | None = None
    audio: str | None = None

    @property
    def details(self) -> dict[str, object]:
        """What the attributes of a clip's record say of it."""
        turned = self.rotation % 180 != 0
        values = {
            "codec": self.codec,
            "width": self.width,
            "height": self.height,
            "rotation": self.rotation,
            "display_width": self.height if turned else self.width,
            "display_height": self.width if turned else self.height,
            "frame_rate": self.frame_rate,
            "audio": self.audio,
        }
        return {name: value for name, value in values.items() if value is not None}
