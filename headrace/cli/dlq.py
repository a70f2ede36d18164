"""`headrace dlq`: dead letters, listed, shown with their history, and published again."""

import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar
from uuid import UUID

import typer

from headrace.cli.environment import client_settings, needs
from headrace.cli.options import Json
from headrace.cli.output import SummaryGroup, json_value, print_json, print_table, say
from headrace.runtime.errors import Exit, HeadraceError

if TYPE_CHECKING:
    from headrace.runtime.settings import Settings
    from headrace.store.catalog.dead_letters import DeadLetters, LetterView

T = TypeVar("T")

app = typer.Typer(
    cls=SummaryGroup,
    name="dlq",
    help="Dead letters: messages that could not be ingested, kept with their bytes.",
    no_args_is_help=True,
)
Where = Annotated[
    list[str] | None,
    typer.Option(
        "--where", help="name=value, several with commas: id, code, source, site, topic, since, until, state."
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
    """List dead letters, newest first, and how many there are by state and code."""
    from headrace.batch.filters import letter_filters
    from headrace.schemas.headers import rfc3339

    filters = letter_filters(where or [])

    async def look(letters: "DeadLetters") -> None:
        page, counts = await letters.page(filters, limit), await letters.counts(filters)
        if as_json:
            by_state: dict[str, dict[str, int]] = {}
            for (state, code), number in counts.items():
                by_state.setdefault(state, {})[code] = number
            print_json({"dead_letters": [json_value(one) for one in page], "counts": by_state})
            return
        print_table(
            ("dead letter", "state", "code", "topic", "partition", "offset", "source", "rejected", "bytes", "reason"),
            [
                (
                    one.dead_letter_id,
                    one.state,
                    one.code,
                    one.topic,
                    one.partition,
                    one.offset,
                    one.source_id,
                    rfc3339(one.rejected_at_us),
                    one.value_bytes,
                    one.reason,
                )
                for one in page
            ],
        )
        said = ", ".join(f"{number} {code} {state.replace('_', ' ')}" for (state, code), number in counts.items())
        say(said or "no dead letters" + (" fit" if where else ""))

    _query(look)


@needs("service")
def show(
    wanted: Annotated[str, typer.Argument(metavar="ID", help="A dead letter's id, or its beginning.")],
    *,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Write the message's value to a file.")] = None,
    as_json: Json = False,
) -> None:
    """Show one dead letter: where it stood, why it was refused, and what its redrives came to."""

    async def look(letters: "DeadLetters") -> None:
        view = await _one(letters, wanted)
        history = await letters.history(view.dead_letter_id)
        row = (await letters.letters([view.dead_letter_id]))[view.dead_letter_id]
        if output is not None:
            _write(output, row.value or b"")
        if as_json:
            print_json(
                {**json_value(view), "headers": _headers(row.headers), "history": [json_value(one) for one in history]}
            )
            return
        print_table(("field", "value"), [item for item in json_value(view).items() if item[1] is not None])
        print_table(("header", "value"), list(_headers(row.headers).items()))
        if history:
            print_table(
                ("attempt", "published", "ended", "record", "refused with", "reason"),
                [
                    (
                        one.attempt,
                        _time(one.published_at_us),
                        _time(one.ended_at_us),
                        one.record_id,
                        one.code,
                        one.reason,
                    )
                    for one in history
                ],
            )

    _query(look)


@needs("service")
def redrive(
    *,
    where: Where = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what today's checks would take.")] = False,
    rate: Annotated[float, typer.Option(min=0.1, help="Messages a second, at the most.")] = 1000.0,
    as_json: Json = False,
) -> None:
    """Publish again, to the topic it came from, every dead letter that today's checks accept; may be repeated."""
    from headrace.batch.filters import letter_filters
    from headrace.batch.redrive import RedrivePublisher, RedriveResult, RedriveRun
    from headrace.store.blobs.blob_store import Blobs

    filters = letter_filters(where or [])
    settings = client_settings()

    async def run(letters: "DeadLetters") -> RedriveResult:
        said = [0.0]

        def progress(so_far: RedriveResult) -> None:
            if time.monotonic() - said[0] > 1:
                said[0] = time.monotonic()
                say(f"{so_far.published} published again, {so_far.looked_at} looked at")

        job = RedriveRun(
            letters,
            Blobs.from_settings(settings),
            now_us=time.time_ns() // 1000,
            attempts_max=settings.redrive_attempts_max,
            progress=progress,
        )
        return await job.run(filters, None if dry_run else RedrivePublisher(settings, rate))

    done = _query_for(run, settings)
    for line in _sentences(done.looked_at, done.accepted, done.published, done.exhausted, dry_run=dry_run):
        say(line)
    refused = dict(sorted(done.refused.items()))
    if refused:
        say("would be refused again: " + ", ".join(f"{number} {code}" for code, number in refused.items()))
    if as_json:
        print_json(
            {
                "dry_run": dry_run,
                "looked_at": done.looked_at,
                "accepted": done.accepted,
                "published": done.published,
                "refused": refused,
                "exhausted": done.exhausted,
            }
        )


def _sentences(looked_at: int, accepted: int, published: int, exhausted: int, *, dry_run: bool) -> list[str]:
    lines = []
    if dry_run:
        lines.append(f"{accepted} of {looked_at} would be ingested")
    elif published:
        lines.append(f"{published} of {looked_at} published again; `headrace dlq ls` says what became of them")
    if not accepted:
        lines.append("nothing to redrive" + ("" if looked_at else ": no dead letter waits"))
    if exhausted:
        lines.append(f"{exhausted} were tried as often as HEADRACE_REDRIVE_ATTEMPTS_MAX allows")
    return lines


async def _one(letters: "DeadLetters", wanted: str) -> "LetterView":
    from headrace.store.catalog.dead_letters import LetterFilters

    digits = wanted.lower().replace("-", "")
    found: list[UUID] = []
    if 0 < len(digits) <= 32 and set(digits) <= set("0123456789abcdef"):
        found = await letters.named(UUID(digits.ljust(32, "0")), UUID(digits.ljust(32, "f")))
    match found:
        case [one]:
            return (await letters.page(LetterFilters(id=one), 1))[0]
        case []:
            raise HeadraceError(
                "dead_letter_missing", f"no dead letter has the id {wanted!r}", hint="`headrace dlq ls` lists them"
            )
        case _:
            names = ", ".join(str(one) for one in found[:5])
            raise HeadraceError(
                "dead_letter_ambiguous", f"{wanted!r} fits several dead letters: {names}", hint="give more digits"
            )


def _headers(headers: bytes) -> dict[str, str]:
    import base64

    import orjson

    return {name: base64.b64decode(value).decode("utf-8", "backslashreplace") for name, value in orjson.loads(headers)}


def _time(time_us: int | None) -> str | None:
    from headrace.schemas.headers import rfc3339

    return None if time_us is None else rfc3339(time_us)


def _write(path: Path, value: bytes) -> None:
    try:
        path.write_bytes(value)
    except OSError as error:
        raise HeadraceError(
            "file_unwritable", f"cannot write: {error.strerror}", where=str(path), exit_code=Exit.USAGE
        ) from None
    say(f"{len(value)} bytes written to {path}")


def _query(look: "Callable[[DeadLetters], Awaitable[None]]") -> None:
    _query_for(look, client_settings())


def _query_for(look: "Callable[[DeadLetters], Awaitable[T]]", settings: "Settings") -> T:
    import asyncio

    from headrace.store.catalog.dead_letters import DeadLetters

    async def main() -> T:
        async with DeadLetters.open(settings.postgres_dsn.get_secret_value()) as letters:
            return await look(letters)

    return asyncio.run(main())
