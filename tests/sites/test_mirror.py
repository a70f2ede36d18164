"""Topics of one site in the Kafka of another, on real clusters with a real MirrorMaker."""

import os
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import psutil
import pytest
from confluent_kafka import TIMESTAMP_LOG_APPEND_TIME, TopicPartition
from confluent_kafka.admin import AdminClient

from headrace.native import StackInfo, restart_count, status
from headrace.runtime.errors import Exit
from headrace.runtime.kafka import ensure_topics
from headrace.schemas.events import Kind
from headrace.sites.clusters import retentions_s
from tests.commands import CommandResult, run_in_process
from tests.sites.site_world import ORIGIN, Mirrored, at, mirror_maker_of, places, publish, read_all, stack_of_sites
from tests.waiting import until

pytestmark = [pytest.mark.server, pytest.mark.timeout(300)]

LDOS, FRAMES, CIDS = "edge.ldos.v1", "edge.frames.v1", "edge.cids.v1"
COPIED_S_MAX = 90.0


@pytest.fixture(scope="module")
def sites() -> Iterator[StackInfo]:
    with stack_of_sites("factory-a", "central") as info:
        yield info


def running(sites: StackInfo) -> psutil.Process:
    java = mirror_maker_of(sites.state_dir)
    assert java is not None
    return java


def headrace(sites: StackInfo, *args: str) -> CommandResult:
    file = str(sites.state_dir / "sites.toml")
    return run_in_process(at(sites.kafka), *args, HEADRACE_SITES_FILE=file)


def test_what_a_site_publishes_is_copied_once_with_its_origin(sites: StackInfo) -> None:
    """Also a message of 8 MiB, and one whose sender claims to be another site."""
    site = sites.sites["factory-a"]
    publish(site, LDOS, [b"%d" % number for number in range(2_000)])
    publish(site, LDOS, [b"claimed"], headers={ORIGIN: b'{"site": "factory-b"}', "ce_id": b"7"})
    publish(site, FRAMES, [os.urandom(8 * 1024 * 1024)])
    sent = {topic: read_all(site, topic) for topic in (LDOS, FRAMES)}
    for topic, messages in sent.items():
        name = f"factory-a.{topic}"
        until(lambda: len(read_all(sites.kafka, name)) >= len(messages), COPIED_S_MAX, f"{name} to be whole")  # noqa: B023
        copied = read_all(sites.kafka, name)
        assert places(copied) == sorted((topic, message.partition, message.offset) for message in messages)
        assert {message.origin["site"] for message in copied} == {"factory-a"}
        by_place = {(message.origin["partition"], message.origin["offset"]): message for message in copied}
        for message in messages:
            copy = by_place[message.partition, message.offset]
            assert (copy.partition, copy.key, copy.value) == (message.partition, message.key, message.value)
        assert {message.timestamp_type for message in copied} == {TIMESTAMP_LOG_APPEND_TIME}
    (claimed,) = [message for message in read_all(sites.kafka, f"factory-a.{LDOS}") if message.value == b"claimed"]
    assert dict(claimed.headers)["ce_id"] == b"7"


def test_copies_have_the_partitions_and_the_retention_of_the_plan(sites: StackInfo) -> None:
    planned = {topic["name"]: topic for topic in headrace(sites, "sites", "plan", "--json").json["topics"]}
    admin = AdminClient({"bootstrap.servers": sites.kafka})
    topics = admin.list_topics(timeout=10).topics
    assert planned.keys() == {f"factory-a.edge.{kind}s.v1" for kind in Kind}
    assert {name: len(topics[name].partitions) for name in planned} == dict.fromkeys(planned, 4)
    assert retentions_s(admin, list(planned)) == {
        name: int(topic["config"]["retention.ms"]) / 1000 for name, topic in planned.items()
    }


def test_the_lag_is_told_with_the_tasks(sites: StackInfo) -> None:
    until(lambda: headrace(sites, "sites").code == Exit.OK, 60, "no lag and no error")
    (link,) = headrace(sites, "sites", "--json").json["links"]
    assert link["link"] == "factory-a->central"
    assert link["tasks"] == {"RUNNING": 2}
    assert (link["messages"], link["alarm"], link["error"], link["lost"]) == (0, False, "", [])


@pytest.mark.slow
def test_a_killed_mirrormaker_ends_the_mirror_which_starts_again_and_repeats_nothing(sites: StackInfo) -> None:
    site, before = sites.sites["factory-a"], restart_count(sites.state_dir, "mirror")
    running(sites).kill()
    publish(site, LDOS, [b"%d" % number for number in range(1_000)])
    until(lambda: restart_count(sites.state_dir, "mirror") > before, 60, "the mirror to end")
    sent = read_all(site, LDOS)
    name = f"factory-a.{LDOS}"
    until(lambda: len(read_all(sites.kafka, name)) >= len(sent), COPIED_S_MAX, "the rest to be copied")
    assert places(read_all(sites.kafka, name)) == sorted((LDOS, m.partition, m.offset) for m in sent)
    assert "MirrorMaker ended: killed by SIGKILL" in (sites.state_dir / "logs" / "mirror.log").read_text()


@pytest.mark.slow
def test_a_changed_file_starts_mirrormaker_again_and_an_invalid_one_changes_nothing(sites: StackInfo) -> None:
    until(lambda: status(sites.state_dir).healthy, 90, "the mirror to be ready")
    file = sites.state_dir / "sites.toml"
    text, first = file.read_text(), running(sites).pid
    file.write_text(text.replace("[[flows]]", "[[flow]]"))
    log = sites.state_dir / "logs" / "mirror.log"
    until(lambda: "sites_invalid" in log.read_text(), 30, "the file to be refused")
    assert running(sites).pid == first
    file.write_text(text.replace('to = "central"', 'to = "central"\nbytes_per_s = 10000000'))
    until(lambda: (java := mirror_maker_of(sites.state_dir)) and java.pid != first, 60, "MirrorMaker to start again")
    properties = (sites.state_dir / "mirror" / "central" / "mm2.properties").read_text()
    assert "transforms.origin.bytes.per.second=10000000" in properties
    until(lambda: status(sites.state_dir).healthy, 90, "the mirror to be ready")


@pytest.mark.slow
def test_what_a_site_deletes_while_the_link_is_closed_is_named_by_its_offsets(sites: StackInfo) -> None:
    site, file = sites.sites["factory-a"], sites.state_dir / "sites.toml"
    name = f"factory-a.{FRAMES}"
    publish(site, FRAMES, [b"before"] * 40)
    until(lambda: len(read_all(sites.kafka, name)) >= len(read_all(site, FRAMES)), COPIED_S_MAX, "all to be copied")
    text = close_link(sites)
    before = {m.partition: m.offset + 1 for m in read_all(site, FRAMES)}
    publish(site, FRAMES, [b"during"] * 200)
    ends = {m.partition: m.offset + 1 for m in read_all(site, FRAMES)}
    deleted = {partition: before.get(partition, 0) + 20 for partition in ends}
    admin = AdminClient({"bootstrap.servers": site})
    asked = [TopicPartition(FRAMES, partition, offset) for partition, offset in deleted.items()]
    for answer in admin.delete_records(asked).values():
        answer.result(10)
    file.write_text(text)
    wanted = len(read_all(site, FRAMES))
    until(lambda: len(kept(sites, b"during")) >= wanted, COPIED_S_MAX, "the rest to be copied")
    lost = [
        {"topic": FRAMES, "partition": partition, "from": before[partition], "until": offset}
        for partition, offset in sorted(deleted.items())
        if partition in before
    ]
    until(lambda: losses(sites) == lost, 60, "the losses to be named")
    shown = headrace(sites, "sites")
    assert (shown.code, shown.err.count("before they were copied")) == (Exit.FAILED, len(lost))


@pytest.mark.slow
def test_a_topic_that_a_site_makes_anew_is_copied_from_its_beginning(sites: StackInfo) -> None:
    """Also where it has more messages already than were copied of the old one."""
    site, file = sites.sites["factory-a"], sites.state_dir / "sites.toml"
    name, topic = f"factory-a.{CIDS}", CIDS
    publish(site, topic, [b"old"] * 100)
    until(lambda: len(read_all(sites.kafka, name)) >= 100, COPIED_S_MAX, "the old topic to be copied")
    text = close_link(sites)
    admin = AdminClient({"bootstrap.servers": site})
    admin.delete_topics([topic])[topic].result(10)
    until(lambda: topic not in admin.list_topics(timeout=10).topics, 30, "the topic to be gone")
    ensure_topics(at(site), admin)
    publish(site, topic, [b"new"] * 300)
    file.write_text(text)
    until(lambda: len(read_all(sites.kafka, name)) >= 400, COPIED_S_MAX, "the new topic to be copied")
    new = [message for message in read_all(sites.kafka, name) if message.value == b"new"]
    assert places(new) == sorted((topic, message.partition, message.offset) for message in read_all(site, topic))
    assert '"topic_restarted"' in (sites.state_dir / "logs" / "mirror.log").read_text()


def close_link(sites: StackInfo) -> str:
    """Close the link by its hours, wait until nothing is copied any more, and return the file as it was."""
    file = sites.state_dir / "sites.toml"
    text = file.read_text()
    hour = (datetime.now(UTC) + timedelta(hours=2)).strftime("%H:00")
    file.write_text(text.replace('to = "central"', f'to = "central"\nhours = ["{hour}-{hour[:2]}:30"]'))
    until(lambda: mirror_maker_of(sites.state_dir) is None, 60, "the link to be closed")
    return text


def kept(sites: StackInfo, value: bytes) -> list[Mirrored]:
    return [message for message in read_all(sites.kafka, f"factory-a.{FRAMES}") if message.value == value]


def losses(sites: StackInfo) -> list[dict[str, object]]:
    (link,) = headrace(sites, "sites", "--json").json["links"]
    return sorted(link["lost"], key=lambda loss: loss["partition"])
