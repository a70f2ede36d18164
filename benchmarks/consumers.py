"""The CPU of preprocessing and perception for one frame, beside decoding it whole and nothing else.

.venv/bin/python -m benchmarks.consumers [--frames 50]
"""

import argparse
import sys
import time
from collections.abc import Callable

import cv2
import numpy as np

from headrace.streams.consumers.change_detection import change
from headrace.streams.consumers.image_quality import measure
from headrace.streams.consumers.perception import look_at
from headrace.streams.consumers.pictures import DecodedPixels

WIDTH, HEIGHT = 1920, 1080
QUALITY = 85


def picture(seed: int) -> bytes:
    """Return a JPEG of smooth shapes, sharp edges and a sensor's noise."""
    random = np.random.default_rng(seed)
    coarse = random.integers(0, 256, (20, 30, 3), dtype=np.uint8)
    image = cv2.resize(coarse, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)
    for _ in range(80):
        left, top = (int(value) for value in random.integers(0, (WIDTH - 60, HEIGHT - 40)))
        colour = tuple(int(value) for value in random.integers(0, 256, 3))
        cv2.rectangle(image, (left, top), (left + 60, top + 40), colour, -1)
    noisy = np.clip(image + random.normal(0, 3, image.shape), 0, 255).astype(np.uint8)
    return cv2.imencode(".jpg", noisy, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])[1].tobytes()


def cpu_ms(call: Callable[[bytes], object], frames: list[bytes]) -> float:
    """Return the CPU milliseconds of a call for each frame, after one that does not count."""
    call(frames[0])
    began = time.process_time()
    for frame in frames:
        call(frame)
    return (time.process_time() - began) * 1000 / len(frames)


def main() -> None:
    """Print the CPU of each, and its ratio to decoding alone."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.consumers", description=__doc__.partition("\n")[0])
    parser.add_argument("--frames", type=int, default=50)
    frames = [picture(seed) for seed in range(parser.parse_args().frames)]
    before = look_at(frames[0])
    calls: dict[str, Callable[[bytes], object]] = {
        "decoding whole, in colour": _decode_whole,
        "preprocessing": measure,
        "perception": lambda frame: change(before, look_at(frame)),
    }
    whole = cpu_ms(_decode_whole, frames)
    size_kb = sum(map(len, frames)) / len(frames) / 1000
    sys.stdout.write(f"{WIDTH} x {HEIGHT} pixels, {size_kb:.0f} KB on average\n")
    for name, call in calls.items():
        took = cpu_ms(call, frames)
        sys.stdout.write(f"{name:28}{took:6.2f} ms  {took / whole:5.2f}\n")


def _decode_whole(data: bytes) -> DecodedPixels:
    return np.asarray(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR), np.uint8)


if __name__ == "__main__":
    main()
