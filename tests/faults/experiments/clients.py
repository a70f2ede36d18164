import asyncio
import subprocess
import sys
import time
from collections import Counter
from functools import partial
from random import Random
from uuid import UUID, uuid4

from confluent_kafka import Message

from headrace.gateway.auth import api_keys
from headrace.gateway.auth.principal import Role
from headrace.ldo_sink import from_env
from headrace.runtime.errors import Exit
from headrace.runtime.settings import Settings
from headrace.schemas.codec import decode
from headrace.schemas.digest import result_id
from headrace.schemas.events import Kind, PreprocessedFrame
from headrace.schemas.topics import PREPROCESSED, input_topic
from headrace.store.requests.access import Access
from tests.commands import clean_environment
from tests.consumer_groups import skip_backlog
from tests.faults.acks import Acks, Attempt
from tests.faults.line import MESSAGES, SETTLES_S_MAX, Line
from tests.faults.listener import offsets, read_to_end
from tests.faults.registry import line_experiment
from tests.processes import ends_with_this_process, free_port
from tests.servers import pool_of
from tests.waiting import until

_LDOS = 25
_GROUP = "headrace-preprocessing"
_ARCHIVED_S_MAX = 200.0  # a collection that was ended in the middle is taken over after 120 s
_IN_THE_MIDDLE_S = (1.0, 2.5)  # of which a command needs about one to start


@line_experiment("E28", "SIGKILL of gateway, worker and relay while an ldo_sink sends", ci=2, long=50)
def kill_gateway(line: Line, count: int, random: Random) -> Counter[str]:
    """Send LDOs through a sink while processes end; each is one record, and announced once."""
    port = free_port()
    line.programs["gateway"] = ("gateway",)
    line.environment["HEADRACE_GATEWAY_PORT"] = str(port)
    line.start()
    sink = from_env(
        {
            "USE_DATA_INGESTION": "true",
            "DATA_INGESTION_URL": f"http://edge:{asyncio.run(_key(line.settings))}@127.0.0.1:{port}",
            "DATA_INGESTION_SPOOL": str(line.directory / "sink"),
        }
    )
    killed, sent = Counter[str](), []
    try:
        for _ in range(count):
            for _ in range(_LDOS):
                sent.append(f"part-{uuid4().hex}")
                context = {"device_id": "press-7", "line": len(sent)}
                assert sink.send(sent[-1], sensor_data={"torque_nm": 1.5}, context=context, prediction={"ok": True})
            time.sleep(random.uniform(0, 0.5))
            name = random.choice(("gateway", "gateway", "worker-events", "relay"))
            line.restart(name)
            killed[f"SIGKILL {name}"] += 1
        assert sink.flush(SETTLES_S_MAX), f"the sink still waits: {sink.counts()}"
    finally:
        sink.close()
    _recorded_once(line, sent)
    return killed


async def _key(settings: Settings) -> str:
    dsn = settings.postgres_dsn.get_secret_value()
    async with pool_of(dsn) as pool:
        grant = api_keys.Grant("edge", Role.DEVICE, ["*"], None)
        return (await api_keys.add(Access(pool, dsn), grant, actor="faults")).text


def _recorded_once(line: Line, ldo_ids: list[str]) -> None:
    """Wait until each LDO is a record, and tell the checker of them; raises AssertionError where one is two records."""
    recorded = "select count(distinct ldo_id) from records where ldo_id = any($1::text[])"
    until(lambda: line.sql(recorded, ldo_ids)[0][0] == len(ldo_ids), SETTLES_S_MAX, "all LDOs to be recorded")
    rows = line.sql(
        "select ldo_id, source_id, sequence, encode(digest, 'hex') as digest, size_bytes, record_id"
        " from records where ldo_id = any($1::text[])",
        ldo_ids,
    )
    twice = [name for name, times in Counter(row["ldo_id"] for row in rows).items() if times > 1]
    assert not twice, f"{len(twice)} LDOs are several records, among them {twice[0]}"
    topic = input_topic(Kind.LDO).name
    attempts = [
        Attempt(
            -1 - number,
            Kind.LDO,
            topic,
            row["source_id"],
            row["sequence"],
            row["digest"],
            row["size_bytes"],
            row["record_id"],
            None,
        )
        for number, row in enumerate(rows)
    ]
    line.publish(line.plan(), MESSAGES)
    line.acks.append(Acks({attempt.number: attempt for attempt in attempts}, []))


@line_experiment("E29", "SIGKILL of consumer, worker and relay: a result for each frame, once", ci=2, long=100)
def kill_consumers(line: Line, count: int, random: Random) -> Counter[str]:
    """Let preprocessing answer what is announced while processes end; each frame has one result."""
    skip_backlog(line.settings, (_GROUP,))
    _, since = offsets(line.settings, (PREPROCESSED.name,))
    line.programs["consumer"] = ("consumer", "preprocessing")
    line.start()
    killed = Counter[str]()
    for _ in range(count):
        line.publish(line.plan(), MESSAGES)
        name = random.choice(("consumer", "consumer", "consumer", "worker-media", "relay"))
        line.restart(name)
        killed[f"SIGKILL {name}"] += 1
    line.settle()
    line.listener.wait_quiet()
    frames = [row.event for row in line.listener.heard().announcements if row.event.kind == Kind.FRAME]
    wanted = {str(result_id("preprocessing", UUID(frame.record_id), UUID(frame.event_id))) for frame in frames}

    def results() -> Counter[str]:
        ids = Counter[str]()

        def take(message: Message) -> None:
            ids[decode(message.value(), PreprocessedFrame).event_id] += 1

        read_to_end(line.settings, (PREPROCESSED.name,), take, since)
        return ids

    until(lambda: results().keys() >= wanted, SETTLES_S_MAX, "a result for each frame")
    line.stop("consumer")
    assert results() == dict.fromkeys(wanted, 1), "a result came twice, or for nothing"
    return killed


@line_experiment("E30", "SIGKILL of archive, restore and worker while bodies move", ci=1, long=40)
def kill_archive(line: Line, count: int, random: Random) -> Counter[str]:
    """Move bodies to the archive and back while the commands are killed; each is whole where its row says it is."""
    url = line.settings.store_url
    changes = {"store_url": f"{url}/hot", "archive_url": f"{url}/cold", "archive_after_days": 0.0}
    line.use_store(line.settings.model_copy(update=changes))
    line.start()
    killed = Counter[str]()
    for _ in range(count):
        line.publish(line.plan(), 2 * MESSAGES)
        line.settle()
        for command in (("archive",), ("restore", "--kind", "ldo")):
            process = _command(line.settings, *command)
            time.sleep(random.uniform(*_IN_THE_MIDDLE_S))
            killed[f"SIGKILL {command[0]}"] += process.poll() is None
            process.kill()
            process.wait()
            line.publish(line.plan(), MESSAGES // 2)
            line.restart("worker-events")
            killed["SIGKILL worker-events"] += 1
            until(partial(_ends, line.settings, *command), _ARCHIVED_S_MAX, f"{command[0]} to end")
    return killed


def _command(settings: Settings, *args: str) -> "subprocess.Popen[bytes]":
    argv = ends_with_this_process([sys.executable, "-m", "headrace", *args])
    env = clean_environment(settings)
    return subprocess.Popen(argv, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def _ends(settings: Settings, *args: str) -> bool:
    ended = _command(settings, *args).wait()
    if ended != Exit.OK:  # another one was ended in the middle of a deletion a moment ago
        time.sleep(5)
    return ended == Exit.OK
