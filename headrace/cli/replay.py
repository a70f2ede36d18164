"""`headrace replay`: deliver what was announced again, from the catalog."""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from uuid import uuid4

import typer

from headrace.cli.environment import client_settings, needs
from headrace.cli.options import (
    CapturedBefore,
    CapturedFrom,
    Json,
    Kinds,
    SiteNames,
    SourceIds,
    microseconds,
    selection,
    sorted_values,
    time_option,
)
from headrace.cli.output import json_value, print_json, say, stderr_console
from headrace.runtime.errors import Exit, HeadraceError

if TYPE_CHECKING:
    from uuid import UUID

    from headrace.batch.replay.request import ReplayRequest
    from headrace.batch.replay.run import ReplayResult
    from headrace.batch.replay.sinks import Sink
    from headrace.runtime.settings import Settings
    from headrace.store.catalog.replays import Replayed, ReplayPlan, ReplaySelection

_DIGEST_DIGITS = 64


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(replay)


@needs("service")
def replay(
    *,
    topic: Annotated[str | None, typer.Option(help="Publish to this topic of your own.")] = None,
    handler: Annotated[
        str | None, typer.Option(metavar="MODULE:FUNCTION", help="Call this function with each event and its body.")
    ] = None,
    kind: Kinds = None,
    site: SiteNames = None,
    source: SourceIds = None,
    start: CapturedFrom = None,
    end: CapturedBefore = None,
    ingested_from: Annotated[
        datetime | None, time_option("--ingested-from", "Only records ingested at or after this time.")
    ] = None,
    ingested_to: Annotated[
        datetime | None, time_option("--ingested-to", "Only records ingested before this time.")
    ] = None,
    label: Annotated[list[str] | None, typer.Option(help="Only records with this label; may be repeated.")] = None,
    labelled: Annotated[
        str | None,
        typer.Option(help="Only records labelled by this version of `headrace label`; --label refers to it."),
    ] = None,
    digests: Annotated[Path | None, typer.Option(help="Only the digests in this file, one a line.")] = None,
    export: Annotated[
        str | None, typer.Option(help="Only what this finished export has: its directory or URL.")
    ] = None,
    name: Annotated[str, typer.Option(help="The replay's name: the same command with it goes on.")] = "",
    speed: Annotated[str, typer.Option(help="Times as fast as captured, for example 1 or 10, or max.")] = "max",
    rate: Annotated[float | None, typer.Option(min=0.001, help="At most so many events a second.")] = None,
    restore: Annotated[bool, typer.Option("--restore", help="Bring archived bodies back on the way.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan, and deliver nothing.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask after the plan.")] = False,
    as_json: Json = False,
) -> None:
    """Deliver what was announced again, in capture order; without --topic or --handler as JSON lines.

    The plan comes first, on standard error. Without --restore, archived records are left out.
    """
    import asyncio

    from headrace.batch.replay.request import Pace, ReplayRequest, parse_speed, plan_lines
    from headrace.batch.replay.run import RunOptions, plan_replay, run_replay
    from headrace.store.catalog.replays import ReplaySelection

    settings = client_settings()
    pace = Pace(parse_speed(speed), rate)
    wanted = ReplaySelection(
        **selection(kind, site, source, start, end),
        ingested_from_us=microseconds(ingested_from),
        ingested_until_us=microseconds(ingested_to),
        labelled=labelled,
        labels=sorted_values(label),
        digests=_digests_in(digests) if digests else None,
    )
    excluded: tuple[UUID, ...] = ()
    if export is not None:
        wanted, excluded = asyncio.run(_of_export(settings, export, wanted))
    sink, sink_name = _sink(settings, topic, handler)
    request = ReplayRequest(wanted=wanted, sink=sink_name, excluded=excluded)
    plan = asyncio.run(plan_replay(settings, wanted))
    for line in plan_lines(plan, pace):
        say(line)
    _say_notes(settings, plan, request, restore=restore)
    if dry_run:
        if as_json:
            print_json(json_value(plan))
        return
    if (topic or handler) and plan.total("items") and not yes:
        _confirm()
    if not name:
        name = str(uuid4())
        say(f"goes on, if it is interrupted, with --name {name}")
    with _progress(plan, is_shown=sink_name != "stdout") as advance:
        options = RunOptions(name=name, pace=pace, restores=restore, progress=advance, say=say)
        result = asyncio.run(run_replay(settings, request, sink, options))
    _show(result, as_json=as_json)


class LineSink:
    """Prints each event as a JSON line."""

    def __init__(self) -> None:
        self._replay_id = ""
        self.position = 0

    async def open(self, replay_id: "UUID", position: int) -> None:
        """Begin behind the catalog's position."""
        self._replay_id, self.position = str(replay_id), position

    async def deliver(self, batch: "Sequence[Replayed]", position: int) -> None:
        """Print a batch; a reader that has gone away ends the replay."""
        for item in batch:
            print_json({"replay": self._replay_id, "position": item.position, "event": json_value(item.event)})
        self.position = position

    async def close(self) -> None:
        """Do nothing."""


async def _of_export(
    settings: "Settings", target: str, given: "ReplaySelection"
) -> "tuple[ReplaySelection, tuple[UUID, ...]]":
    from headrace.batch.replay.export import selection_of_export
    from headrace.store.catalog.replays import ReplaySelection

    if given != ReplaySelection():
        raise HeadraceError(
            "option_invalid", "--export takes no other selection", hint="pass it alone", exit_code=Exit.USAGE
        )
    return await selection_of_export(settings, target)


def _sink(settings: "Settings", topic: str | None, handler: str | None) -> "tuple[Sink, str]":
    from headrace.batch.replay.request import STDOUT, check_topic
    from headrace.batch.replay.sinks import HandlerSink, TopicSink
    from headrace.store.blobs.blob_store import Blobs

    if topic is not None and handler is not None:
        raise HeadraceError(
            "option_invalid", "a replay goes to one place", hint="pass --topic or --handler", exit_code=Exit.USAGE
        )
    if topic is not None:
        check_topic(topic)
        return TopicSink(settings, topic), f"topic:{topic}"
    if handler is not None:
        return HandlerSink(_imported(handler), Blobs.from_settings(settings)), f"handler:{handler}"
    return LineSink(), STDOUT


def _imported(text: str) -> Any:
    """Import a function; modules are also looked for in the working directory."""
    from importlib import import_module

    module_name, _, function = text.partition(":")
    sys.path.insert(0, "")
    try:
        handler = getattr(import_module(module_name), function)
    except (ImportError, AttributeError, ValueError) as error:
        raise HeadraceError(
            "handler_unknown",
            f"cannot import {text}: {error}",
            hint="module:function, where the module can be imported from the working directory",
            exit_code=Exit.USAGE,
        ) from None
    finally:
        sys.path.remove("")
    return handler


def _digests_in(path: Path) -> tuple[str, ...]:
    from headrace.schemas.digest import is_digest

    try:
        lines = [line.split()[0] for line in path.read_text("utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise HeadraceError("file_unreadable", f"cannot read: {error}", where=str(path), exit_code=Exit.USAGE) from None
    wrong = next((line for line in lines if not is_digest(line)), None)
    if wrong is not None or not lines:
        raise HeadraceError(
            "option_invalid",
            "there are no digests" if wrong is None else f"{wrong!r} is not a digest",
            where=str(path),
            hint=f"one SHA-256 a line, {_DIGEST_DIGITS} lower-case hexadecimal digits, as `sha256sum` prints them",
            exit_code=Exit.USAGE,
        )
    return tuple(sorted(set(lines)))


def _say_notes(settings: "Settings", plan: "ReplayPlan", request: "ReplayRequest", *, restore: bool) -> None:
    if request.wanted.labels is not None and request.wanted.labelled is None:
        say(f"of these only those with the label {', '.join(request.wanted.labels)}, which is read on the way")
    archived_bytes = plan.total("archived_bytes")
    if not plan.total("archived"):
        return
    if not restore:
        say("archived records are left out; --restore brings them back")
        return
    seconds = archived_bytes / settings.archive_bytes_per_s
    say(f"--restore reads {archived_bytes} bytes from the archive, about {seconds:.0f} s, and writes them to the store")
    if settings.archive_storage_class:
        say(f"objects of {settings.archive_storage_class} are requested first: that takes hours, and is charged for")


def _confirm() -> None:
    if sys.stdin.isatty() and sys.stderr.isatty() and typer.confirm("go on?", err=True):
        return
    raise HeadraceError("not_confirmed", "nothing was delivered", hint="confirm it by --yes", exit_code=Exit.USAGE)


@contextmanager
def _progress(plan: "ReplayPlan", *, is_shown: bool) -> "Iterator[Callable[[ReplayResult], None]]":
    """Show a bar, only on a terminal; yield what moves it."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeElapsedColumn, TimeRemainingColumn

    console = stderr_console()
    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    disabled = not (console.is_terminal and is_shown)
    with Progress(*columns, console=console, transient=True, disable=disabled) as bars:
        task = bars.add_task("", total=plan.total("items"))
        yield lambda result: bars.update(task, completed=result.position, total=result.items)


def _show(result: "ReplayResult", *, as_json: bool) -> None:
    left_out = {"archived": result.archived, "with another label": result.unlabelled, "gone": result.gone}
    said = "; ".join(f"{number} {why}" for why, number in left_out.items() if number)
    say(f"{result.name}: {result.position} of {result.items}, {result.delivered} delivered now")
    if said:
        say(f"left out: {said}")
    if as_json:
        print_json({name: str(value) if name == "replay_id" else value for name, value in asdict(result).items()})
    if result.archived:
        raise typer.Exit(Exit.FAILED)
