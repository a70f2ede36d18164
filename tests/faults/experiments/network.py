import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from random import Random
from urllib.parse import urlsplit

from tests.faults import netns
from tests.faults.fleet import Fleet, Member
from tests.faults.netns import Namespace
from tests.faults.possible import NotPossibleError
from tests.faults.registry import experiment
from tests.faults.toxiproxy import Stream, Toxiproxy
from tests.faults.world import EVENTS, MEDIA, READY_S_MAX, RELAY, FaultsWorld
from tests.processes import environment_of
from tests.waiting import until

APART_S = (5.0, 40.0)
_APART_S_SHORT = 12.0
"""At most so many seconds lie between them when only a few faults are requested."""
_SHORT_BELOW = 15
_BETWEEN_S = (3.0, 8.0)
_LATE_MS = 300
_LOSS_PERCENT = 5
_RELAYS = ("relay-1", "relay-2")
_RELAY_FAR = "relay-far"
_LEADS_S_MAX = 60.0


@dataclass(frozen=True, slots=True)
class Far:
    """The processes on the other side, the cable to them, and the proxy through which they reach each server."""

    space: Namespace
    near: Toxiproxy
    fleet: Fleet
    servers: tuple[str, ...]


@experiment("E9", "network partitions between pairs, one way or both, 5 % loss, 300 ms jitter", ci=0, long=60)
def part_networks(world: FaultsWorld, count: int, random: Random) -> Counter[str]:
    """Run two workers and the relay in a network of their own, and part them from servers, all or one."""
    longest_s = _APART_S_SHORT if count < _SHORT_BELOW else APART_S[1]
    with _far_side(world) as far:
        kinds = _kinds(far)
        waiting: list[str] = []
        for _ in range(count):
            if not waiting:
                waiting = list(kinds)
                random.shuffle(waiting)
            kind = waiting.pop()
            _let_lead(world, far)
            with world.fault(kind), kinds[kind]():
                time.sleep(random.uniform(APART_S[0], longest_s))
            far.fleet.wait_ready(READY_S_MAX)
            time.sleep(random.uniform(*_BETWEEN_S))
    return Counter()


def _let_lead(world: FaultsWorld, far: Far) -> None:
    """Let the relay on the other side be the one that announces, and those on this side stand by again."""
    for name in _RELAYS:
        world.fleet.control(name).park()
        world.kill(name)
    try:
        until(lambda: far.fleet.leads(_RELAY_FAR), _LEADS_S_MAX, "the relay on the other side to lead")
    finally:
        for name in _RELAYS:
            world.fleet.control(name).unpark()
    world.fleet.wait_ready(READY_S_MAX)


def _kinds(far: Far) -> dict[str, Callable[[], AbstractContextManager[None]]]:
    kinds: dict[str, Callable[[], AbstractContextManager[None]]] = {
        "all apart": far.space.unplugged,
        "nothing arrives from the servers": far.space.unheard,
        "nothing arrives at the servers": far.space.mute,
        f"{_LATE_MS} ms jitter": partial(_jitter, far),
    }
    ways: tuple[tuple[str, Stream | None], ...] = (("apart", None), ("unheard", "downstream"), ("deaf", "upstream"))
    for server in far.servers:
        for name, stream in ways:
            kinds[f"{server} {name}"] = partial(far.near.black_hole, server, stream=stream)
    try:
        with far.space.lossy(_LOSS_PERCENT):
            kinds[f"{_LOSS_PERCENT} % loss"] = partial(far.space.lossy, _LOSS_PERCENT)
    except NotPossibleError as error:
        sys.stderr.write(f"{_LOSS_PERCENT} % loss is not possible here and left out: {error}\n")
    return kinds


@contextmanager
def _jitter(far: Far) -> Iterator[None]:
    with ExitStack() as stack:
        for server in far.servers:
            stack.enter_context(far.near.latency(server, _LATE_MS, _LATE_MS))
        yield


@contextmanager
def _far_side(world: FaultsWorld) -> Iterator[Far]:
    """Start the processes on the other side, and let the relay there lead."""
    servers = _servers(world)
    with ExitStack() as stack:
        space = stack.enter_context(netns.namespace())
        near = stack.enter_context(netns.joined(space, servers, world.directory))
        members = [
            Member(f"{name}-far", args, prefix=space.prefix)
            for name, args in (("worker-events", EVENTS), ("worker-media", MEDIA), ("relay", RELAY))
        ]
        # They are asked for their health over the cable.
        env = environment_of(world.settings) | {"HEADRACE_HEALTH_HOST": space.far}
        fleet = Fleet(world.directory / f"far-{time.monotonic_ns()}", env, members)
        for member in members:
            near.create(f"health-{member.name}", fleet.port(member.name), f"{space.far}:{fleet.port(member.name)}")
        fleet.start()
        stack.callback(fleet.stop)
        fleet.wait_ready(READY_S_MAX)
        yield Far(space, near, fleet, tuple(servers))


def _servers(world: FaultsWorld) -> dict[str, int]:
    """The ports by which the servers are known on both sides."""
    settings = world.settings
    servers = {"postgres": urlsplit(settings.postgres_dsn.get_secret_value()).port}
    servers["store"] = urlsplit(settings.store_endpoint).port
    for number, address in enumerate(settings.kafka_bootstrap.split(","), 1):
        servers[f"kafka-{number}"] = int(address.rsplit(":", 1)[1])
    return {name: port for name, port in servers.items() if port is not None}
