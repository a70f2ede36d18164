"""`headrace recover`: go on with a catalog that went back in time."""

from typing import TYPE_CHECKING, Annotated

import typer

from headrace.cli.environment import client_settings, needs
from headrace.cli.options import Json
from headrace.cli.output import print_json, print_table, say

if TYPE_CHECKING:
    from headrace.runtime.settings import Settings
    from headrace.streams.recovery import RecoveryPlan


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(recover)


@needs("service")
def recover(
    *,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what would be done, and change nothing.")] = False,
    as_json: Json = False,
) -> None:
    """Go on with a catalog that went back in time: ingest again what it lacks, and announce nothing twice.

    Stop all workers and relays first. May be repeated after it was interrupted.
    """
    import asyncio

    made, epoch = asyncio.run(_recover(client_settings(), dry_run=dry_run))
    if as_json:
        rewinds = [
            {"group": at.group, "topic": at.key[0], "partition": at.key[1], "from": at.end, "to": at.start}
            for at in made.rewinds
        ]
        print_json({"reasons": made.reasons, "rewinds": rewinds, "announced": made.unknown, "epoch": epoch})
    elif made.rewinds:
        print_table(
            ("group", "topic", "partition", "from", "to"),
            [(at.group, *at.key, at.end, at.start) for at in made.rewinds],
        )
    for reason in made.reasons:
        say(f"because: {reason}")
    if not made.reasons:
        say("nothing to recover: the catalog has everything that was acknowledged and announced")
    elif epoch is None:
        say(f"would move back {len(made.rewinds)} partitions, and learn {made.unknown} announcements; changed nothing")
    else:
        say(
            f"moved back {len(made.rewinds)} partitions and learned {made.unknown} announcements; epoch {epoch}. "
            "Start the workers and relays: they ingest again what is missing"
        )


async def _recover(settings: "Settings", *, dry_run: bool) -> "tuple[RecoveryPlan, int | None]":
    from headrace.store.blobs.blob_store import Blobs
    from headrace.streams import recovery

    blobs = Blobs.from_settings(settings)
    if dry_run:
        return await recovery.plan(settings, blobs), None
    async with recovery.alone(settings):
        made = await recovery.plan(settings, blobs)
        return made, await recovery.recover(settings, blobs, made) if made.reasons else None
