"""The configuration of MirrorMaker 2 in dedicated mode for one target. Pure: a topology in, the text of a file out.

Passwords are not in it: connectors keep their configuration in a topic of the target, so it names environment
variables (`${env:…}`), which MirrorMaker reads when it connects.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import PurePath

from headrace.sites.topology import Flow, Login, Site

TRANSFORMATION = "headrace.Origin"
"""The class of Origin.java."""
MESSAGE_BYTES_MAX = 10 * 1024 * 1024
"""As the broker's `message.max.bytes`: a body of 8 MiB with its envelope and headers."""

MEMORY_TOPIC = "headrace.mirror.v1"
"""At the target, compacted: which topics were copied, and what sources deleted before it was."""

_PASSWORD = "HEADRACE_MIRROR_LOGIN_"  # noqa: S105 - the beginning of the names of variables
_FETCH_BYTES_MAX = 16 * 1024 * 1024
_FETCH_BYTES_MIN = 1024 * 1024
_FETCH_S = 10
_REQUEST_S_MIN, _REQUEST_S_MAX = 60, 600
_TRANSACTION_S_MIN, _TRANSACTION_S_MAX = 120, 900  # a broker allows no longer one by default
_BUFFER_BYTES = 32 * 1024 * 1024
_POLLED_MESSAGES_MAX = 500
_REFRESH_S = 30
_COMMIT_MS = 500
_TASKS = 2
_SEGMENT_BYTES = 4 * 1024 * 1024
"""Only whole segments are compacted, and `headrace sites` reads these topics from their beginning."""

_MODULES = {
    "PLAIN": "org.apache.kafka.common.security.plain.PlainLoginModule",
    "SCRAM-SHA-256": "org.apache.kafka.common.security.scram.ScramLoginModule",
    "SCRAM-SHA-512": "org.apache.kafka.common.security.scram.ScramLoginModule",
}


def offsets_topic(source: str) -> str:
    """Return the topic at the target in which MirrorMaker keeps how far it has read the source."""
    return f"mm2-offsets.{source}.internal"


def status_topic(source: str) -> str:
    """Return the topic at the target in which MirrorMaker keeps the states of its tasks."""
    return f"mm2-status.{source}.internal"


def login_variable(name: str) -> str:
    """Return the environment variable with the login of a site or a link."""
    return f"{_PASSWORD}{'LINK' if '->' in name else 'SITE'}_{re.sub(r'[^a-z0-9]', '_', name).upper()}"


def jaas(mechanism: str, username: str, password: str) -> str:
    """Return a login as Java's clients take it."""
    quoted = [text.replace("\\", "\\\\").replace('"', '\\"') for text in (username, password)]
    return f'{_MODULES[mechanism]} required username="{quoted[0]}" password="{quoted[1]}";'


def properties(sites: Mapping[str, Site], flows: Sequence[Flow], target: str) -> dict[str, str]:
    """Return the settings for the flows into a target."""
    names = [*(flow.source for flow in flows), target]
    settings = {
        "clusters": ",".join(names),
        "config.providers": "env,directory",
        "config.providers.env.class": "org.apache.kafka.common.config.provider.EnvVarConfigProvider",
        "config.providers.env.param.allowlist.pattern": f"{_PASSWORD}.*",
        "config.providers.directory.class": "org.apache.kafka.common.config.provider.DirectoryConfigProvider",
        "plugin.discovery": "service_load",
        "dedicated.mode.enable.internal.rest": "true",
        "listeners": "http://127.0.0.1:0",
        **_target(sites[target], target),
    }
    for flow in flows:
        settings |= _prefixed(flow.source, {**_connection(sites[flow.source], flow.source), **_consumer(flow)})
        settings |= _prefixed(flow.name, _link(flow, sites[target]))
    return settings


def text_of(settings: Mapping[str, str]) -> str:
    """Return settings as a file of Java's properties."""
    lines = [f"{name}={value}".replace("\\", "\\\\") for name, value in settings.items()]
    return "".join(f"{line}\n" for line in lines)


def _prefixed(prefix: str, settings: Mapping[str, str]) -> dict[str, str]:
    return {f"{prefix}.{name}": value for name, value in settings.items()}


def _connection(site: Site, name: str) -> dict[str, str]:
    settings = {"bootstrap.servers": site.bootstrap, "security.protocol": site.security}
    if site.security.startswith("SASL"):
        settings |= {"sasl.mechanism": site.sasl_mechanism, "sasl.jaas.config": _login(name)}
    if site.security.endswith("SSL") and site.ca_file:
        settings |= {"ssl.truststore.type": "PEM", "ssl.truststore.location": site.ca_file}
    if site.security.endswith("SSL") and site.cert_file:
        settings |= {
            "ssl.keystore.type": "PEM",
            "ssl.keystore.certificate.chain": _content(site.cert_file),
            "ssl.keystore.key": _content(site.key_file),
        }
    return settings


def _login(name: str) -> str:
    return f"${{env:{login_variable(name)}}}"


def _content(file: str) -> str:
    path = PurePath(file)
    return f"${{directory:{path.parent}:{path.name}}}"


def _target(site: Site, name: str) -> dict[str, str]:
    replicas = str(site.replicas)
    worker = {
        **_connection(site, name),
        "exactly.once.source.support": "enabled",
        "plugin.discovery": "service_load",
        "producer.max.request.size": str(MESSAGE_BYTES_MAX),
        "producer.buffer.memory": str(_BUFFER_BYTES),
        "producer.linger.ms": "5",
    }
    for storage in ("config", "offset", "status"):
        worker[f"{storage}.storage.replication.factor"] = replicas
        worker[f"{storage}.storage.segment.bytes"] = str(_SEGMENT_BYTES)
        if storage != "config":  # of which Connect allows one only
            worker[f"{storage}.storage.partitions"] = "1"
    return _prefixed(name, worker)


def _consumer(flow: Flow) -> dict[str, str]:
    """Return the settings of the consumer at the source; each fetch has to fit into the rate of the link."""
    fetch, request_s = _FETCH_BYTES_MAX, _REQUEST_S_MIN
    if flow.bytes_per_s:
        fetch = min(max(flow.bytes_per_s * _FETCH_S, _FETCH_BYTES_MIN), _FETCH_BYTES_MAX)
        request_s = _seconds(flow, _REQUEST_S_MIN, _REQUEST_S_MAX)
    return {
        "consumer.isolation.level": "read_committed",
        "consumer.auto.offset.reset": "earliest",
        "consumer.fetch.max.bytes": str(fetch),
        "consumer.max.partition.fetch.bytes": str(fetch),
        "consumer.max.poll.records": str(_POLLED_MESSAGES_MAX),
        "consumer.request.timeout.ms": str(request_s * 1000),
        # As the system tunes it: 64 KiB by default, which bounds a link of 100 ms to 640 KiB a second.
        "consumer.receive.buffer.bytes": "-1",
    }


def largest_message_s(flow: Flow) -> int:
    """Return how many seconds the largest message takes at the rate of a link; 0 without a rate."""
    return MESSAGE_BYTES_MAX // flow.bytes_per_s if flow.bytes_per_s else 0


def _seconds(flow: Flow, least: int, most: int) -> int:
    return min(max(2 * largest_message_s(flow), least), most)


def _link(flow: Flow, target: Site) -> dict[str, str]:
    settings = {
        "enabled": "true",
        # Regular expressions; a name between brackets has no other dots than its own.
        "topics": ",".join(topic.name.replace(".", "[.]") for topic in flow.topics),
        "tasks.max": "1" if flow.bytes_per_s else str(_TASKS),
        "replication.factor": str(target.replicas),
        "refresh.topics.interval.seconds": str(_REFRESH_S),
        "transaction.boundary": "interval",
        "transaction.boundary.interval.ms": str(_COMMIT_MS),
        "producer.override.transaction.timeout.ms": str(1000 * _seconds(flow, _TRANSACTION_S_MIN, _TRANSACTION_S_MAX)),
        "transforms": "origin",
        "transforms.origin.type": TRANSFORMATION,
        "transforms.origin.bytes.per.second": str(flow.bytes_per_s or 0),
    }
    # The origin of each message is in its header, and topics are made with their own settings, so nothing has to be
    # written at the source, and no offset has to be translated.
    for feature in ("emit.heartbeats", "emit.checkpoints", "emit.offset-syncs", "sync.group.offsets"):
        settings[f"{feature}.enabled"] = "false"
    for feature in ("sync.topic.configs", "sync.topic.acls", "heartbeats.replication"):
        settings[f"{feature}.enabled"] = "false"
    if flow.login is not None:
        login = {"sasl.jaas.config": _login(flow.name)}
        for role in ("producer.override", "consumer.override", "admin.override", "target.cluster", "target.admin"):
            settings |= _prefixed(role, login)
    return settings


def logins(sites: Mapping[str, Site], flows: Sequence[Flow], target: str) -> dict[str, tuple[str, Login]]:
    """Return the mechanism and the login behind each environment variable."""
    wanted: dict[str, tuple[str, Login]] = {}
    for name in (*(flow.source for flow in flows), target):
        site = sites[name]
        if site.security.startswith("SASL") and site.password is not None:
            login = Login(username=site.username, password=site.password)
            wanted[login_variable(name)] = (site.sasl_mechanism, login)
    for flow in flows:
        if flow.login is not None:
            wanted[login_variable(flow.name)] = (sites[target].sasl_mechanism, flow.login)
    return wanted
