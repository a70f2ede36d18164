"""A worker ingests what sites mirror: once however often they are mirrored."""

from collections.abc import Iterator
from contextlib import closing
from typing import Any
from uuid import uuid4

import pytest
from confluent_kafka import KafkaError, Message, Producer
from confluent_kafka.admin import AdminClient, NewTopic

from headrace.runtime.kafka import client_config
from headrace.runtime.settings import Settings
from headrace.schemas.codec import encode
from headrace.schemas.digest import event_id
from headrace.schemas.events import Frame, Kind
from headrace.schemas.mirrored import SitePosition, origin_header
from headrace.schemas.topics import input_topic
from tests.processes import ServiceProcess
from tests.streams.streams_samples import frame, png
from tests.streams.streams_world import ARRIVES_S_MAX, World
from tests.waiting import until

pytestmark = pytest.mark.stack

FRAMES = input_topic(Kind.FRAME).name


class Mirror:
    """Writes to a site's mirrored topic of frames what the site's own one has: partition 0, from offset 0 on."""

    def __init__(self, settings: Settings, site: str) -> None:
        self.site = site
        self.topic = f"{site}.{FRAMES}"
        self._admin = AdminClient(client_config(settings))
        self._producer = Producer(client_config(settings, acks="all"))
        self._next = 0

    def make(self) -> None:
        config = {"message.timestamp.type": "LogAppendTime"}
        (made,) = self._admin.create_topics([NewTopic(self.topic, 2, 1, config=config)]).values()
        made.result(30)

    def delete(self) -> None:
        (deleted,) = self._admin.delete_topics([self.topic], request_timeout=30).values()
        deleted.result(30)

    def bring(self, *events: Frame, at: int | None = None, origin: bool = True) -> list[int]:
        """Return the offsets at the site; with `at` they are there already, and mirrored again from there."""
        start = self._next if at is None else at
        delivered: list[tuple[KafkaError | None, Message]] = []
        for number, event in enumerate(events, start):
            header = origin_header(SitePosition(self.site, FRAMES, 0, number))
            self._producer.produce(
                self.topic,
                partition=0,
                key=event.source_id.encode(),
                value=encode(event),
                headers=[header] if origin else [],
                on_delivery=lambda error, message: delivered.append((error, message)),
            )
        assert self._producer.flush(30) == 0
        assert [error for error, _ in delivered] == [None] * len(events)
        self._next = max(self._next, start + len(events))
        return list(range(start, start + len(events)))


@pytest.fixture(scope="module")
def all_mirrors(stack_settings: Settings) -> Iterator[list[Mirror]]:
    """Return those of two sites for each test, made before the worker starts and deleted after it has ended."""
    tag = uuid4().hex[:6]
    made = [Mirror(stack_settings, f"site-{tag}-{number}") for number in range(6)]
    for mirror in made:
        mirror.make()
    yield made.copy()
    for mirror in made:
        mirror.delete()


@pytest.fixture
def mirrors(all_mirrors: list[Mirror]) -> list[Mirror]:
    """Return those of two sites that no other test uses."""
    return [all_mirrors.pop(), all_mirrors.pop()]


@pytest.fixture(scope="module")
def worker(
    module_settings: Settings, all_mirrors: list[Mirror], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ServiceProcess]:
    assert all_mirrors
    log = tmp_path_factory.mktemp("mirrored") / "worker.log"
    running = ServiceProcess(module_settings, "worker", "--kinds", "frames,clips", log=log).wait_ready()
    yield running
    assert running.stop() == 0


@pytest.fixture(scope="module")
def world(module_settings: Settings, worker: ServiceProcess) -> Iterator[World]:
    assert worker.is_alive()
    with closing(World(module_settings)) as opened:
        yield opened


def sightings(world: World, mirror: Mirror) -> list[dict[str, Any]]:
    text = 'select * from sightings where topic = %s and partition = 0 order by "offset", seen_at'
    return world.rows(text, mirror.topic)


def losses(world: World, mirror: Mirror) -> list[dict[str, Any]]:
    return world.rows("select * from mirror_losses where site = %s", mirror.site)


def picture(mirror: Mirror, shade: int, **changes: Any) -> Frame:
    return frame(png(shade=shade), **({"site": mirror.site, "source_id": "camera-1"} | changes))


def test_sites_are_ingested_once_however_often_they_are_mirrored(
    world: World, mirrors: list[Mirror], worker: ServiceProcess
) -> None:
    first, second = mirrors
    offsets = first.bring(*[picture(first, shade) for shade in range(3)])
    until(lambda: len(sightings(world, first)) == 3, ARRIVES_S_MAX, "what the site has mirrored to arrive")
    second.bring(picture(second, 0))
    until(lambda: sightings(world, second), ARRIVES_S_MAX, "the other site's topic to be ingested")
    world.stored(world.send(frame(png(shade=100))))  # what it read before goes on

    first.bring(*[picture(first, shade) for shade in range(4)], at=0)
    until(lambda: len(sightings(world, first)) == 4, ARRIVES_S_MAX, "the message after those that came again")
    seen, same = sightings(world, first), sightings(world, second)[0]["record_id"]
    assert [row["offset"] for row in seen] == [*offsets, 3]
    assert [row["mirrored_offset"] for row in seen] == [0, 1, 2, 6]
    assert same == seen[0]["record_id"], "the same bytes are one record"
    ids = [row["record_id"] for row in seen]
    announced = {event_id(record) for record in ids} | {event_id(same, second.site)}
    outbox = world.rows("select event_id from outbox where record_id = any(%s)", ids)
    assert sorted(row["event_id"] for row in outbox) == sorted(announced), "each once, and once for the further site"
    assert losses(world, first) == losses(world, second) == []
    assert worker.get("/readyz")[0] == 200


def test_an_event_under_another_sites_name_is_a_dead_letter(world: World, mirrors: list[Mirror]) -> None:
    first, second = mirrors
    stranger = picture(first, 10, site=second.site)
    (at,) = first.bring(stranger)
    letters = 'select code, site, topic, "offset" from dead_letters where topic = %s'
    until(lambda: world.rows(letters, first.topic), ARRIVES_S_MAX, "the stranger to be rejected")
    assert world.rows(letters, first.topic) == [
        {"code": "foreign_site", "site": first.site, "topic": first.topic, "offset": at}
    ]


def test_what_the_mirror_left_out_is_recorded_with_its_offsets(
    world: World, mirrors: list[Mirror], worker: ServiceProcess
) -> None:
    first, _ = mirrors
    first.bring(picture(first, 12))
    (after,) = first.bring(picture(first, 11), at=1000)
    until(lambda: len(sightings(world, first)) == 2, ARRIVES_S_MAX, "the message after the gap")
    assert sightings(world, first)[-1]["offset"] == after
    (loss,) = losses(world, first)
    assert (loss["site"], loss["topic"], loss["last_offset"], loss["reason"]) == (first.site, FRAMES, 999, "gap")
    assert f'headrace_worker_unmirrored_offsets_total{{reason="gap",site="{first.site}"}}' in worker.get("/metrics")[1]
