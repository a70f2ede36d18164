"""Kafka brokers in KRaft mode, each both broker and controller, from their jars."""

import os
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path

from headrace.native.checks import kafka_serves
from headrace.native.config import LOOPBACK, StackConfig, broker_name
from headrace.native.kafka_jars import class_path, jars_home
from headrace.native.layout import StateDir
from headrace.native.process import ProcessSpec
from headrace.runtime.errors import HeadraceError

MESSAGE_BYTES_MAX = 10 * 1024 * 1024
"""A frame of up to 8 MiB is inline; the rest is for its envelope and headers."""

_HEAP = {1: "768m", 3: "512m"}
# ACLs can be tried; without any, all is allowed. Several brokers would refuse each other until they know the ACLs.
_ACLS = {
    "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
    "allow.everyone.if.no.acl.found": "true",
}
_FORMAT_S_MAX = 60
_ARCHIVE_S_MAX = 15.0
_WRITE_ARCHIVE = "-XX:ArchiveClassesAtExit="
_STOP_S_MAX = {1: 8.0, 3: 4.0}
"""Three brokers that stop together soon lose the majority that the last one needs to stop; it is killed instead."""
# The serial collector needs no threads of its own on a small machine, and has no humongous objects for large messages.
# A short-lived JVM is faster without the second compiler.
_BROKER_FLAGS = (
    "-XX:+UseSerialGC",
    "-XX:+ExitOnOutOfMemoryError",
    "-XX:-UsePerfData",
    "-Xlog:disable",
    "-Xlog:all=error:stderr",
)
_TOOL_FLAGS = ("-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-XX:-UsePerfData", "-Xlog:disable")


def format_storage(config: StackConfig, state: StateDir, progress: Callable[[str], None]) -> None:
    """Write each broker's settings, and format its storage if that has not been done; may be repeated.

    Raises HeadraceError when Kafka cannot format it.
    """
    unformatted = []
    for node in range(1, config.brokers + 1):
        home = _home(state, node)
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        (home / "server.properties").write_text(_properties(config, state, node), encoding="ascii")
        if not (home / "data" / "meta.properties").exists():
            unformatted.append((node, _start_format(config, home)))
    if unformatted:
        progress("kafka: formatting storage")
    for node, formatting in unformatted:
        output, _ = formatting.communicate(timeout=_FORMAT_S_MAX)
        if formatting.returncode != 0:
            raise HeadraceError(
                "kafka_format_failed",
                f"Kafka could not format the storage of broker {node}: {output.decode(errors='replace')[-300:]}",
                where=str(_home(state, node) / "data"),
                hint="free disk space, or move this directory away if Kafka never ran in it, and start again",
            )


def broker(config: StackConfig, state: StateDir, node: int, *, heap: str = "") -> ProcessSpec:
    """Return the process of one broker."""
    name, home = broker_name(node), _home(state, node)
    java = config.installed.java
    archive = class_archive(java, write=node == 1)
    writes_archive = any(flag.startswith(_WRITE_ARCHIVE) for flag in archive)
    return ProcessSpec(
        name=name,
        argv=(
            *server_argv(java, heap or _HEAP[config.brokers], archive),
            "kafka.Kafka",
            str(home / "server.properties"),
        ),
        env={"CLASSPATH": class_path()},
        cwd=home,
        log=state.log(name),
        address=f"{LOOPBACK}:{config.ports[name]}",
        ready=kafka_serves(config.ports[name], config.brokers),
        stop_s_max=_STOP_S_MAX[config.brokers] + (_ARCHIVE_S_MAX if writes_archive else 0),
    )


def server_argv(java: Path, heap: str, archive: tuple[str, ...]) -> tuple[str, ...]:
    """Return the beginning of the command line of a program of Kafka's that runs for long; its class comes next."""
    return (str(java), f"-Xmx{heap}", *_BROKER_FLAGS, *archive, *_logging("info"))


def bootstrap(config: StackConfig) -> str:
    """Return the addresses of all brokers, comma-separated."""
    return ",".join(f"{LOOPBACK}:{config.ports[broker_name(node)]}" for node in range(1, config.brokers + 1))


def tool_argv(java: Path, main_class: str) -> list[str]:
    """Return the command line of one of Kafka's own programs, to be run with `tool_env()`."""
    return [str(java), *_TOOL_FLAGS, *class_archive(java, write=False), *_logging("warn"), main_class]


def tool_env() -> dict[str, str]:
    """Return the environment of Kafka's own programs."""
    return {**os.environ, "CLASSPATH": class_path()}


def class_archive(java: Path, *, write: bool) -> tuple[str, ...]:
    """Return JVM flags that load Kafka's classes from an archive (CDS), which halves the start time.

    The first broker writes the archive when it first stops. The JVM writes the header last, so an archive whose
    writer was killed begins with zeros, and is not used. A Java without the archive of its own classes has none.
    """
    if not (java.resolve().parent.parent / "lib" / "server" / "classes.jsa").is_file():
        return ()
    stat = java.resolve().stat()
    archive = jars_home() / f"classes-{stat.st_ino}-{int(stat.st_mtime)}.jsa"
    try:
        with archive.open("rb") as file:
            complete = any(file.read(4))
    except OSError:
        complete = False
    if complete:
        return (f"-XX:SharedArchiveFile={archive}",)
    return (f"{_WRITE_ARCHIVE}{archive}",) if write else ()


def _home(state: StateDir, node: int) -> Path:
    return state.part("kafka") / str(node)


def _start_format(config: StackConfig, home: Path) -> "subprocess.Popen[bytes]":
    argv = tool_argv(config.installed.java, "kafka.tools.StorageTool")
    return subprocess.Popen(
        [*argv, "format", "--cluster-id", config.cluster_id, "--config", str(home / "server.properties")],
        env=tool_env(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def _logging(level: str) -> tuple[str, ...]:
    return (
        f"-Dorg.slf4j.simpleLogger.defaultLogLevel={level}",
        # It logs every setting with its default: half of the log.
        "-Dorg.slf4j.simpleLogger.log.org.apache.kafka.common.config.AbstractConfig=warn",
        "-Dorg.slf4j.simpleLogger.showDateTime=true",
        "-Dorg.slf4j.simpleLogger.dateTimeFormat=yyyy-MM-dd'T'HH:mm:ss.SSSXXX",
    )


def _properties(config: StackConfig, state: StateDir, node: int) -> str:
    lines = (f"{key}={value}" for key, value in _settings(config, state, node).items())
    return "\n".join(lines) + "\n"


def _settings(config: StackConfig, state: StateDir, node: int) -> Mapping[str, object]:
    name, replicas = broker_name(node), config.brokers
    in_sync = 2 if replicas == 3 else 1
    voters = (f"{n}@{LOOPBACK}:{config.ports[f'{broker_name(n)}-controller']}" for n in range(1, replicas + 1))
    return {
        "process.roles": "broker,controller",
        "node.id": node,
        "controller.quorum.voters": ",".join(voters),
        "controller.listener.names": "CONTROLLER",
        "listeners": f"PLAINTEXT://{LOOPBACK}:{config.ports[name]},"
        f"CONTROLLER://{LOOPBACK}:{config.ports[f'{name}-controller']}",
        "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
        "inter.broker.listener.name": "PLAINTEXT",
        "log.dirs": _home(state, node) / "data",
        "auto.create.topics.enable": "false",
        "message.max.bytes": MESSAGE_BYTES_MAX,
        "replica.fetch.max.bytes": MESSAGE_BYTES_MAX,
        "default.replication.factor": replicas,
        "min.insync.replicas": in_sync,
        "unclean.leader.election.enable": "false",
        "group.initial.rebalance.delay.ms": 0,
        # A killed broker can register again only when its old session has expired: 9 s by default.
        "broker.session.timeout.ms": 5000,
        "broker.heartbeat.interval.ms": 1000,
        # The internal topics are small here: fewer partitions start faster.
        "offsets.topic.num.partitions": 4,
        "offsets.topic.replication.factor": replicas,
        "transaction.state.log.num.partitions": 4,
        "transaction.state.log.replication.factor": replicas,
        "transaction.state.log.min.isr": in_sync,
        "share.coordinator.state.topic.num.partitions": 1,
        "share.coordinator.state.topic.replication.factor": replicas,
        "share.coordinator.state.topic.min.isr": in_sync,
        # 128 MB by default, a fifth of the heap.
        "log.cleaner.dedupe.buffer.size": 16 * 1024 * 1024,
        "num.io.threads": 4,
        "num.network.threads": 2,
        "num.recovery.threads.per.data.dir": 2,
        **(_ACLS if replicas == 1 else {}),
    }
