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
    store: Annotated[StoreChoice | None, typer.Option(help="minio or local (a directory).")] = None,
    brokers: Annotated[int, typer.Option(help="Number of Kafka brokers: 1 or 3.")] = 1,
    sites: Annotated[
        str | None, typer.Option(help="Names of sites with a Kafka each, mirrored to the last: factory-a,central.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Start Kafka, PostgreSQL, Valkey, the blob store and the service on this machine, and wait until they are ready.

    Without --store, an existing stack keeps its store, and a new one uses MinIO if it is installed, else a directory.
    """
    from headrace.native import StackOptions
    from headrace.native import up as start
    from headrace.native.sites import check_names
    from headrace.runtime.settings import load_settings

    if brokers not in {1, 3}:
        raise HeadraceError(
            "brokers_invalid", f"a stack cannot have {brokers} brokers", hint="use 1 or 3", exit_code=Exit.USAGE
        )
    state_dir = load_settings().state_dir
    store_name = choose_store(store.value if store else None, state_dir, say)
    names = tuple(name.strip() for name in sites.split(",")) if sites else ()
    if sites:
        check_names(names)
    info = start(StackOptions(state_dir, store_name, 1 if brokers == 1 else 3, sites=names), say)
    public = info.public()
    if as_json:
        print_json(public)
    else:
        rows = [(name, value) for name, value in public.items() if isinstance(value, str)]
        rows += [(f"kafka of {name}", address) for name, address in info.sites.items()]
        print_table(("", "where"), rows)
        say("next: `headrace publish --help`, `headrace status`, `headrace ls`; stop it with `headrace down`")


@needs("native")
def down(*, purge: Annotated[bool, typer.Option("--purge", help="Also delete the data of the stack.")] = False) -> None:
    """Stop all processes of the stack, including orphans of a killed launcher."""
    from headrace.native import down as stop
    from headrace.runtime.settings import load_settings

    stop(load_settings().state_dir, purge=purge, progress=say)


@needs("native")
def status(*, as_json: Json = False) -> None:
    """Show the processes of the stack; exit 1 if one is not ready, 3 if the stack is not running."""
    from headrace.native import status as stack_status
    from headrace.runtime.settings import load_settings

    current = stack_status(load_settings().state_dir)
    if as_json:
        print_json(current.public())
    elif current.processes:
        rows = [
            (process.name, process.state.value, process.pid, process.restarts, process.address, process.last_exit)
            for process in current.processes
        ]
        print_table(("process", "state", "pid", "restarts", "address", "last exit"), rows)
    if not current.running:
        raise HeadraceError(
            "stack_not_running",
            "the stack is not running",
            where=str(current.state_dir),
            hint="start it with `headrace up`",
            exit_code=Exit.UNREACHABLE,
        )
    if not current.healthy:
        raise typer.Exit(Exit.FAILED)


@needs("native")
def kafka(
    context: typer.Context,
    tool: Annotated[str, typer.Argument(help="console-consumer, consumer-groups, topics, configs, …")],
) -> None:
    """Run one of Kafka's command-line tools against the stack; the tool receives all further arguments."""
    from headrace.native import status as stack_status
    from headrace.native.tools import run_tool
    from headrace.runtime.settings import load_settings

    current = stack_status(load_settings().state_dir)
    if current.info is None:
        raise HeadraceError(
            "stack_not_running",
            "no stack exists in this directory",
            where=str(current.state_dir),
            hint="start it with `headrace up`",
            exit_code=Exit.UNREACHABLE,
        )
    raise typer.Exit(run_tool(current.info, tool, context.args))
