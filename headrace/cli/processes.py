"""Commands that run one process of the service each; a supervisor starts them in a deployment."""

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from headrace.cli.environment import needs
from headrace.cli.options import parse_kinds
from headrace.runtime.errors import Exit, HeadraceError

if TYPE_CHECKING:
    import asyncio

    from headrace.runtime.settings import Settings


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command()(init)
    app.command()(worker)
    app.command()(relay)
    app.command()(consumer)
    app.command()(gateway)
    app.command()(capture)
    app.command()(maintenance)
    app.command()(transfer)


@needs("service")
def init(
    *,
    roles: Annotated[
        bool, typer.Option("--roles", help="Also create a PostgreSQL role and login for each process.")
    ] = False,
    topics: Annotated[
        bool, typer.Option("--topics", help="Only create topics: for a site whose Kafka is mirrored elsewhere.")
    ] = False,
) -> None:
    """Create or migrate topics, tables and buckets; may be repeated."""
    from headrace.initialize import initialize, initialize_topics

    settings = _settings_of("init")
    if topics:
        initialize_topics(settings)
    else:
        initialize(settings, roles=roles)


@needs("service")
def worker(
    kinds: Annotated[str, typer.Option(help="cids,ldos or frames,clips, or one of these kinds.")] = "cids,ldos",
) -> None:
    """Ingest messages: validate, deduplicate, store and catalogue them."""
    from headrace.streams.worker.app import group_of, work

    selected = parse_kinds(kinds)
    group_of(selected)
    serve("worker", lambda settings, stop: work(settings, selected, stop))


@needs("service")
def relay() -> None:
    """Publish announcements of ingested records; further relays stand by."""
    from headrace.streams.relay.app import relay as announce

    serve("relay", announce)


@needs("camera", "service")
def consumer(name: Annotated[str, typer.Argument(help="preprocessing or perception.")]) -> None:
    """Run one of the built-in consumers."""
    from headrace.streams.consumers.app import CONSUMERS

    if name not in CONSUMERS:
        raise HeadraceError(
            "consumer_unknown",
            f"unknown consumer {name!r}",
            hint=f"one of: {', '.join(sorted(CONSUMERS))}",
            exit_code=Exit.USAGE,
        )
    serve(name, CONSUMERS[name])


@needs("gateway")
def gateway(
    trust: Annotated[
        str | None,
        typer.Option(help="Private networks whose clients need no key: 10.1.0.0/16 or SITE=10.1.0.0/16,…"),
    ] = None,
) -> None:
    """Run the HTTP and WebSocket gateway; also reads HOST, PORT and REDIS_URL."""
    from headrace.gateway.app import serve as answer
    from headrace.gateway.server import legacy_overrides

    given = {} if trust is None else {"gateway_trust": trust}
    serve("gateway", answer, serves=True, **legacy_overrides(), **given)


@needs("camera", "gateway")
def capture() -> None:
    """Capture the cameras requested through the gateway; several workers may run."""
    from headrace.gateway.capture.worker import work

    serve("capture", work)


@needs("service")
def maintenance() -> None:
    """Expire, collect and archive once a day what is old; further ones stand by."""
    from headrace.batch.maintenance.app import maintain

    serve("maintenance", maintain)


@needs("service")
def transfer() -> None:
    """Bring from sites what they have ingested and announced; further ones stand by."""
    from headrace.streams.transfer.app import transfer as bring

    serve("transfer", bring)


def serve(
    name: str, main: "Callable[[Settings, asyncio.Event], Awaitable[int]]", *, serves: bool = False, **overrides: Any
) -> None:
    """Run a process until it stops, and exit with its code; `overrides` take precedence over the settings."""
    from headrace.runtime.process import run

    settings = _settings_of(name, serves=serves, **overrides)
    raise typer.Exit(run(lambda stop: main(settings, stop)))


def _settings_of(name: str, *, serves: bool = False, **overrides: Any) -> "Settings":
    """Load the settings of a process, configure its logs, and warn of what crosses a network in plain text."""
    from headrace.runtime.logs import configure_logs
    from headrace.runtime.plain_text import warn_of_plain_text
    from headrace.runtime.settings import load_settings

    settings = load_settings(**overrides)
    configure_logs(settings.log_format, settings.log_level, name)
    warn_of_plain_text(settings, serves=serves)
    return settings
