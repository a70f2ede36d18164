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


def scene() -> DecodedPixels:
    """Return smooth shapes with sharp edges."""
    random = np.random.default_rng(1)
    coarse = random.integers(0, 256, (20, 30, 3), dtype=np.uint8)
    image = np.asarray(cv2.resize(coarse, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC), np.uint8)
    for _ in range(80):
        left, top = (int(value) for value in random.integers(0, (WIDTH - 60, HEIGHT - 40)))
        colour = tuple(int(value) for value in random.integers(0, 256, 3))
        cv2.rectangle(image, (left, top), (left + 60, top + 40), colour, -1)
    return image


def frame(image: DecodedPixels, number: int) -> bytes:
    """Return a JPEG of the scene with a sensor's noise, and a square that moves on with each frame."""
    noise = np.random.default_rng(number).normal(0, 3, image.shape)
    pixels = np.clip(image + noise, 0, 255).astype(np.uint8)
    left = number * 20 % (WIDTH - 100)
    pixels[500:600, left : left + 100] = 255
    return cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])[1].tobytes()


def cpu_ms(call: Callable[[bytes], object], frames: list[bytes]) -> float:
    """Return the CPU milliseconds of a call for each frame, after one that does not count."""
    call(frames[0])
    began = time.process_time()
    for each in frames:
        call(each)
    return (time.process_time() - began) * 1000 / len(frames)


def main() -> None:
    """Print the CPU of each, and its ratio to decoding alone."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.consumers", description=__doc__.partition("\n")[0])
    parser.add_argument("--frames", type=int, default=50)
    image = scene()
    frames = [frame(image, number) for number in range(parser.parse_args().frames)]
    before = look_at(frames[0])
    calls: dict[str, Callable[[bytes], object]] = {
        "decoding whole, in colour": _decode_whole,
        "preprocessing": measure,
        "perception": lambda data: change(before, look_at(data)),
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
