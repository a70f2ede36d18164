"""Each process does its work as a member of its PostgreSQL role, and the role may do nothing else."""

import asyncio
import secrets
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from pydantic import SecretStr

from headrace.initialize import initialize
from headrace.runtime.errors import HeadraceError
from headrace.runtime.settings import Settings
from headrace.schemas.digest import record_id
from headrace.schemas.events import Kind
from headrace.store import roles
from headrace.store.catalog.exports import Exports
from headrace.store.catalog.sessions import try_leader_lock
from headrace.store.roles import OPERATOR, PRIVILEGES, grant_roles
from tests.batch.batch_samples import frame
from tests.commands import headrace
from tests.consumer_groups import skip_backlog
from tests.gateway.gateway_world import Gateway
from tests.processes import ServiceProcess
from tests.streams.streams_world import World
from tests.waiting import until

pytestmark = [pytest.mark.stack, pytest.mark.timeout(240)]


@contextmanager
def logged_in_as(settings: Settings, *roles: str) -> Iterator[list[Settings]]:
    """Settings with a login for each role; no two test runs share one."""
    dsn = settings.postgres_dsn.get_secret_value()
    place = dsn.rpartition("@")[2]
    made: list[tuple[str, str]] = []
    with psycopg.connect(dsn, autocommit=True) as sql:
        try:
            for role in roles:
                user, password = f"test_{uuid4().hex[:12]}", secrets.token_hex(8)
                sql.execute(f"create role {user} login password '{password}' in role {role}")  # type: ignore[call-overload]
                made.append((user, password))
            yield [
                settings.model_copy(update={"postgres_dsn": SecretStr(f"postgresql://{user}:{password}@{place}")})
                for user, password in made
            ]
        finally:
            for user, _ in made:
                sql.execute(f"drop role {user}")  # type: ignore[call-overload]


@pytest.mark.parametrize(
    ("role", "statement"),
    [
        ("headrace_worker", "delete from records"),
        ("headrace_worker", "update outbox set published_at = now()"),
        ("headrace_worker", "select secret_sha256 from api_keys"),
        ("headrace_worker", "delete from tombstones"),
        ("headrace_worker", "update record_counts set records = 0"),
        ("headrace_relay", "insert into outbox (event_id, topic, record_id) values (gen_random_uuid(), 'x', null)"),
        ("headrace_relay", "update outbox set event_id = gen_random_uuid()"),
        ("headrace_relay", "delete from dead_letters"),
        ("headrace_gateway", "insert into api_keys select * from api_keys"),
        ("headrace_gateway", "delete from records"),
        ("headrace_gateway", "update collection set generation = 0"),
        ("headrace_capture", "select secret_sha256 from api_keys"),
        ("headrace_capture", "select code from records"),
        (OPERATOR, "drop table records"),
        (OPERATOR, "create table mine (a integer)"),
    ],
)
def test_a_role_may_not_do_what_its_process_does_not_need(module_settings: Settings, role: str, statement: str) -> None:
    dsn = module_settings.postgres_dsn.get_secret_value()
    assert asyncio.run(grant_roles(dsn)) == [*PRIVILEGES, OPERATOR]
    with psycopg.connect(dsn, autocommit=True) as sql:
        sql.execute(f"set role {role}")  # type: ignore[call-overload]
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            sql.execute(statement)  # type: ignore[call-overload]


async def test_roles_are_given_while_a_relay_leads(settings: Settings) -> None:
    dsn = settings.postgres_dsn.get_secret_value()
    leader = await try_leader_lock(dsn)
    assert leader is not None
    try:
        async with asyncio.timeout(30):
            assert await grant_roles(dsn) == [*PRIVILEGES, OPERATOR]
    finally:
        await leader.release()


async def test_databases_of_one_server_get_their_roles_at_once(
    settings: Settings, module_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both find no role, and each makes it; only one of them can."""
    name = f"test_{uuid4().hex[:12]}"
    monkeypatch.setattr(roles, "OPERATOR", name)
    dsns = [changed.postgres_dsn.get_secret_value() for changed in (settings, module_settings)]
    try:
        made = await asyncio.gather(*map(grant_roles, dsns))
        assert made == [[*PRIVILEGES, name]] * 2
    finally:
        for dsn in dsns:
            with psycopg.connect(dsn, autocommit=True) as sql:
                sql.execute(f"drop owned by {name}")  # type: ignore[call-overload]
        with psycopg.connect(dsns[0], autocommit=True) as sql:
            sql.execute(f"drop role {name}")  # type: ignore[call-overload]


async def test_an_export_waits_for_what_the_workers_role_has_begun(settings: Settings) -> None:
    await grant_roles(settings.postgres_dsn.get_secret_value())
    with logged_in_as(settings, "headrace_worker", OPERATOR, "headrace_gateway") as (worker, operator, other):
        dsn = worker.postgres_dsn.get_secret_value()
        with psycopg.connect(dsn, application_name="headrace-worker") as sql:
            sql.execute("select 1")  # begins a transaction
            begun = sql.execute("select (extract(epoch from now()) * 1000000)::bigint").fetchone()
            assert begun is not None
            async with Exports.open(operator.postgres_dsn.get_secret_value()) as exports:
                assert await exports.settled_until_us() == begun[0]
            async with Exports.open(other.postgres_dsn.get_secret_value()) as exports:
                with pytest.raises(HeadraceError, match="transactions_hidden"):
                    await exports.settled_until_us()


@pytest.mark.server
@pytest.mark.slow
def test_each_process_works_under_its_role(settings: Settings, tmp_path: Path) -> None:
    initialize(settings, roles=True)
    skip_backlog(settings)
    event, sent = frame(uuid4().hex), frame(uuid4().hex)
    with ExitStack() as stack:
        users = stack.enter_context(logged_in_as(settings, *PRIVILEGES, OPERATOR))
        worker, relay, gateway, capture, operator = users
        for user, *args in (
            (worker, "worker", "--kinds", "frames,clips"),
            (relay, "relay"),
            (capture, "capture"),
            (operator, "maintenance"),
        ):
            process = ServiceProcess(user, *args, log=tmp_path / args[0], gateway_seal_secret="")
            stack.callback(process.stop)
            process.wait_ready()
        with closing(World(settings)) as world:
            world.send(event)
        answering = stack.enter_context(Gateway(gateway, tmp_path / "gateway"))
        answering.settings = settings  # keys are not made by a gateway
        with answering.client("operator") as client:
            listed: list[Any] = []

            def is_listed() -> bool:
                listed[:] = [item["record_id"] for item in client.get("/api/v1/records").json()["records"]]
                return str(record_id(Kind.FRAME, event.sha256)) in listed

            until(is_listed, 60, "the record to be listed")
            form = {"source_id": "camera-1", "site": "plant"}
            answer = client.post("/ingest", data=form, files={"file": ("a.png", sent.body, "image/png")})
            assert answer.status_code < 300, answer.text
        with psycopg.connect(settings.postgres_dsn.get_secret_value(), autocommit=True) as sql:
            until(
                lambda: sql.execute("select count(*) from outbox where published_at is null").fetchone() == (0,),
                60,
                "the announcements to be published",
            )
        for args in (("fsck",), ("erase", event.sha256, "--yes"), ("dlq", "ls"), ("retention", "run")):
            headrace(operator, *args, "--json")
