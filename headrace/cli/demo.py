"""`headrace demo` and `headrace bench`: trial runs in a temporary stack."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from headrace.cli.environment import choose_store, needs
from headrace.cli.options import Json, StoreChoice
from headrace.cli.output import print_json, print_table, say, stderr_console
from headrace.runtime.errors import Exit

SECONDS_MAX = 300  # the synthetic line is rendered in advance: 60 MB for each minute


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command()(demo)
    app.command()(bench)


@needs("native")
def demo(
    *,
    video: Annotated[
        Path | None, typer.Option(help="Publish the frames of this video instead of a synthetic production line.")
    ] = None,
    seconds: Annotated[
        float | None,
        typer.Option(
            min=1,
            max=SECONDS_MAX,
            help="Seconds to publish. [default: 15, or the whole video]",
            show_default=False,
        ),
    ] = None,
    store: Annotated[
        StoreChoice | None, typer.Option(help="minio or local (a directory). [default: minio if it is installed]")
    ] = None,
    keep: Annotated[bool, typer.Option("--keep", help="Leave the stack running afterwards.")] = False,
    as_json: Json = False,
) -> None:
    """Run the service end to end with simulated cameras and devices; exit 1 if a check fails."""
    from headrace.demo.report import as_json as json_of
    from headrace.demo.report import conclusion, next_steps, rows
    from headrace.demo.run import DemoOptions, run
    from headrace.runtime.settings import load_settings

    state_dir = load_settings().state_dir
    store_name = choose_store(store.value if store else None, state_dir, say)
    report = run(DemoOptions(store=store_name, video=video, seconds=seconds, keep=keep), state_dir, stderr_console())
    for line in conclusion(report):
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
    """A benchmark."""

    FRAMES = "frames"
    LDOS = "ldos"
    RELAY = "relay"
    LATENCY = "latency"
    GATEWAY = "gateway"
    IDLE = "idle"
    ALL = "all"


@needs("native")
def bench(
    case: Annotated[Case, typer.Argument(help="The benchmark to run.")] = Case.ALL,
    *,
    store: Annotated[
        StoreChoice | None, typer.Option(help="minio or local (a directory). [default: minio if it is installed]")
    ] = None,
    count: Annotated[
        int, typer.Option(min=100, help="Frames in the backlog; the backlog of LDOs is ten times as long.")
    ] = 2000,
    seconds: Annotated[float, typer.Option(min=1, help="Seconds to measure latency and uploads.")] = 20.0,
    profile: Annotated[
        Path | None, typer.Option(help="Write a flame graph of each measured process to this directory.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Measure throughput, CPU and latency on this machine, and the same servers without Headrace."""
    from headrace.bench.figures import as_json as json_of
    from headrace.bench.figures import conclusion, ratio_rows, rows
    from headrace.bench.run import CASES, BenchOptions, run
    from headrace.runtime.logs import configure_logs
    from headrace.runtime.settings import LogFormat, load_settings

    configure_logs(LogFormat.CONSOLE, "warning", "bench")
    store_name = choose_store(store.value if store else None, load_settings().state_dir, say)
    cases = list(CASES) if case is Case.ALL else [case.value]
    figures, machine = run(cases, BenchOptions(store_name, count, seconds, profile), say)
    if as_json:
        print_json(json_of(figures, machine))
        return
    if ratios := list(ratio_rows(figures)):
        print_table(("what", "ratio", "of", "target", ""), ratios)
    print_table(("what", "measured", "target", ""), list(rows(figures)))
    say(conclusion(figures))
    say(f"{machine['cores']} cores, load average {machine['load_before']} before the run, store {machine['store']}")
