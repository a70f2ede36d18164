"""The native stack on this machine: up, down, status, and Kafka's own tools against it."""

from typing import Annotated

import typer

from headrace.cli.environment import choose_store, needs
from headrace.cli.options import Json, StoreChoice
from headrace.cli.output import print_json, print_table, say
from headrace.cli.status import stack_not_running, status
from headrace.runtime.errors import Exit, HeadraceError


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command()(up)
    app.command()(scale)
    app.command()(down)
    app.command()(status)
    app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []})(
        kafka
    )


@needs("native")
def up(
    *,
    store: Annotated[StoreChoice | None, typer.Option(help="minio or local (a directory).")] = None,
    brokers: Annotated[
        int | None, typer.Option(help="Number of Kafka brokers: 1 or 3. [default: as before, or 1]")
    ] = None,
    sites: Annotated[
        str | None, typer.Option(help="Names of sites with a Kafka each, mirrored to the last: factory-a,central.")
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(min=1, max=16, help="Number of processes of each worker. [default: as before, or 1]"),
    ] = None,
    as_json: Json = False,
) -> None:
    """Start Kafka, PostgreSQL, Valkey, the blob store and the service on this machine, and wait until they are ready.

    Without --store, an existing stack keeps its store, and a new one uses MinIO if it is installed, else a directory.
    """
    from headrace.native import SERVICES, StackOptions
    from headrace.native import up as start
    from headrace.native.config import read_config
    from headrace.native.layout import StateDir
    from headrace.native.scaling import scaled, workers_of
    from headrace.native.sites import check_names
    from headrace.runtime.settings import load_settings

    if brokers not in {None, 1, 3}:
        raise HeadraceError(
            "brokers_invalid", f"a stack cannot have {brokers} brokers", hint="use 1 or 3", exit_code=Exit.USAGE
        )
    state_dir = load_settings().state_dir
    store_name = choose_store(store.value if store else None, state_dir, say)
    names = tuple(name.strip() for name in sites.split(",")) if sites else ()
    if sites:
        check_names(names)
    before = read_config(StateDir.at(state_dir))
    number = brokers or (before.brokers if before else 1)
    services = scaled(SERVICES, workers or (workers_of(before.services) if before else 1))
    info = start(StackOptions(state_dir, store_name, 3 if number == 3 else 1, services, sites=names), say)
    public = info.public()
    if as_json:
        print_json(public)
    else:
        rows = [(name, value) for name, value in public.items() if isinstance(value, str)]
        rows += [(f"kafka of {name}", address) for name, address in info.sites.items()]
        print_table(("", "where"), rows)
        say("next: `headrace publish --help`, `headrace status`, `headrace logs -f`; stop it with `headrace down`")


@needs("native")
def scale(
    *,
    workers: Annotated[int, typer.Option(min=1, max=16, help="Number of processes of each worker.")],
    as_json: Json = False,
) -> None:
    """Change the number of worker processes of the running stack; what they had not finished is delivered again.

    Further processes are idle beyond the number of partitions: HEADRACE_KAFKA_PARTITIONS of a new stack.
    """
    from headrace.native.scaling import scale as change
    from headrace.runtime.settings import load_settings

    change(load_settings().state_dir, workers, say)
    if as_json:
        print_json({"workers": workers})


@needs("native")
def down(
    *,
    purge: Annotated[bool, typer.Option("--purge", help="Also delete the data of the stack.")] = False,
    as_json: Json = False,
) -> None:
    """Stop all processes of the stack, including orphans of a killed launcher."""
    from headrace.native import down as stop
    from headrace.runtime.settings import load_settings

    stopped = stop(load_settings().state_dir, purge=purge, progress=say)
    if as_json:
        print_json({"stopped": stopped, "purged": purge})


def kafka(
    context: typer.Context,
    tool: Annotated[str, typer.Argument(help="console-consumer, consumer-groups, topics, configs, …")],
) -> None:
    """Run one of Kafka's command-line tools against the stack; the tool receives all further arguments.

    `headrace kafka TOOL --help` shows the options of a tool; its `--bootstrap-server` is added.
    """
    if tool in {"-h", "--help"}:
        typer.echo(context.get_help())
        _list_tools()
    else:
        _run_kafka_tool(tool, context.args)


@needs("native")
def _list_tools() -> None:
    from headrace.native.tools import TOOLS

    typer.echo("\nTools:\n" + "\n".join(f"  {name}" for name in TOOLS))


@needs("native")
def _run_kafka_tool(tool: str, args: list[str]) -> None:
    from headrace.native import status as stack_status
    from headrace.native.tools import run_tool
    from headrace.runtime.settings import load_settings

    current = stack_status(load_settings().state_dir)
    if current.info is None:
        raise stack_not_running(current.state_dir)
    raise typer.Exit(run_tool(current.info, tool, args))
