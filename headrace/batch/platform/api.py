"""An HTTP client for either API: it logs in, retries transient errors, and validates answers.

A request that must not simply be repeated is given `find_applied`, which looks for its effect: an answer can be lost
after the API has done the work.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, TypeVar
from urllib.parse import urlsplit

import aiohttp
import orjson
from pydantic import TypeAdapter, ValidationError
from yarl import URL

from headrace.batch.fetch.errors import AddressRefusedError, ConnectionFailedError, UrlRefusedError
from headrace.batch.fetch.url import parse_url
from headrace.batch.platform.answers import describe_failure, describe_invalid, detail, without_query
from headrace.batch.platform.entities import ApiEntity, Entity, InvalidRow
from headrace.runtime.backoff import Backoff
from headrace.runtime.errors import Exit, HeadraceError
from headrace.runtime.logs import Action, get_log
from headrace.schemas.limits import FRAME_BYTES_MAX, MIB

ANSWER_BYTES_MAX = 32 * MIB
_TRANSIENT = frozenset({HTTPStatus.BAD_GATEWAY, HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.GATEWAY_TIMEOUT})
_SUCCESS = range(200, 300)

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class RequestPolicy:
    """How often a request is attempted, how long to wait in between, and how long one answer may take."""

    attempts_max: int = 4
    backoff: Backoff = field(default_factory=lambda: Backoff(first_s=1.0, max_s=60.0))
    answer_s_max: float = 60.0


@dataclass(frozen=True, slots=True)
class PlatformLogin:
    """How to log in: the API expects a form or JSON; `variables` names the variables that hold the credentials.

    An API whose login `is_optional` may have no such path.
    """

    path: str
    username: str
    password: str
    variables: str
    as_json: bool = False
    is_optional: bool = False


@dataclass(frozen=True, slots=True)
class ApiEndpoint:
    """An API's base URL, its name in errors, and the login to use."""

    url: str
    name: str
    login: PlatformLogin


@dataclass(frozen=True, slots=True)
class PlatformImage:
    """A file that is uploaded with a form."""

    name: str
    media_type: str
    body: bytes


@dataclass(frozen=True, slots=True)
class ApiRequest:
    """A request to a path of an API; `form` and `image` are multipart, `body` is JSON."""

    method: str
    path: str
    params: Mapping[str, str | int] | None = None
    form: Mapping[str, str] | None = None
    image: PlatformImage | None = None
    body: Mapping[str, Any] | None = None

    def __str__(self) -> str:
        """Return method and path, for errors."""
        return f"{self.method} {self.path}"

    def multipart(self) -> aiohttp.FormData | None:
        """Return the form for one attempt: aiohttp can send it only once."""
        if self.form is None:
            return None
        data = aiohttp.FormData()
        for name, value in self.form.items():
            data.add_field(name, value)
        if self.image is not None:
            data.add_field("file", self.image.body, filename=self.image.name, content_type=self.image.media_type)
        return data


class PlatformApiError(HeadraceError):
    """An API refused a request or answered with something unexpected. `status` is HTTP's, or 0 without an answer."""

    def __init__(self, where: str, what: str, status: int = 0, hint: str = "") -> None:
        hint = hint or "run the import again; it does not repeat what is done"
        super().__init__("api_fault", what, where=where, hint=hint)
        self.status = status


class _TransientError(Exception):
    """No answer came, or one that asks to retry."""


class ApiClient:
    """A client of one API with one login."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        endpoint: ApiEndpoint,
        policy: RequestPolicy,
        *,
        image_session: aiohttp.ClientSession | None = None,
    ) -> None:
        """`image_session` reads the URLs that the API names, so it must refuse addresses that are not allowed."""
        self._session = session
        self._image_session = image_session or session
        self.url = checked_url(endpoint.url, endpoint.name)
        self._name = endpoint.name
        self._login = endpoint.login
        self._policy = policy
        self._token: str | None = None
        self._is_refused = False
        self._login_lock = asyncio.Lock()

    async def get(self, path: str, kind: type[T], **params: str | int) -> T:
        """Read a path and validate the answer as `kind`."""
        return self.validated(path, kind, await self.request(ApiRequest("GET", path, params=params)))

    async def rows(self, path: str, kind: type[Entity], **params: str | int) -> list[Entity | InvalidRow]:
        """Read a list; an invalid row does not affect the others.

        Raises:
            PlatformApiError: the answer is not a list, or a row has no id.
        """
        return [self._row(path, kind, row) for row in await self.get(path, list[Any], **params)]

    async def request(self, request: ApiRequest, *, find_applied: Callable[[], Awaitable[Any]] | None = None) -> Any:
        """Send a request and return the JSON of the answer.

        Raises:
            PlatformApiError: the API refused it, or did not answer any attempt.
            HeadraceError: the login was refused, or the address is unreachable.
        """
        try:
            return await self._retry(lambda: self._send_authorised(request), find_applied)
        except _TransientError as error:
            what = f"{request} has no answer after {self._policy.attempts_max} attempts: {error}"
            raise PlatformApiError(self.url, what) from None

    async def log_in(self) -> None:
        """Log in; later requests renew the token by themselves.

        An API that has no login is used without a token.
        """
        await self._renew_token(None)

    async def image(self, url: str) -> bytes:
        """Read an image from a URL that the API named, without sending it the token.

        Raises:
            PlatformApiError: the image is missing or over FRAME_BYTES_MAX, or its host is neither public nor in a
                listed network. Errors omit the URL's query, which may hold a key.
        """
        try:
            target = parse_url(url)
        except UrlRefusedError as error:
            raise PlatformApiError(self.url, f"invalid image URL: {error.what}") from None
        where = without_query(target.text)
        # Already encoded: the signature of a presigned URL covers its exact spelling.
        address = URL(target.text, encoded=True)
        try:
            status, content = await self._retry(
                lambda: self._send("GET", address, headers={}, bytes_max=FRAME_BYTES_MAX, session=self._image_session)
            )
        except AddressRefusedError:
            raise PlatformApiError(
                where,
                "the image's host is neither public nor in a network listed in HEADRACE_URL_NETWORKS",
                hint="if the host is yours, list its network there",
            ) from None
        except _TransientError as error:
            raise PlatformApiError(where, f"cannot download the image: {error}") from None
        if status != HTTPStatus.OK:
            raise PlatformApiError(where, f"cannot download the image: HTTP {status}", status)
        return content

    def validated(self, path: str, kind: type[T], answer: Any) -> T:
        """Return an answer as `kind`.

        Raises:
            PlatformApiError: it is invalid; the error names the first invalid field, but not its value.
        """
        try:
            return TypeAdapter(kind).validate_python(answer)
        except ValidationError as error:
            raise PlatformApiError(self.url, describe_invalid(path, error)) from None

    def _row(self, path: str, kind: type[Entity], row: Any) -> Entity | InvalidRow:
        try:
            return kind.model_validate(row)
        except ValidationError as error:
            known = self.validated(path, ApiEntity, row)
            return InvalidRow(id=known.id, reason=describe_invalid(path, error))

    async def _retry(
        self, call: Callable[[], Awaitable[T]], find_applied: Callable[[], Awaitable[T | None]] | None = None
    ) -> T:
        """Repeat a call while its error is transient; the last attempt's error is raised."""
        for attempt in range(1, self._policy.attempts_max):
            try:
                return await call()
            except _TransientError as error:
                get_log().debug(Action.RETRYING, service=self._name, why=str(error))
            await asyncio.sleep(self._policy.backoff.delay_s(attempt))
            if find_applied is not None and (applied := await find_applied()) is not None:
                return applied
        return await call()

    async def _send_authorised(self, request: ApiRequest) -> Any:
        for _ in range(2):
            token = await self._renew_token(None) if self._token is None else self._token
            status, content = await self._send(
                request.method,
                f"{self.url}/api/v1{request.path}",
                headers={"Authorization": f"Bearer {token}"} if token else {},
                params=request.params,
                data=request.multipart(),
                json=request.body,
            )
            if status == HTTPStatus.FORBIDDEN:
                what = f"{self._login.variables} may not {request}: HTTP 403{detail(content)}"
                raise PlatformApiError(self.url, what, status, hint=self._login_hint)
            if status != HTTPStatus.UNAUTHORIZED:
                return self._decoded(str(request), status, content)
            await self._renew_token(token)
        raise PlatformApiError(self.url, f"this login may not {request}", status, hint=self._login_hint)

    async def _renew_token(self, expired: str | None) -> str:
        """Log in, unless another request has already replaced the expired token."""
        async with self._login_lock:
            if self._is_refused:  # repeated attempts could lock the account
                raise self._login_refused
            if self._token is None or self._token == expired:
                self._token = await self._new_token()
            return self._token

    async def _new_token(self) -> str:
        login = self._login
        credentials = {"username": login.username, "password": login.password}
        payload: dict[str, Any] = {"json": credentials} if login.as_json else {"data": credentials}
        try:
            status, content = await self._retry(
                lambda: self._send("POST", f"{self.url}/api/v1{login.path}", headers={}, **payload)
            )
        except _TransientError as error:
            raise HeadraceError(
                f"{self._name.lower().replace(' ', '_')}_unreachable",
                f"the {self._name} does not answer: {error}",
                where=self.url,
                hint="check the address and try again",
                exit_code=Exit.UNREACHABLE,
            ) from None
        if status == HTTPStatus.NOT_FOUND and login.is_optional:
            get_log().info(Action.PASSED_OVER, what=f"{self._name} {login.path}", why="the API has no login")
            return ""
        if status in {HTTPStatus.UNAUTHORIZED, HTTPStatus.BAD_REQUEST, HTTPStatus.FORBIDDEN}:
            self._is_refused = True
            raise self._login_refused
        answer = self._decoded(f"POST {login.path}", status, content)
        if not isinstance(answer, dict) or not isinstance(answer.get("access_token"), str):
            raise PlatformApiError(self.url, f"POST {login.path} returned no access token", status)
        return str(answer["access_token"])

    async def _send(
        self,
        method: str,
        url: str | URL,
        *,
        bytes_max: int = ANSWER_BYTES_MAX,
        session: aiohttp.ClientSession | None = None,
        **options: Any,
    ) -> tuple[int, bytes]:
        timeout = aiohttp.ClientTimeout(total=self._policy.answer_s_max)
        began = time.monotonic()
        try:
            async with (session or self._session).request(
                method, url, timeout=timeout, allow_redirects=False, **options
            ) as answer:
                if answer.status in _TRANSIENT:
                    raise _TransientError(f"HTTP {answer.status}")
                content = bytearray()
                async for chunk in answer.content.iter_any():
                    content += chunk
                    if len(content) > bytes_max:
                        what = f"the answer is larger than {bytes_max} bytes"
                        raise PlatformApiError(without_query(str(url)), what, answer.status)
                get_log().debug(
                    Action.ANSWERED,
                    service=self._name,
                    request=f"{method} {without_query(str(url))}",
                    params=options.get("params"),
                    body=_loggable(options),
                    status=answer.status,
                    bytes=len(content),
                    seconds=round(time.monotonic() - began, 3),
                )
                return answer.status, bytes(content)
        except TimeoutError:
            raise _TransientError(f"no answer within {self._policy.answer_s_max:g} s") from None
        except aiohttp.InvalidURL:
            raise PlatformApiError(without_query(str(url)), "invalid URL") from None
        except ConnectionFailedError as error:
            raise _TransientError(error.what) from None
        except (aiohttp.ClientError, OSError) as error:
            raise _TransientError(describe_failure(error)) from None

    def _decoded(self, request: str, status: int, content: bytes) -> Any:
        if status not in _SUCCESS:
            raise PlatformApiError(self.url, f"{request} failed with HTTP {status}{detail(content)}", status)
        if not content:
            return None
        try:
            return orjson.loads(content)
        except orjson.JSONDecodeError:
            raise PlatformApiError(self.url, f"{request} returned a body that is not JSON", status) from None

    @property
    def _login_refused(self) -> HeadraceError:
        what = f"the {self._name} refuses the login"
        return HeadraceError("login_refused", what, where=self.url, hint=self._login_hint)

    @property
    def _login_hint(self) -> str:
        return f"check {self._login.variables}"


def checked_url(url: str, name: str) -> str:
    """Return an API's base URL without a trailing slash.

    Raises:
        HeadraceError: it is invalid, or holds credentials, which errors would show.
    """
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname or "@" in parts.netloc or parts.query:
        raise HeadraceError(
            "option_invalid",
            f"the URL of the {name} is invalid",
            hint="use http://host:port or https://host, without credentials",
            exit_code=Exit.USAGE,
        )
    return url.rstrip("/")


def _loggable(options: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the JSON of a request without the key of a presigned URL; that of a login has secrets."""
    body = options.get("json")
    if not body or "password" in body:
        return None
    return {name: without_query(value) if name == "source_url" else value for name, value in body.items()}
