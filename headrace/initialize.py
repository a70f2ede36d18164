import asyncio
from functools import partial

from headrace.gateway.auth.api_keys import Grant, add_given, authenticate, parse
from headrace.gateway.auth.principal import EVERYWHERE, Role
from headrace.runtime.errors import Exit, HeadraceError
from headrace.runtime.kafka import ensure_topics, wait_for_kafka
from headrace.runtime.logs import Action, get_log
from headrace.runtime.setting_names import variable
from headrace.runtime.settings import Settings
from headrace.runtime.wait_for_service import wait_for
from headrace.schemas.topics import wait_days_max
from headrace.store.blobs.blob_store import Blobs
from headrace.store.blobs.bucket import ensure_bucket
from headrace.store.blobs.store_url import StoreAccess
from headrace.store.installation import adopt
from headrace.store.logins import make_logins, passwords_of
from headrace.store.migrate import migrate
from headrace.store.postgres import opened_pool
from headrace.store.requests.access import Access
from headrace.store.roles import grant_roles


def initialize(settings: Settings, *, roles: bool = False) -> None:
    """Create missing topics, tables and buckets, and on request roles; may be repeated and run concurrently.

    Raises:
        HeadraceError: a service was unreachable for `start_wait_s_max` seconds, or refused a request; or staged bodies
            would be deleted before the message that claims them can be ingested.
    """
    required_days = wait_days_max(settings.spool_days_max)
    if settings.staging_retention_days < required_days:
        raise HeadraceError(
            "settings_contradict",
            f"staged bodies are deleted after {settings.staging_retention_days:g} days, while messages that claim them "
            f"may wait {required_days:g} days in a spool and in their topic",
            hint=f"set {variable('staging_retention_days')} to at least {required_days:g}, "
            f"or lower {variable('spool_days_max')}",
            exit_code=Exit.USAGE,
        )
    asyncio.run(_initialize(settings, roles=roles))


def initialize_topics(settings: Settings) -> None:
    """Create missing topics and nothing else, at a site that forwards what is published there; may be repeated.

    Raises:
        HeadraceError: Kafka was unreachable for `start_wait_s_max` seconds, or refused.
    """
    asyncio.run(_topics(settings))


async def _topics(settings: Settings) -> None:
    admin = await wait_for_kafka(settings)
    created = await asyncio.to_thread(ensure_topics, settings, admin)
    get_log().info(Action.TOPICS_CREATED, topics=created)


async def _initialize(settings: Settings, *, roles: bool) -> None:
    await _topics(settings)
    await _stores(settings)
    if roles:
        dsn = settings.postgres_dsn.get_secret_value()
        names = await grant_roles(dsn)
        logins = await asyncio.to_thread(make_logins, dsn, passwords_of(settings))
        get_log().info(Action.READY, service="postgres", roles=names, logins=logins)


async def _stores(settings: Settings) -> None:
    wait_s_max = settings.start_wait_s_max
    dsn = settings.postgres_dsn.get_secret_value()
    await wait_for("postgres", lambda: asyncio.to_thread(migrate, dsn), wait_s_max=wait_s_max)
    get_log().info(Action.MIGRATED)
    for url in (settings.store_url, settings.archive_url):
        if not (url.startswith("s3://") and settings.store_endpoint):
            continue
        await wait_for(
            "store",
            partial(ensure_bucket, url, StoreAccess.of(settings), staging_days=settings.staging_retention_days),
            wait_s_max=wait_s_max,
        )
    if settings.gateway_admin_key.get_secret_value():
        await add_admin_key(dsn, settings.gateway_admin_key.get_secret_value())
    blobs = Blobs.from_settings(settings)
    await wait_for("store", blobs.check, wait_s_max=wait_s_max)
    get_log().info(Action.READY, service="store")
    installation_id = await wait_for("kafka", lambda: adopt(settings, blobs), wait_s_max=wait_s_max)
    get_log().info(Action.READY, installation=str(installation_id))


async def add_admin_key(dsn: str, key: str) -> None:
    """Add the admin key of the settings; a key that was revoked or rotated stays so.

    Raises:
        HeadraceError: the key is malformed or weak.
    """
    parts = parse(key)
    if parts is None:
        raise _invalid_key("should have the form hr_<id>_<secret>")
    async with opened_pool(dsn, connections_max=1, statement_s_max=10.0, application="headrace init") as pool:
        access = Access(pool, dsn)
        try:
            added = await add_given(access, parts, Grant("admin", Role.ADMIN, [EVERYWHERE]), actor="init")
        except ValueError as error:
            raise _invalid_key(f"has a weak secret, which {error}") from None
        if not added and await authenticate(access, *parts) is None:
            get_log().warning(
                Action.REFUSED,
                code="key_exists",
                key_id=parts[0],
                why="the key was revoked or rotated, or has another secret; HEADRACE_GATEWAY_ADMIN_KEY changes nothing",
            )


def _invalid_key(what: str) -> HeadraceError:
    return HeadraceError(
        "setting_invalid",
        f"HEADRACE_GATEWAY_ADMIN_KEY {what}",
        hint="`headrace keys add` makes keys; a new admin key here needs an id of its own",
        exit_code=Exit.USAGE,
    )
