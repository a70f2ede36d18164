"""Inspection of uploads in child processes: fair turns, limits of time, and what is read without decoding pixels."""

import asyncio
import io
import struct
import time
import zlib
from collections.abc import AsyncIterator

import pytest
from PIL import Image

from headrace.gateway.problems import Problem
from headrace.gateway.uploads import inspection, memory
from headrace.gateway.uploads.inspection import Inspector, inspect_file
from headrace.gateway.uploads.memory import FairTurns, TurnTimeoutError
from headrace.gateway.uploads.metadata import parse_metadata
from headrace.schemas.reject import RejectCode, RejectedError


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack("!I", len(body)) + kind + body + struct.pack("!I", zlib.crc32(kind + body))


def png(width: int, height: int, *more: bytes, pixels: bytes = b"") -> bytes:
    head = chunk(b"IHDR", struct.pack("!IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + b"".join(more) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def image(form: str, **options: object) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (8, 8)).save(out, form, **options)
    return out.getvalue()


async def test_a_caller_with_many_files_takes_turns_with_the_others() -> None:
    turns = FairTurns(1, of_caller=1)
    order: list[str] = []

    async def upload(caller: str) -> None:
        async with turns.turn(caller):
            order.append(caller)
            await asyncio.sleep(0)

    async with asyncio.TaskGroup() as group:
        for caller in ["many"] * 10 + ["one", "another"]:
            group.create_task(upload(caller))
    assert max(order.index("one"), order.index("another")) <= 3
    assert order.count("many") == 10


async def test_who_waits_for_too_long_or_gives_up_is_in_nobodys_way(monkeypatch: pytest.MonkeyPatch) -> None:
    turns = FairTurns(1, of_caller=1)
    monkeypatch.setattr(memory, "TURN_S_MAX", 0.05)
    async with turns.turn("slow"):
        for caller in ("slow", "other"):
            with pytest.raises(TurnTimeoutError):
                async with turns.turn(caller):
                    raise AssertionError("there was a turn")
        await asyncio.sleep(0.1)  # the work itself has no limit here
    async with turns.turn("other"):
        pass


@pytest.fixture
async def inspector() -> AsyncIterator[Inspector]:
    inspector = Inspector()
    yield inspector
    await asyncio.to_thread(inspector.stop)


@pytest.mark.server
async def test_a_probe_that_takes_too_long_may_be_repeated(
    inspector: Inspector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inspection, "INSPECT_S_MAX", 0.2)
    with pytest.raises(Problem) as raised:
        await inspector.run(time.sleep, 60, caller="a")
    assert raised.value.status_code == 503
    assert raised.value.headers is not None
    assert "Retry-After" in raised.value.headers


@pytest.mark.server
async def test_what_a_child_refuses_is_refused(inspector: Inspector) -> None:
    with pytest.raises(RejectedError) as rejected:
        await inspector.inspect(b"%PDF-1.7", caller="a")
    assert rejected.value.code is RejectCode.NOT_AN_IMAGE
    text = '{"ldo_id": "a", "sensor_data": {}, "prediction": {}, "context": {"password": "x"}}'
    with pytest.raises(Problem) as refused:
        await inspector.run(parse_metadata, text, 10**15, caller="a")
    assert (refused.value.status_code, refused.value.code) == (422, "holds_login")


@pytest.mark.parametrize(
    "body",
    [
        png(8, 8, *[chunk(b"tEXt", b"a\0b")] * 5000),
        image("JPEG")[:2] + b"\xff\xfe\x00\x02" * 5000 + image("JPEG")[2:],
        image("JPEG")[:20] + b"\xff\xfe\x00\x02" * 5000 + image("JPEG")[20:],
        image("JPEG")[:20] + b"\xff" * 5000 + image("JPEG")[20:],
        image("JPEG")[:20] + b"\xff\xd0" * 5000 + image("JPEG")[20:],
        b"RIFF" + struct.pack("<I", 40_100) + b"WEBP" + image("WEBP", lossless=True)[12:] + b"ABCD\0\0\0\0" * 5100,
    ],
    ids=["PNG", "JPEG", "JPEG after its first segment", "JPEG padded", "JPEG of empty segments", "WebP"],
)
def test_an_image_of_thousands_of_chunks_is_refused(body: bytes) -> None:
    with pytest.raises(RejectedError):
        inspect_file(body)


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "AVIF", "HEIF"])
def test_exif_is_read(form: str) -> None:
    exif = Image.Exif()
    exif[0x010F] = "Maker"
    assert inspect_file(image(form, exif=exif)).exif["Make"] == "Maker"
    assert "Make" not in inspect_file(image(form)).exif


@pytest.mark.parametrize(
    "body",
    [
        png(8, 8, pixels=b"not compressed"),
        png(8, 8, pixels=zlib.compress(bytes(20))),
        png(8, 8, chunk(b"iTXt", b"Comment\0\1\0\0\0" + zlib.compress(bytes(50_000_000), 9)), pixels=b""),
    ],
    ids=["no zlib stream", "too few rows", "a text bomb"],
)
def test_what_has_a_header_but_cannot_be_decoded_is_refused(body: bytes) -> None:
    with pytest.raises(RejectedError, match="cannot be decoded"):
        inspect_file(body)
