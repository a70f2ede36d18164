"""`headrace audit`: list the audit log of the gateway and of the commands that change keys."""

from typing import Annotated

import typer

from headrace.cli.environment import needs
from headrace.cli.keys import with_access
from headrace.cli.options import Json
from headrace.cli.output import print_json, print_table

ROWS_MAX = 10_000


def register(parent: typer.Typer) -> None:
    """Add the command."""
    parent.command()(audit)


@needs("service")
def audit(
    *,
    hours: Annotated[float, typer.Option(min=0, help="List the last hours.")] = 24.0,
    actor: Annotated[str | None, typer.Option(help="Only this actor, for example key:0a1b2c or user:root.")] = None,
    address: Annotated[str | None, typer.Option(help="Only this address; IPv6 as its /64.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=ROWS_MAX, help="List at most this many rows.")] = 100,
    as_json: Json = False,
) -> None:
    """List refused requests, requests that changed something, and changes of keys, newest first."""
    from datetime import UTC, datetime

    rows = with_access(
        lambda access: access.list_audit(hours, limit, actor=actor, address=address),
        command="audit",
        statement_s_max=20.0,
    )
    if as_json:
        print_json({"audit": [{name: getattr(row, name) for name in row.__slots__} for row in rows]})
        return
    shown = [
        (
            f"{datetime.fromtimestamp(row.at_s, UTC):%Y-%m-%d %H:%M:%S}",
            row.actor or "",
            row.address or "",
            row.action,
            row.code or "",
            str(row.count),
        )
        for row in rows
    ]
    print_table(("time (UTC)", "actor", "address", "action", "refused", "count"), shown)
