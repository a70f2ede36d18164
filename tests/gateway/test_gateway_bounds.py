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
from headrace.gateway.uploads.memory import STAGINGS_OF_CALLER_MAX, MemoryReservation, UploadMemory
from headrace.gateway.uploads.multipart_parser import FormPart, MultipartForm, PartSink, read_form
from headrace.gateway.uploads.receiving import BodyReceiver
from headrace.gateway.uploads.results import IngestWait
from headrace.runtime.background_task import background_task
from headrace.runtime.settings import Settings
from headrace.schemas.limits import KIB, MIB
from headrace.store.blobs.blob_store import Blobs
from headrace.store.requests.ingest_status import IngestStatus, MessageRef

NOT_YET = IngestStatus(ingested=False, code=None, reason=None)


async def test_work_that_finds_no_memory_waits_its_turn() -> None:
    memory = UploadMemory(20 * MIB)
    await memory.reserve("a", 8 * MIB)
    second = asyncio.ensure_future(memory.reserve("a", 6 * MIB))
    third = asyncio.ensure_future(memory.reserve("a", 2 * MIB))
    other = asyncio.ensure_future(memory.reserve("b", 6 * MIB))
    assert await other == 6 * MIB, "it does not wait for the share of another"
    assert not second.done()
    memory.give_back("a", 8 * MIB)
    assert [await second, await third] == [6 * MIB, 2 * MIB]


async def test_the_wait_for_memory_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory_module, "WAIT_S_MAX", 0.05)
    memory = UploadMemory(2 * MIB)
    for caller in ("a", "b"):
        await memory.reserve(caller, 2 * MIB)
    with pytest.raises(Problem) as raised:
        await memory.reserve("c", 2 * MIB)
    assert raised.value.status_code == 503
    memory.give_back("a", MIB)
    assert await memory.reserve("c", 2 * MIB) == MIB, "what gave up left nothing reserved"


async def test_what_is_cancelled_while_it_waits_leaves_nothing_reserved() -> None:
    memory = UploadMemory(2 * MIB)
    for caller in ("a", "b"):
        await memory.reserve(caller, MIB)
    for is_granted in (False, True):
        waiting = asyncio.ensure_future(memory.reserve("c", MIB))
        await asyncio.sleep(0)
        if is_granted:
            memory.give_back("a", MIB)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
    assert memory.take("c", MIB)


def test_a_caller_holds_what_it_has_sent_and_at_most_its_share() -> None:
    memory = UploadMemory(8 * MIB)
    slow = [MemoryReservation(memory, "slow") for _ in range(100)]
    assert all(upload.hold(1000) for upload in slow)
    other = MemoryReservation(memory, "other")
    assert other.hold(4 * MIB), "100 uploads that have begun do not hold what they may send"
    assert not other.hold(1)
    greedy = MemoryReservation(memory, "slow")
    assert not greedy.hold(4 * MIB)
    with pytest.raises(Problem) as raised:
        greedy.require(4 * MIB)
    assert raised.value.status_code == 503
    for upload in (*slow, other, other):
        upload.close()
    assert greedy.hold(4 * MIB)


async def test_a_body_without_memory_goes_through_the_store(tmp_path: Path) -> None:
    blobs = Blobs.from_settings(Settings(_env_file=None, store_url=tmp_path.as_uri()))
    memory = UploadMemory(2 * MIB)
    held = MemoryReservation(memory, "caller")
    held.require(MIB - 1000)
    body = BodyReceiver(blobs, reservation := MemoryReservation(memory, "caller"))
    sent = [bytes([number]) * 900 for number in range(5)]
    for chunk in sent:
        await body.write(chunk)
    received = await body.finish()
    assert (received.body, received.size_bytes) == (None, 4500)
    assert await blobs.get(received.claim or "") == b"".join(sent)
    await body.abandon()
    reservation.close()
    held.close()
    assert memory.take("caller", MIB)


async def test_a_caller_stages_a_few_bodies_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory_module, "TURN_S_MAX", 0.05)
    blobs = Blobs.from_settings(Settings(_env_file=None, store_url=tmp_path.as_uri()))
    memory = UploadMemory(2)
    *bodies, further, last = [
        BodyReceiver(blobs, MemoryReservation(memory, "caller")) for _ in range(STAGINGS_OF_CALLER_MAX + 2)
    ]
    for body in bodies:
        await body.write(b"too large for the memory")
    with pytest.raises(Problem) as raised:
        await further.write(b"one too many")
    assert raised.value.status_code == 503
    other = BodyReceiver(blobs, MemoryReservation(memory, "another"))
    await other.write(b"of another caller")
    await bodies[0].finish()
    await last.write(b"one less")
    for body in (*bodies, further, last, other):
        await body.abandon()


async def test_fields_of_a_form_are_held_in_the_memory_of_all() -> None:
    reservation = MemoryReservation(UploadMemory(2 * KIB), "caller")
    assert await _parts('form-data; name="f"', b"x" * 900, reservation) == {"f"}
    with pytest.raises(Problem) as raised:
        await _parts('form-data; name="f"', b"x" * 900, reservation)
    assert raised.value.status_code == 503


class Catalog:
    """Knows what became of a message once that is set."""

    def __init__(self) -> None:
        self.known = NOT_YET

    async def outcomes(self, places: Sequence[MessageRef]) -> list[IngestStatus]:
        return [self.known for _ in places]


async def test_who_waits_for_the_same_message_as_one_that_gave_up_is_told() -> None:
    catalog, place = Catalog(), MessageRef("edge.cids.v1", 0, 7, uuid4(), 0.0)
    landing = IngestWait(catalog, asyncio.Event())  # type: ignore[arg-type]
    async with background_task(landing.run()):
        patient = asyncio.ensure_future(landing.outcomes([place], 30))
        assert await landing.outcomes([place], 0.05) == [NOT_YET]
        catalog.known = IngestStatus(ingested=True, code=None, reason=None)
        assert await patient == [catalog.known]
        assert await landing.outcomes([place], 30) == [catalog.known], "and nothing of before is in the way"


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


async def _parts(disposition: str, content: bytes = b"x", reservation: MemoryReservation | None = None) -> set[str]:
    class Nowhere:
        async def write(self, chunk: bytes) -> None:
            pass

        async def finish(self) -> None:
            pass

    async def body() -> AsyncIterator[bytes]:
        yield f"--b\r\nContent-Disposition: {disposition}\r\n\r\n".encode() + content + b"\r\n--b--\r\n"

    async def nowhere(_part: FormPart, _form: MultipartForm) -> PartSink:
        return Nowhere()

    hold = (reservation or MemoryReservation(UploadMemory(MIB), "caller")).require
    form = await read_form("multipart/form-data; boundary=b", body(), nowhere, hold)
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
