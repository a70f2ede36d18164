"""`headrace demo`: everything, end to end, then a report."""

from pathlib import Path
from typing import Annotated

import typer

from headrace.cli.extras import needs
from headrace.cli.output import print_json, print_table, say, stderr_console
from headrace.cli.stack import Json, StoreChoice
from headrace.runtime.errors import Exit

SECONDS_MAX = 300  # the synthetic line is drawn beforehand: a minute of it takes 60 MB


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(demo)


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
    from headrace.store_choice import choose

    state_dir = load_settings().state_dir
    chosen = choose(store.value if store else None, state_dir, say)
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
