import json
import signal
import time
from collections import Counter
from random import Random

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from headrace.runtime.kafka import client_config
from headrace.schemas.events import Kind
from headrace.schemas.topics import input_topic
from headrace.streams.worker.profile import LARGE
from tests.faults.registry import experiment
from tests.faults.world import FaultsWorld, Shape

THREE = Shape(brokers=3)
_IN_SYNC_S_MAX = 120.0
_REQUEST_S = 10.0
_POLL_S = 0.5
_DOWN_S = 60.0
_QUORUM_STATE = "kafka/*/data/__cluster_metadata-0/quorum-state"


@experiment("E3", "SIGKILL of a broker: leader, coordinator or controller of 3", ci=3, long=60, shape=THREE, rate_hz=15)
def kill_brokers(world: FaultsWorld, count: int, random: Random) -> Counter[str]:
    """Kill the broker that holds a role, and wait until its logs are in sync again before the next."""
    roles = ["leader", "coordinator", "controller"]
    for index in range(count):
        if index % len(roles) == 0:
            random.shuffle(roles)
        role = roles[index % len(roles)]
        node = _holder(world, role)
        with world.fault(f"SIGKILL {role}"):
            if not _kill(world, node):
                raise RuntimeError(f"kafka-{node} is the {role}, and does not run")
            time.sleep(random.uniform(1, 3))
            world.wait_servers()
            _wait_in_sync(world)
    return Counter()


@experiment("E4", "2 of 3 brokers down for 60 s, and all 3 killed at once", ci=0, long=20, shape=THREE, rate_hz=15)
def lose_the_majority(world: FaultsWorld, count: int, random: Random) -> Counter[str]:
    """In turn: hold two brokers down, and kill all three; nothing that was acknowledged may be gone afterwards."""
    for index in range(count):
        if index % 2:
            with world.fault("3 brokers killed"):
                for node in (1, 2, 3):
                    _kill(world, node)
                world.wait_servers()
                _wait_in_sync(world)
        else:
            with world.fault(f"2 brokers down {_DOWN_S:.0f} s"):
                down = random.sample((1, 2, 3), 2)
                until = time.monotonic() + _DOWN_S
                while time.monotonic() < until:  # their supervisor starts them again and again
                    for node in down:
                        _kill(world, node)
                    time.sleep(_POLL_S)
                world.wait_servers()
                _wait_in_sync(world)
        time.sleep(random.uniform(3, 6))
    return Counter()


def _kill(world: FaultsWorld, node: int) -> bool:
    process = world.server(f"kafka-{node}")
    if process is not None:
        process.send_signal(signal.SIGKILL)
    return process is not None


def _admin(world: FaultsWorld) -> AdminClient:
    return AdminClient(client_config(world.settings))


def _holder(world: FaultsWorld, role: str) -> int:
    """Return the number of the broker that leads a partition of frames, coordinates their workers, or is controller."""
    admin = _admin(world)
    topic = input_topic(Kind.FRAME).name
    if role == "leader":
        return int(admin.list_topics(topic, timeout=_REQUEST_S).topics[topic].partitions[0].leader)
    if role == "coordinator":
        description = admin.describe_consumer_groups([LARGE.name], request_timeout=_REQUEST_S)[LARGE.name].result()
        return int(description.coordinator.id)
    return _controller(world)


def _controller(world: FaultsWorld) -> int:
    """Return who leads the controllers, as their own states say: a broker that is asked names any broker."""
    states = [json.loads(path.read_text()) for path in world.stack.state_dir.glob(_QUORUM_STATE)]
    return int(max(states, key=lambda state: state["leaderEpoch"])["leaderId"])


def _wait_in_sync(world: FaultsWorld) -> None:
    deadline = time.monotonic() + _IN_SYNC_S_MAX
    while True:
        try:
            topics = _admin(world).list_topics(timeout=_REQUEST_S).topics.values()
            if topics and all(len(p.isrs) == len(p.replicas) for topic in topics for p in topic.partitions.values()):
                return
        except KafkaException:
            pass  # it is coming back
        if time.monotonic() > deadline:
            raise TimeoutError(f"replicas were not in sync {_IN_SYNC_S_MAX:.0f} s after a broker was killed")
        time.sleep(_POLL_S)
