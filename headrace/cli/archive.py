"""`headrace archive` and `headrace restore`: old bodies to the archive, and a selection of them back."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from headrace.cli.environment import client_settings, needs
from headrace.cli.options import CapturedBefore, CapturedFrom, Json, Kinds, Sites, Sources, selection
from headrace.cli.output import print_json, say
from headrace.runtime.errors import Exit, HeadraceError

if TYPE_CHECKING:
    from uuid import UUID

    from headrace.batch.archive import ArchiveReport

_FAILED_SHOWN_MAX = 20

DryRun = Annotated[bool, typer.Option("--dry-run", help="Only say how much it would be.")]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command()(archive)
    app.command()(restore)


@needs("service")
def archive(
    *,
    dry_run: DryRun = False,
    shrink: Annotated[
        bool | None,
        typer.Option(
            "--shrink/--no-shrink",
            help="Then give freed space of tables to the file system; ingestion waits. Unsaid: if that is quick.",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Move the bodies of old LDOs and clips to the archive; repeated, it goes on where it was ended."""
    import asyncio

    from headrace.batch.archive import archive as move

    _show(
        asyncio.run(move(client_settings(), dry_run=dry_run, shrink=shrink, progress=say)), "archived", as_json=as_json
    )


@needs("service")
def restore(  # noqa: PLR0913 - each is an option
    wanted: Annotated[
        list[str] | None, typer.Argument(metavar="[ID]...", help="Record ids, their beginnings, digests or LDO ids.")
    ] = None,
    *,
    kind: Kinds = None,
    site: Sites = None,
    source: Sources = None,
    start: CapturedFrom = None,
    end: CapturedBefore = None,
    dry_run: DryRun = False,
    wait: Annotated[bool, typer.Option(help="Wait for what its storage class gives back only hours later.")] = True,
    as_json: Json = False,
) -> None:
    """Bring bodies back from the archive: those of the ids, or of all records that fit the options."""
    import asyncio

    from headrace.batch.archive import restore as move
    from headrace.store.catalog.archives import ArchiveSelection

    if not (wanted or kind or site or source or start or end):
        raise HeadraceError(
            "option_invalid",
            "nothing says what to restore",
            hint="name ids, or an option like --kind ldos",
            exit_code=Exit.USAGE,
        )
    settings = client_settings()

    async def main() -> "ArchiveReport":
        ids = await _ids(wanted, settings.postgres_dsn.get_secret_value()) if wanted else None
        selected = ArchiveSelection(ids=ids, **selection(kind, site, source, start, end))
        return await move(settings, selected, dry_run=dry_run, sleep=asyncio.sleep if wait else None, progress=say)

    _show(asyncio.run(main()), "restored", as_json=as_json)


async def _ids(wanted: list[str], dsn: str) -> "tuple[UUID, ...]":
    from headrace.store.catalog.queries import Queries

    queries = await Queries.open(dsn)
    try:
        return tuple([(await queries.record(one)).record.record_id for one in wanted])
    finally:
        await queries.close()


def _show(report: "ArchiveReport", done: str, *, as_json: bool) -> None:
    for digest, code in sorted(report.failed.items())[:_FAILED_SHOWN_MAX]:
        say(f"not {done}: {digest}: {code}")
    would = "would be " if report.dry_run else ""
    say(f"{report.bodies} bodies {would}{done}, {report.body_bytes} bytes; {len(report.failed)} failed")
    if report.waiting:
        say(f"{report.waiting} bodies are on their way out of their storage class: run it again in some hours")
    if as_json:
        print_json(asdict(report))
    if report.failed or report.waiting:
        raise typer.Exit(Exit.FAILED)
