"""`headrace demo`: everything, end to end, then a report."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from headrace.cli.environment import choose_store, needs
from headrace.cli.options import Json, StoreChoice
from headrace.cli.output import print_json, print_table, say, stderr_console
from headrace.runtime.errors import Exit

SECONDS_MAX = 300  # the synthetic line is drawn beforehand: a minute of it takes 60 MB


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command()(demo)
    app.command()(bench)


@needs("native")
def demo(
    *,
    video: Annotated[Path | None, typer.Option(help="Publish this video's frames instead of a synthetic line.")] = None,
    seconds: Annotated[
        float | None,
        typer.Option(
            min=1,
            max=SECONDS_MAX,
            help="How long to publish; by default 15 s, or all of the video.",
            show_default=False,
        ),
    ] = None,
    store: Annotated[
        StoreChoice | None, typer.Option(help="minio, or a local directory; by default minio if it is installed here.")
    ] = None,
    keep: Annotated[bool, typer.Option("--keep", help="Leave everything running afterwards.")] = False,
    as_json: Json = False,
) -> None:
    """Run everything end to end with simulated cameras and devices, then report; exit 1 if a number does not add up."""
    from headrace.demo import DemoOptions, next_steps, rows, run, verdict
    from headrace.demo import as_json as json_of
    from headrace.runtime.settings import load_settings

    state_dir = load_settings().state_dir
    chosen = choose_store(store.value if store else None, state_dir, say)
    report = run(DemoOptions(store=chosen, video=video, seconds=seconds, keep=keep), state_dir, stderr_console())
    for line in verdict(report):
        say(line)
    if as_json:
        print_json(json_of(report))
    else:
        print_table(("", "found"), list(rows(report)))
    for line in next_steps(keep=keep):
        say(line)
    if not report.good:
        raise typer.Exit(Exit.FAILED)


class Case(StrEnum):
    """What can be measured."""

    FRAMES = "frames"
    LDOS = "ldos"
    LATENCY = "latency"
    GATEWAY = "gateway"
    ALL = "all"


@needs("native")
def bench(
    case: Annotated[Case, typer.Argument(help="What to measure.")] = Case.ALL,
    *,
    store: Annotated[
        StoreChoice | None, typer.Option(help="minio, or a local directory; by default minio if it is installed here.")
    ] = None,
    count: Annotated[int, typer.Option(min=100, help="Frames in the backlog; ten times as many LDOs.")] = 2000,
    seconds: Annotated[float, typer.Option(min=1, help="How long latency is measured.")] = 20.0,
    as_json: Json = False,
) -> None:
    """Measure throughput, cost and latency on this machine, beside what the servers do without Headrace."""
    from headrace.bench import CASES, BenchOptions, rows, run
    from headrace.bench import as_json as json_of
    from headrace.runtime.logs import configure_logs
    from headrace.runtime.settings import LogFormat, load_settings

    configure_logs(LogFormat.CONSOLE, "warning", "bench")
    chosen = choose_store(store.value if store else None, load_settings().state_dir, say)
    cases = list(CASES) if case is Case.ALL else [case.value]
    figures, machine = run(cases, BenchOptions(chosen, count, seconds), say)
    if as_json:
        print_json(json_of(figures, machine))
        return
    print_table(("what", "measured", "beside it", "target"), list(rows(figures)))
    say(f"{machine['cores']} cores, load {machine['load_before']} before it began, store {machine['store']}")
