"""`headrace dlq`: list, show and redrive dead letters."""

import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from headrace.cli.display import fields_of, moment, short_ids
from headrace.cli.environment import client_settings, needs
from headrace.cli.options import Json
from headrace.cli.output import SummaryGroup, json_value, print_json, print_table, say, write_file

if TYPE_CHECKING:
    from headrace.runtime.settings import Settings
    from headrace.store.catalog.dead_letters import DeadLetters

T = TypeVar("T")

app = typer.Typer(
    cls=SummaryGroup,
    name="dlq",
    help="List, show and redrive dead letters: rejected messages, kept with their bytes.",
    no_args_is_help=True,
)
Where = Annotated[
    list[str] | None,
    typer.Option(
        "--where", help="name=value pairs separated by commas: id, code, source, site, topic, since, until, state."
    ),
]


def register(parent: typer.Typer) -> None:
    """Add the commands."""
    app.command("ls")(list_letters)
    app.command()(show)
    app.command()(redrive)
    parent.add_typer(app)


@needs("service")
def list_letters(
    *,
    where: Where = None,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="Dead letters to list.")] = 20,
    as_json: Json = False,
) -> None:
    """List dead letters, newest first, with their number by state and code."""
    from headrace.batch.redrive import letter_filters

    filters = letter_filters(where or [])

    async def query(letters: "DeadLetters") -> None:
        page, counts = await letters.page(filters, limit), await letters.counts(filters)
        if as_json:
            by_state: dict[str, dict[str, int]] = {}
            for (state, code), number in counts.items():
                by_state.setdefault(state, {})[code] = number
            print_json({"dead_letters": [json_value(letter) for letter in page], "counts": by_state})
            return
        short = short_ids((letter.dead_letter_id for letter in page), total=sum(counts.values()))
        print_table(
            ("dead letter", "state", "code", "source", "rejected (UTC)", "reason"),
            [
                (
                    short[str(letter.dead_letter_id)],
                    letter.state.replace("_", " "),
                    letter.code,
                    letter.source_id,
                    moment(letter.rejected_at_us),
                    letter.reason,
                )
                for letter in page
            ],
        )
        summary = ", ".join(f"{number} {code} {state.replace('_', ' ')}" for (state, code), number in counts.items())
        say(summary or "no dead letters" + (" match" if where else ""))

    _query(query)


@needs("service")
def show(
    id_: Annotated[str, typer.Argument(metavar="ID", help="The id of a dead letter, or a prefix of it.")],
    *,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Write the value of the message to this file.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Show one dead letter: its topic and offset, the reason, and the results of its redrives."""

    async def query(letters: "DeadLetters") -> None:
        view = await letters.letter(id_)
        history = await letters.history(view.dead_letter_id)
        row = (await letters.letters([view.dead_letter_id]))[view.dead_letter_id]
        if output is not None:
            value = row.value or b""
            write_file(output, value)
            say(f"{len(value)} bytes written to {output}")
        if as_json:
            print_json(
                {
                    **json_value(view),
                    "headers": _headers(row.headers),
                    "history": [json_value(attempt) for attempt in history],
                }
            )
            return
        print_table(("field", "value"), fields_of(json_value(view)))
        print_table(("header", "value"), list(_headers(row.headers).items()))
        if history:
            print_table(
                ("attempt", "published", "ended", "record", "refused with", "reason"),
                [
                    (
                        attempt.attempt,
                        moment(attempt.published_at_us),
                        moment(attempt.ended_at_us),
                        attempt.record_id,
                        attempt.code,
                        attempt.reason,
                    )
                    for attempt in history
                ],
            )

    _query(query)


@needs("service")
def redrive(
    *,
    where: Where = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Report which messages would pass validation, and publish none.")
    ] = False,
    rate: Annotated[float, typer.Option(min=0.1, help="Maximum messages per second.")] = 1000.0,
    as_json: Json = False,
) -> None:
    """Publish every dead letter that passes validation to its original topic again; may be repeated."""
    from headrace.batch.redrive import RedrivePublisher, RedriveResult, RedriveRun, letter_filters
    from headrace.store.blobs.blob_store import Blobs

    filters = letter_filters(where or [])
    settings = client_settings()

    async def run(letters: "DeadLetters") -> RedriveResult:
        reported_s = [0.0]

        def progress(so_far: RedriveResult) -> None:
            if time.monotonic() - reported_s[0] > 1:
                reported_s[0] = time.monotonic()
                say(f"{so_far.published} published again, {so_far.looked_at} looked at")

        job = RedriveRun(
            letters,
            Blobs.from_settings(settings),
            now_us=time.time_ns() // 1000,
            attempts_max=settings.redrive_attempts_max,
            progress=progress,
        )
        return await job.run(filters, None if dry_run else RedrivePublisher(settings, rate))

    result = _query_for(run, settings)
    for line in _sentences(result.looked_at, result.accepted, result.published, result.exhausted, dry_run=dry_run):
        say(line)
    refused = dict(sorted(result.refused.items()))
    if refused:
        say("would be rejected again: " + ", ".join(f"{number} {code}" for code, number in refused.items()))
    if as_json:
        print_json(
            {
                "dry_run": dry_run,
                "looked_at": result.looked_at,
                "accepted": result.accepted,
                "published": result.published,
                "refused": refused,
                "exhausted": result.exhausted,
            }
        )


def _sentences(looked_at: int, accepted: int, published: int, exhausted: int, *, dry_run: bool) -> list[str]:
    lines = []
    if dry_run:
        lines.append(f"{accepted} of {looked_at} would be ingested")
    elif published:
        lines.append(f"{published} of {looked_at} published again; `headrace dlq ls` shows the results")
    if not accepted:
        lines.append("nothing to redrive" + ("" if looked_at else ": no dead letter waits"))
    if exhausted:
        lines.append(f"{exhausted} reached HEADRACE_REDRIVE_ATTEMPTS_MAX attempts")
    return lines


def _headers(headers: bytes) -> dict[str, str]:
    import base64

    import orjson

    return {name: base64.b64decode(value).decode("utf-8", "backslashreplace") for name, value in orjson.loads(headers)}


def _query(query: "Callable[[DeadLetters], Awaitable[None]]") -> None:
    _query_for(query, client_settings())


def _query_for(query: "Callable[[DeadLetters], Awaitable[T]]", settings: "Settings") -> T:
    import asyncio

    from headrace.store.catalog.dead_letters import DeadLetters

    async def main() -> T:
        async with DeadLetters.open(settings.postgres_dsn.get_secret_value()) as letters:
            return await query(letters)

    return asyncio.run(main())
