"""What holds the gateway within bounds, without servers: memory, forms, keys, an issuer that is away."""

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from uuid import uuid4

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

from headrace.gateway.auth import api_keys
from headrace.gateway.auth.tokens import KeySet
from headrace.gateway.problems import Problem
from headrace.gateway.queries.conditional import ByteRange, RangeNotSatisfiableError, requested_range
from headrace.gateway.uploads import memory as memory_module
from headrace.gateway.uploads.memory import SMALL_BYTES_MAX, MemoryReservation, UploadMemory
from headrace.gateway.uploads.multipart_parser import FormPart, MultipartForm, PartSink, read_form
from headrace.gateway.uploads.results import IngestWait
from headrace.runtime.background_task import background_task
from headrace.schemas.limits import MIB
from headrace.store.requests.ingest_status import IngestStatus, MessageRef

NOT_YET = IngestStatus(ingested=False, code=None, reason=None)


async def test_who_finds_no_memory_waits_its_turn() -> None:
    memory = UploadMemory(10 * MIB)
    await memory.reserve(8 * MIB)
    second = asyncio.ensure_future(memory.reserve(6 * MIB))
    third = asyncio.ensure_future(memory.reserve(2 * MIB))
    await asyncio.sleep(0)
    assert not second.done()
    assert not third.done(), "it must not pass who asked before"
    memory.release(8 * MIB)
    assert [await second, await third] == [6 * MIB, 2 * MIB]


async def test_what_is_small_does_not_wait_behind_what_is_large() -> None:
    memory = UploadMemory(10 * MIB)
    await memory.reserve(8 * MIB)
    large = asyncio.ensure_future(memory.reserve(6 * MIB))
    await asyncio.sleep(0)
    assert await memory.reserve(SMALL_BYTES_MAX) == SMALL_BYTES_MAX
    large.cancel()


async def test_the_wait_for_memory_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory_module, "WAIT_S_MAX", 0.05)
    memory = UploadMemory(2 * MIB)
    await memory.reserve(2 * MIB)
    with pytest.raises(Problem) as raised:
        await memory.reserve(2 * MIB)
    assert raised.value.status_code == 503
    memory.release(2 * MIB)
    assert await memory.reserve(2 * MIB) == 2 * MIB, "who gave up left nothing reserved"


async def test_who_is_behind_one_that_gave_up_gets_what_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    memory = UploadMemory(10 * MIB)
    await memory.reserve(4 * MIB)
    monkeypatch.setattr(memory_module, "WAIT_S_MAX", 0.05)
    large = asyncio.ensure_future(memory.reserve(8 * MIB))
    await asyncio.sleep(0)
    monkeypatch.setattr(memory_module, "WAIT_S_MAX", 30.0)
    behind = asyncio.ensure_future(memory.reserve(3 * MIB))
    with pytest.raises(Problem):
        await large
    assert await behind == 3 * MIB


class Catalog:
    """Knows what became of a message once that is set."""

    def __init__(self) -> None:
        self.known = NOT_YET

    async def outcomes(self, places: Sequence[MessageRef]) -> list[IngestStatus]:
        return [self.known for _ in places]


async def test_who_waits_for_the_same_message_as_one_that_gave_up_is_told() -> None:
    catalog, place = Catalog(), MessageRef("edge.cids.v1", 0, 7, uuid4(), 0.0)
    landing = IngestWait(catalog)  # type: ignore[arg-type]
    async with background_task(landing.run()):
        patient = asyncio.ensure_future(landing.outcomes([place], 30))
        assert await landing.outcomes([place], 0.05) == [NOT_YET]
        catalog.known = IngestStatus(ingested=True, code=None, reason=None)
        assert await patient == [catalog.known]
        assert await landing.outcomes([place], 30) == [catalog.known], "and nothing of before is in the way"


async def test_who_is_cancelled_while_it_waits_leaves_nothing_reserved() -> None:
    memory = UploadMemory(2 * MIB)
    await memory.reserve(2 * MIB)
    waiting = asyncio.ensure_future(memory.reserve(2 * MIB))
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    memory.release(2 * MIB)
    assert await memory.reserve(2 * MIB) == 2 * MIB


async def test_a_room_that_holds_nothing_reserves_nothing() -> None:
    memory = UploadMemory(4 * MIB)
    reservation = MemoryReservation(memory, 4 * MIB)
    assert await reservation.hold(3 * MIB)
    assert not await reservation.hold(2 * MIB)
    reservation.release(3 * MIB)
    assert await memory.reserve(4 * MIB) == 4 * MIB
    reservation.close()


@pytest.mark.parametrize(
    "text", ["", "hr_", "hr_a", "hr_a_", "hr__b", "xx_a_b", "hr_\0_a", "hr_a_\0", "hr_é_b", "hr_a_" + "b" * 300]
)
def test_what_is_no_key_is_none(text: str) -> None:
    assert api_keys.parse(text) is None


def test_a_key_has_an_id_and_a_secret() -> None:
    assert api_keys.parse("hr_0a1b_s-e_c") == ("0a1b", "s-e_c")


@pytest.mark.parametrize(
    "parameters",
    ["filename*=x; filename*0=b", "filename*=idna''a", "filename*=undefined''x", "filename*=\"\0\"''a", ";x" * 1900],
)
async def test_a_head_with_odd_parameters_names_a_field(parameters: str) -> None:
    assert await _parts(f'form-data; name="f"; {parameters}') == {"f"}


@pytest.mark.parametrize("disposition", ["form-data", "attachment; name=f", "form-data; filename=f", "", ";" * 3000])
async def test_a_head_without_a_name_is_refused(disposition: str) -> None:
    with pytest.raises(Problem) as raised:
        await _parts(disposition)
    assert raised.value.status_code == 400


async def _parts(disposition: str) -> set[str]:
    class Nowhere:
        async def write(self, chunk: bytes) -> None:
            pass

        async def finish(self) -> None:
            pass

    async def body() -> AsyncIterator[bytes]:
        yield f"--b\r\nContent-Disposition: {disposition}\r\n\r\nx\r\n--b--\r\n".encode()

    async def nowhere(_part: FormPart, _form: MultipartForm) -> PartSink:
        return Nowhere()

    form = await read_form("multipart/form-data; boundary=b", body(), nowhere)
    return {*form.fields, *(part.name for part in form.files)}


def test_an_issuer_that_is_away_is_not_asked_again_at_once(tmp_path: Path) -> None:
    now = [0.0]
    place = tmp_path / "jwks.json"
    known = KeySet(str(place), clock_s=lambda: now[0])
    assert known.get("one") is None
    key = json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(rsa.generate_private_key(65537, 2048).public_key()))
    place.write_text(json.dumps({"keys": [{**key, "kid": "one", "alg": "RS256"}]}))
    assert known.get("one") is None, "it was asked a moment ago"
    now[0] = 11
    assert known.get("one") is not None
    place.unlink()
    now[0] = 1000
    assert known.get("one") is not None, "what is known serves on"


@pytest.mark.parametrize("scheme", ["file://", "http://", "data:application/json,"])
def test_keys_of_an_issuer_are_fetched_over_https_only(tmp_path: Path, scheme: str) -> None:
    location = tmp_path / "jwks.json"
    key = json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(rsa.generate_private_key(65537, 2048).public_key()))
    location.write_text(json.dumps({"keys": [{**key, "kid": "one", "alg": "RS256"}]}))
    assert KeySet(f"{scheme}{location}").get("one") is None
    assert KeySet(str(location)).get("one") is not None


def test_an_issuer_that_cannot_be_reached_has_no_keys() -> None:
    assert KeySet("https://127.0.0.1:1/jwks.json").get("one") is None


@pytest.mark.parametrize(
    ("header", "size", "expected"),
    [
        (None, 10, None),
        ("bytes=2-5", 10, ByteRange(2, 4)),
        ("BYTES=2-", 10, ByteRange(2, 8)),
        ("bytes=-3", 10, ByteRange(7, 3)),
        ("bytes=-30", 10, ByteRange(0, 10)),
        ("bytes=9-99", 10, ByteRange(9, 1)),
        ("bytes=5-2", 10, None),
        ("bytes=0-1,4-5", 10, None),
        ("lines=0-1", 10, None),
        ("bytes=" + "9" * 5000 + "-", 10, None),
        ("bytes=0-" + "9" * 40, 10, None),
    ],
)
def test_a_range_header_is_read(header: str | None, size: int, expected: ByteRange | None) -> None:
    assert requested_range(header, size) == expected


@pytest.mark.parametrize(("header", "size"), [("bytes=-0", 10), ("bytes=10-", 10), ("bytes=0-", 0), ("bytes=-1", 0)])
def test_a_range_without_bytes_is_not_satisfiable(header: str, size: int) -> None:
    with pytest.raises(RangeNotSatisfiableError):
        requested_range(header, size)
