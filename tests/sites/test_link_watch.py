"""When a mirror has to end, and what of a source counts as lost; without a server."""

from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import pytest

from headrace.runtime.errors import Exit, HeadraceError
from headrace.runtime.metrics import mirror_lost_offsets_total
from headrace.runtime.settings import load_settings
from headrace.schemas.topics import PartitionKey
from headrace.sites import link_watch
from headrace.sites.internal_topic import TaskStatus, parse_offset, parse_status
from headrace.sites.link_probe import LinkStatus, PartitionLag
from headrace.sites.link_watch import LinkWatch
from headrace.sites.memory import Loss, parse_loss, parse_topic_id
from headrace.sites.topology import Flow

FRAMES = "edge.frames.v1"
KEY = (FRAMES, 0)
FLOW = Flow.model_validate({"from": "factory-a", "to": "central"})
SETTINGS = load_settings(_env_file=None)


@dataclass
class Values:
    """A topic of MirrorMaker's that was read."""

    values: dict[Any, Any] = field(default_factory=dict)
    keys: dict[Any, bytes] = field(default_factory=dict)


class Probe:
    """A probe that says what a test wants."""

    def __init__(self) -> None:
        self.positions, self.tasks, self.topic_ids = Values({KEY: 100}), Values(), Values()
        self.ends: dict[PartitionKey, int] = {KEY: 1000}
        self.ids = {FRAMES: "first"}
        self.first, self.end = 0, 100
        self.copied: int | None = None
        self.problem = ""
        self.asked_from: list[int] = []

    def read_target(self) -> None:
        pass

    def ids_at_source(self) -> dict[str, str]:
        return self.ids

    def first_copied(self, _key: PartitionKey, *, after: int, position: int) -> int | None:
        self.asked_from.append(after)
        return self.copied

    def look(self) -> LinkStatus:
        position = self.positions.values.get(KEY, self.first)
        lag = PartitionLag(topic=FRAMES, partition=0, position=position, first=self.first, end=self.end)
        tasks = dict(self.tasks.values)
        return LinkStatus(link=FLOW.name, problem=self.problem, lags=() if self.problem else (lag,), tasks=tasks)


class World:
    """A watch of a probe, and what it wrote to the target."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.probe, self.losses, self.deleted, self.now = Probe(), list[Loss](), list[bytes](), 0.0
        ids = self.probe.topic_ids.values

        def know(_settings: object, link: str, new: dict[str, str]) -> None:
            ids.update({(link, topic): topic_id for topic, topic_id in new.items()})

        monkeypatch.setattr(link_watch, "opened", lambda *_: nullcontext(self.probe))
        monkeypatch.setattr(link_watch, "record_loss", lambda _, loss: self.losses.append(loss))
        monkeypatch.setattr(link_watch, "record_topic_ids", know)
        monkeypatch.setattr(link_watch, "write_compacted", lambda _, __, rows: self.deleted.extend(rows))
        monkeypatch.setattr(link_watch.time, "monotonic", lambda: self.now)
        self.watch = LinkWatch(FLOW, SETTINGS, SETTINGS)
        self.watch.begin()

    def look(self, **changes: Any) -> LinkStatus:
        for name, value in changes.items():
            setattr(self.probe, name, value)
        return self.watch.look(90.0)

    def copied_to(self, position: int) -> None:
        self.probe.positions.values[KEY] = position

    @property
    def ranges(self) -> list[tuple[int, int]]:
        return [(loss.first, loss.until) for loss in self.losses]


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    return World(monkeypatch)


def test_a_failed_task_ends_the_mirror_with_its_error(world: World) -> None:
    world.probe.tasks.values["0"] = TaskStatus("FAILED", "TopicAuthorizationException: Not authorized")
    with pytest.raises(HeadraceError, match="factory-a->central failed: TopicAuthorizationException") as caught:
        world.look()
    assert (caught.value.code, caught.value.exit_code) == ("mirror_task_failed", Exit.BROKEN)


def test_a_task_that_failed_before_the_start_is_passed_over(world: World) -> None:
    world.probe.tasks.values["0"] = TaskStatus("FAILED", "old")
    world.watch.begin()
    assert world.look().tasks == {}


def test_no_progress_ends_the_mirror_only_while_something_waits_and_the_source_answers(world: World) -> None:
    world.now = 1000
    world.look(end=100)
    world.look(end=200)
    world.now += 80
    world.look()
    world.copied_to(150)
    world.now += 80
    world.look()
    world.now += 200
    world.look(problem="factory-a does not answer")
    world.now += 80
    world.look(problem="")
    world.now += 20
    with pytest.raises(HeadraceError, match="copied nothing for 100 s while 50 messages wait") as caught:
        world.look()
    assert caught.value.exit_code == Exit.STUCK


def test_nothing_is_lost_while_copying_keeps_ahead_of_retention(world: World) -> None:
    for first, position in ((50, 120), (120, 120), (120, 300)):
        world.copied_to(position)
        world.look(first=first, end=300)
    assert world.losses == []


def test_what_was_deleted_before_it_was_copied_is_lost_and_counted_once_while_it_grows(world: World) -> None:
    before = mirror_lost_offsets_total.labels(FLOW.name, FRAMES)._value.get()
    world.look(first=130, end=300)
    world.look()
    world.look(first=140)
    assert world.ranges == [(100, 130), (100, 140)]
    assert mirror_lost_offsets_total.labels(FLOW.name, FRAMES)._value.get() - before == 40


def test_after_a_jump_the_first_copy_tells_where_the_gap_ends(world: World) -> None:
    """The source has deleted up to 200 meanwhile, but copying went on at 130."""
    world.copied_to(250)
    world.look(first=200, end=300, copied=130, ends={KEY: 1120})
    assert world.ranges == [(100, 130)]
    assert world.probe.asked_from == [1000]  # where the copy ended at the look before


def test_what_was_copied_and_deleted_since_is_not_lost(world: World) -> None:
    world.copied_to(250)
    world.look(first=200, end=300, copied=100)
    assert world.losses == []


def test_a_partition_that_was_never_copied_has_lost_nothing(world: World) -> None:
    world.probe.positions.values.clear()
    world.watch.begin()
    world.look(first=70, end=100)
    assert world.losses == []


def test_a_topic_that_was_made_anew_begins_anew_and_what_waited_is_lost(world: World) -> None:
    world.probe.positions.keys[KEY] = b"key"
    world.look(end=160)
    assert not world.watch.needs_restart
    world.look(ids={FRAMES: "second"}, end=500)
    assert world.watch.needs_restart
    world.watch.start_anew()
    assert (world.deleted, world.ranges) == ([b"key"], [(100, 160)])
    world.look()
    assert not world.watch.needs_restart


def test_a_partition_in_which_copying_has_gone_back_by_itself_is_left_alone(world: World) -> None:
    world.probe.positions.keys[KEY] = b"key"
    world.look(end=100)
    world.copied_to(20)
    world.look(ids={FRAMES: "second"}, end=30)
    world.watch.start_anew()
    assert (world.deleted, world.ranges) == ([], [])


def test_what_mirrormaker_keeps_is_read() -> None:
    key = b'["MirrorSourceConnector",{"cluster":"factory-a","partition":2,"topic":"edge.ldos.v1"}]'
    assert parse_offset(key, b'{"offset":41}') == (("edge.ldos.v1", 2), 42)
    assert parse_offset(key, None) == (("edge.ldos.v1", 2), None)
    assert parse_offset(b'["MirrorHeartbeatConnector",{}]', b'{"offset":1}') is None
    assert parse_offset(b"\xff", b"") is None
    trace = "org.apache.kafka.connect.errors.ConnectException: a\\n\\tat x\\nCaused by: java.Oops: why\\n\\tat y"
    task = b"status-task-MirrorSourceConnector-1"
    assert parse_status(task, f'{{"state":"FAILED","trace":"{trace}"}}'.encode()) == (
        "1",
        TaskStatus("FAILED", "java.Oops: why"),
    )
    assert parse_status(task, None) == ("1", None)
    assert parse_status(b"status-connector-MirrorSourceConnector", b"{}") is None
    assert parse_loss(b'["l","t",0,5]', b'{"until":9,"at":1.5}') == (
        ("l", "t", 0, 5),
        Loss(link="l", topic="t", partition=0, first=5, until=9, at=1.5),
    )
    assert parse_loss(b'["l","t"]', b'{"id":"x"}') is None
    assert parse_topic_id(b'["l","t"]', b'{"id":"x"}') == (("l", "t"), "x")


def test_the_oldest_message_near_its_end_is_an_alarm_and_so_is_a_recent_loss() -> None:
    assert not LinkStatus(link="l", retention_share=0.49).alarm
    assert LinkStatus(link="l", retention_share=0.5).alarm
    loss = Loss(link="l", topic="t", partition=0, first=1, until=2, at=0.0)
    assert not LinkStatus(link="l", losses=(loss,)).alarm
