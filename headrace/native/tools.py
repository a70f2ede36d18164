"""Kafka's own console tools, run against a stack: `headrace kafka TOOL ARGS...`."""

import contextlib
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import assert_never

from headrace.native.info import StackInfo
from headrace.native.kafka import tool_argv, tool_env
from headrace.runtime.errors import Exit, HeadraceError

_TOOLS = "org.apache.kafka.tools"


class Bootstrap(Enum):
    """Where a tool takes the brokers' addresses."""

    FIRST = auto()
    AFTER_COMMAND = auto()
    NOWHERE = auto()


@dataclass(frozen=True, slots=True)
class Tool:
    """One of the programs below `bin/` of a Kafka distribution."""

    main_class: str
    bootstrap: Bootstrap = Bootstrap.FIRST


TOOLS: Mapping[str, Tool] = {
    "acls": Tool(f"{_TOOLS}.AclCommand"),
    "broker-api-versions": Tool(f"{_TOOLS}.BrokerApiVersionsCommand"),
    "client-metrics": Tool(f"{_TOOLS}.ClientMetricsCommand"),
    "cluster": Tool(f"{_TOOLS}.ClusterTool", Bootstrap.AFTER_COMMAND),
    "configs": Tool("kafka.admin.ConfigCommand"),
    "console-consumer": Tool(f"{_TOOLS}.consumer.ConsoleConsumer"),
    "console-producer": Tool(f"{_TOOLS}.ConsoleProducer"),
    "console-share-consumer": Tool(f"{_TOOLS}.consumer.ConsoleShareConsumer"),
    "consumer-groups": Tool(f"{_TOOLS}.consumer.group.ConsumerGroupCommand"),
    "consumer-perf-test": Tool(f"{_TOOLS}.ConsumerPerformance"),
    "delete-records": Tool(f"{_TOOLS}.DeleteRecordsCommand"),
    "dump-log": Tool(f"{_TOOLS}.DumpLogSegments", Bootstrap.NOWHERE),
    "features": Tool(f"{_TOOLS}.FeatureCommand"),
    "get-offsets": Tool(f"{_TOOLS}.GetOffsetShell"),
    "groups": Tool(f"{_TOOLS}.GroupsCommand"),
    "leader-election": Tool(f"{_TOOLS}.LeaderElectionCommand"),
    "log-dirs": Tool(f"{_TOOLS}.LogDirsCommand"),
    "metadata-quorum": Tool(f"{_TOOLS}.MetadataQuorumCommand"),
    "producer-perf-test": Tool(f"{_TOOLS}.ProducerPerformance"),
    "reassign-partitions": Tool(f"{_TOOLS}.reassign.ReassignPartitionsCommand"),
    "share-groups": Tool(f"{_TOOLS}.consumer.group.ShareGroupCommand"),
    "storage": Tool("kafka.tools.StorageTool", Bootstrap.NOWHERE),
    "topics": Tool(f"{_TOOLS}.TopicCommand"),
    "transactions": Tool(f"{_TOOLS}.TransactionsCommand"),
}


def run_tool(info: StackInfo, tool: str, args: Sequence[str]) -> int:
    """Run the tool on this process's own input and output, and return its exit code.

    The name may also be that of the script, as in `kafka-topics.sh`. Raises HeadraceError for a name that is unknown.
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
        # An interrupt from the keyboard reaches the tool as well, and it is the tool that decides what follows.
        with contextlib.suppress(KeyboardInterrupt):
            code = process.wait()
            return code if code >= 0 else 128 - code


def arguments(tool: Tool, args: Sequence[str], bootstrap: str) -> list[str]:
    """The tool's arguments with the brokers' addresses in them, unless they are given."""
    if any(arg.startswith(("--bootstrap-server", "--bootstrap-controller")) for arg in args):
        return list(args)
    option = ["--bootstrap-server", bootstrap]
    match tool.bootstrap:
        case Bootstrap.FIRST:
            return [*option, *args]
        case Bootstrap.AFTER_COMMAND:
            return [*args[:1], *option, *args[1:]]
        case Bootstrap.NOWHERE:
            return list(args)
        case _:
            assert_never(tool.bootstrap)
