"""The URL ingestion library's interface: its code as it stands, against real servers."""

import asyncio
import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest

from headrace import IngestClient
from headrace.batch.fetch.errors import (
    AddressRefusedError,
    ArgumentRefusedError,
    CatalogFailedError,
    HttpStatusError,
    IngestError,
    MediaRefusedError,
    StoreFailedError,
    TooLargeError,
    UrlRefusedError,
)
from headrace.runtime.settings import Settings
from headrace.schemas.digest import sha256_hex
from headrace.schemas.events import Ingested
from headrace.store.blobs.blob_store import Blobs
from headrace.store.catalog.outbox import Outbox
from headrace.streams.relay.announcement import OUTPUT_TOPICS
from tests.batch.fetch.announcements import Ear
from tests.batch.fetch.file_server import FileServer, file_server
from tests.batch.fetch.web_servers import picture
from tests.processes import ServiceProcess
from tests.streams.streams_samples import mp4
from tests.waiting import until

pytestmark = [pytest.mark.stack, pytest.mark.timeout(240)]

SAMPLES = re.findall(r"```python\n(.*?)```", (Path(__file__).parents[3] / "docs/urls.md").read_text("utf-8"), re.DOTALL)
CANARY = "canary-pass-9"
# What callers of the predecessor have, with its own spaces.
PREDECESSORS = """
client = IngestClient(s3_bucket="raw", db_url="postgresql://user:pass@localhost/db")
result = client.ingest_url(url="https://example.com/photo.jpg", license="cc0", source="my_dataset")
result["id"], result["s3_key"], result["checksum"]        # checksum: SHA-256, hexadecimal
client.close()
"""


@pytest.fixture
def allowed(settings: Settings) -> Settings:
    """The stack's settings for URLs on this machine."""
    return settings.model_copy(
        update={
            "url_networks": "127.0.0.0/8",
            "url_host_pause_s": 0.0,
            "url_host_requests_max": 8,
            "url_retry_delay_s": 0.01,
            "url_bytes_max": 100_000,
        }
    )


@pytest.fixture
def environment(allowed: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """What an operator sets; bucket and database are the sample's own arguments."""
    for name in ("store_endpoint", "store_region", "url_networks", "url_host_pause_s"):
        monkeypatch.setenv(f"HEADRACE_{name.upper()}", str(getattr(allowed, name)))
    for name in ("store_access_key", "store_secret_key"):
        monkeypatch.setenv(f"HEADRACE_{name.upper()}", getattr(allowed, name).get_secret_value())


def rows(settings: Settings, query: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(settings.postgres_dsn.get_secret_value()) as connection:
        return connection.execute(query).fetchall()  # type: ignore[call-overload, no-any-return]


def announced(settings: Settings) -> list[tuple[str, Ingested]]:
    """What the relay is to announce."""

    async def pending() -> list[tuple[str, Ingested]]:
        outbox = await Outbox.open(settings.postgres_dsn.get_secret_value())
        try:
            result = [row for topic in OUTPUT_TOPICS for row in await outbox.pending(topic, 100)]
        finally:
            await outbox.close()
        return [(item.topic, item.event) for item in result if isinstance(item.event, Ingested)]

    return asyncio.run(pending())


def here(sample: str, server: FileServer, settings: Settings) -> str:
    """A sample's code, for the servers of this test."""
    return (
        sample.replace("https://example.com", server.url(""))
        .replace('"raw"', repr(settings.store_url.removeprefix("s3://")))
        .replace("postgresql://user:pass@localhost/db", settings.postgres_dsn.get_secret_value())
    )


@pytest.mark.usefixtures("environment")
def test_the_predecessors_code_runs_as_it_stands(allowed: Settings) -> None:
    names: dict[str, Any] = {"IngestClient": IngestClient}
    with file_server({"/photo.jpg": picture(1)}.get) as server:
        exec(here(PREDECESSORS, server, allowed), names)
        first = names["result"]
        exec(here(PREDECESSORS, server, allowed), names)
        again = names["result"]
    ((record, key),) = rows(allowed, "select record_id::text, store_key from records join blobs on sha256 = digest")
    assert (first["id"], first["s3_key"], first["checksum"]) == (record, key, sha256_hex(picture(1)))
    assert (first["duplicate"], again) == (False, {**first, "duplicate": True})


@pytest.mark.parametrize("sample", SAMPLES, ids=["one", "many"])
@pytest.mark.usefixtures("environment")
def test_the_samples_run_as_they_stand(
    sample: str, allowed: Settings, blobs: Blobs, capsys: pytest.CaptureFixture[str]
) -> None:
    with file_server({"/photo.jpg": picture(1)}.get) as server:
        exec(here(sample, server, allowed), {})
    digest = sha256_hex(picture(1))
    ((record, key),) = rows(allowed, "select record_id, store_key from records join blobs on sha256 = digest")
    assert str(record) in capsys.readouterr().out
    assert asyncio.run(blobs.get(key)) == picture(1)
    assert rows(
        allowed, "select source_id, site, media_type, size_bytes, width, attributes->>'license' from records"
    ) == [("my_dataset", "web", "image/jpeg", len(picture(1)), 16, "cc0")]
    ((topic, event),) = announced(allowed)
    assert (topic, event.digest, event.store_key) == ("ingested.frames.v1", digest, key)


def test_what_is_stored_is_announced_once_to_whoever_reads_the_topics(allowed: Settings, tmp_path: Path) -> None:
    # Bytes that no other test has: the relay announces nothing twice on topics that all of them share.
    known = {"/a.jpg": picture(1) + os.urandom(16), "/b.mp4": mp4(filler=os.urandom(64))}
    known["/c.jpg"] = known["/a.jpg"]
    topic_of = {"image/jpeg": "ingested.frames.v1", "video/mp4": "ingested.clips.v1"}
    ear = Ear(allowed, [*topic_of.values()])
    relay = ServiceProcess(allowed, "relay", log=tmp_path / "relay.log").wait_ready()
    with file_server(known.get) as server, IngestClient(settings=allowed) as client:
        urls = [server.url(path) for path in (*known, *known, "/missing")]
        outcomes = [*client.ingest_urls(urls, license="cc0", source="my_dataset")]
    until(lambda: not announced(allowed), 60, "the relay to announce everything")
    assert relay.stop() == 0
    results = {
        outcome.result.id: outcome.result
        for outcome in outcomes
        if outcome.result is not None and outcome.status == "stored"
    }
    assert sum(outcome.status == "duplicate" for outcome in outcomes) == 4
    heard = [(topic, event) for topic, event in ear.heard() if event.record_id in results]
    assert sorted(event.record_id for _, event in heard) == sorted(results)
    assert sorted(topic for topic, _ in heard) == sorted(topic_of.values())
    for topic, event in heard:
        result = results[event.record_id]
        assert topic == topic_of[result.media_type]
        assert (event.digest, event.store_key, event.size_bytes) == (result.checksum, result.s3_key, result.size_bytes)
        assert (event.source_id, event.site, event.media_type) == ("my_dataset", "web", result.media_type)
        attributes = json.loads(event.attributes)
        assert ("video" in attributes) == (result.media_type == "video/mp4")
        attributes.pop("video", None)
        assert attributes == {"url": result.url, "license": "cc0", "captured_at_from": "received"}


def test_the_same_bytes_again_are_a_sighting_of_the_first(allowed: Settings) -> None:
    with file_server(lambda _path: picture(1)) as server, IngestClient(settings=allowed) as client:
        first = client.ingest_url(server.url("/a.jpg?token=" + CANARY), license="cc0", source="one")
        again = client.ingest_url(server.url("/b.jpg"), source="two")
    assert (first["duplicate"], again["duplicate"]) == (False, True)
    assert [again[name] for name in ("id", "s3_key", "checksum")] == [
        first[name] for name in ("id", "s3_key", "checksum")
    ]
    assert first["checksum"] == sha256_hex(picture(1))
    assert rows(allowed, "select source_id from sightings order by seen_at") == [("one",), ("two",)]
    assert len(announced(allowed)) == 1
    assert CANARY not in str(first) + str(rows(allowed, "select r::text from records r"))


def test_what_fails_says_what_it_was_and_leaves_nothing(allowed: Settings) -> None:
    known = {"/text": b"no picture", "/large": bytes(200_000), "/good": picture(1)}
    cases: list[tuple[Callable[[Any], str], type[IngestError]]] = [
        (lambda _: "http://10.0.0.1/", AddressRefusedError),
        (lambda _: f"http://user:{CANARY}@127.0.0.1/", UrlRefusedError),
        (lambda server: server.url("/missing"), HttpStatusError),
        (lambda server: server.url("/text"), MediaRefusedError),
        (lambda server: server.url("/large"), TooLargeError),
    ]
    with file_server(known.get) as server, IngestClient(settings=allowed) as client:
        for url, expected in cases:
            with pytest.raises(expected) as caught:
                client.ingest_url(url(server))
            assert isinstance(caught.value, IngestError)
            assert CANARY not in str(caught.value)
        with pytest.raises(ArgumentRefusedError):
            client.ingest_url(server.url("/good"), source="two\nlines")
        assert rows(allowed, "select (select count(*) from records), (select count(*) from sightings)") == [(0, 0)]
        assert not client.ingest_url(server.url("/good"))["duplicate"]


def test_what_may_pass_is_tried_again_and_nothing_else(allowed: Settings) -> None:
    with file_server(lambda path: None if path == "/missing" else picture(1)) as server:
        server.busy.update({"/soon": 2, "/never": 9})
        with IngestClient(settings=allowed) as client:
            assert client.ingest_url(server.url("/soon"))["checksum"] == sha256_hex(picture(1))
            for path in ("/never", "/missing"):
                with pytest.raises(HttpStatusError):
                    client.ingest_url(server.url(path))
        assert server.answered == {"/soon": 3, "/never": 3, "/missing": 1, "/robots.txt": 0}


def test_a_store_or_a_database_that_cannot_be_used(allowed: Settings) -> None:
    with pytest.raises(StoreFailedError):
        IngestClient("there-is-no-such-bucket", settings=allowed)
    with pytest.raises(CatalogFailedError) as caught:
        IngestClient(db_url=f"postgresql+psycopg2://somebody:{CANARY}@127.0.0.1:1/none", settings=allowed)
    assert CANARY not in str(caught.value)


def test_many_at_a_time_and_each_outcome_once(allowed: Settings) -> None:
    def body_of(path: str) -> bytes | None:
        number = int(path[1:])
        return None if number % 10 == 0 else picture(number % 40)

    with file_server(body_of) as server, IngestClient(settings=allowed) as client:
        urls: list[Any] = [server.url(f"/{number}") for number in range(100)]
        urls += [{"url": server.url("/1"), "source": "other"}, {"no": "url"}, "file:///etc/passwd"]
        outcomes = list(client.ingest_urls(iter(urls), workers=8))
    assert sorted(outcome.index for outcome in outcomes) == list(range(103))
    counts = {status: sum(outcome.status == status for outcome in outcomes) for status in ("stored", "duplicate")}
    assert counts == {"stored": 36, "duplicate": 55}
    failed = {outcome.index: outcome.error.code for outcome in outcomes if outcome.error is not None}
    assert failed == {**dict.fromkeys(range(0, 100, 10), "http_status"), 101: "argument_refused", 102: "url_refused"}
    assert len(announced(allowed)) == 36
    assert rows(allowed, "select count(*) from sightings") == [(91,)]


def test_a_caller_who_has_enough_ends_the_run(allowed: Settings) -> None:
    with file_server(lambda path: picture(int(path[1:]))) as server, IngestClient(settings=allowed) as client:
        run = client.ingest_urls((server.url(f"/{number}") for number in range(1000)), workers=2)
        next(run)
        run.close()
        assert sum(server.answered.values()) < 20
        assert client.ingest_url(server.url("/7"))["id"]
