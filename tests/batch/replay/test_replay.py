"""`headrace replay` against a real Kafka, catalog and store."""

import asyncio
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

import headrace as public
from headrace.runtime.crash_points import CrashPoint
from headrace.runtime.errors import Exit
from headrace.runtime.kafka import client_config
from headrace.runtime.settings import Settings
from headrace.runtime.topic_reader import TopicReader, offset_bounds, partitions_of, reading_consumer
from headrace.schemas.codec import decode
from headrace.schemas.digest import event_id, record_id
from headrace.schemas.events import Frame, Ingested, Kind
from headrace.store.blobs.body import Body
from headrace.store.catalog.expiry import Expiry
from tests.batch.batch_samples import CAPTURED_AT_US, Line, cid, frame
from tests.commands import headrace, run_as_process, run_in_process

pytestmark = pytest.mark.stack

SECOND_US = 1_000_000
QUICK = {CrashPoint.REPLAY_BEFORE_COMMIT, CrashPoint.REPLAY_AFTER_COMMIT}
CRASHES = [
    pytest.param(point, marks=() if point in QUICK else pytest.mark.slow, id=point)
    for point in CrashPoint
    if point.startswith("replay_")
]
ONCE = {CrashPoint.REPLAY_AFTER_BEGIN, CrashPoint.REPLAY_BEFORE_END}


def pictures(count: int, sources: int = 3) -> list[Frame]:
    """Frames whose capture times are not those in which they are ingested."""
    made = [
        frame(
            uuid4().hex,
            source_id=f"camera-{number % sources}",
            sequence=number,
            captured_at_us=CAPTURED_AT_US + (number // sources) * SECOND_US + number % sources,
        )
        for number in range(count)
    ]
    return made[count // 2 :] + made[: count // 2]


@pytest.fixture
def topic(settings: Settings) -> Iterator[str]:
    name = f"replayed-{uuid4().hex[:8]}"
    admin = AdminClient(client_config(settings))
    admin.create_topics([NewTopic(name, num_partitions=2, replication_factor=1)])[name].result(20)
    yield name
    admin.delete_topics([name])[name].result(20)


def messages(settings: Settings, topic: str) -> list[Any]:
    # Up to the end behind transactions whose markers are still on their way.
    with reading_consumer(settings, "test", isolation_level="read_uncommitted") as consumer:
        bounds = offset_bounds(consumer, partitions_of(consumer, topic))
    with reading_consumer(settings, "test") as consumer:
        return list(TopicReader(consumer, bounds))


def events(settings: Settings, topic: str) -> list[Ingested]:
    return [decode(message.value(), Ingested) for message in messages(settings, topic)]


def in_capture_order(found: list[Ingested]) -> bool:
    times: dict[str, list[int]] = {}
    for event in found:
        times.setdefault(event.source_id, []).append(event.captured_at_us)
    return all(of_source == sorted(of_source) for of_source in times.values())


async def test_a_selection_goes_into_a_topic_marked_and_in_capture_order(
    line: Line, settings: Settings, topic: str
) -> None:
    made = pictures(30)
    await line.take(*made)
    await line.take(cid(uuid4().hex))
    result = headrace(settings, "replay", "--topic", topic, "--kind", "frames", "--yes", "--json")
    assert (result.json["items"], result.json["delivered"]) == (30, 30)
    found = messages(settings, topic)
    values = [decode(message.value(), Ingested) for message in found]
    assert sorted(event.digest for event in values) == sorted(event.sha256 for event in made)
    assert in_capture_order(values)
    for message, event in zip(found, values, strict=True):
        headers = dict(message.headers())
        assert headers["replay"].decode() == result.json["replay_id"]
        assert headers["ce_id"].decode() == event.event_id == str(event_id(UUID(event.record_id)))
        assert message.key() == event.source_id.encode()
        assert await Body(event, line.blobs).read() in {picture.body for picture in made}
    shown = [json.loads(text) for text in headrace(settings, "cat", topic).out.splitlines()]
    assert {text["event"]["digest"] for text in shown} == {picture.sha256 for picture in made}


async def test_the_plan_comes_first_and_without_a_yes_nothing_is_delivered(
    line: Line, settings: Settings, topic: str
) -> None:
    made = pictures(6)
    await line.take(*made)
    planned = headrace(settings, "replay", "--topic", topic, "--dry-run", "--json")
    assert sum(kind["items"] for kind in planned.json["kinds"]) == 6
    assert "6 frames" in planned.err
    assert "from plant: 6 events of 3 sources" in planned.err
    refused = headrace(settings, "replay", "--topic", topic, code=Exit.USAGE)
    assert "not_confirmed" in refused.err
    assert messages(settings, topic) == []


async def test_each_option_selects(line: Line, settings: Settings, tmp_path: Path) -> None:
    made = sorted(pictures(12), key=lambda event: event.captured_at_us)
    labelled = frame(
        uuid4().hex, source_id="camera-9", attributes=b'{"label":"scratch"}', captured_at_us=CAPTURED_AT_US
    )
    await line.take(*made, labelled)
    await line.take(cid(uuid4().hex))

    def replayed(*options: str) -> set[str]:
        result = headrace(settings, "replay", *options)
        return {json.loads(text)["event"]["digest"] for text in result.out.splitlines()}

    digests = {event.sha256 for event in made}
    assert replayed("--source", "camera-1") == {event.sha256 for event in made if event.source_id == "camera-1"}
    assert replayed("--kind", "frames") == digests | {labelled.sha256}
    assert replayed("--site", "elsewhere") == set()
    assert replayed("--label", "scratch") == {labelled.sha256}
    middle = "2026-09-21T14:13:22"
    times = [event.captured_at_us for event in made]
    assert min(times) < 1_790_000_002_000_000 < max(times)
    early = {event.sha256 for event in made if event.captured_at_us < 1_790_000_002_000_000}
    assert replayed("--kind", "frames", "--to", middle) == early | {labelled.sha256}
    assert replayed("--kind", "frames", "--from", middle) == digests - early
    assert replayed("--ingested-from", "2100-01-01") == set()
    assert len(replayed("--ingested-to", "2100-01-01")) == 14
    listed = tmp_path / "digests"
    listed.write_text(f"{made[3].sha256}  some.png\n{'0' * 64}\n")
    assert replayed("--digests", str(listed)) == {made[3].sha256}
    said = headrace(settings, "replay", "--digests", str(listed), "--dry-run").err
    assert "1 digests have no record; 0 of these were erased" in said


async def test_an_earlier_export_is_replayed_as_it_was(line: Line, settings: Settings, tmp_path: Path) -> None:
    made = pictures(8)
    await line.take(*made)
    headrace(settings, "export", "jsonl", str(tmp_path / "out"), "--source", "camera-0")
    await line.take(*pictures(8))
    result = headrace(settings, "replay", "--export", str(tmp_path / "out"))
    found = {json.loads(text)["event"]["digest"] for text in result.out.splitlines()}
    assert found == {event.sha256 for event in made if event.source_id == "camera-0"}
    missing = headrace(settings, "replay", "--export", str(tmp_path / "none"), code=Exit.USAGE)
    assert "export_unknown" in missing.err


@pytest.mark.parametrize("point", CRASHES)
async def test_one_that_is_killed_goes_on_and_repeats_nothing(
    line: Line, settings: Settings, topic: str, point: CrashPoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("headrace.batch.replay.run.BATCH_ITEMS_MAX", 4)
    made = pictures(12)
    await line.take(*made)
    command = ("replay", "--topic", topic, "--name", f"{point}", "--yes")
    for nth in (1,) if point in ONCE else (1, 2):
        headrace(settings, *command, crash_at=f"{point}:{nth}")
    result = headrace(settings, *command, "--json")
    assert result.json["position"] == 12
    found = events(settings, topic)
    assert sorted(event.digest for event in found) == sorted(event.sha256 for event in made)
    assert in_capture_order(found)
    again = headrace(settings, *command, "--json")
    assert again.json["delivered"] == 0
    other = headrace(settings, *command, "--kind", "frames", code=Exit.USAGE)
    assert "replay_differs" in other.err


async def test_a_killed_process_leaves_a_transaction_that_nobody_sees(
    line: Line, settings: Settings, topic: str
) -> None:
    made = pictures(6)
    await line.take(*made)
    command = ("replay", "--topic", topic, "--name", "killed", "--yes")
    headrace(settings, *command, crash_at="replay_before_commit", run=run_as_process)
    headrace(settings, *command)
    assert sorted(event.digest for event in events(settings, topic)) == sorted(event.sha256 for event in made)


async def test_ten_times_as_fast_takes_a_tenth_of_the_time(line: Line, settings: Settings, topic: str) -> None:
    made = [
        frame(uuid4().hex, sequence=number, captured_at_us=CAPTURED_AT_US + number * SECOND_US) for number in range(21)
    ]
    await line.take(*made)
    headrace(settings, "replay", "--topic", topic, "--speed", "10", "--yes")
    found = messages(settings, topic)
    arrived_ms = [message.timestamp()[1] for message in found]
    assert [decode(message.value(), Ingested).sequence for message in found] == list(range(21))
    # 20 s of capture; what a busy machine adds is not the replay's.
    assert arrived_ms[-1] - arrived_ms[0] >= 1900


async def test_a_handler_gets_each_event_with_its_bytes_and_one_that_fails_is_where_it_goes_on(
    line: Line, settings: Settings
) -> None:
    made = pictures(9)
    await line.take(*made)
    bodies: list[bytes] = []

    async def fail_at_five(_event: Ingested, body: Body) -> None:
        if len(bodies) == 5 and failing[0]:
            raise ValueError("not ready")
        bodies.append(await body.read())

    failing = [True]
    with pytest.raises(ValueError, match="not ready"):
        await public.replay(fail_at_five, name="mine", settings=settings, kinds=["frame"])
    failing[0] = False
    result = await public.replay(fail_at_five, name="mine", settings=settings, kinds=["frame"])
    assert (result.items, result.delivered) == (9, 4)
    in_order = sorted(made, key=lambda event: (event.captured_at_us, event.source_id))
    assert bodies == [event.body for event in in_order]


def test_a_handler_is_named_on_the_command_line(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine_to_replay.py").write_text("def take(event, body):\n    print(event.digest)\n")
    headrace(settings, "replay", "--handler", "mine_to_replay:take", "--yes")
    for text in ("mine_to_replay:other", "none_of_these:take", "nothing"):
        assert "handler_unknown" in headrace(settings, "replay", "--handler", text, code=Exit.USAGE).err


async def test_what_is_erased_never_comes_back(line: Line, settings: Settings, topic: str) -> None:
    made = pictures(6)
    await line.take(*made)
    gone = made[2].sha256
    headrace(settings, "erase", str(record_id(Kind.FRAME, gone)), "--yes")
    headrace(settings, "replay", "--topic", topic, "--yes")
    assert {event.digest for event in events(settings, topic)} == {event.sha256 for event in made} - {gone}


async def test_what_is_erased_while_a_replay_waits_is_passed_over(
    line: Line, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = [
        frame(uuid4().hex, sequence=number, captured_at_us=CAPTURED_AT_US + number * SECOND_US) for number in range(3)
    ]
    await line.take(*made)
    seen: list[int] = []

    async def take(event: Ingested, _body: Body) -> None:
        seen.append(event.sequence)
        if event.sequence == 0:
            erased = await asyncio.to_thread(
                run_in_process, settings, "erase", str(record_id(Kind.FRAME, made[2].sha256)), "--yes"
            )
            assert erased.code == Exit.OK, erased.err

    result = await public.replay(take, settings=settings, speed=20.0)
    assert seen == [0, 1]
    assert result.gone == 1


async def test_archived_records_are_left_out_or_brought_back(
    line: Line, settings: Settings, topic: str, tmp_path: Path
) -> None:
    archived = settings.model_copy(
        update={"archive_url": f"file://{tmp_path}", "archive_after_days": 0.0, "store_url": settings.store_url}
    )
    from tests.streams.streams_samples import ldo

    made = replace(ldo(), ldo_id=uuid4().hex, captured_at_us=CAPTURED_AT_US)
    await line.take(made)
    async with line.catalog._pool.acquire() as connection:
        await connection.execute("update outbox set published_at = now()")
    moved = headrace(archived, "archive")
    assert "1 bodies archived" in moved.err, moved.err
    left_out = headrace(archived, "replay", "--topic", topic, "--yes", "--json", code=Exit.FAILED)
    assert "1 of them are archived" in left_out.err
    assert (left_out.json["delivered"], left_out.json["archived"]) == (0, 1)
    restored = headrace(archived, "replay", "--topic", topic, "--restore", "--yes", "--json")
    assert "bytes from the archive, about" in restored.err
    assert restored.json["delivered"] == 1
    (event,) = events(settings, topic)
    assert await Body(event, line.blobs).read()


def test_the_services_topics_are_refused_and_one_that_is_absent_is_named(settings: Settings) -> None:
    for name in ("ingested.frames.v1", "edge.frames.v1"):
        assert "is a topic of Headrace" in headrace(settings, "replay", "--topic", name, code=Exit.USAGE).err
    absent = headrace(settings, "replay", "--topic", "absent", "--yes", code=Exit.USAGE)
    assert "topics_missing" in absent.err
    both = headrace(settings, "replay", "--topic", "a", "--handler", "b:c", code=Exit.USAGE)
    assert "a replay goes to one place" in both.err


async def test_an_old_replay_is_forgotten_with_what_it_still_had_to_deliver(
    line: Line, settings: Settings, topic: str, sql: Any, postgres_dsn: str
) -> None:
    await line.take(*pictures(3))
    for name in ("old", "new"):
        headrace(settings, "replay", "--topic", topic, "--name", name, "--yes", crash_at="replay_after_begin")
    await sql.execute("update replays set began_at = now() - interval '91 days' where name = 'old'")
    async with Expiry.open(postgres_dsn) as expiry:
        assert await expiry.forget_replays(90) == 1
    assert [row[0] for row in await sql.fetch("select name from replays")] == ["new"]
    assert await sql.fetchval("select count(*) from replay_items") == 3
