"""`headrace sites` and `headrace mirror`: how links between sites do, what they need, and the process that mirrors."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from headrace.cli.environment import needs
from headrace.cli.options import Json
from headrace.cli.output import SummaryGroup, json_value, print_json, print_table, say
from headrace.cli.processes import serve
from headrace.runtime.errors import Exit, HeadraceError

if TYPE_CHECKING:
    from headrace.runtime.settings import Settings
    from headrace.sites.link_probe import LinkStatus
    from headrace.sites.topology import Flow, Topology

app = typer.Typer(
    cls=SummaryGroup, name="sites", help="Show how the links between sites are doing.", invoke_without_command=True
)
File = Annotated[Path | None, typer.Option("--sites", help="The file of sites; by default HEADRACE_SITES_FILE.")]
Target = Annotated[
    str | None, typer.Option(help="The site to mirror to; needed where flows of the file lead to several.")
]


def register(parent: typer.Typer) -> None:
    """Add the commands."""
    app.callback()(show)
    app.command()(plan)
    parent.add_typer(app)
    parent.command()(mirror)


@needs("mirror")
def mirror(*, sites: File = None, target: Target = None) -> None:
    """Mirror topics of other sites into the Kafka of this one, with MirrorMaker 2; run one for each target."""
    from headrace.sites.mirror import mirror as run

    serve("mirror", lambda settings, stop: run(settings, sites or settings.sites_file, target, stop))


@needs("mirror")
def show(context: typer.Context, *, sites: File = None, as_json: Json = False) -> None:
    """Show the lag of each link, its tasks and its last error; exit 1 if one has an alarm or an error."""
    if context.invoked_subcommand is not None:
        return
    from headrace.sites.link_probe import look_once

    settings_of, topology = _read(sites)

    def look(flow: "Flow") -> "LinkStatus":
        return look_once(flow, settings_of(flow.source), settings_of(flow.target))

    with ThreadPoolExecutor(max(len(topology.flows), 1)) as pool:
        links = list(pool.map(look, topology.flows))
    if as_json:
        print_json({"links": [link.public() for link in links]})
    else:
        rows = [
            (
                link.link,
                link.messages,
                _size(link.bytes),
                f"{link.seconds:.0f}",
                f"{link.retention_share:.0%}{' ALARM' if link.alarm else ''}",
                " ".join(f"{count} {state}" for state, count in link.states.items()),
                link.error,
            )
            for link in links
        ]
        print_table(("link", "messages", "bytes", "seconds", "of retention", "tasks", "last error"), rows)
        for loss in (loss for link in links for loss in link.losses):
            offsets = f"offsets {loss.first} to {loss.until - 1}"
            say(f"{loss.link}: {loss.topic} [{loss.partition}] lost {offsets} before they were copied")
    if any(link.alarm or link.error for link in links):
        raise typer.Exit(Exit.FAILED)


@needs("mirror")
def plan(*, sites: File = None, as_json: Json = False) -> None:
    """Print what a mirror would create: topics with their settings, and the ACLs that each link needs."""
    from headrace.sites.plan import acls, mirrored_topics

    settings_of, topology = _read(sites)
    topics = [
        topic
        for flow in topology.flows
        for topic in mirrored_topics(flow, topology.sites[flow.target], _partitions(settings_of(flow.source), flow))
    ]
    rules = [rule for target in topology.targets for rule in acls(topology, target)]
    if as_json:
        print_json({"topics": json_value(topics), "acls": json_value(rules)})
        return
    print_table(
        ("site", "topic", "partitions", "replicas", "retention"),
        [
            (
                topic.link.partition("->")[2],
                topic.name,
                topic.partitions or "as the source",
                topic.replicas,
                f"{int(topic.config['retention.ms']) / 86_400_000:g} days",
            )
            for topic in topics
        ],
    )
    if rules:
        print_table(
            ("site", "principal", "operation", "resource", "name"),
            [
                (
                    rule.site,
                    rule.principal,
                    rule.operation,
                    rule.resource,
                    f"{rule.name}{'*' if rule.is_prefix else ''}",
                )
                for rule in rules
            ],
        )


def _read(sites: Path | None) -> "tuple[Callable[[str], Settings], Topology]":
    """Return the settings of each site, and the file."""
    from headrace.runtime.settings import load_settings
    from headrace.sites.clusters import read_topology, settings_of

    settings = load_settings()
    topology = read_topology(sites or settings.sites_file)
    return lambda name: settings_of(settings, topology.sites[name], name), topology


def _partitions(source: "Settings", flow: "Flow") -> dict[str, int]:
    """Return the partitions of the topics of a source; empty if it does not answer."""
    from headrace.runtime.kafka import reach_kafka
    from headrace.sites.clusters import partition_counts

    try:
        return partition_counts(source, reach_kafka(source), [topic.name for topic in flow.topics])
    except HeadraceError as error:
        say(f"{flow.source} does not answer: {error.what}")
        return {}


def _size(size_bytes: int) -> str:
    """Return a number of bytes for people."""
    return f"{size_bytes / 1e6:.1f} MB" if size_bytes >= 100_000 else f"{size_bytes} B"
