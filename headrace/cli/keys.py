"""`headrace keys`: manage API keys of the gateway."""

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from headrace.cli.environment import client_settings, needs
from headrace.cli.options import Json
from headrace.cli.output import SummaryGroup, print_json, print_table, say
from headrace.gateway.auth.principal import Role, check_source
from headrace.runtime.errors import Exit, HeadraceError

if TYPE_CHECKING:
    from headrace.gateway.auth.api_keys import NewKey
    from headrace.store.requests.access import Access

T = TypeVar("T")
_SHOWN_ONCE = "The key is shown only once; only its hash is stored."

KeyName = Annotated[str, typer.Argument(metavar="KEY", help="The id of the key, from `keys ls`, or its name.")]

app = typer.Typer(cls=SummaryGroup, help="Add, list, rotate and revoke API keys of the gateway.", no_args_is_help=True)


def register(parent: typer.Typer) -> None:
    """Add the commands."""
    parent.add_typer(app, name="keys")


@app.command()
@needs("service")
def add(
    name: Annotated[str, typer.Argument(help="A name that says what the key is for.")],
    *,
    role: Annotated[Role, typer.Option(help="device: publish; operator: also read and capture; admin: everything.")],
    source: Annotated[list[str], typer.Option(help="Allowed sources: site/source, site/*, or *; may be repeated.")],
    days: Annotated[float | None, typer.Option(min=0.001, help="Days until the key expires. [default: never]")] = None,
    as_json: Json = False,
) -> None:
    """Create a key and print it once."""
    from headrace.gateway.auth.api_keys import Grant
    from headrace.gateway.auth.api_keys import add as add_key

    try:
        sources = [check_source(text) for text in source]
    except ValueError as error:
        raise HeadraceError("source_invalid", str(error), exit_code=Exit.USAGE) from None
    grant = Grant(name, role, sources, days)
    new = with_access(lambda access: add_key(access, grant, actor=actor()))
    _show(new, as_json)


@app.command("ls")
@needs("service")
def list_(*, as_json: Json = False) -> None:
    """List the keys without their secrets."""
    keys = with_access(lambda access: access.list_keys())
    if as_json:
        print_json({"keys": [{name: getattr(key, name) for name in key.__slots__} for key in keys]})
        return
    rows = [
        (
            key.key_id,
            key.name,
            key.role,
            " ".join(key.sources),
            f"{key.created_at:%Y-%m-%d %H:%M}",
            _state(key.revoked_at, key.expires_at),
        )
        for key in keys
    ]
    print_table(("id", "name", "role", "reaches", "made", "state"), rows)


@app.command()
@needs("service")
def rotate(
    key: KeyName,
    *,
    overlap_hours: Annotated[
        float, typer.Option(min=0, help="Hours during which the previous secret stays valid.")
    ] = 24.0,
    as_json: Json = False,
) -> None:
    """Give a key a new secret and print it once."""
    from headrace.gateway.auth.api_keys import rotate as rotate_key

    async def change(access: "Access") -> "NewKey | None":
        return await rotate_key(access, await _id_of(access, key), overlap_hours, actor=actor())

    new = with_access(change)
    if new is None:
        raise _unknown(key)
    _show(new, as_json)


@app.command()
@needs("service")
def revoke(key: KeyName, *, as_json: Json = False) -> None:
    """Revoke a key and the tokens issued for it, with immediate effect."""

    async def change(access: "Access") -> str | None:
        key_id = await _id_of(access, key)
        return key_id if await access.revoke_key(key_id, actor()) else None

    key_id = with_access(change)
    if key_id is None:
        raise _unknown(key)
    if as_json:
        print_json({"key_id": key_id, "revoked": True})
    say(f"the key {key_id} is revoked")


async def _id_of(access: "Access", key: str) -> str:
    """Return the id of the key that is named by its id, or by a name that one valid key has.

    Raises:
        HeadraceError: several valid keys have the name.
    """
    keys = await access.list_keys()
    if key in {known.key_id for known in keys}:
        return key
    named = [known.key_id for known in keys if known.name == key and known.revoked_at is None]
    if len(named) > 1:
        raise HeadraceError(
            "key_ambiguous",
            f"several keys have the name {key!r}",
            hint=f"use an id: {', '.join(named)}",
            exit_code=Exit.USAGE,
        )
    return named[0] if named else key


def _show(new: "NewKey", as_json: bool) -> None:  # noqa: FBT001
    if as_json:
        print_json({"key_id": new.key_id, "key": new.text})
    else:
        typer.echo(new.text)
        say(_SHOWN_ONCE)


def _state(revoked_at: object, expires_at: object) -> str:
    if revoked_at is not None:
        return f"revoked {revoked_at:%Y-%m-%d %H:%M}"
    return "good" if expires_at is None else f"until {expires_at:%Y-%m-%d %H:%M}"


def _unknown(key: str) -> HeadraceError:
    return HeadraceError(
        "key_unknown", f"no valid key has the id or name {key!r}", hint="`headrace keys ls` lists them"
    )


def actor() -> str:
    """Return the name of the user, for the audit log and for reports."""
    import getpass

    return f"user:{getpass.getuser()}"


def with_access(work: "Callable[[Access], Awaitable[T]]", *, command: str = "keys", statement_s_max: float = 10.0) -> T:
    """Return the result of work with the store of keys and audit rows, over a connection of its own."""
    import asyncio

    from headrace.store.postgres import opened_pool
    from headrace.store.requests.access import Access

    async def run() -> T:
        dsn = client_settings().postgres_dsn.get_secret_value()
        async with opened_pool(
            dsn, connections_max=1, statement_s_max=statement_s_max, application=f"headrace {command}"
        ) as pool:
            return await work(Access(pool, dsn))

    return asyncio.run(run())
