"""The native stack on this machine: up, down, status, and Kafka's own tools against it."""

from typing import Annotated

import typer

from headrace.cli.environment import choose_store, needs
from headrace.cli.options import Json, StoreChoice
from headrace.cli.output import print_json, print_table, say
from headrace.runtime.errors import Exit, HeadraceError


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command()(up)
    app.command()(down)
    app.command()(status)
    app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []})(
        kafka
    )


@needs("native")
def up(
    *,
    store: Annotated[
        StoreChoice | None, typer.Option(help="minio, or a local directory; see below where it is not given.")
    ] = None,
    brokers: Annotated[int, typer.Option(help="Kafka brokers: 1 or 3.")] = 1,
    as_json: Json = False,
) -> None:
    """Start Kafka, PostgreSQL, Valkey, the blob store and the service on this machine, and wait until all are ready.

    Without --store a stack keeps the store it was started with; a new one takes MinIO if it is installed here, and
    otherwise a local directory.
    """
    from headrace.native import StackOptions
    from headrace.native import up as start
    from headrace.runtime.settings import load_settings

    if brokers not in {1, 3}:
        raise HeadraceError(
            "brokers_invalid", f"{brokers} brokers make no stack", hint="use 1 or 3", exit_code=Exit.USAGE
        )
    state_dir = load_settings().state_dir
    chosen = choose_store(store.value if store else None, state_dir, say)
    info = start(StackOptions(state_dir, chosen, 1 if brokers == 1 else 3), say)
    public = info.public()
    if as_json:
        print_json(public)
    else:
        print_table(("", "where"), [(name, value) for name, value in public.items() if value is not None])
        say("next: `headrace publish --help`, `headrace status`, `headrace ls`; stop it with `headrace down`")


@needs("native")
def down(*, purge: Annotated[bool, typer.Option("--purge", help="Remove the stack's data as well.")] = False) -> None:
    """Stop everything that runs in the state directory, also what a killed launcher left."""
    from headrace.native import down as stop
    from headrace.runtime.settings import load_settings

    stop(load_settings().state_dir, purge=purge, progress=say)


@needs("native")
def status(*, as_json: Json = False) -> None:
    """Show the processes of the stack; exit 1 if one is not ready, 3 if the stack does not run."""
    from headrace.native import status as look
    from headrace.runtime.settings import load_settings

    seen = look(load_settings().state_dir)
    if as_json:
        print_json(seen.public())
    elif seen.processes:
        rows = [
            (one.name, one.state.value, one.pid, one.restarts, one.address, one.last_exit) for one in seen.processes
        ]
        print_table(("process", "state", "pid", "restarts", "address", "last exit"), rows)
    if not seen.running:
        raise HeadraceError(
            "stack_not_running",
            "no stack runs here",
            where=str(seen.state_dir),
            hint="start it with `headrace up`",
            exit_code=Exit.UNREACHABLE,
        )
    if not seen.healthy:
        raise typer.Exit(Exit.FAILED)


@needs("native")
def kafka(
    context: typer.Context,
    tool: Annotated[str, typer.Argument(help="console-consumer, consumer-groups, topics, configs, …")],
) -> None:
    """Run one of Kafka's own console tools against the stack; everything after its name is the tool's."""
    from headrace.native import status as look
    from headrace.native.tools import run_tool
    from headrace.runtime.settings import load_settings

    seen = look(load_settings().state_dir)
    if seen.info is None:
        raise HeadraceError(
            "stack_not_running",
            "no stack was ever started here",
            where=str(seen.state_dir),
            hint="start it with `headrace up`",
            exit_code=Exit.UNREACHABLE,
        )
    raise typer.Exit(run_tool(seen.info, tool, context.args))
