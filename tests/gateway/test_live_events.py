"""Live events over `/ws/events` and as server-sent events, against a real stack."""

import json
import signal
import socket
import threading

import httpx
import pytest
from confluent_kafka import TopicPartition
from confluent_kafka.admin import AdminClient
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection

from headrace.gateway.live.resume_token import TOPICS, ResumeToken, parse_resume_token
from headrace.runtime.kafka import client_config
from headrace.runtime.settings import Settings
from tests.gateway.gateway_world import Gateway, StartGateway, name, picture
from tests.gateway.hostile_http import form, head, part
from tests.gateway.live_world import (
    close_frame,
    event_stream,
    events,
    next_named,
    publish_scans,
    receive,
    watch,
    websocket,
)
from tests.waiting import until

pytestmark = [pytest.mark.stack, pytest.mark.timeout(240)]

TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def _upload(gateway: Gateway, key: str, source_id: str, site: str = "live") -> dict[str, object]:
    answer = httpx.post(
        f"{gateway.url}/ingest",
        files={"file": picture()},
        data={"source_id": source_id, "site": site},
        headers={"X-API-Key": key},
        timeout=90,
    )
    assert answer.status_code == 200, answer.text
    file: dict[str, object] = answer.json()
    return file


def test_both_transports_carry_announcements_and_state_changes(gateway: Gateway) -> None:
    key, source_id = gateway.key(), name("camera")
    with (
        watch(gateway, key, source_id=source_id) as socket_,
        event_stream(gateway, key, params={"source_id": source_id}) as stream,
    ):
        assert receive(socket_)["type"] == "hello"
        file = _upload(gateway, key, source_id)
        [event] = events(socket_, 1)
        assert {name_: event["data"][name_] for name_ in ("record_id", "digest", "kind", "site", "source_id")} == {
            "record_id": file["id"],
            "digest": file["sha256"],
            "kind": "frame",
            "site": "live",
            "source_id": source_id,
        }
        assert event["data"]["size_bytes"] == file["size_bytes"]
        assert event["data"]["ingested_at"].endswith("Z")
        assert json.loads(next_named(stream, "ingested")["data"]) == event["data"]
    source_id = name("camera")  # a new source: the previous request may still be in progress
    with (
        watch(gateway, key, source_id=source_id, kind="request") as socket_,
        event_stream(gateway, key, params={"source_id": source_id, "kind": "request"}) as stream,
    ):
        receive(socket_)
        file = _upload(gateway, key, source_id)
        [event] = events(socket_, 1, "request")
        assert (event["data"]["request_id"], event["data"]["state"]) == (file["request_id"], "uploading")
        assert json.loads(next_named(stream, "request")["data"]) == event["data"]


def test_the_same_bytes_are_announced_to_each_site_that_delivers_them(gateway: Gateway) -> None:
    sites, body = (name("plant"), name("plant")), picture()
    heard = []
    for site in (*sites, sites[1]):
        key = gateway.key("device", [f"{site}/*"])
        with watch(gateway, key, site=site) as socket_:
            receive(socket_)
            answer = httpx.post(
                f"{gateway.url}/ingest",
                files={"file": body},
                data={"source_id": "camera", "site": site},
                headers={"X-API-Key": key, "traceparent": TRACE, "tracestate": f"of={site}"},
                timeout=90,
            )
            assert answer.status_code == 200, answer.text
            if len(heard) < len(sites):
                heard += events(socket_, 1)
    assert [event["data"]["site"] for event in heard] == [*sites]
    assert len({event["data"]["record_id"] for event in heard}) == 1
    [[announcements]] = gateway.rows(
        "select count(*) from outbox where record_id = %s::uuid", heard[0]["data"]["record_id"]
    )
    assert announcements == 2
    traces = gateway.rows(
        "select traceparent from records where record_id = %s::uuid"
        " union all select traceparent from site_records where record_id = %s::uuid",
        *[heard[0]["data"]["record_id"]] * 2,
    )
    assert traces == [(f"{TRACE} of={site}",) for site in sites]


def test_a_stream_is_limited_to_its_scope_and_filter(gateway: Gateway, service_settings: Settings) -> None:
    mine, others = name("mine"), name("others")
    key = gateway.key("device", [f"live/{mine}"])
    with watch(gateway, key, kind=["cid", "ldo"]) as socket_:
        receive(socket_)
        publish_scans(service_settings, others, ["theirs"])
        _upload(gateway, gateway.key(), mine)
        publish_scans(service_settings, mine, ["ours", "the last"])
        received = events(socket_, 2)
    assert [(event["data"]["source_id"], event["data"]["code"]) for event in received] == [
        (mine, "ours"),
        (mine, "the last"),
    ]
    with pytest.raises(InvalidStatus) as refused:
        watch(gateway, key, site="live", source_id=others)
    assert refused.value.response.status_code == 403


def test_a_stream_resumes_at_another_gateway(
    gateway: Gateway, start_gateway: StartGateway, service_settings: Settings
) -> None:
    key, source_id = gateway.key(), name("scanner")
    with event_stream(gateway, key, params={"source_id": source_id}) as stream:
        publish_scans(service_settings, source_id, [f"{number}" for number in range(20)])
        before = [next_named(stream, "ingested") for _ in range(10)]
    with start_gateway() as other:
        with event_stream(
            other, key, params={"source_id": source_id}, headers={"Last-Event-ID": before[-1]["id"]}
        ) as stream:
            publish_scans(service_settings, source_id, ["20"])
            after = [next_named(stream, "ingested") for _ in range(11)]
        assert [json.loads(event["data"])["code"] for event in before + after] == [f"{number}" for number in range(21)]
        with watch(other, key, last=before[4]["id"], source_id=source_id) as socket_:
            again = [event["data"]["code"] for event in events(socket_, 16)]
        assert again == [f"{number}" for number in range(5, 21)]


def test_events_are_delivered_exactly_once_during_a_backfill(
    gateway: Gateway, start_gateway: StartGateway, service_settings: Settings
) -> None:
    """A new gateway buffers the last few hundred events; the rest is backfilled from Kafka while more are published."""
    key, source_id, first, all_of_them = gateway.key(), name("scanner"), 3000, 4500
    with watch(gateway, key, source_id=source_id) as socket_:
        begin = receive(socket_)["id"]
        publish_scans(service_settings, source_id, [f"{number}" for number in range(first)])
        assert [event["data"]["code"] for event in events(socket_, first)] == [f"{number}" for number in range(first)]
    with start_gateway() as fresh:
        more = [f"{number}" for number in range(first, all_of_them)]
        publishing = threading.Thread(target=publish_scans, args=(service_settings, source_id, more))
        publishing.start()
        with watch(fresh, key, last=begin, source_id=source_id) as socket_:
            received = [event["data"]["code"] for event in events(socket_, all_of_them)]
        publishing.join()
    assert received == [f"{number}" for number in range(all_of_them)]


def test_deleted_events_are_reported_as_a_gap(start_gateway: StartGateway, service_settings: Settings) -> None:
    source_id = name("scanner")
    with start_gateway() as gateway:
        key = gateway.key()
        with watch(gateway, key, source_id=source_id) as socket_:
            begin = receive(socket_)["id"]
            publish_scans(service_settings, source_id, ["1", "2", "3"])
            ids = [event["id"] for event in events(socket_, 3)]
    [place] = [
        (TOPICS[0], number)
        for number in range(4)
        if parse_resume_token(begin)[TOPICS[0], number] < parse_resume_token(ids[0])[TOPICS[0], number]
        and parse_resume_token(ids[1])[TOPICS[0], number] > parse_resume_token(ids[0])[TOPICS[0], number]
    ]
    end = parse_resume_token(ids[1])[place]
    admin = AdminClient(client_config(service_settings))
    [deleted] = admin.delete_records([TopicPartition(*place, end)]).values()
    deleted.result(30)
    with start_gateway() as fresh, watch(fresh, key, last=begin, source_id=source_id) as socket_:
        [gap] = events(socket_, 1, "gap")
        [left] = events(socket_, 1)
    assert gap["data"]["see"] == "/api/v1/records"
    [missing] = gap["data"]["missing"]
    assert (missing["topic"], missing["partition"], missing["to"]) == (*place, end)
    assert left["data"]["code"] == "3"


def test_a_token_of_another_kafka_starts_now_and_reports_a_gap(gateway: Gateway) -> None:
    key, source_id = gateway.key(), name("camera")
    ahead = ResumeToken({(topic, partition): 10**9 for topic in TOPICS for partition in range(4)}).encode()
    with watch(gateway, key, last=ahead, source_id=source_id, kind="frame") as socket_:
        assert len(events(socket_, 1, "gap")[0]["data"]["missing"]) == 16
        file = _upload(gateway, key, source_id)
        assert events(socket_, 1)[0]["data"]["record_id"] == file["id"]


def test_a_slow_client_is_closed_and_can_resume(gateway: Gateway, service_settings: Settings) -> None:
    key, source_id, count = gateway.key(), name("scanner"), 7000
    filling = "x" * 3500  # so that the event buffer is too small for all of these events
    with watch(gateway, key, source_id=source_id) as quick, watch(gateway, key, slow=True, source_id=source_id) as slow:
        begin = receive(slow)["id"]
        codes = [f"{number} {filling}" for number in range(count)]
        publishing = threading.Thread(target=publish_scans, args=(service_settings, source_id, codes))
        publishing.start()
        assert len(events(quick, count)) == count
        publishing.join()
        last, read, code = _read_to_the_end(slow, begin)
    # If the client read nothing for long, its pong is missing, or the close frame cannot be sent.
    assert code in {1013, 1011, 1006}
    assert 0 < read < count
    with watch(gateway, key, last=last, source_id=source_id) as socket_:
        rest = [int(event["data"]["code"].split()[0]) for event in events(socket_, count - read)]
    assert rest == list(range(read, count))


def _read_to_the_end(socket_: ClientConnection, begin: str) -> tuple[str, int, int]:
    last, read = begin, 0
    try:
        while True:
            event = receive(socket_)
            last, read = event["id"], read + (event["type"] == "ingested")
    except ConnectionClosed as error:
        return last, read, 1006 if error.rcvd is None else error.rcvd.code


@pytest.mark.slow
def test_a_revoked_key_closes_its_streams(gateway: Gateway) -> None:
    key = gateway.key()
    with watch(gateway, key) as socket_, event_stream(gateway, key) as stream:
        receive(socket_)
        assert gateway.with_access(lambda access: access.revoke_key(key.split("_")[1], "test"))
        assert close_frame(socket_)[0] == 1008
        assert json.loads(next_named(stream, "end")["data"])["code"] == 1008
        assert next(stream, None) is None


def _get_no_stream(gateway: Gateway, key: str, status: int, code: str) -> None:
    answer = httpx.get(f"{gateway.url}/api/v1/events", headers={"X-API-Key": key}, timeout=30)
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert "Retry-After" in answer.headers


def _get_no_feed(gateway: Gateway, key: str, status: int) -> None:
    with pytest.raises(InvalidStatus) as refused:
        websocket(gateway, "/ws/ingest", key)
    assert refused.value.response.status_code == status


def test_the_number_of_streams_is_limited(start_gateway: StartGateway) -> None:
    with start_gateway(gateway_streams_max=1) as gateway:
        key = gateway.key()
        with watch(gateway, key) as socket_:
            receive(socket_)
            metrics = httpx.get(f"{gateway.url}/metrics", timeout=30).text
            assert 'headrace_gateway_streams{kind="events"} 1.0' in metrics
            _get_no_stream(gateway, key, 503, "unavailable")
            _get_no_feed(gateway, key, 503)
        none = 'headrace_gateway_streams{kind="events"} 0.0'
        until(lambda: none in httpx.get(f"{gateway.url}/metrics", timeout=30).text, 30, "the stream to be over")
        with event_stream(gateway, key):
            pass


def test_streams_and_feeds_of_a_caller_have_separate_limits(start_gateway: StartGateway) -> None:
    with start_gateway(
        gateway_streams_per_caller_max=1, gateway_feeds_per_caller_max=1, gateway_feeds_max=1
    ) as gateway:
        key, other = gateway.key(), gateway.key()
        with watch(gateway, key) as socket_, websocket(gateway, "/ws/ingest", key) as feed:
            receive(socket_)
            receive(feed)
            _get_no_feed(gateway, key, 429)
            _get_no_stream(gateway, key, 429, "too_many_requests")
            _get_no_feed(gateway, other, 503)
            with event_stream(gateway, other):
                pass


def test_a_large_message_on_the_event_stream_closes_it(gateway: Gateway) -> None:
    with watch(gateway, gateway.key()) as socket_:
        receive(socket_)
        socket_.send("a" * 2000)
        assert close_frame(socket_)[0] == 1009


def test_a_gateway_shuts_down_with_open_streams(start_gateway: StartGateway) -> None:
    with start_gateway() as gateway:
        key = gateway.key()
        with (
            watch(gateway, key) as socket_,
            websocket(gateway, "/ws/ingest", key) as feed,
            event_stream(gateway, key) as stream,
        ):
            receive(socket_)
            receive(feed)
            assert gateway.process.stop(20) == 0
            assert close_frame(socket_)[0] == 1012
            assert close_frame(feed)[0] == 1012
            assert json.loads(next_named(stream, "end")["data"])["code"] == 1012


def test_a_stopping_gateway_takes_no_new_request_and_finishes_the_one_that_it_has(start_gateway: StartGateway) -> None:
    with start_gateway(gateway_answer_s_max=8) as gateway:
        body = form(part(picture()))
        with socket.create_connection(("127.0.0.1", gateway.http_port), timeout=60) as connection:
            connection.sendall(head("/ingest", gateway.key(), f"Content-Length: {len(body)}") + body[:100])
            in_progress = 'http_requests_in_progress{method="POST"} 1.0'
            until(lambda: in_progress in gateway.process.get("/metrics")[1], 30, "the request to be received")
            gateway.process.process.send_signal(signal.SIGTERM)
            until(lambda: not _accepts(gateway), 30, "the gateway to accept nothing more")
            assert '"state": "draining"' in gateway.process.get("/readyz")[1]
            connection.sendall(body[100:])
            assert connection.recv(100).startswith(b"HTTP/1.1 20")
        assert gateway.process.process.wait(25) == 0


def _accepts(gateway: Gateway) -> bool:
    try:
        socket.create_connection(("127.0.0.1", gateway.http_port), timeout=10).close()
    except OSError:
        return False
    return True


@pytest.mark.parametrize("last", ["!", "AQ", "1-0", "A" * 2000])
def test_an_invalid_last_event_id_is_refused(gateway: Gateway, last: str) -> None:
    key = gateway.key()
    with gateway.client() as client:
        for options in ({"params": {"last_event_id": last}}, {"headers": {"Last-Event-ID": last}}):
            answer = client.get("/api/v1/events", **options)
            assert (answer.status_code, answer.json()["code"]) == (422, "invalid")
    with watch(gateway, key, last=last) as socket_:
        code, reason = close_frame(socket_)
    assert code == 1008
    assert "last event id" in reason


@pytest.mark.parametrize("wanted", [{"kind": "everything"}, {"site": " "}, {"source_id": "a\nb"}, {"site": "x" * 300}])
def test_an_invalid_filter_is_refused(gateway: Gateway, wanted: dict[str, str]) -> None:
    with gateway.client() as client:
        assert client.get("/api/v1/events", params=wanted).status_code == 422
    with pytest.raises(InvalidStatus) as refused:
        watch(gateway, gateway.key(), **wanted)
    assert refused.value.response.status_code == 422


def test_an_unauthenticated_connection_is_refused(gateway: Gateway) -> None:
    for path in ("/ws/events", "/ws/ingest"):
        with pytest.raises(InvalidStatus) as refused:
            websocket(gateway, path, None)
        answer = refused.value.response
        assert answer.status_code == 401
        assert answer.headers["content-type"] == "application/problem+json"
        assert json.loads(answer.body)["code"] == "not_authenticated"
        with pytest.raises(InvalidStatus) as refused:
            websocket(gateway, f"{path}?token=secret", gateway.key())
        assert json.loads(refused.value.response.body)["code"] == "key_in_url"
        with pytest.raises(InvalidStatus) as refused:
            websocket(gateway, path, gateway.key(), origin="https://elsewhere.example")
        assert refused.value.response.status_code == 403
    with gateway.anonymous() as client:
        assert client.get("/api/v1/events").status_code == 401


def test_a_browser_sends_its_key_as_a_subprotocol(gateway: Gateway) -> None:
    key = gateway.key()
    with websocket(gateway, "/ws/events", None, subprotocols=["headrace.v1", f"bearer.{key}"]) as socket_:
        assert socket_.subprotocol == "headrace.v1"
        assert receive(socket_)["type"] == "hello"
        assert key not in str(socket_.response.headers)
    with pytest.raises(InvalidStatus) as refused:
        websocket(gateway, "/ws/events", None, subprotocols=["headrace.v1", "bearer.hr_0_0"])
    assert refused.value.response.status_code == 401
