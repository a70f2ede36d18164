"""`headrace retention` and `headrace hold`: erase old records, and keep what must not be erased."""

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from headrace.cli.display import short_ids
from headrace.cli.environment import client_settings, needs
from headrace.cli.erase import report_signer, show_reports, target_of
from headrace.cli.keys import actor
from headrace.cli.options import Json, parse_kinds
from headrace.cli.output import SummaryGroup, json_value, print_json, print_table, say
from headrace.runtime.errors import Exit, HeadraceError

if TYPE_CHECKING:
    from headrace.runtime.settings import Settings
    from headrace.store.catalog.retention import Retention

T = TypeVar("T")

DAYS_MAX = 36_500

retention_app = typer.Typer(
    cls=SummaryGroup,
    name="retention",
    help="Rules by kind and site, after how many days records are erased.",
    no_args_is_help=True,
)
hold_app = typer.Typer(
    cls=SummaryGroup,
    name="hold",
    help="Legal holds: records, sources and sites that are not erased.",
    no_args_is_help=True,
)
KindNames = Annotated[str, typer.Argument(metavar="KIND", help="cids, frames, clips or ldos; several with commas.")]
RuleSite = Annotated[str | None, typer.Option("--site", help="Only records from this site. [default: all others]")]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    retention_app.command("ls")(list_rules)
    retention_app.command("set")(set_rule)
    retention_app.command("rm")(remove_rule)
    retention_app.command("run")(run)
    hold_app.command("ls")(list_holds)
    hold_app.command("add")(add)
    hold_app.command("release")(release)
    app.add_typer(retention_app)
    app.add_typer(hold_app)


@needs("service")
def list_rules(*, as_json: Json = False) -> None:
    """List the rules; without any, nothing is erased."""
    rules = _with_retention(client_settings(), lambda retention: retention.rules())
    if as_json:
        print_json({"rules": [json_value(rule) for rule in rules]})
    else:
        print_table(("kind", "site", "days"), [(rule.kind, rule.site or "(others)", rule.days) for rule in rules])


@needs("service")
def set_rule(
    kinds: KindNames,
    days: Annotated[int, typer.Argument(min=1, max=DAYS_MAX, help="Days since the last delivery.")],
    *,
    site: RuleSite = None,
    as_json: Json = False,
) -> None:
    """Set after how many days records of a kind are erased.

    Messages that come later than that would be ingested again: it is more than they may wait in topics and spools.
    """
    from headrace.schemas.topics import wait_days_max
    from headrace.store.catalog.retention import RetentionRule

    settings = client_settings()
    wait_days = wait_days_max(settings.spool_days_max)
    if days <= wait_days:
        raise HeadraceError(
            "option_invalid",
            f"messages may wait {wait_days:g} days in topics and spools, and would be ingested again",
            hint="choose more days",
            exit_code=Exit.USAGE,
        )
    rules = [RetentionRule(kind, site or "", days) for kind in sorted(parse_kinds(kinds))]

    async def change(retention: "Retention") -> None:
        for rule in rules:
            await retention.set_rule(rule)

    _with_retention(settings, change)
    if as_json:
        print_json({"rules": [json_value(rule) for rule in rules]})


@needs("service")
def remove_rule(kinds: KindNames, *, site: RuleSite = None, as_json: Json = False) -> None:
    """Remove a rule; records of that kind are kept from now on."""
    names = sorted(parse_kinds(kinds))

    async def change(retention: "Retention") -> list[bool]:
        return [await retention.remove_rule(kind, site or "") for kind in names]

    if not all(_with_retention(client_settings(), change)):
        raise HeadraceError("rule_unknown", "no such rule exists", hint="`headrace retention ls` lists the rules")
    if as_json:
        print_json({"removed": names})


@needs("service", "gateway")
def run(*, as_json: Json = False) -> None:
    """Erase what is older than its rule, without tombstones; run it again to resume."""
    import asyncio

    from headrace.batch.erase.run import retain

    settings = client_settings()
    reports = asyncio.run(retain(settings, sign=report_signer(settings), progress=say))
    show_reports(reports, None, as_json=as_json)


@needs("service")
def list_holds(
    *,
    every: Annotated[bool, typer.Option("--all", help="Also list the holds that were released.")] = False,
    as_json: Json = False,
) -> None:
    """List the legal holds, newest first."""
    holds = _with_retention(client_settings(), lambda retention: retention.holds(released=every))
    if as_json:
        print_json({"holds": [json_value(hold) for hold in holds]})
        return
    short = short_ids(id_ for hold in holds for id_ in (hold.hold_id, hold.record_id) if id_)
    print_table(
        ("hold", "record", "site", "source", "reason", "placed by", "released by"),
        [
            (
                short[str(hold.hold_id)],
                short.get(str(hold.record_id)),
                hold.site,
                hold.source_id,
                hold.reason,
                hold.actor,
                hold.released_by,
            )
            for hold in holds
        ],
    )


@needs("service")
def add(
    id_: Annotated[str | None, typer.Argument(metavar="[ID]", help="A record id, a prefix of it, or a digest.")] = None,
    *,
    site: Annotated[str | None, typer.Option(help="Hold everything of this site.")] = None,
    source: Annotated[str | None, typer.Option(help="With --site: hold only this source of it.")] = None,
    reason: Annotated[str, typer.Option(help="Why.")],
    as_json: Json = False,
) -> None:
    """Place a legal hold: neither `erase` nor retention takes what it covers."""
    import asyncio
    from uuid import uuid4

    from headrace.store.catalog.retention import Hold

    settings = client_settings()
    target = asyncio.run(target_of(settings, [id_] if id_ else None, site, source))
    record_id = target.record_ids[0] if target.record_ids else None
    hold = Hold(
        hold_id=uuid4(),
        record_id=record_id,
        site=target.site,
        source_id=target.source_id,
        reason=reason,
        actor=actor(),
    )
    _with_retention(settings, lambda retention: retention.place(hold))
    if as_json:
        print_json({"hold_id": str(hold.hold_id)})
    else:
        say(f"placed the hold {hold.hold_id}")


@needs("service")
def release(
    hold_id: Annotated[str, typer.Argument(metavar="HOLD", help="The id of a hold, or a prefix of it.")],
    *,
    as_json: Json = False,
) -> None:
    """Release a legal hold."""

    async def change(retention: "Retention") -> str | None:
        digits = hold_id.replace("-", "").lower()
        ids = [hold.hold_id for hold in await retention.holds(released=False) if hold.hold_id.hex.startswith(digits)]
        return str(ids[0]) if len(ids) == 1 and await retention.release(ids[0], actor()) else None

    released = _with_retention(client_settings(), change)
    if released is None:
        raise HeadraceError(
            "hold_unknown", f"no single hold in force has the id {hold_id!r}", hint="`headrace hold ls` lists them"
        )
    if as_json:
        print_json({"hold_id": released, "released": True})


def _with_retention(settings: "Settings", work: "Callable[[Retention], Awaitable[T]]") -> T:
    """Return the result of work with the rules and holds, over a connection of its own."""
    import asyncio

    from headrace.store.catalog.retention import Retention
    from headrace.store.postgres import connected

    async def main() -> T:
        dsn = settings.postgres_dsn.get_secret_value()
        async with connected(dsn, statement_s_max=20.0, application="headrace retention") as connection:
            return await work(Retention(connection, dsn))

    return asyncio.run(main())
