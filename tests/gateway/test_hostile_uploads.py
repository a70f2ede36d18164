"""Hostile uploads: each gets a 4xx with a code, leaves nothing behind, and the next good request works."""

import asyncio
import json
import re
import socket
from collections.abc import Iterator
from hashlib import sha1, sha256
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from headrace.gateway.uploads.receiving import GATEWAY_PREFIX
from headrace.schemas.digest import blob_key
from headrace.schemas.limits import MIB
from headrace.store.blobs.blob_store import Blobs
from tests.gateway.gateway_world import Gateway, StartGateway, name, picture, unharmed_by
from tests.gateway.hostile_http import form, head, part, send, status
from tests.waiting import until

pytestmark = pytest.mark.stack

ROOT = Path(__file__).parents[2]
SOURCES = ("headrace",)


@pytest.fixture(autouse=True)
def unharmed(gateway: Gateway) -> Iterator[None]:
    """Afterwards nothing more is staged either; resumable uploads of other tests may wait there for their rest."""
    before = staged(gateway)
    with unharmed_by(gateway):
        yield
    until(lambda: staged(gateway) <= before, 30, "nothing to be staged")


def staged(gateway: Gateway) -> set[str]:
    async def found() -> set[str]:
        return {one.key async for one in Blobs.from_settings(gateway.settings).list(GATEWAY_PREFIX)}

    return asyncio.run(found())


def problem(answer: httpx.Response, statuses: set[int]) -> dict[str, Any]:
    assert answer.status_code in statuses, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    body: dict[str, Any] = answer.json()
    assert body["code"]
    assert body["detail"]
    return body


NAMES = {
    "path": "../../etc/passwd",
    "U+0000": "a.jpg\x00.php",
    "two endings": "x.jpg.php",
    "CON": "CON",
    "NUL": "NUL",
    "300 characters": "a" * 300 + ".jpg",
    "right to left": "gpj.\u202eexe",
    "a command": ";rm -rf",
    "newline": "a\nb.jpg",
    "backslashes": "C:\\windows\\a.jpg",
}


@pytest.mark.parametrize("which", NAMES)
def test_a_filename_names_nothing(gateway: Gateway, which: str) -> None:
    body = picture()
    key = gateway.key()
    sent = form(part(body, filename=NAMES[which]))
    answer = send(gateway.url, [head("/ingest", key, f"Content-Length: {len(sent)}"), sent])
    assert status(answer) in {200, 400}, answer[:300]
    if status(answer) == 200:
        said = json.loads(answer.partition(b"\r\n\r\n")[2])
        assert said["sha256"] == sha256(body).hexdigest()
        shown = said["filename"]
        assert shown is None or not set(shown) & set("/\\\x00\n\u202e")
        [(key_of_blob,)] = gateway.rows("select store_key from blobs where encode(sha256, 'hex') = %s", said["sha256"])
        assert key_of_blob == blob_key(said["sha256"])


BODIES = {
    "ELF": b"\x7fELF\x02\x01\x01" + bytes(100),
    "HTML": b"<html><script>alert(1)</script></html>",
    "SVG": b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>',
    "empty": b"",
}


@pytest.mark.parametrize("which", BODIES)
def test_a_body_is_what_it_is_not_what_it_is_called(gateway: Gateway, which: str) -> None:
    with gateway.client() as client:
        answer = client.post("/ingest", files={"file": ("a.jpg", BODIES[which], "image/jpeg")})
    problem(answer, {422} if which == "empty" else {415})


def test_a_polyglot_is_taken_but_never_shown_inline(gateway: Gateway) -> None:
    body = picture() + b"PK\x03\x04" + b"<?php __HALT_COMPILER();"
    with gateway.client("operator") as client:
        taken = client.post("/ingest", files={"file": ("a.jpg", body)})
        assert taken.status_code == 200, taken.text
        answer = client.get(f"/api/v1/blobs/{taken.json()['sha256']}")
    assert answer.content == body
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["content-disposition"].startswith("attachment")


DIGESTS = {
    "another": sha256(b"another").hexdigest(),
    "upper case": "A" * 64,
    "65 characters": "a" * 65,
    "not hexadecimal": "g" * 64,
    "SHA-1": sha1(b"x").hexdigest(),
}


@pytest.mark.parametrize("which", DIGESTS)
def test_a_wrong_digest_is_refused(gateway: Gateway, which: str) -> None:
    with gateway.client() as client:
        answer = client.post("/ingest", data={"sha256": DIGESTS[which]}, files={"file": ("a.jpg", picture())})
    code = problem(answer, {422})["code"]
    assert code == ("digest_mismatch" if which == "another" else "malformed_digest")


def test_a_length_beyond_the_limit_is_refused_before_a_byte_is_read(gateway: Gateway) -> None:
    answer = send(gateway.url, [head("/ingest", gateway.key(), f"Content-Length: {10**13}")])
    assert status(answer) == 413


def test_a_json_body_without_a_length_is_cut_off_at_its_limit(gateway: Gateway) -> None:
    pieces = (b"10000\r\n" + b"a" * 0x10000 + b"\r\n" for _ in range(100))
    first = head("/oauth/token", gateway.key(), "Transfer-Encoding: chunked")
    answer = send(gateway.url, [first, *pieces])
    assert status(answer) == 413


def test_a_file_beyond_an_images_limit_leaves_nothing_staged(gateway: Gateway) -> None:
    def chunks() -> Iterator[bytes]:
        yield part(picture())[:-2]
        for _ in range(70):
            yield bytes(MIB)
        yield b"\r\n" + form()

    def chunked() -> Iterator[bytes]:
        for chunk in chunks():
            yield f"{len(chunk):x}\r\n".encode() + chunk + b"\r\n"
        yield b"0\r\n\r\n"

    answer = send(gateway.url, [head("/ingest", gateway.key(), "Transfer-Encoding: chunked"), *chunked()])
    assert status(answer) == 413, answer[:300]
    assert b"too_large" in answer


def test_a_body_shorter_than_its_length_is_no_request(gateway: Gateway) -> None:
    sent = form(part(picture()))
    marker = name("request")
    send(
        gateway.url,
        [head("/ingest", gateway.key(), f"Content-Length: {len(sent) + 100}", f"X-Request-ID: {marker}"), sent],
        close=True,
    )
    until(lambda: marker in gateway.log.read_text(), 30, "the request to be over")


def test_a_body_longer_than_its_length_is_not_a_second_request(gateway: Gateway) -> None:
    sent = form(part(picture()))
    smuggled = b"GET /ingest/list HTTP/1.1\r\nHost: x\r\n\r\n"
    answer = send(gateway.url, [head("/ingest", gateway.key(), f"Content-Length: {len(sent)}"), sent + smuggled])
    assert status(answer) == 200
    assert answer.count(b"HTTP/1.1") == 1 or b" 401 " in answer


def test_two_lengths_are_refused(gateway: Gateway) -> None:
    sent = b"0\r\n\r\n"
    answer = send(
        gateway.url,
        [head("/ingest", gateway.key(), f"Content-Length: {len(sent)}", "Transfer-Encoding: chunked"), sent],
    )
    assert status(answer) == 400


def test_a_head_that_drips_is_ended(start_gateway: StartGateway) -> None:
    impatient = start_gateway(gateway_header_s_max=1)
    answer = send(impatient.url, (b"G" for _ in range(8)), pause_s=0.3)
    assert status(answer) == 408


def test_a_body_that_drips_is_ended_and_so_is_a_client_that_does_not_read(start_gateway: StartGateway) -> None:
    impatient = start_gateway(gateway_body_stall_s_max=1, gateway_body_s_max=2)
    first = head("/ingest", impatient.key(), "Content-Length: 100000") + part(b"")[:-2]
    answer = send(impatient.url, [first, *(b"x" for _ in range(8))], pause_s=0.3)
    assert status(answer) == 408

    steady = send(impatient.url, [first, *(b"x" * 10_000 for _ in range(9))], pause_s=0.4)
    assert status(steady) == 408, "it may not take for ever, however steady it is"
    with socket.create_connection(("127.0.0.1", impatient.http_port), timeout=30) as deaf:
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        deaf.sendall(head("/openapi.json", impatient.key(), method="GET") * 100)
        until(lambda: not _is_connected(impatient, deaf), 30, "the gateway to end the connection")


def _is_connected(gateway: Gateway, client: socket.socket) -> bool:
    connections = psutil.Process(gateway.process.process.pid).net_connections("tcp")
    return client.getsockname() in {tuple(connection.raddr) for connection in connections}


def test_who_goes_at_99_percent_leaves_nothing(gateway: Gateway) -> None:
    sent = form(part(picture() + bytes(20 * MIB)))
    marker = name("request")
    lines = [f"Content-Length: {len(sent)}", f"X-Request-ID: {marker}"]
    send(gateway.url, [head("/ingest", gateway.key(), *lines), sent[: len(sent) * 99 // 100]], close=True)
    until(lambda: marker in gateway.log.read_text(), 30, "the request to be over")


def test_an_encoded_body_is_refused_unread(gateway: Gateway) -> None:
    with gateway.client() as client:
        answer = client.post("/ingest", content=b"\x1f\x8b" + bytes(1000), headers={"Content-Encoding": "gzip"})
    problem(answer, {415})


FORMS = {
    "100,000 parts": lambda: form(*(part(b"", name=f"f{number}", filename=None) for number in range(100_000))),
    "a head of 1 MB": lambda: form(part(picture(), extra=b"X-Long: " + b"a" * 1_000_000 + b"\r\n")),
    "a thousand heads": lambda: form(part(picture(), extra=b"X-One: 1\r\n" * 1000)),
    "nested": lambda: form(part(form(part(picture())), filename=None, extra=b"Content-Type: multipart/mixed\r\n")),
    "no end": lambda: part(picture()),
    "no name": lambda: form(b"--b0undary\r\nContent-Disposition: form-data\r\n\r\nx\r\n"),
    "no boundary at all": picture,
    "two files": lambda: form(part(picture()), part(picture())),
    "a field twice": lambda: form(part(b"a", name="source_id", filename=None) * 2, part(picture())),
    "a field of 50 MB": lambda: form(part(b"a" * 50_000_000, name="source_id", filename=None)),
    "a field that is not UTF-8": lambda: form(part(b"\xff\xfe", name="source_id", filename=None), part(picture())),
}


@pytest.mark.parametrize("which", FORMS)
def test_a_hostile_form_is_refused(gateway: Gateway, which: str) -> None:
    sent = FORMS[which]()
    answer = send(gateway.url, [head("/ingest", gateway.key(), f"Content-Length: {len(sent)}"), sent])
    assert status(answer) in {400, 413, 415, 422}, answer[:300]
    assert b"problem+json" in answer


PARTS = '"sensor_data":{},"context":{},"prediction":{}'
METADATA = {
    "depth 10,000": f'{{"ldo_id":"a",{PARTS},"x":{"[" * 10_000}{"]" * 10_000}}}',
    "depth 300": f'{{"ldo_id":"a",{PARTS},"x":{"[" * 300}{"]" * 300}}}',
    "1e400": f'{{"ldo_id":"a",{PARTS},"x":1e400}}',
    "NaN": f'{{"ldo_id":"a",{PARTS},"x":NaN}}',
    "a key twice": f'{{"ldo_id":"a",{PARTS},"context":{{}}}}',
    "50 MB": f'{{"ldo_id":"a",{PARTS},"x":"{"a" * 50_000_000}"}}',
    "a lone surrogate": f'{{"ldo_id":"a",{PARTS},"x":"\\ud800"}}',
    "U+0000": f'{{"ldo_id":"a",{PARTS},"x":"\\u0000"}}',
    "a list": "[]",
    "nothing": "",
}


@pytest.mark.parametrize("which", METADATA)
def test_hostile_metadata_are_refused(gateway: Gateway, which: str) -> None:
    with gateway.client() as client:
        answer = client.post("/ingest/ldo", files={"metadata": (None, METADATA[which])})
    problem(answer, {413, 422})


TIMES = ["0000-01-01T00:00:00Z", "9999-12-31T23:59:59Z", "-0001-01-01T00:00:00Z", "1970-01-01T00:00:00Z", -1, 1e30, "x"]


@pytest.mark.parametrize("when", TIMES)
def test_an_absurd_time_is_refused(gateway: Gateway, when: object) -> None:
    said = {"ldo_id": name("ldo"), "sensor_data": {}, "context": {}, "prediction": {}, "captured_at": when}
    with gateway.client() as client:
        answer = client.post("/ingest/ldo", files={"metadata": (None, json.dumps(said))})
    assert problem(answer, {422})["code"] == "absurd_time"


def test_a_time_in_another_zone_is_the_same_moment(gateway: Gateway) -> None:
    ldo_id = name("ldo")
    said = {
        "ldo_id": ldo_id,
        "sensor_data": {},
        "context": {},
        "prediction": {},
        "captured_at": "2026-01-31T13:00:00+01:00",
    }
    with gateway.client() as client:
        assert client.post("/ingest/ldo", files={"metadata": (None, json.dumps(said))}).status_code == 200
    rows = gateway.rows("select captured_at at time zone 'utc' from records where ldo_id = %s", ldo_id)
    assert [f"{row[0]:%Y-%m-%d %H:%M}" for row in rows] == ["2026-01-31 12:00"]


@pytest.mark.parametrize("text", ["'; DROP TABLE records; --", "%s%n%x", "{0.__class__}", "${jndi:ldap://x}"])
def test_what_means_something_elsewhere_is_only_text_here(gateway: Gateway, text: str) -> None:
    with gateway.client() as client:
        answer = client.post("/cid", data={"cid": text, "device_id": f"{name('d')} {text}"})
    assert answer.status_code == 200, answer.text
    assert gateway.rows("select code from records where record_id = %s", answer.json()["id"]) == [(text,)]


@pytest.mark.parametrize("text", ["a\r\nINJECTED: 1", "a\x1b[31mred", "a\u202eb", "a\x00b"])
def test_a_name_that_would_steer_a_log_is_refused(gateway: Gateway, text: str) -> None:
    with gateway.client() as client:
        answer = client.post("/cid", data={"cid": "x", "device_id": text})
    problem(answer, {422})
    assert "INJECTED" not in gateway.log.read_text()


def test_one_idempotency_key_is_one_request(gateway: Gateway) -> None:
    body, key = picture(), name("once")
    with gateway.client(headers={"Idempotency-Key": key}) as client:
        first = client.post("/ingest", files={"file": ("a.jpg", body)})
        again = client.post("/ingest", files={"file": ("a.jpg", body)})
        other = client.post("/ingest", files={"file": ("a.jpg", picture())})
    assert (first.status_code, again.status_code) == (200, 200)
    assert again.json() == first.json()
    assert again.headers["idempotent-replayed"] == "true"
    assert gateway.rows("select count(*) from sightings where record_id = %s", first.json()["id"]) == [(1,)]
    assert problem(other, {409})["code"] == "idempotency_conflict"


def test_a_refused_request_gives_its_idempotency_key_back(gateway: Gateway) -> None:
    with gateway.client(headers={"Idempotency-Key": name("once")}) as client:
        assert client.post("/ingest", files={"file": ("a.jpg", b"no image")}).status_code == 415
        assert client.post("/ingest", files={"file": ("a.jpg", picture())}).status_code == 200


async def test_200_uploads_of_the_same_bytes_are_one_blob_and_200_sightings(gateway: Gateway) -> None:
    body = picture(640, 480)
    headers = {"X-API-Key": await asyncio.to_thread(gateway.key)}
    async with httpx.AsyncClient(base_url=gateway.url, headers=headers, timeout=110) as client:
        answers = await asyncio.gather(*(client.post("/ingest", files={"file": ("a.jpg", body)}) for _ in range(200)))
    assert {one.status_code for one in answers} == {200}
    [record] = {one.json()["id"] for one in answers}
    assert gateway.rows("select count(*) from sightings where record_id = %s", record) == [(200,)]
    assert gateway.rows("select count(*) from outbox where record_id = %s", record) == [(1,)]
    digest = sha256(body).hexdigest()
    assert gateway.rows("select count(*) from blobs where encode(sha256, 'hex') = %s", digest) == [(1,)]


@pytest.mark.parametrize("method", ["TRACE", "CONNECT", "PUT", "DELETE", "BREW"])
def test_other_methods_are_not_known(gateway: Gateway, method: str) -> None:
    answer = send(gateway.url, [head("/ingest", gateway.key(), "Content-Length: 0", method=method)])
    assert status(answer) in {400, 404, 405}, answer[:200]


def test_unknown_paths_and_broken_requests_say_nothing_of_the_inside(gateway: Gateway) -> None:
    with gateway.anonymous() as client:
        for path in ("/health", "/ready", "/metrics", "/nowhere", "/openapi.json", "/docs"):
            text = client.get(path).text
            assert "Traceback" not in text
            assert gateway.settings.store_secret_key.get_secret_value() not in text
            assert gateway.settings.gateway_token_secret.get_secret_value() not in text


def test_the_time_that_a_wrong_key_takes_says_nothing(gateway: Gateway) -> None:
    """Both are looked up and compared; only the answers are compared here, for times on a shared machine are noise."""
    good = gateway.key("operator")
    with gateway.anonymous() as client:
        unknown = client.get("/ingest/list", headers={"X-API-Key": "hr_000000000000_" + "x" * 43})
        wrong = client.get("/ingest/list", headers={"X-API-Key": good[:-4] + "AAAA"})
    assert (unknown.status_code, wrong.status_code) == (401, 401)
    assert {**unknown.json(), "request_id": ""} == {**wrong.json(), "request_id": ""}


def test_nothing_of_ours_unpickles() -> None:
    ours = [path for folder in SOURCES for path in (ROOT / folder).rglob("*.py")]
    unpickles = re.compile(r"^\s*(import|from) (pickle|marshal|shelve|dill)", re.MULTILINE)
    assert ours
    assert not [path for path in ours if unpickles.search(path.read_text())]
