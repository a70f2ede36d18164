"""`headrace topics`: restore a topic from the catalog."""

import time
from collections.abc import Callable
from dataclasses import asdict
from datetime import datetime
from typing import TYPE_CHECKING, Annotated

import typer

from headrace.cli.environment import client_settings, needs
from headrace.cli.options import Json, microseconds, time_option
from headrace.cli.output import SummaryGroup, print_json, say
from headrace.runtime.errors import Exit, HeadraceError

if TYPE_CHECKING:
    from headrace.streams.relay.rebuild import RebuildResult

_REFUSED_SHOWN_MAX = 20
_SAY_EVERY_S = 5.0

app = typer.Typer(
    cls=SummaryGroup, name="topics", help="Restore a topic of announcements from the catalog.", no_args_is_help=True
)


def register(parent: typer.Typer) -> None:
    """Add the commands."""
    app.callback()(_group)
    app.command()(rebuild)
    parent.add_typer(app)


def _group() -> None:
    """Keep the subcommand's name where there is only one."""


@needs("service")
def rebuild(
    topic: Annotated[str, typer.Argument(help="One of the topics ingested.*, for example ingested.frames.v1.")],
    *,
    start: Annotated[datetime | None, time_option("--from", "Only records ingested at or after this time.")] = None,
    end: Annotated[datetime | None, time_option("--to", "Only records ingested before this time.")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Count what the topic lacks, and publish nothing.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Confirm that it is published.")] = False,
    as_json: Json = False,
) -> None:
    """Publish the announcements that a topic lacks; run it again after an interruption.

    Relays stop announcing meanwhile, by themselves. What is published comes after what the topic has.
    """
    import asyncio

    from headrace.streams.relay.rebuild import RebuildRequest
    from headrace.streams.relay.rebuild import rebuild as publish

    settings = client_settings()
    request = RebuildRequest(topic=topic, since_us=microseconds(start) or 0, until_us=microseconds(end))
    if not yes:
        plan = asyncio.run(publish(settings, request, dry_run=True))
        say(f"{topic} has {plan.present} announcements; {plan.lacking} would be published")
        if not dry_run:
            raise HeadraceError(
                "not_confirmed", "nothing was published", hint="confirm it by --yes", exit_code=Exit.USAGE
            )
        _show_json(plan, as_json=as_json)
        return
    result = asyncio.run(publish(settings, request, progress=_progress()))
    for event, why in sorted(result.refused.items())[:_REFUSED_SHOWN_MAX]:
        say(f"not published: {event}: {why}")
    say(f"{topic} had {result.present} announcements and lacked {result.lacking}; {result.published} are published")
    _show_json(result, as_json=as_json)
    if result.refused:
        raise typer.Exit(Exit.FAILED)


def _progress() -> "Callable[[RebuildResult], None]":
    """Return what says how far a rebuild is, every few seconds."""
    said_s = time.monotonic()

    def progress(result: "RebuildResult") -> None:
        nonlocal said_s
        if time.monotonic() - said_s >= _SAY_EVERY_S:
            said_s = time.monotonic()
            say(f"{result.present + result.lacking} compared, {result.published} published")

    return progress


def _show_json(result: "RebuildResult", *, as_json: bool) -> None:
    if as_json:
        print_json(asdict(result))
