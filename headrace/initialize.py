import asyncio
from functools import partial

from headrace.gateway.auth.api_keys import parse, put
from headrace.gateway.auth.principal import EVERYWHERE, Role
from headrace.runtime.errors import Exit, HeadraceError
from headrace.runtime.kafka import ensure_topics, wait_for_kafka
from headrace.runtime.logs import Action, get_log
from headrace.runtime.settings import Settings
from headrace.runtime.wait_for_service import wait_for
from headrace.store.blobs.blob_store import Blobs
from headrace.store.blobs.bucket import ensure_bucket
from headrace.store.migrate import migrate
from headrace.store.postgres import opened_pool
from headrace.store.requests.access import Access


def initialize(settings: Settings) -> None:
    """Create missing topics, tables and buckets; may be repeated and run concurrently.

    Raises:
        HeadraceError: a service was unreachable for `start_wait_s_max` seconds, or refused a request.
    """
    asyncio.run(_initialize(settings))


async def _initialize(settings: Settings) -> None:
    admin = await wait_for_kafka(settings)
    created = await asyncio.to_thread(ensure_topics, settings, admin)
    get_log().info(Action.TOPICS_CREATED, topics=created)
    await _stores(settings)


async def _stores(settings: Settings) -> None:
    wait_s_max = settings.start_wait_s_max
    dsn = settings.postgres_dsn.get_secret_value()
    await wait_for("postgres", lambda: asyncio.to_thread(migrate, dsn), wait_s_max=wait_s_max)
    get_log().info(Action.MIGRATED)
    keys = (settings.store_access_key.get_secret_value(), settings.store_secret_key.get_secret_value())
    for url in (settings.store_url, settings.archive_url):
        if not (url.startswith("s3://") and settings.store_endpoint):
            continue
        await wait_for(
            "store",
            partial(
                ensure_bucket,
                url,
                endpoint=settings.store_endpoint,
                region=settings.store_region,
                keys=keys,
                staging_days=settings.staging_retention_days,
            ),
            wait_s_max=wait_s_max,
        )
    if settings.gateway_admin_key.get_secret_value():
        await _admin_key(dsn, settings.gateway_admin_key.get_secret_value())
    blobs = Blobs.from_settings(settings)
    await wait_for("store", blobs.check, wait_s_max=wait_s_max)
    get_log().info(Action.READY, service="store")


async def _admin_key(dsn: str, key: str) -> None:
    parts = parse(key)
    if parts is None:
        raise HeadraceError(
            "setting_invalid",
            "HEADRACE_GATEWAY_ADMIN_KEY is not a valid key",
            hint="use the form hr_<id>_<secret>, with a secret of 32 characters or more",
            exit_code=Exit.USAGE,
        )
    async with opened_pool(dsn, connections_max=1, statement_s_max=10.0, application="headrace init") as pool:
        await put(Access(pool, dsn), *parts, ("admin", Role.ADMIN, [EVERYWHERE]), None)
