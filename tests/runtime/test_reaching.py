"""Waiting for services: said once, bounded, and a refusal is not waited for."""

import asyncio
import time
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient

import headrace
from headrace.runtime import wait_for_service
from headrace.runtime.acl import Operation
from headrace.runtime.errors import Exit, HeadraceError
from headrace.runtime.kafka import (
    client_config,
    ensure_topics,
    is_refusal,
    kafka_refused,
    require_topics,
    wait_for_kafka,
)
from headrace.runtime.settings import Settings, load_settings
from headrace.runtime.wait_for_service import StoppedError, wait_for
from headrace.schemas.topics import TOPICS
from tests.processes import free_port

AWAY = HeadraceError("store_unreachable", "no connection", where="s3://b", exit_code=Exit.UNREACHABLE)
REFUSED = HeadraceError("store_refused", "403", where="s3://b")
CANARY = "canary-of-kafka"


class Call:
    """Fails with each of its faults in turn, then answers."""

    def __init__(self, *faults: Exception) -> None:
        self._faults = list(faults)
        self.calls = 0

    async def __call__(self) -> str:
        self.calls += 1
        if self._faults:
            raise self._faults.pop(0)
        return "answer"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wait_for_service, "_PAUSE_S", 0.001)


async def test_a_service_that_comes_back_is_waited_for_and_that_is_said_once(
    capsys: pytest.CaptureFixture[str],
) -> None:
    call = Call(AWAY, AWAY, AWAY)
    assert await wait_for("store", call, wait_s_max=60) == "answer"
    assert call.calls == 4
    printed = capsys.readouterr()
    assert (printed.out + printed.err).count("waiting") == 1


async def test_a_service_that_stays_away_is_given_up_with_its_own_last_error() -> None:
    with pytest.raises(HeadraceError) as caught:
        await wait_for("store", Call(*[AWAY] * 10**5), wait_s_max=0.02)
    assert caught.value is AWAY


async def test_a_refusal_is_not_waited_for() -> None:
    call = Call(REFUSED)
    with pytest.raises(HeadraceError) as caught:
        await wait_for("store", call, wait_s_max=60)
    assert (caught.value, call.calls) == (REFUSED, 1)


async def test_any_other_error_passes_through() -> None:
    with pytest.raises(KeyError):
        await wait_for("store", Call(KeyError("x")), wait_s_max=60)


@pytest.mark.parametrize("hangs", [False, True])
async def test_a_stop_ends_the_waiting_at_once(hangs: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wait_for_service, "_PAUSE_S", 60)
    stop = asyncio.Event()

    async def call() -> None:
        asyncio.get_running_loop().call_soon(stop.set)
        if hangs:
            await asyncio.sleep(60)
        raise AWAY

    with pytest.raises(StoppedError):
        async with asyncio.timeout(10):
            await wait_for("store", call, wait_s_max=60, stop=stop)
    with pytest.raises(StoppedError):
        await wait_for("store", Call(), wait_s_max=60, stop=stop)


async def test_an_answer_is_returned_where_a_stop_may_come(capsys: pytest.CaptureFixture[str]) -> None:
    assert await wait_for("store", Call(AWAY), wait_s_max=60, stop=asyncio.Event()) == "answer"


class ReachedBroker:
    """An admin client whose broker goes away when it is asked, or when it was asked for topics."""

    def __init__(self, code: int, *, listed: bool) -> None:
        self._fault = KafkaException(KafkaError(code))
        self._listed = listed

    def list_topics(self, *, timeout: float) -> Any:
        if not self._listed:
            raise self._fault
        return type("Metadata", (), {"topics": {}})()

    def create_topics(self, topics: list[Any]) -> "dict[str, Future[None]]":
        made: Future[None] = Future()
        made.set_exception(self._fault)
        return {topics[0].topic: made}


@pytest.mark.parametrize(
    "ask",
    [
        lambda: require_topics(kafka(), ReachedBroker(KafkaError._TRANSPORT, listed=False), {}),
        lambda: ensure_topics(kafka(), ReachedBroker(KafkaError._TRANSPORT, listed=False)),
        lambda: ensure_topics(kafka(), ReachedBroker(KafkaError._TIMED_OUT, listed=True)),
    ],
)
def test_a_kafka_that_goes_away_after_it_answered_is_unreachable(ask: Any) -> None:
    with pytest.raises(HeadraceError) as caught:
        ask()
    assert (caught.value.code, caught.value.exit_code) == ("kafka_unreachable", Exit.UNREACHABLE)


def test_an_acl_that_is_missing_is_named_with_its_topic() -> None:
    for code in (KafkaError.TOPIC_AUTHORIZATION_FAILED, KafkaError.CLUSTER_AUTHORIZATION_FAILED):
        with pytest.raises(HeadraceError, match=r"^acl_missing: the ACL Create on the topic \S+ is missing") as caught:
            ensure_topics(kafka(), ReachedBroker(code, listed=True))
        assert "kafka-acls" in caught.value.hint


def test_a_topic_that_kafka_refuses_is_named() -> None:
    with pytest.raises(HeadraceError, match="would not create the topic") as caught:
        ensure_topics(kafka(), ReachedBroker(KafkaError.INVALID_REPLICATION_FACTOR, listed=True))
    assert caught.value.exit_code == Exit.FAILED


def kafka(**changes: Any) -> Settings:
    return load_settings(_env_file=None, **changes)


@pytest.mark.server
async def test_a_kafka_that_is_away_is_named_with_its_address_and_no_secret() -> None:
    address = f"127.0.0.1:{free_port()}"
    settings = kafka(
        kafka_bootstrap=address,
        start_wait_s_max=0,
        kafka_security="SASL_PLAINTEXT",
        kafka_username="me",
        kafka_password=CANARY,
    )
    began = time.monotonic()
    with pytest.raises(HeadraceError) as caught:
        await wait_for_kafka(settings)
    assert caught.value.exit_code == Exit.UNREACHABLE
    assert address in str(caught.value)
    assert "HEADRACE_KAFKA_BOOTSTRAP" in caught.value.hint
    assert CANARY not in str(caught.value)
    assert time.monotonic() - began < 15


def test_the_clients_are_told_how_to_log_in_only_where_they_must(tmp_path: Path) -> None:
    assert not [name for name in client_config(kafka()) if name.startswith(("sasl", "ssl"))]
    files = {name: str(tmp_path / name) for name in ("ca", "cert", "key")}
    for file in files.values():
        Path(file).touch()
    given = {
        "kafka_username": "me",
        "kafka_password": CANARY,
        "kafka_ca_file": files["ca"],
        "kafka_cert_file": files["cert"],
        "kafka_key_file": files["key"],
        "kafka_key_password": "pw",
    }
    config = client_config(kafka(kafka_security="SASL_SSL", **given), group_id="g", enable_auto_commit=False)
    assert config["security.protocol"] == "SASL_SSL"
    assert (config["sasl.username"], config["sasl.password"]) == ("me", CANARY)
    assert config["ssl.ca.location"] == files["ca"]
    assert (config["ssl.certificate.location"], config["ssl.key.location"]) == (files["cert"], files["key"])
    assert config["ssl.key.password"] == "pw"
    assert (config["group.id"], config["enable.auto.commit"]) == ("g", False)
    assert not [name for name in client_config(kafka(**given)) if name.startswith(("sasl", "ssl"))]


def test_every_client_of_kafka_is_configured_in_one_place() -> None:
    package = Path(headrace.__file__).parent
    naming = {
        path.relative_to(package).as_posix()
        for path in package.rglob("*.py")
        if "bootstrap.servers" in path.read_text("utf-8")
    }
    # A publisher is given the configuration, the native stack asks its own brokers whether they serve, and the clients
    # of MirrorMaker are Java's.
    assert naming == {"runtime/kafka.py", "producers/broker.py", "native/checks.py", "sites/mm2.py"}


@pytest.mark.parametrize(
    ("code", "text", "setting"),
    [
        (KafkaError._SSL, "certificate verify failed\nmore", "HEADRACE_KAFKA_CA_FILE"),
        (KafkaError._AUTHENTICATION, "no token (after 3ms in state AUTH)", "HEADRACE_KAFKA_OAUTH_*"),
        (KafkaError._TRANSPORT, "tls alert bad certificate: SSL alert number 42", "HEADRACE_KAFKA_CERT_FILE"),
    ],
)
def test_a_refused_connection_is_told_in_one_sentence_with_the_setting(code: int, text: str, setting: str) -> None:
    fault = KafkaError(code, text)
    assert is_refusal(fault)
    assert not is_refusal(KafkaError(KafkaError._TRANSPORT, "connection refused"))
    error = kafka_refused("kafka:9093", fault)
    assert "\n" not in error.what
    assert "(after" not in error.what
    assert setting in error.hint
    assert error.exit_code == Exit.FAILED


def test_a_token_is_fetched_by_the_client_itself() -> None:
    config = client_config(
        kafka(
            kafka_security="SASL_SSL",
            kafka_sasl_mechanism="OAUTHBEARER",
            kafka_oauth_token_url="https://issuer.example/token",
            kafka_oauth_client_id="worker",
            kafka_oauth_client_secret=CANARY,
        )
    )
    assert {name: value for name, value in config.items() if name.startswith("sasl")} == {
        "sasl.mechanism": "OAUTHBEARER",
        "sasl.oauthbearer.method": "oidc",
        "sasl.oauthbearer.token.endpoint.url": "https://issuer.example/token",
        "sasl.oauthbearer.client.id": "worker",
        "sasl.oauthbearer.client.secret": CANARY,
    }
    AdminClient(config | {"log_level": 0})  # the client is built with libcurl and TLS


@pytest.mark.stack
async def test_topics_are_made_once_as_the_contract_says(stack_settings: Settings) -> None:
    from confluent_kafka.admin import ConfigResource, ResourceType

    admin: AdminClient = await wait_for_kafka(stack_settings)
    assert ensure_topics(stack_settings, admin) == []
    require_topics(stack_settings, admin, dict.fromkeys(TOPICS, Operation.READ))
    asked = [ConfigResource(ResourceType.TOPIC, name) for name in TOPICS]
    for resource, answer in admin.describe_configs(asked).items():
        answers = {name: entry.value for name, entry in answer.result(20).items()}
        topic = TOPICS[resource.name]
        assert answers["max.message.bytes"] == str(topic.message_bytes_max)
        assert answers["retention.ms"] == str(topic.retention_s * 1000)
        assert answers["message.timestamp.type"] == "LogAppendTime"
        assert answers["cleanup.policy"] == "delete"


@pytest.mark.stack
async def test_missing_topics_are_named_with_how_to_make_them(stack_settings: Settings) -> None:
    admin = await wait_for_kafka(stack_settings)
    with pytest.raises(HeadraceError) as caught:
        require_topics(stack_settings, admin, dict.fromkeys(["edge.frames.v1", "no.b", "no.a"], Operation.READ))
    assert caught.value.exit_code == Exit.UNREACHABLE
    assert "there is no topic no.a, no.b" in str(caught.value)
    assert "headrace init" in caught.value.hint
