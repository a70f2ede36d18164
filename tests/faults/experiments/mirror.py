import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from threading import Thread

from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient

from headrace.runtime.kafka import client_config, ensure_topics, reach_kafka
from headrace.schemas.events import Kind
from headrace.schemas.topics import input_topic
from tests.faults import toxiproxy
from tests.faults.registry import experiment
from tests.processes import ServiceProcess, free_port
from tests.sites.brokers import Broker, broker
from tests.sites.site_world import Mirrored, at, mirror_maker_of, read_all
from tests.waiting import until

SITES = ("factory-a", "factory-b")
CENTRE = "central"
TOPIC = input_topic(Kind.LDO).name
_SAME_OF_TEN = 3
_EVENTS_PER_FAULT = 500
_CUT_S = (2.0, 6.0)
_WORKING_S = (2.0, 4.0)
_SETTLES_S_MAX = 240.0
_SOURCES = 20
_STARTS_S_MAX = 90.0


class Publishing(Thread):
    """Publishes events at a site at a steady rate until all are acknowledged; some have the same bytes at each site."""

    def __init__(self, name: str, bootstrap: str, *, count: int, seconds: float) -> None:
        super().__init__(name=name, daemon=True)
        self.acknowledged = 0
        self._producer = Producer(client_config(at(bootstrap), acks="all", enable_idempotence=True))
        self._count = count
        self._pause_s = seconds / count

    def run(self) -> None:
        for number in range(self._count):
            is_same = number % 10 < _SAME_OF_TEN
            body = f"event {number} of {'all' if is_same else self.name}".encode()
            key = f"source-{number % _SOURCES}".encode()
            self._producer.produce(TOPIC, body, key, on_delivery=self._acknowledged)
            self._producer.poll(self._pause_s)
        self._producer.flush(_SETTLES_S_MAX)

    def _acknowledged(self, error: object, _message: object) -> None:
        self.acknowledged += error is None


@experiment("E12", "mirror of 2 sites: killed, links cut and deaf", ci=3, long=60, worldless=True)
def mirror_through_faults(_world: object, count: int, random: Random) -> Counter[str]:
    """Publish at two sites while the mirror is killed and links fail; each message is at the centre once."""
    with ExitStack() as stack:
        directory = Path(stack.enter_context(TemporaryDirectory(prefix="headrace-mirror-")))
        proxies = stack.enter_context(toxiproxy.opened())
        sites = {name: site_behind(stack, proxies, name) for name in SITES}
        centre = stack.enter_context(broker())
        file = topology_of(directory, sites, centre.bootstrap)
        for cluster in (*(site for site, _ in sites.values()), centre):
            settings = at(cluster.bootstrap)
            ensure_topics(settings, reach_kafka(settings))
        mirror = ServiceProcess(
            at(centre.bootstrap, sites_file=file, state_dir=directory),
            "mirror",
            log=directory / "mirror.log",
        )
        stack.callback(mirror.stop)
        until(lambda: mirror.is_alive() and mirror.get("/readyz")[0] == 200, _SETTLES_S_MAX, "the mirror to be ready")
        seconds = count * (_WORKING_S[1] + _CUT_S[1] + 5)
        publishing = [
            Publishing(name, site.bootstrap, count=count * _EVENTS_PER_FAULT, seconds=seconds)
            for name, (site, _) in sites.items()
        ]
        for each in publishing:
            each.start()
        faults = _inject(mirror, proxies, directory, count, random)
        for each in publishing:
            each.join()
            assert each.acknowledged == count * _EVENTS_PER_FAULT, f"{each.name} acknowledged only {each.acknowledged}"
        for name, (site, _) in sites.items():
            judge(name, site.bootstrap, centre.bootstrap, mirror)
        _judge_both(centre)
        return faults


def site_behind(stack: ExitStack, proxies: toxiproxy.Toxiproxy, name: str) -> tuple[Broker, int]:
    """Run the broker of a site, which clients of its second listener reach through a proxy at the port returned."""
    port = free_port()
    site = stack.enter_context(broker(second="PLAINTEXT", advertised=port))
    proxies.create(name, port, site.second)
    return site, port


def topology_of(directory: Path, sites: dict[str, tuple[Broker, int]], centre: str, *, replicas: int = 1) -> Path:
    """Write the file of sites, whose links lead through the proxies."""
    tables = [f'[sites.{name}]\nbootstrap = "127.0.0.1:{port}"\n' for name, (_, port) in sites.items()]
    tables.append(f'[sites.{CENTRE}]\nbootstrap = "{centre}"\nreplicas = {replicas}\n')
    tables += [f'[[flows]]\nfrom = "{name}"\nto = "{CENTRE}"\n' for name in sites]
    file = directory / "sites.toml"
    file.write_text("\n".join(tables))
    return file


def _inject(
    mirror: ServiceProcess, proxies: toxiproxy.Toxiproxy, directory: Path, count: int, random: Random
) -> Counter[str]:
    faults = Counter[str]()
    kinds = ["SIGKILL mirror", "link cut", "SIGKILL MirrorMaker", "link deaf"]
    for index in range(count):
        time.sleep(random.uniform(*_WORKING_S))
        kind, site, cut_s = kinds[index % len(kinds)], random.choice(SITES), random.uniform(*_CUT_S)
        faults[kind] += 1
        match kind:
            case "SIGKILL mirror":
                mirror.kill()
                mirror.start_again()
            case "SIGKILL MirrorMaker":
                until(lambda: mirror_maker_of(directory), _STARTS_S_MAX, "MirrorMaker to run")
                maker = mirror_maker_of(directory)
                assert maker is not None
                maker.kill()
                assert mirror.process.wait(_STARTS_S_MAX) != 0, "the mirror ended well without MirrorMaker"
                mirror.start_again()
            case "link cut":
                with proxies.cut_off(site):
                    time.sleep(cut_s)
            case _:
                with proxies.black_hole(site):
                    time.sleep(cut_s)
    return faults


def judge(name: str, site: str, centre: str, mirror: ServiceProcess) -> None:
    """Compare each message of a site with its copies; raises AssertionError where one is missing, twice or changed."""
    sent = read_all(site, TOPIC)
    copy = f"{name}.{TOPIC}"

    def copied_all() -> bool:
        mirror.is_alive()
        return len(read_all(centre, copy)) >= len(sent)

    until(copied_all, _SETTLES_S_MAX, f"{name} to be copied")
    copied = read_all(centre, copy)
    times = Counter((m.origin["site"], m.origin["partition"], m.origin["offset"]) for m in copied)
    wanted = {(name, m.partition, m.offset) for m in sent}
    missing, twice = wanted - times.keys(), [place for place, number in times.items() if number > 1]
    assert not missing, f"{len(missing)} messages of {name} are missing, among them {min(missing)}"
    assert not twice, f"{len(twice)} messages of {name} came twice, among them {min(twice)}"
    assert times.keys() == wanted, f"{name} never had {min(times.keys() - wanted)}"
    bodies = {(m.partition, m.offset): (m.key, m.value) for m in sent}
    assert all(bodies[_place(m)] == (m.key, m.value) for m in copied), f"a message of {name} was changed"
    for partition in {m.partition for m in copied}:
        offsets = [_place(m)[1] for m in copied if m.partition == partition]
        assert offsets == sorted(offsets), f"messages of {name} are out of order in partition {partition}"
    topics = AdminClient(client_config(at(site))).list_topics(timeout=10).topics
    assert not [topic for topic in topics if topic.startswith((f"{CENTRE}.", "mm2-"))], f"{name} was written to"


def _judge_both(centre: Broker) -> None:
    """Check that bytes which both sites published came from each of them."""
    bodies = [{m.value for m in read_all(centre.bootstrap, f"{name}.{TOPIC}")} for name in SITES]
    assert bodies[0] & bodies[1], "no bytes were published at both sites"


def _place(message: Mirrored) -> tuple[int, int]:
    partition, offset = message.origin["partition"], message.origin["offset"]
    assert isinstance(partition, int)
    assert isinstance(offset, int)
    return partition, offset
