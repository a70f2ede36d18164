"""`headrace erase`: remove records, a source or a site for ever."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from headrace.cli.environment import client_settings, needs
from headrace.cli.keys import actor
from headrace.cli.options import Json
from headrace.cli.output import print_json, say, write_file
from headrace.runtime.errors import Exit, HeadraceError

if TYPE_CHECKING:
    from uuid import UUID

    from headrace.batch.erase.report import ErasureReport, SignReport
    from headrace.runtime.settings import Settings
    from headrace.store.catalog.erasures import Target


_SHARDS_SHOWN_MAX = 5


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(erase)


@needs("service", "gateway")
def erase(
    ids: Annotated[
        list[str] | None, typer.Argument(metavar="[ID]...", help="Record ids, prefixes of them, digests or LDO ids.")
    ] = None,
    *,
    site: Annotated[str | None, typer.Option(help="Erase everything of this site.")] = None,
    source: Annotated[str | None, typer.Option(help="With --site: erase only this source of it.")] = None,
    reason: Annotated[str, typer.Option(help="Why; it goes into the report.")] = "",
    resume: Annotated[bool, typer.Option("--resume", help="Only go on with what was interrupted.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what would be erased, and change nothing.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Confirm that it is erased for ever.")] = False,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Write the signed report to this file.")] = None,
    as_json: Json = False,
) -> None:
    """Erase records, a source or a site for ever, and keep the same bytes out; run it again to resume.

    It cannot be undone. Messages in topics, exports and backups stay: the report names those that are known.
    """
    import asyncio

    from headrace.batch.erase import run

    settings = client_settings()
    request = None
    if resume and (ids or site or source):
        raise HeadraceError("option_invalid", "--resume takes no target", hint="pass it alone", exit_code=Exit.USAGE)
    if not resume:
        target = asyncio.run(target_of(settings, ids, site, source))
        records, letters = asyncio.run(run.plan(settings, target))
        what = f"{records} records and {letters} dead letters"
        if dry_run:
            say(f"would erase {what}; changed nothing")
            if as_json:
                print_json({"records": records, "dead_letters": letters})
            return
        if not yes:
            raise HeadraceError(
                "not_confirmed", f"nothing was erased of {what}", hint="confirm it by --yes", exit_code=Exit.USAGE
            )
        request = run.ErasureRequest(target, actor(), reason)
    reports = asyncio.run(run.erase(settings, request, sign=report_signer(settings), progress=say))
    show_reports(reports, output, as_json=as_json)


def report_signer(settings: "Settings") -> "SignReport":
    """Return what signs reports, with the key of receipts."""
    from headrace.runtime.receipt_key import ERASURE_AUDIENCE, ReceiptKey

    key = ReceiptKey.from_settings(settings)
    return lambda erasure_id, report: key.sign(ERASURE_AUDIENCE, erasure_id, {"report": report})


async def target_of(settings: "Settings", ids: list[str] | None, site: str | None, source: str | None) -> "Target":
    """Return the records, source or site that options name.

    Raises:
        HeadraceError: they name nothing, or not only one of these; or a record does not exist.
    """
    from headrace.store.catalog.erasures import Target
    from headrace.store.catalog.queries import Queries

    if bool(ids) == (site is not None) or (source is not None and site is None) or "" in {site, source}:
        raise HeadraceError(
            "option_invalid",
            "it is not clear which records, source or site are meant",
            hint="pass ids, or --site with or without --source",
            exit_code=Exit.USAGE,
        )
    if not ids:
        return Target(site=site or "", source_id=source or "")
    queries = await Queries.open(settings.postgres_dsn.get_secret_value())
    try:
        record_ids: list[UUID] = [(await queries.record(id_)).record.record_id for id_ in ids]
    finally:
        await queries.close()
    return Target(record_ids=tuple(dict.fromkeys(record_ids)))


def show_reports(reports: "list[ErasureReport]", output: Path | None, *, as_json: bool) -> None:
    """Print the reports of erasures, and write the signed ones to a file."""
    for report in reports:
        body = report.body
        say(
            f"{body['erasure_id']}: erased {body['records_and_dead_letters']} records and dead letters, deleted "
            f"{body['objects_deleted']} objects, wrote {body['packs_rewritten']} packs again"
        )
        remaining = body["in_topics"]
        say(
            f"{len(remaining['messages'])} ranges of messages and {len(remaining['announcements'])} of announcements "
            "stay in their topics until their retention"
        )
        for export in body["in_exports"]:
            where = f"{export['host']}:{export['target']}" if export["host"] else export["target"]
            named = ", ".join(export["shards"][:_SHARDS_SHOWN_MAX]) or "a shard that is not finished"
            more = max(0, export["shards_total"] - _SHARDS_SHOWN_MAX)
            say(
                f"the export {where} can still hold something of it, in {named}{f' and {more} more' if more else ''}: "
                "delete it and its copies, then export again"
            )
        if report.signed is None:
            say("the report is not signed: set HEADRACE_GATEWAY_RECEIPT_SECRET, as for the gateway")
    if not reports:
        say("nothing to erase")
    if output is not None:
        signed = "".join(f"{report.signed}\n" for report in reports if report.signed)
        write_file(output, signed.encode("ascii"))
    if as_json:
        print_json({"erasures": [{"report": report.body, "signed": report.signed} for report in reports]})
