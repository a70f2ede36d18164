"""Composes an import from its endpoints: credentials, HTTP sessions, state file and publisher."""

import ssl
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp
from pydantic import AliasChoices, Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from headrace.batch.fetch.pinned_connector import create_connector
from headrace.batch.platform.alerts import AlertApi
from headrace.batch.platform.annotations import AnnotationApi
from headrace.batch.platform.api import ApiClient, ApiEndpoint, PlatformLogin, RequestPolicy
from headrace.batch.platform.options import ImportDeps, ImportOptions, ProgressBars, PublishFrame
from headrace.batch.platform.run import ImportRun
from headrace.batch.platform.state import ImportState, state_path
from headrace.runtime.addresses import Network, system_lookup
from headrace.runtime.errors import Exit, HeadraceError
from headrace.runtime.settings import ENV_FILE


class PlatformCredentials(BaseSettings):
    """The logins, from the environment or `.env`, under the names of either generation.

    The annotation API's defaults are those of its own distribution.
    """

    model_config = SettingsConfigDict(env_file=ENV_FILE, extra="ignore", frozen=True)

    login: str = Field("", validation_alias=AliasChoices("PLATFORM_LOGIN", "ALERT_API_LOGIN"))
    password: SecretStr = Field(SecretStr(""), validation_alias=AliasChoices("PLATFORM_PASSWORD", "ALERT_API_PASSWORD"))
    admin_login: str = Field("", validation_alias=AliasChoices("PLATFORM_ADMIN_LOGIN", "ALERT_API_ADMIN_LOGIN"))
    admin_password: SecretStr = Field(
        SecretStr(""), validation_alias=AliasChoices("PLATFORM_ADMIN_PASSWORD", "ALERT_API_ADMIN_PASSWORD")
    )
    annotation_login: str = Field("admin", validation_alias=AliasChoices("MAIN_ANNOTATION_LOGIN", "ANNOTATOR_LOGIN"))
    annotation_password: SecretStr = Field(
        SecretStr("admin12345"), validation_alias=AliasChoices("MAIN_ANNOTATION_PASSWORD", "ANNOTATOR_PASSWORD")
    )
    local_annotation_login: str = Field(
        "admin", validation_alias=AliasChoices("LOCAL_ANNOTATION_LOGIN", "ANNOTATOR_LOGIN")
    )
    local_annotation_password: SecretStr = Field(
        SecretStr("admin12345"), validation_alias=AliasChoices("LOCAL_ANNOTATION_PASSWORD", "ANNOTATOR_PASSWORD")
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportEndpoints:
    """The two APIs; without `platform_url` the import uses only the annotation API."""

    platform_url: str | None
    annotation_url: str
    credentials: PlatformCredentials
    networks: Sequence[Network] = ()  # private networks that images may be read from
    policy: RequestPolicy = field(default_factory=RequestPolicy)


def load_credentials(*, platform_needed: bool) -> PlatformCredentials:
    """Read the logins.

    Raises:
        HeadraceError: a login of the platform is missing although the platform is needed; it names the variables.
    """
    credentials = PlatformCredentials()
    values = {
        "PLATFORM_LOGIN": credentials.login,
        "PLATFORM_PASSWORD": credentials.password.get_secret_value(),
        "PLATFORM_ADMIN_LOGIN": credentials.admin_login,
        "PLATFORM_ADMIN_PASSWORD": credentials.admin_password.get_secret_value(),
    }
    missing = [name for name, value in values.items() if not value]
    if platform_needed and missing:
        raise HeadraceError(
            "platform_credentials_missing",
            f"Missing platform credentials: {', '.join(missing)}",
            hint="set them in the environment or in .env",
            exit_code=Exit.USAGE,
        )
    return credentials


@asynccontextmanager
async def open_import(
    endpoints: ImportEndpoints,
    options: ImportOptions,
    bars: ProgressBars,
    *,
    publish: PublishFrame | None,
    state_folder: Path,
) -> AsyncIterator[ImportRun]:
    """Open an import that is ready to run; a dry run writes nothing, so it needs neither state nor `publish`.

    Raises:
        HeadraceError: a URL is invalid, or another import between the two APIs is running.
    """
    async with AsyncExitStack() as stack:
        session = await stack.enter_async_context(aiohttp.ClientSession())
        alerts = None
        if endpoints.platform_url:
            # The platform names the URLs of images, so they must not reach into a private network.
            connector = create_connector(endpoints.networks, system_lookup, ssl.create_default_context())
            jar = aiohttp.DummyCookieJar()
            image_session = aiohttp.ClientSession(connector=connector, cookie_jar=jar)
            alerts = _alert_api(
                session, await stack.enter_async_context(image_session), endpoints, endpoints.platform_url
            )
        annotations = _annotation_api(session, endpoints)
        state = None
        if alerts and endpoints.platform_url and not options.dry_run:
            path = state_path(state_folder, endpoints.platform_url, endpoints.annotation_url)
            state = stack.enter_context(ImportState(path))
        yield ImportRun(options, ImportDeps(alerts, annotations, publish, state), bars)


def _alert_api(
    session: aiohttp.ClientSession, image_session: aiohttp.ClientSession, endpoints: ImportEndpoints, url: str
) -> AlertApi:
    credentials = endpoints.credentials
    regular = PlatformLogin(
        "/login/creds",
        credentials.login,
        credentials.password.get_secret_value(),
        "PLATFORM_LOGIN and PLATFORM_PASSWORD",
    )
    admin = PlatformLogin(
        "/login/creds",
        credentials.admin_login,
        credentials.admin_password.get_secret_value(),
        "PLATFORM_ADMIN_LOGIN and PLATFORM_ADMIN_PASSWORD",
    )
    return AlertApi(
        ApiClient(session, ApiEndpoint(url, "platform", regular), endpoints.policy, image_session=image_session),
        ApiClient(session, ApiEndpoint(url, "platform", admin), endpoints.policy),
    )


def _annotation_api(session: aiohttp.ClientSession, endpoints: ImportEndpoints) -> AnnotationApi:
    login = annotation_login(endpoints.annotation_url, endpoints.credentials)
    endpoint = ApiEndpoint(endpoints.annotation_url, "annotation API", login)
    return AnnotationApi(ApiClient(session, endpoint, endpoints.policy))


def annotation_login(url: str, credentials: PlatformCredentials) -> PlatformLogin:
    """Return the login of the annotation API at this URL; the main one is never sent to this machine."""
    prefix, name, password = "MAIN", credentials.annotation_login, credentials.annotation_password
    if _is_local(url):
        prefix = "LOCAL"
        name, password = credentials.local_annotation_login, credentials.local_annotation_password
    return PlatformLogin(
        "/auth/login",
        name,
        password.get_secret_value(),
        f"{prefix}_ANNOTATION_LOGIN and {prefix}_ANNOTATION_PASSWORD",
        as_json=True,
        is_optional=True,
    )


def _is_local(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")
