"""Small images and videos, some of them with a QR code in view for a while."""

import io
from pathlib import Path

import av
import cv2
import numpy as np
import segno

from headrace.producers.video_frames import Pixels

WIDTH, HEIGHT = 320, 240


def picture(number: int, code: str | None = None) -> Pixels:
    pixels = np.full((HEIGHT, WIDTH, 3), number % 200, np.uint8)
    pixels[number % HEIGHT] = 255
    if code is not None:
        out = io.BytesIO()
        segno.make_qr(code).save(out, kind="png", scale=5)
        shown = cv2.imdecode(np.frombuffer(out.getvalue(), np.uint8), cv2.IMREAD_COLOR)
        assert shown is not None
        pixels[10 : 10 + shown.shape[0], 10 : 10 + shown.shape[1]] = shown
    return pixels


def image(number: int, code: str | None = None, kind: str = ".png") -> bytes:
    return cv2.imencode(kind, picture(number, code))[1].tobytes()


def write_video(
    path: Path, seconds: float, *, fps: int = 10, codes: dict[str, tuple[float, float]] | None = None
) -> Path:
    """Each code is in view from one second to another."""
    with av.open(path, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=fps, options={"preset": "ultrafast"})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for index in range(round(seconds * fps)):
            shown = [code for code, (begin, end) in (codes or {}).items() if begin <= index / fps < end]
            pixels = picture(index, shown[0] if shown else None)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="bgr24")))
        container.mux(stream.encode())
    return path
