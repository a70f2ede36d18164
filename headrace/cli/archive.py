"""`headrace archive` and `headrace restore`: move old bodies to the archive and back."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from headrace.cli.environment import client_settings, needs
from headrace.cli.options import CapturedBefore, CapturedFrom, Json, Kinds, SiteNames, SourceIds, selection
from headrace.cli.output import print_json, say
from headrace.runtime.errors import Exit, HeadraceError

if TYPE_CHECKING:
    from uuid import UUID

    from headrace.batch.archive.move import ArchiveReport

_FAILED_SHOWN_MAX = 20

DryRun = Annotated[bool, typer.Option("--dry-run", help="Report what would be moved, and move nothing.")]


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
            help="Afterwards return free table space to the file system, which blocks ingestion. [default: if quick]",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Move the bodies of old LDOs and clips to the archive; run it again to resume."""
    import asyncio

    from headrace.batch.archive.job import archive as move

    _show(
        asyncio.run(move(client_settings(), dry_run=dry_run, shrink=shrink, progress=say)), "archived", as_json=as_json
    )


@needs("service")
def restore(
    ids: Annotated[
        list[str] | None, typer.Argument(metavar="[ID]...", help="Record ids, prefixes of them, digests or LDO ids.")
    ] = None,
    *,
    kind: Kinds = None,
    site: SiteNames = None,
    source: SourceIds = None,
    start: CapturedFrom = None,
    end: CapturedBefore = None,
    dry_run: DryRun = False,
    wait: Annotated[bool, typer.Option(help="Wait for objects whose storage class takes hours to restore.")] = True,
    as_json: Json = False,
) -> None:
    """Restore bodies from the archive, by id or by the selection options."""
    import asyncio

    from headrace.batch.archive.job import restore as move
    from headrace.store.catalog.archives import ArchiveSelection

    if not (ids or kind or site or source or start or end):
        raise HeadraceError(
            "option_invalid",
            "no records are selected",
            hint="pass ids or a selection option such as --kind ldos",
            exit_code=Exit.USAGE,
        )
    settings = client_settings()

    async def main() -> "ArchiveReport":
        record_ids = await _record_ids(ids, settings.postgres_dsn.get_secret_value()) if ids else None
        selected = ArchiveSelection(ids=record_ids, **selection(kind, site, source, start, end))
        return await move(settings, selected, dry_run=dry_run, sleep=asyncio.sleep if wait else None, progress=say)

    _show(asyncio.run(main()), "restored", as_json=as_json)


async def _record_ids(ids: list[str], dsn: str) -> "tuple[UUID, ...]":
    from headrace.store.catalog.queries import Queries

    queries = await Queries.open(dsn)
    try:
        return tuple([(await queries.record(id_)).record.record_id for id_ in ids])
    finally:
        await queries.close()


def _show(report: "ArchiveReport", done: str, *, as_json: bool) -> None:
    for digest, code in sorted(report.failed.items())[:_FAILED_SHOWN_MAX]:
        say(f"not {done}: {digest}: {code}")
    would = "would be " if report.dry_run else ""
    say(f"{report.bodies} bodies {would}{done}, {report.body_bytes} bytes; {len(report.failed)} failed")
    if report.waiting:
        say(f"{report.waiting} bodies are being restored by their storage class: run the command again in some hours")
    if as_json:
        print_json(asdict(report))
    if report.failed or report.waiting:
        raise typer.Exit(Exit.FAILED)
