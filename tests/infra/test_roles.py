"""Each process does its work as a member of its PostgreSQL role, and the role may do nothing else."""

import asyncio
import secrets
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from uuid import uuid4

import psycopg
import pytest
from pydantic import SecretStr

from headrace.initialize import initialize
from headrace.runtime.errors import HeadraceError
from headrace.runtime.settings import Settings
from headrace.schemas.digest import derived_prefix, record_id, sha256_hex
from headrace.schemas.events import Frame, Kind
from headrace.schemas.limits import INLINE_BYTES_MAX, MIB
from headrace.store import roles
from headrace.store.blobs.blob_store import Blobs
from headrace.store.catalog.exports import Exports
from headrace.store.catalog.sessions import try_leader_lock
from headrace.store.logins import PASSWORD_SETTINGS, login_of, make_logins
from headrace.store.roles import OPERATOR, PRIVILEGES, grant_roles
from headrace.streams.consumers.app import CONSUMERS
from tests.batch.batch_samples import frame
from tests.commands import headrace
from tests.consumer_groups import skip_backlog
from tests.gateway.gateway_world import Gateway, picture
from tests.infra.store_users import StoreUsers
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


@contextmanager
def made_logins(settings: Settings) -> Iterator[Mapping[str, Settings]]:
    """Settings with the login of each role, which `headrace init --roles` makes with passwords of the settings."""
    passwords = {name: SecretStr(secrets.token_hex(8)) for name in PASSWORD_SETTINGS.values()}
    owner = settings.postgres_dsn.get_secret_value()
    place = owner.rpartition("@")[2]
    database = place.rpartition("/")[2]
    try:
        initialize(settings.model_copy(update=passwords), roles=True)
        yield {
            role: settings.model_copy(
                update={
                    "postgres_dsn": SecretStr(
                        f"postgresql://{login_of(database, role)}:{passwords[name].get_secret_value()}@{place}"
                    )
                }
            )
            for role, name in PASSWORD_SETTINGS.items()
        }
    finally:
        drop_logins(owner, [login_of(database, role) for role in PASSWORD_SETTINGS])


def drop_logins(owner: str, logins: list[str]) -> None:
    with psycopg.connect(owner, autocommit=True) as sql:
        for login in logins:
            if sql.execute("select from pg_roles where rolname = %s", [login]).fetchone() is not None:
                sql.execute(f"drop owned by {login}")  # type: ignore[call-overload]
                sql.execute(f"drop role {login}")  # type: ignore[call-overload]


def test_a_login_has_only_its_role_and_a_changed_password_counts_after_the_next_run(settings: Settings) -> None:
    owner = settings.postgres_dsn.get_secret_value()
    asyncio.run(grant_roles(owner))
    place = owner.rpartition("@")[2]
    login = login_of(place.rpartition("/")[2], "headrace_relay")

    def logged_in(password: str) -> bool:
        refusals = []
        try:
            with psycopg.connect(f"postgresql://{login}:{password}@{place}") as sql:
                member_of = sql.execute(
                    "select array_agg(roleid::regrole::text), bool_or(rolsuper or rolcreaterole or rolcreatedb)"
                    " from pg_auth_members join pg_roles on pg_roles.oid = member where rolname = current_user"
                ).fetchone()
                assert member_of == (["headrace_relay"], False)
                sql.execute("select count(*) from outbox")
        except psycopg.OperationalError as error:
            refusals.append(str(error))
        assert all("password authentication failed" in refusal for refusal in refusals)
        return not refusals

    try:
        assert make_logins(owner, {"headrace_relay": "first'one"}) == [login]
        assert make_logins(owner, {"headrace_relay": "first'one"}) == [login]
        assert logged_in("first'one")
        make_logins(owner, {"headrace_relay": "second"})
        assert (logged_in("first'one"), logged_in("second")) == (False, True)
    finally:
        drop_logins(owner, [login])


def test_who_may_not_make_logins_is_told_and_no_password_is_shown(settings: Settings) -> None:
    asyncio.run(grant_roles(settings.postgres_dsn.get_secret_value()))
    with logged_in_as(settings, OPERATOR) as (operator,), pytest.raises(HeadraceError) as caught:
        make_logins(operator.postgres_dsn.get_secret_value(), {"headrace_relay": "canary-password"})
    assert caught.value.code == "postgres_refused"
    assert "42501" in caught.value.what
    assert "canary" not in str(caught.value)


def test_every_role_has_a_login_with_a_setting_for_its_password() -> None:
    assert set(PASSWORD_SETTINGS) == {*PRIVILEGES, OPERATOR}


@pytest.mark.server
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_each_process_works_under_its_login_and_its_key(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "users").mkdir()
    keys = StoreUsers.make(settings, tmp_path / "users")
    skip_backlog(settings)
    event, sent, staged = seen(), seen(), frame(uuid4().hex + "x" * (INLINE_BYTES_MAX + MIB))
    with ExitStack() as stack:
        logins = stack.enter_context(made_logins(keys.as_user("init")))
        processes: list[ServiceProcess] = []
        worker, relay, gateway, capture, operator = (
            keys.as_user(role.removeprefix("headrace_"), logins[role]) for role in PASSWORD_SETTINGS
        )
        for user, *args in (
            (worker, "worker", "--kinds", "frames,clips"),
            (relay, "relay"),
            (capture, "capture"),
            (operator, "maintenance"),
            *((keys.as_user(name, without_catalog(settings)), "consumer", name) for name in CONSUMERS),
        ):
            process = ServiceProcess(user, *args, log=tmp_path / args[-1], gateway_seal_secret="")
            stack.callback(process.stop)
            processes.append(process.wait_ready())
        with closing(World(settings)) as world:
            world.send(event)
        answering = stack.enter_context(Gateway(gateway, tmp_path / "gateway"))
        answering.settings = settings  # keys are not made by a gateway
        with answering.client("operator") as client:
            form = {"source_id": "camera-1", "site": "plant"}
            for uploaded in (sent, staged):
                answer = client.post("/ingest", data=form, files={"file": ("a.png", uploaded.body, "image/png")})
                assert answer.status_code < 300, answer.text
            expected = {str(record_id(Kind.FRAME, given.sha256)) for given in (event, sent, staged)}

            def are_listed() -> bool:
                return expected <= {item["record_id"] for item in client.get("/api/v1/records").json()["records"]}

            until(are_listed, 60, "the records to be listed")
            for whole in (event, staged):
                blob = client.get(f"/api/v1/blobs/{whole.sha256}", follow_redirects=True)
                assert blob.content == whole.body
        with psycopg.connect(settings.postgres_dsn.get_secret_value(), autocommit=True) as sql:
            until(
                lambda: sql.execute("select count(*) from outbox where published_at is null").fetchone() == (0,),
                60,
                "the announcements to be published",
            )
        blobs = Blobs.from_settings(settings)
        record = record_id(Kind.FRAME, event.sha256)
        until(lambda: asyncio.run(keys_below(blobs, derived_prefix(record))), 60, "the thumbnail")
        assert not asyncio.run(keys_below(blobs, f"staging/{staged.site}/{staged.source_id}/"))
        for args in (("fsck",), ("erase", event.sha256, "--yes"), ("dlq", "ls"), ("retention", "run")):
            headrace(operator, *args, "--json")
        assert [process.stop() for process in processes] == [0] * len(processes), "each drains when it is told to stop"


def seen() -> Frame:
    """A frame that the consumers can decode."""
    body = picture(form=".png")
    return frame("", body=body, sha256=sha256_hex(body), size_bytes=len(body), width=64, height=48)


def without_catalog(settings: Settings) -> Settings:
    return settings.model_copy(update={"postgres_dsn": SecretStr("postgresql://nobody@127.0.0.1:1/none")})


async def keys_below(blobs: Blobs, prefix: str) -> list[str]:
    return [stat.key async for stat in blobs.list(prefix)]
