"""The import put together: sessions, logins, state and publisher, opened and closed around one run."""

import ssl
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp

from headrace.batch.fetch.pinned_connector import connector
from headrace.batch.platform.alerts import Alerts
from headrace.batch.platform.annotating import Annotations
from headrace.batch.platform.api import Api, PlatformLogin, RetryTimes
from headrace.batch.platform.credentials import Credentials
from headrace.batch.platform.run import Import, ImportOptions, ProgressBars, PublishFrame
from headrace.batch.platform.state import ImportState, state_path
from headrace.runtime.addresses import Network
from headrace.runtime.resolve import system_lookup


@dataclass(frozen=True, slots=True, kw_only=True)
class Between:
    """The two services; without `platform_url` only the annotation API is spoken to."""

    platform_url: str | None
    annotation_url: str
    credentials: Credentials
    networks: Sequence[Network] = ()  # beside the public internet, where pictures may be read from
    patience: RetryTimes = field(default_factory=RetryTimes)


@asynccontextmanager
async def opened(
    between: Between, options: ImportOptions, bars: ProgressBars, *, publish: PublishFrame | None, state_folder: Path
) -> AsyncIterator[Import]:
    """Give an import that is ready to run. A dry one writes nothing, so it needs neither state nor a way to publish.

    Raises:
        HeadraceError: an address is not usable, or another import between the two is running.
    """
    async with AsyncExitStack() as stack:
        session = await stack.enter_async_context(aiohttp.ClientSession())
        alerts = None
        if between.platform_url:
            # The platform names the addresses of pictures: it must not be able to name this network's own.
            checked = connector(between.networks, system_lookup, ssl.create_default_context())
            jar = aiohttp.DummyCookieJar()
            pictures = await stack.enter_async_context(aiohttp.ClientSession(connector=checked, cookie_jar=jar))
            alerts = _alerts(session, pictures, between, between.platform_url)
        annotations = None if options.dry_run and alerts else _annotations(session, between)
        state = None
        if alerts and between.platform_url and not options.dry_run:
            path = state_path(state_folder, between.platform_url, between.annotation_url)
            state = stack.enter_context(ImportState(path))
        yield Import(options, bars, alerts=alerts, annotations=annotations, publish=publish, state=state)


def _alerts(session: aiohttp.ClientSession, pictures: aiohttp.ClientSession, between: Between, url: str) -> Alerts:
    said = between.credentials
    regular = PlatformLogin(
        "/login/creds", said.login, said.password.get_secret_value(), "PLATFORM_LOGIN and PLATFORM_PASSWORD"
    )
    admin = PlatformLogin(
        "/login/creds",
        said.admin_login,
        said.admin_password.get_secret_value(),
        "PLATFORM_ADMIN_LOGIN and PLATFORM_ADMIN_PASSWORD",
    )
    return Alerts(
        Api(session, url, "platform", regular, between.patience, pictures=pictures),
        Api(session, url, "platform", admin, between.patience),
    )


def _annotations(session: aiohttp.ClientSession, between: Between) -> Annotations:
    said = between.credentials
    login = PlatformLogin(
        "/auth/login",
        said.annotation_login,
        said.annotation_password.get_secret_value(),
        "MAIN_ANNOTATION_LOGIN and MAIN_ANNOTATION_PASSWORD",
        as_json=True,
    )
    return Annotations(Api(session, between.annotation_url, "annotation API", login, between.patience))
