"""The ACLs of the plan, on brokers with authorisation: the mirror works with them, and whatever else is refused."""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import (
    AclBinding,
    AclOperation,
    AclPermissionType,
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewTopic,
    ResourcePatternType,
    ResourceType,
)

from headrace.runtime.kafka import UNLOGGED, ensure_topics, reach_kafka
from tests.commands import run_in_process
from tests.processes import ServiceProcess
from tests.sites.brokers import Broker, broker
from tests.sites.site_world import at, mirror_maker_of, places, publish, read_all
from tests.waiting import until

pytestmark = [pytest.mark.server, pytest.mark.slow, pytest.mark.timeout(300)]

LDOS = "edge.ldos.v1"
USERS = ("mirror", "link-central", "link-factory-a", "link-factory-b")
REQUEST_S = 10
REFUSED = {
    KafkaError.TOPIC_AUTHORIZATION_FAILED,
    KafkaError.GROUP_AUTHORIZATION_FAILED,
    KafkaError.CLUSTER_AUTHORIZATION_FAILED,
    KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED,
}
_PLAIN = "org.apache.kafka.common.security.plain.PlainLoginModule"


def password_of(user: str) -> str:
    return f'the "password" of {user}'


def secured() -> dict[str, str]:
    """A listener with logins, and nothing allowed that is not given; the plain listener may do everything."""
    users = [(user, password_of(user).replace('"', '\\\\"')) for user in USERS]
    logins = " ".join(f'user_{user}="{password}"' for user, password in users)
    return {
        "sasl.enabled.mechanisms": "PLAIN",
        "listener.name.second.plain.sasl.jaas.config": f"{_PLAIN} required {logins};",
        "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        "allow.everyone.if.no.acl.found": "false",
        "super.users": "User:ANONYMOUS",
    }


@dataclass(frozen=True)
class World:
    """A site and a centre that ask for logins, and the mirror between them."""

    site: Broker
    centre: Broker
    mirror: ServiceProcess
    folder: Path

    def config(self, where: str, user: str) -> dict[str, object]:
        return {
            "bootstrap.servers": (self.site if where == "factory-a" else self.centre).second,
            "security.protocol": "SASL_PLAINTEXT",
            "sasl.mechanism": "PLAIN",
            "sasl.username": user,
            "sasl.password": password_of(user),
            **UNLOGGED,
        }


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("rights")
    with ExitStack() as stack:
        site, centre = (stack.enter_context(broker(second="SASL_PLAINTEXT", properties=secured())) for _ in range(2))
        for each in (site, centre):
            ensure_topics(at(each.bootstrap), reach_kafka(at(each.bootstrap)))
        file = topology(folder, site, centre)
        environment = {"MIRROR": password_of("mirror"), "LINK_A": password_of("link-factory-a")}
        plan = run_in_process(at(centre.bootstrap), "sites", "plan", "--sites", str(file), "--json", **environment)
        give(plan.json["acls"], {"factory-a": site, "central": centre})
        settings = at(centre.bootstrap, sites_file=file, state_dir=folder)
        mirror = ServiceProcess(settings, "mirror", log=folder / "mirror.log", environment=environment)
        stack.callback(mirror.stop)
        mirror.wait_ready()
        yield World(site, centre, mirror, folder)


def topology(folder: Path, site: Broker, centre: Broker) -> Path:
    secret = folder / "factory-a.password"
    secret.write_text(f"{password_of('link-central')}\n")
    file = folder / "sites.toml"
    file.write_text(f"""
[sites.factory-a]
bootstrap = "{site.second}"
security = "SASL_PLAINTEXT"
sasl_mechanism = "PLAIN"
username = "link-central"
password = {{ file = "{secret}" }}

[sites.central]
bootstrap = "{centre.second}"
security = "SASL_PLAINTEXT"
sasl_mechanism = "PLAIN"
username = "mirror"
password = {{ env = "MIRROR" }}

[[flows]]
from = "factory-a"
to = "central"

[flows.login]
username = "link-factory-a"
password = {{ env = "LINK_A" }}
""")
    return file


def give(acls: list[dict[str, object]], clusters: dict[str, Broker]) -> None:
    """Create the ACLs of a plan."""
    types = {
        "Topic": ResourceType.TOPIC,
        "Group": ResourceType.GROUP,
        "Cluster": ResourceType.BROKER,
        "TransactionalId": ResourceType.TRANSACTIONAL_ID,
    }
    for name, cluster in clusters.items():
        bindings = [
            AclBinding(
                types[acl["resource"]],
                acl["name"],
                ResourcePatternType.PREFIXED if acl["is_prefix"] else ResourcePatternType.LITERAL,
                acl["principal"],
                "*",
                AclOperation[constant(acl["operation"])],
                AclPermissionType.ALLOW,
            )
            for acl in acls
            if acl["site"] == name
        ]
        assert bindings
        admin = AdminClient({"bootstrap.servers": cluster.bootstrap})
        for created in admin.create_acls(bindings).values():
            created.result(REQUEST_S)


def constant(operation: object) -> str:
    return "".join(f"_{letter}" if letter.isupper() else letter for letter in str(operation)).lstrip("_").upper()


def test_the_mirror_works_with_the_acls_of_the_plan_and_shows_no_secret(world: World) -> None:
    publish(world.site.bootstrap, LDOS, [b"%d" % number for number in range(500)])
    name = f"factory-a.{LDOS}"
    until(lambda: len(read_all(world.centre.bootstrap, name)) >= 500, 90, "everything to be copied")
    sent = read_all(world.site.bootstrap, LDOS)
    assert places(read_all(world.centre.bootstrap, name)) == sorted((LDOS, m.partition, m.offset) for m in sent)
    java = mirror_maker_of(world.folder)
    assert java is not None
    told = [" ".join(process.cmdline()) for process in (java, psutil.Process(world.mirror.process.pid))]
    told += [str(message.value) for message in read_all(world.centre.bootstrap, "mm2-configs.factory-a.internal")]
    told += [path.read_text() for path in (*(world.folder / "mirror" / "central").iterdir(), world.mirror.log)]
    assert len(told) > 5
    assert not [text for text in told for user in USERS if "password" in text and password_of(user) in text]
    assert (world.folder / "mirror" / "central" / "mm2.properties").stat().st_mode & 0o777 == 0o600


def produce(config: dict[str, object], topic: str) -> None:
    errors: list[KafkaError] = []
    producer = Producer(config)
    producer.produce(topic, b"x", on_delivery=lambda error, _: errors.append(error))
    producer.flush(REQUEST_S)
    if errors[0] is not None:
        raise KafkaException(errors[0])


def consume(config: dict[str, object], topic: str) -> None:
    consumer = Consumer({**config, "group.id": "stranger", "auto.offset.reset": "earliest"})
    try:
        # Of a topic that a user may not even describe, polling says nothing.
        if (unseen := consumer.list_topics(topic, timeout=REQUEST_S).topics[topic].error) is not None:
            raise KafkaException(unseen)
        consumer.assign([TopicPartition(topic, 0, 0)])
        deadline = time.monotonic() + REQUEST_S
        while time.monotonic() < deadline:
            message = consumer.poll(1.0)
            error = None if message is None else message.error()
            # The partition is assigned by hand: whether the user may use the group is not what is tried.
            if error is not None and error.code() != KafkaError.GROUP_AUTHORIZATION_FAILED:
                raise KafkaException(error)
            if message is not None and error is None:
                return
    finally:
        consumer.close()


def create(config: dict[str, object], topic: str) -> None:
    admin = AdminClient(config)
    admin.create_topics([NewTopic(topic, 1, 1)])[topic].result(REQUEST_S)


def delete(config: dict[str, object], topic: str) -> None:
    admin = AdminClient(config)
    admin.delete_topics([topic])[topic].result(REQUEST_S)


def alter(config: dict[str, object], topic: str) -> None:
    entry = ConfigEntry("retention.ms", "1", incremental_operation=AlterConfigOpType.SET)
    resource = ConfigResource(ResourceType.TOPIC, topic, incremental_configs=[entry])
    admin = AdminClient(config)
    admin.incremental_alter_configs([resource])[resource].result(REQUEST_S)


def transact(config: dict[str, object], transactional_id: str) -> None:
    producer = Producer({**config, "transactional.id": transactional_id})
    producer.init_transactions(REQUEST_S)


TRIES: list[tuple[str, str, Callable[[dict[str, object], str], None], str]] = [
    # A link's login at its site only reads what flows.
    ("factory-a", "link-central", produce, LDOS),
    ("factory-a", "link-central", consume, "deadletters.v1"),
    ("factory-a", "link-central", create, "central.edge.ldos.v1"),
    ("factory-a", "link-central", delete, LDOS),
    ("factory-a", "link-central", alter, LDOS),
    # At the centre it only writes its own copies; it cannot claim another site's name.
    ("central", "link-factory-a", produce, "factory-b.edge.ldos.v1"),
    ("central", "link-factory-a", produce, LDOS),
    ("central", "link-factory-a", produce, "ingested.ldos.v1"),
    ("central", "link-factory-a", consume, f"factory-a.{LDOS}"),
    ("central", "link-factory-a", create, "factory-b.edge.ldos.v1"),
    ("central", "link-factory-a", create, "factory-a.edge.other.v1"),
    ("central", "link-factory-a", delete, f"factory-a.{LDOS}"),
    ("central", "link-factory-a", alter, f"factory-a.{LDOS}"),
    ("central", "link-factory-a", transact, "factory-b-mm2-MirrorSourceConnector-0"),
    ("central", "link-factory-b", produce, f"factory-a.{LDOS}"),
    ("central", "link-factory-b", transact, "factory-a-mm2-MirrorSourceConnector-0"),
    ("central", "link-factory-b", produce, "mm2-offsets.factory-a.internal"),
    # The mirror itself makes copies, and touches nothing else.
    ("central", "mirror", produce, LDOS),
    ("central", "mirror", create, "factory-b.edge.ldos.v1"),
    ("central", "mirror", delete, f"factory-a.{LDOS}"),
]


@pytest.mark.parametrize(
    ("where", "user", "attempt", "name"),
    TRIES,
    ids=[f"{user} at {where}: {attempt.__name__} {name}" for where, user, attempt, name in TRIES],
)
def test_a_forbidden_try_is_refused(
    world: World, where: str, user: str, attempt: Callable[[dict[str, object], str], None], name: str
) -> None:
    with pytest.raises(KafkaException) as caught:
        attempt(world.config(where, user), name)
    error = caught.value.args[0]
    assert error.code() in REFUSED, error
    print(f"{user} at {where}: {attempt.__name__} {name}: {error.str()}")


def test_the_logins_work_where_they_may(world: World) -> None:
    """Otherwise a refusal would show nothing."""
    consume(world.config("factory-a", "link-central"), LDOS)
    produce(world.config("central", "link-factory-a"), "factory-a.edge.cids.v1")
    transact(world.config("central", "link-factory-a"), "factory-a-mm2-other")
