"""`/api/v1/deadletters`: an operator lists, reads and redrives what could not be ingested, within its scope."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import httpx
import pytest
from confluent_kafka import Producer

from headrace.runtime.kafka import client_config
from headrace.schemas.codec import encode
from headrace.schemas.headers import headers_for
from tests.gateway.gateway_world import Gateway, name
from tests.gateway.reading_world import cid, record_of
from tests.waiting import until

pytestmark = pytest.mark.stack

SITE = name("plant")
GOOD = cid(SITE, "scan-1", name("code"))
PATH = "/api/v1/deadletters"


@pytest.fixture(scope="module")
def operator(gateway: Gateway) -> Iterator[httpx.Client]:
    with gateway.client("operator", [f"{SITE}/*"]) as client:
        yield client


@pytest.fixture(scope="module")
def letter(gateway: Gateway, operator: httpx.Client) -> dict[str, Any]:
    """A scan without a code, as the list has it."""
    return published_without_code(gateway, operator, SITE)


def published_without_code(gateway: Gateway, operator: httpx.Client, site: str) -> dict[str, Any]:
    bad = replace(GOOD, code="", site=site)
    producer = Producer(client_config(gateway.settings, acks="all"))
    headers = headers_for(bad, subject=GOOD.code, traceparent=None)
    producer.produce("edge.cids.v1", encode(bad), b"scan-1", headers=headers)
    assert producer.flush(30) == 0
    until(lambda: bool(listed(operator, site=site)["dead_letters"]), 60, "the dead letter")
    [shown] = listed(operator, site=site)["dead_letters"]
    return shown


def listed(client: httpx.Client, **filters: Any) -> Any:
    answer = client.get(PATH, params={"site": SITE, **filters})
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_it_is_listed_with_reason_and_counts(operator: httpx.Client, letter: dict[str, Any]) -> None:
    assert (letter["state"], letter["topic"], letter["source_id"]) == ("waiting", "edge.cids.v1", "scan-1")
    assert listed(operator)["counts"] == {"waiting": {letter["code"]: 1}}
    assert listed(operator, state="ingested")["dead_letters"] == []
    assert listed(operator, source_id="scan-2")["dead_letters"] == []
    answer = operator.get(PATH, params={"site": SITE, "sources": "scan-1"})
    assert (answer.status_code, answer.json()["hint"]) == (422, "did you mean source_id?")


def test_it_is_read_by_the_first_digits_of_its_id(operator: httpx.Client, letter: dict[str, Any]) -> None:
    whole = operator.get(f"{PATH}/{letter['id'][:13]}").json()
    assert whole["id"] == letter["id"]
    assert whole["history"] == []
    assert "ce_type" in whole["headers"]
    value = operator.get(f"{PATH}/{letter['id']}/value")
    assert value.content == encode(replace(GOOD, code=""))
    assert value.headers["content-disposition"].startswith("attachment")


@pytest.mark.parametrize(
    ("role", "sources", "status"),
    [("device", ["*"], 403), ("operator", ["elsewhere/*"], 404), ("operator", [f"{SITE}/scan-2"], 404)],
)
def test_others_do_not_read_it(
    gateway: Gateway, letter: dict[str, Any], role: str, sources: list[str], status: int
) -> None:
    with gateway.client(role, sources) as client:
        assert client.get(f"{PATH}/{letter['id']}").status_code == status
        assert client.post(f"{PATH}/{letter['id']}/redrive").status_code == status
        assert client.get(PATH).status_code == 403


def test_a_redrive_publishes_only_what_is_accepted_now(gateway: Gateway) -> None:
    site = name("plant")
    with gateway.client("operator", [f"{site}/*"]) as operator:
        letter = published_without_code(gateway, operator, site)
        redrive = f"{PATH}/{letter['id']}/redrive"
        refused = operator.post(redrive).json()
        assert (refused["published"], refused["refused"]) == (0, {letter["code"]: 1})
        # As if a newer validation accepted the message; tests/batch/test_redriving.py has a newer worker.
        good = cid(site, "scan-1")
        changed = "update dead_letters set value = %s where dead_letter_id = %s returning 1"
        gateway.rows(changed, encode(good), letter["id"])
        tried = operator.post(redrive, params={"dry_run": "true"}).json()
        assert (tried["accepted"], tried["published"]) == (1, 0)
        assert operator.post(redrive).json()["published"] == 1
        whole = operator.get(f"{PATH}/{letter['id']}").json()
        assert (whole["state"], whole["attempts"], len(whole["history"])) == ("on_its_way", 1, 1)
        until(lambda: gateway.rows("select from records where record_id = %s", record_of(good)), 60, "the record")


def test_an_id_that_is_none_is_not_found(operator: httpx.Client) -> None:
    assert operator.get(f"{PATH}/ffffffff-ffff-4fff-8fff-ffffffffffff").status_code == 404
    assert operator.get(f"{PATH}/nonsense").status_code == 404
