"""Kafka's own console tools, run against a stack: `headrace kafka TOOL ARGS...`."""

import contextlib
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from itertools import pairwise
from typing import assert_never

from headrace.native.info import StackInfo
from headrace.native.kafka import tool_argv, tool_env
from headrace.runtime.errors import Exit, HeadraceError
from headrace.schemas.topics import is_transactional

_TOOLS = "org.apache.kafka.tools"


class BootstrapPosition(Enum):
    """Where a tool expects the brokers' addresses."""

    FIRST = auto()
    AFTER_COMMAND = auto()
    NOWHERE = auto()


@dataclass(frozen=True, slots=True)
class KafkaTool:
    """One of the programs in `bin/` of a Kafka distribution."""

    main_class: str
    bootstrap: BootstrapPosition = BootstrapPosition.FIRST


TOOLS: Mapping[str, KafkaTool] = {
    "acls": KafkaTool(f"{_TOOLS}.AclCommand"),
    "broker-api-versions": KafkaTool(f"{_TOOLS}.BrokerApiVersionsCommand"),
    "client-metrics": KafkaTool(f"{_TOOLS}.ClientMetricsCommand"),
    "cluster": KafkaTool(f"{_TOOLS}.ClusterTool", BootstrapPosition.AFTER_COMMAND),
    "configs": KafkaTool("kafka.admin.ConfigCommand"),
    "console-consumer": KafkaTool(f"{_TOOLS}.consumer.ConsoleConsumer"),
    "console-producer": KafkaTool(f"{_TOOLS}.ConsoleProducer"),
    "console-share-consumer": KafkaTool(f"{_TOOLS}.consumer.ConsoleShareConsumer"),
    "consumer-groups": KafkaTool(f"{_TOOLS}.consumer.group.ConsumerGroupCommand"),
    "consumer-perf-test": KafkaTool(f"{_TOOLS}.ConsumerPerformance"),
    "delete-records": KafkaTool(f"{_TOOLS}.DeleteRecordsCommand"),
    "dump-log": KafkaTool(f"{_TOOLS}.DumpLogSegments", BootstrapPosition.NOWHERE),
    "features": KafkaTool(f"{_TOOLS}.FeatureCommand"),
    "get-offsets": KafkaTool(f"{_TOOLS}.GetOffsetShell"),
    "groups": KafkaTool(f"{_TOOLS}.GroupsCommand"),
    "leader-election": KafkaTool(f"{_TOOLS}.LeaderElectionCommand"),
    "log-dirs": KafkaTool(f"{_TOOLS}.LogDirsCommand"),
    "metadata-quorum": KafkaTool(f"{_TOOLS}.MetadataQuorumCommand"),
    "producer-perf-test": KafkaTool(f"{_TOOLS}.ProducerPerformance"),
    "reassign-partitions": KafkaTool(f"{_TOOLS}.reassign.ReassignPartitionsCommand"),
    "share-groups": KafkaTool(f"{_TOOLS}.consumer.group.ShareGroupCommand"),
    "storage": KafkaTool("kafka.tools.StorageTool", BootstrapPosition.NOWHERE),
    "topics": KafkaTool(f"{_TOOLS}.TopicCommand"),
    "transactions": KafkaTool(f"{_TOOLS}.TransactionsCommand"),
}


def run_tool(info: StackInfo, tool: str, args: Sequence[str]) -> int:
    """Run the tool with the standard input and output of this process, and return its exit code.

    The name may also be that of the script, as in `kafka-topics.sh`. Raises HeadraceError for an unknown name.
    """
    name = tool.removeprefix("kafka-").removesuffix(".sh")
    if name not in TOOLS:
        raise HeadraceError(
            "tool_unknown",
            f"Kafka has no tool {tool}",
            hint=f"one of {', '.join(TOOLS)}",
            exit_code=Exit.USAGE,
        )
    known = TOOLS[name]
    process = subprocess.Popen(
        [*tool_argv(info.java, known.main_class), *arguments(known, args, info.kafka)], env=tool_env()
    )
    while True:
        # A keyboard interrupt reaches the tool as well, and the tool decides how to handle it.
        with contextlib.suppress(KeyboardInterrupt):
            code = process.wait()
            return code if code >= 0 else 128 - code


def arguments(tool: KafkaTool, args: Sequence[str], bootstrap: str) -> list[str]:
    """Return the tool's arguments with the brokers' addresses added, unless they are given.

    The console consumer reads what is committed, of a topic that the service writes in transactions: its own default
    shows announcements that were aborted too.
    """
    if tool is TOOLS["console-consumer"] and not any("isolation" in arg for arg in args):
        topics = [value for name, value in pairwise(args) if name == "--topic"]
        topics += [arg.removeprefix("--topic=") for arg in args if arg.startswith("--topic=")]
        if any(map(is_transactional, topics)):
            args = [*args, "--isolation-level", "read_committed"]
    if any(arg.startswith(("--bootstrap-server", "--bootstrap-controller")) for arg in args):
        return list(args)
    option = ["--bootstrap-server", bootstrap]
    match tool.bootstrap:
        case BootstrapPosition.FIRST:
            return [*option, *args]
        case BootstrapPosition.AFTER_COMMAND:
            return [*args[:1], *option, *args[1:]]
        case BootstrapPosition.NOWHERE:
            return list(args)
        case _:
            assert_never(tool.bootstrap)
