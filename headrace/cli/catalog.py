"""`headrace ls`, `show`, `get`, `cat`, `lost` and `outbox`: read the catalog, the store and the topics."""

import sys
from collections.abc import Awaitable, Callable
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from headrace.cli.display import fields_of, moment, short_ids
from headrace.cli.environment import client_settings, needs
from headrace.cli.options import Json, parse_kinds
from headrace.cli.output import json_value, print_json, print_table, say, write_file
from headrace.runtime.errors import Exit, HeadraceError

if TYPE_CHECKING:
    from headrace.runtime.settings import Settings
    from headrace.store.catalog.ingest_progress import LostRange, SourceLoss
    from headrace.store.catalog.mirror_losses import MirrorLoss
    from headrace.store.catalog.queries import Queries


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command("ls")(list_records)
    app.command()(show)
    app.command()(get)
    app.command()(fetch)
    app.command()(cat)
    app.command()(lost)
    app.command()(outbox)


@needs("service")
def list_records(
    *,
    kind: Annotated[str | None, typer.Option(help="cids, frames, clips or ldos; several separated by commas.")] = None,
    source: Annotated[str | None, typer.Option(help="Only records of this camera or device.")] = None,
    site: Annotated[str | None, typer.Option(help="Only records of this site.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="Records per page.")] = 20,
    cursor: Annotated[str | None, typer.Option(help="Continue after the cursor of the previous page.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the page as one JSON object.")] = False,
) -> None:
    """List records, newest first, with the number of records of each kind."""
    from headrace.store.catalog.views import RecordFilters

    filters = RecordFilters(kinds=parse_kinds(kind) if kind else None, source_id=source, site=site)

    async def query(queries: "Queries") -> None:
        try:
            page = await queries.list_records(filters, cursor=cursor, limit=limit)
        except ValueError as error:
            raise HeadraceError(
                "cursor_invalid", str(error), hint="use the cursor that the previous page printed", exit_code=Exit.USAGE
            ) from None
        counts = await queries.counts()
        if as_json:
            print_json(
                {
                    "records": [json_value(record) for record in page.records],
                    "cursor": page.cursor,
                    "counts": json_value(counts),
                }
            )
            return
        short = short_ids((record.record_id for record in page.records), total=sum(counts.records.values()))
        print_table(
            ("record", "kind", "site", "source", "captured (UTC)", "bytes", "what"),
            [
                (
                    short[str(record.record_id)],
                    record.kind,
                    record.site,
                    record.source_id,
                    moment(record.captured_at_us),
                    record.size_bytes,
                    record.ldo_id
                    or record.code
                    or (f"{record.width}x{record.height}" if record.width else record.about or ""),
                )
                for record in page.records
            ],
        )
        total = ", ".join(f"{number} {name}s" for name, number in counts.records.items())
        say(f"{total}; {counts.sightings} sightings; {sum(counts.dead_letters.values())} dead letters")
        if page.cursor:
            say(f"more: headrace ls --cursor {page.cursor}")

    _query(client_settings(), query)


@needs("service")
def show(
    id_: Annotated[str, typer.Argument(metavar="ID", help="Record id or a prefix of it, digest, LDO id or code.")],
    *,
    as_json: Json = False,
) -> None:
    """Show one record with its sightings."""

    async def query(queries: "Queries") -> None:
        detail = await queries.record(id_)
        if as_json:
            states = [] if detail.record.store_key else await queries.transfers_of(detail.record.digest)
            print_json(json_value(detail) | {"transfers": [json_value(state) for state in states]})
            return
        members = json_value(detail.record)
        if detail.record.store_key is None and (waiting := await queries.transfers_of(detail.record.digest)):
            members["bytes"] = f"not here yet: at {', '.join(state.site for state in waiting)}"
        print_table(("field", "value"), fields_of(members))
        print_table(
            ("seen at (topic/partition@offset)", "site", "source", "captured (UTC)"),
            [
                (
                    f"{sighting.topic}/{sighting.partition}@{sighting.offset}",
                    sighting.site,
                    sighting.source_id,
                    moment(sighting.captured_at_us),
                )
                for sighting in detail.sightings
            ],
        )

    _query(client_settings(), query)


@needs("service")
def get(
    id_: Annotated[str, typer.Argument(metavar="ID", help="Record id or a prefix of it, digest, LDO id or code.")],
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Write to this file instead of standard output.")
    ] = None,
) -> None:
    """Write the bytes of a record after verifying their digest; to a file or a pipe, not to a terminal."""
    from headrace.store.blobs.blob_store import Blobs
    from headrace.store.blobs.verified_read import read_placed
    from headrace.store.errors import BlobAtSiteError

    if output is None and sys.stdout.isatty():
        raise HeadraceError(
            "terminal_refused",
            "the bytes would be written to the terminal",
            hint=f"add -o FILE, or a pipe: `headrace get {id_} -o FILE`",
            exit_code=Exit.USAGE,
        )
    settings = client_settings()

    async def read(queries: "Queries") -> None:
        record = (await queries.record(id_)).record
        if record.store_key is None and (waiting := await queries.transfers_of(record.digest)):
            raise BlobAtSiteError(record.digest, waiting[0].site)
        if record.store_key is None:
            raise HeadraceError(
                "blob_missing",
                f"the catalog has no location for the bytes of {record.digest}",
                hint="restore the catalog's table `blobs` from a backup",
            )
        body = await read_placed(Blobs.from_settings(settings), record)
        if output is None:
            sys.stdout.buffer.write(body)
            return
        write_file(output, body)
        say(f"{len(body)} bytes written to {output}")

    _query(settings, read)


@needs("service")
def fetch(
    id_: Annotated[str, typer.Argument(metavar="ID", help="Record id or a prefix of it, digest, LDO id or code.")],
) -> None:
    """Have the bytes of a record brought from its site before all others."""

    async def request(queries: "Queries") -> None:
        record = (await queries.record(id_)).record
        if await queries.request_transfer(record.record_id):
            say(f"{record.size_bytes} bytes of {record.record_id} come next")
        else:
            say(f"the bytes of {record.record_id} are here")

    _query(client_settings(), request)


def cat(
    topic: Annotated[str, typer.Argument(help="A topic with events, for example ingested.frames.v1.")],
    *,
    start: Annotated[datetime | None, typer.Option("--from", help="Only messages at or after this time (UTC).")] = None,
    end: Annotated[datetime | None, typer.Option("--to", help="Only messages before this time (UTC).")] = None,
    follow: Annotated[bool, typer.Option("--follow", help="Wait for new messages.")] = False,
    limit: Annotated[
        int | None, typer.Option("--max", "--limit", min=1, help="Stop after this number of messages.")
    ] = None,
    partition: Annotated[int | None, typer.Option(min=0, help="Only this partition.")] = None,
    offset: Annotated[int | None, typer.Option(min=0, help="With --partition: only from this offset on.")] = None,
    key: Annotated[str | None, typer.Option(help="Only messages with this key, which is their source.")] = None,
    headers_only: Annotated[bool, typer.Option("--headers-only", help="Leave out what the messages hold.")] = False,
) -> None:
    """Print the messages of a topic as JSON lines; a body is shown as its length.

    Times are those at which messages arrived at the broker, not of their capture.
    """
    from headrace.cli.topic_dump import Dump, dump_topic

    wanted = Dump(topic, start=start, end=end, partition=partition, offset=offset, key=key, headers_only=headers_only)
    for number, line in enumerate(dump_topic(client_settings(), wanted, follow=follow), 1):
        print_json(line)
        if number == limit:
            break


def _query(settings: "Settings", query: "Callable[[Queries], Awaitable[None]]") -> None:
    """Carry out a query over a connection of its own."""
    import asyncio

    from headrace.store.catalog.queries import Queries

    async def main() -> None:
        queries = await Queries.open(settings.postgres_dsn.get_secret_value())
        try:
            await query(queries)
        finally:
            await queries.close()

    asyncio.run(main())


@needs("service")
def lost(*, as_json: Json = False) -> None:
    """List what was deleted before it was ingested or mirrored, and what sources report; exit 1 if any."""
    import asyncio

    from headrace.store.catalog.ingest_progress import IngestProgress
    from headrace.store.catalog.mirror_losses import MirrorLosses

    settings = client_settings()

    async def query() -> "tuple[list[LostRange], list[SourceLoss], list[MirrorLoss]]":
        dsn, statement_s_max = settings.postgres_dsn.get_secret_value(), settings.postgres_statement_s_max
        async with (
            IngestProgress.open(dsn, statement_s_max=statement_s_max) as progress,
            MirrorLosses.open(dsn, statement_s_max=statement_s_max) as mirror,
        ):
            return await progress.lost(), await progress.source_losses(), await mirror.listed()

    ranges, losses, unmirrored = asyncio.run(query())
    if as_json:
        lost_ranges = [json_value(lost_range) | {"count": lost_range.count} for lost_range in ranges]
        mirror_losses = [json_value(loss) | {"count": loss.count} for loss in unmirrored]
        print_json({"lost": lost_ranges, "sources": [json_value(loss) for loss in losses], "mirror": mirror_losses})
    else:
        _print_losses(ranges, losses)
        _print_unmirrored(unmirrored)
        if not ranges and not losses and not unmirrored:
            say("nothing is lost")
    if ranges or losses or unmirrored:
        raise typer.Exit(Exit.FAILED)


def _print_unmirrored(losses: "list[MirrorLoss]") -> None:
    from headrace.schemas.headers import rfc3339

    if losses:
        print_table(
            ("not mirrored", "topic", "partition", "first offset", "last offset", "why", "noticed"),
            [
                (
                    loss.site,
                    loss.topic,
                    loss.partition,
                    loss.first_offset,
                    "unknown" if loss.last_offset is None else loss.last_offset,
                    loss.reason.value,
                    rfc3339(loss.noticed_at_us),
                )
                for loss in losses
            ],
        )


def _print_losses(ranges: "list[LostRange]", losses: "list[SourceLoss]") -> None:

    if not ranges and not losses:
        say("nothing is lost")
    if ranges:
        print_table(
            ("topic", "partition", "first offset", "last offset", "count", "noticed (UTC)"),
            [
                (
                    lost.topic,
                    lost.partition,
                    lost.first_offset,
                    lost.last_offset,
                    lost.count,
                    moment(lost.noticed_at_us),
                )
                for lost in ranges
            ],
        )
    if losses:
        print_table(
            ("site", "source", "spool", "dropped", "damaged", "reported (UTC)"),
            [
                (loss.site, loss.source_id, loss.spool, loss.dropped, loss.damaged, moment(loss.reported_at_us))
                for loss in losses
            ],
        )


@needs("service")
def outbox(
    *,
    retry: Annotated[bool, typer.Option("--retry", help="Have the relay announce what is set aside.")] = False,
    as_json: Json = False,
) -> None:
    """List the announcements that could not be published and are set aside; exit 1 if there are any."""
    import asyncio

    from headrace.store.catalog.outbox import LISTED_MAX, Outbox, SetAside

    settings = client_settings()

    async def query() -> tuple[list[SetAside], int]:
        opened = await Outbox.open(
            settings.postgres_dsn.get_secret_value(), statement_s_max=settings.postgres_statement_s_max
        )
        try:
            if retry:
                return [], await opened.retry_set_aside()
            return await opened.listed_set_aside(LISTED_MAX), await opened.set_aside_rows()
        finally:
            await opened.close()

    rows, count = asyncio.run(query())
    if as_json:
        print_json({"set_aside": [json_value(row) for row in rows], "retried" if retry else "count": count})
    elif retry:
        say(f"{count} announcements are given to the relay again")
    else:
        about = [row.record_id or row.dead_letter_id for row in rows]
        short = short_ids(id_ for id_ in about if id_)
        print_table(
            ("topic", "record or dead letter", "set aside (UTC)", "why"),
            [
                (row.topic, short.get(str(row.record_id or row.dead_letter_id)), moment(row.set_aside_at_us), row.why)
                for row in rows
            ],
        )
        say(f"{count} announcements are set aside")
    if rows:
        raise typer.Exit(Exit.FAILED)
