"""Faust, in the only configuration in which it loses no message.

By default Faust acknowledges a message whose agent raised or whose value it could not decode, and with concurrency
above one it commits past unfinished messages. So: topics of bytes that we decode, one agent each with concurrency 1
that never raises, events without automatic acknowledgement, no tables, no Faust producer, no Faust transactions, no
web server. The versions are pinned, because this relies on how they acknowledge.
"""

import ssl
from dataclasses import dataclass
from typing import Any

import faust
from faust.types.auth import AuthProtocol

from headrace.runtime.kafka import heartbeat_s
from headrace.runtime.settings import Settings
from headrace.schemas.events import Kind
from headrace.schemas.limits import HEADER_BYTES, HEADERS_MAX
from headrace.schemas.topics import WORKER_GROUPS, input_topic
from headrace.streams.worker.faust.access_token import AccessToken
from headrace.streams.worker.faust.direct_consumer import FaustApp
from headrace.streams.worker.faust.record_batches import read_any_batch

REBALANCE_TIMEOUT_S = 180.0  # above the processing deadline: a process that cannot rejoin in time has ended by itself
REQUEST_TIMEOUT_S = 90.0  # or the session timeout if that is longer, as Faust requires
METADATA_AGE_MS_MAX = 30_000  # how long partitions that were added may go unnoticed; Faust's own default is 5 minutes
COMMIT_INTERVAL_S = 1.0
FETCH_BYTES_SMALL = 4 * 1024 * 1024
FETCH_BYTES_LARGE = 8 * 1024 * 1024  # of each partition: fewer, larger fetches cost less


@dataclass(frozen=True, slots=True)
class Group:
    """Kinds that share a process: a full buffer of one kind stops the others (faust-streaming #53)."""

    name: str
    kinds: frozenset[Kind]
    fetch_bytes: int


SMALL = Group("headrace-small", WORKER_GROUPS["headrace-small"], FETCH_BYTES_SMALL)
LARGE = Group("headrace-large", WORKER_GROUPS["headrace-large"], FETCH_BYTES_LARGE)


def buffer_batches(group: Group, kinds: frozenset[Kind], buffer_bytes_max: int) -> int:
    """Return how many fetched batches fit in a buffer of `buffer_bytes_max`: Faust's back-pressure counts them."""
    return max(1, buffer_bytes_max // (group.fetch_bytes + _message_bytes_max(kinds) + HEADERS_MAX * HEADER_BYTES))


def _message_bytes_max(kinds: frozenset[Kind]) -> int:
    return max(input_topic(kind).message_bytes_max for kind in kinds)


def faust_app(settings: Settings, group: Group, kinds: frozenset[Kind]) -> Any:
    """Return a Faust app in this configuration, without agents."""
    read_any_batch(record_bytes_max=_message_bytes_max(kinds), drained_bytes_max=group.fetch_bytes)
    return FaustApp(
        group.name,
        broker=[f"kafka://{address.strip()}" for address in settings.kafka_bootstrap.split(",")],
        broker_credentials=_credentials(settings),
        broker_commit_interval=COMMIT_INTERVAL_S,
        broker_session_timeout=settings.kafka_session_s,
        broker_heartbeat_interval=heartbeat_s(settings.kafka_session_s),
        broker_request_timeout=max(REQUEST_TIMEOUT_S, settings.kafka_session_s),
        broker_rebalance_timeout=REBALANCE_TIMEOUT_S,
        # Frames and clips carry the SHA-256 of their bytes; a CID or LDO is only what arrives, so its batch is checked.
        broker_check_crcs=group is SMALL,
        consumer_auto_offset_reset="earliest",
        consumer_metadata_max_age_ms=METADATA_AGE_MS_MAX,
        consumer_max_fetch_size=group.fetch_bytes,
        stream_buffer_maxsize=buffer_batches(group, kinds, settings.buffer_bytes_max),
        stream_wait_empty=False,
        value_serializer="raw",
        key_serializer="raw",
        producer_threaded=False,
        topic_allow_declare=False,
        topic_disable_leader=True,
        web_enabled=False,
        autodiscover=False,
        store="memory://",
    )


def _credentials(settings: Settings) -> Any:
    if settings.kafka_security == "PLAINTEXT":
        return None
    ssl_context = _tls(settings) if settings.kafka_security.endswith("SSL") else None
    if settings.kafka_security == "SSL":
        return faust.SSLCredentials(context=ssl_context)
    credentials = (
        faust.OAuthCredentials(oauth_cb=AccessToken(settings), ssl_context=ssl_context)
        if settings.kafka_sasl_mechanism == "OAUTHBEARER"
        else faust.SASLCredentials(
            username=settings.kafka_username,
            password=settings.kafka_password.get_secret_value(),
            mechanism=settings.kafka_sasl_mechanism,
            ssl_context=ssl_context,
        )
    )
    credentials.protocol = AuthProtocol(settings.kafka_security)
    return credentials


def _tls(settings: Settings) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=settings.kafka_ca_file or None)
    if settings.kafka_cert_file:
        password = settings.kafka_key_password.get_secret_value()
        context.load_cert_chain(settings.kafka_cert_file, settings.kafka_key_file, lambda: password)
    return context
