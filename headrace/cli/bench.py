"""`headrace bench`: the figures of performance.md, measured here and now."""

from enum import StrEnum
from typing import Annotated

import typer

from headrace.cli.extras import needs
from headrace.cli.output import print_json, print_table, say
from headrace.cli.stack import Json, StoreChoice


class Case(StrEnum):
    """What can be measured."""

    FRAMES = "frames"
    LDOS = "ldos"
    LATENCY = "latency"
    GATEWAY = "gateway"
    ALL = "all"


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(bench)


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
    from headrace.store_choice import choose

    configure_logs(LogFormat.CONSOLE, "warning", "bench")
    chosen = choose(store.value if store else None, load_settings().state_dir, say)
    cases = list(CASES) if case is Case.ALL else [case.value]
    figures, machine = run(cases, BenchOptions(chosen, count, seconds), say)
    if as_json:
        print_json(json_of(figures, machine))
        return
    print_table(("what", "measured", "beside it", "target"), list(rows(figures)))
    say(f"{machine['cores']} cores, load {machine['load_before']} before it began, store {machine['store']}")
