"""Frames and LDOs of a given size, incompressible and distinct, for the benchmarks."""

from random import Random

import cv2
import numpy as np
import orjson

from headrace.producers import describe_frame
from headrace.schemas.events import Frame, Ldo, Origin

FRAME_BYTES = 200_000
LDO_BYTES = 2_000
SOURCES = 8  # enough to spread over all partitions
SITE = "bench"
_GREY = np.full((360, 640, 3), 128, dtype=np.uint8)


def small_jpeg() -> bytes:
    """Return a small JPEG of 640 by 360 pixels, to be padded to any size."""
    return cv2.imencode(".jpg", _GREY)[1].tobytes()


def frame(number: int, *, captured_at_us: int, random: Random, image: bytes) -> Frame:
    """Return a frame of FRAME_BYTES: an image, padded with random bytes that decoders ignore."""
    body = image + random.randbytes(FRAME_BYTES - len(image))
    return describe_frame(body, _origin(number, captured_at_us))


def ldo(number: int, *, captured_at_us: int, random: Random) -> Ldo:
    """Return an LDO of about LDO_BYTES."""
    readings: dict[str, object] = {"temperature_c": round(random.gauss(41.5, 1.0), 3)}
    document = {
        "sensor_data": readings,
        "context": {"component": f"PART-B-{number:06d}", "recipe": "R-17"},
        "prediction": {"model": "bench", "label": "good", "confidence": round(random.random(), 4)},
    }
    readings["trace"] = random.randbytes((LDO_BYTES - len(orjson.dumps(document))) // 2).hex()
    origin = _origin(number, captured_at_us)
    return Ldo(
        source_id=origin.source_id,
        site=origin.site,
        captured_at_us=origin.captured_at_us,
        sequence=origin.sequence,
        ldo_id=f"bench-{captured_at_us:x}-{number}",
        body=orjson.dumps(document),
    )


def _origin(number: int, captured_at_us: int) -> Origin:
    return Origin(source_id=f"bench-{number % SOURCES}", site=SITE, captured_at_us=captured_at_us, sequence=number)
