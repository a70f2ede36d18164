"""One of the APIs over HTTP: a login that is kept, faults that pass waited out, and answers that are what they claim.

A request that may not simply be repeated is given `settled`, which looks whether it took effect after all: an answer
can be lost on its way although the work was done.
"""

import asyncio
import errno
import os
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, TypeVar
from urllib.parse import urlsplit

import aiohttp
import orjson
from pydantic import TypeAdapter, ValidationError
from yarl import URL

from headrace.batch.fetch import url as web
from headrace.batch.fetch.errors import AddressRefusedError, ConnectionFailedError, UrlRefusedError
from headrace.batch.platform.entities import Entity, Unread
from headrace.runtime.backoff import Backoff
from headrace.runtime.errors import Exit, HeadraceError
from headrace.runtime.logs import Action, get_log
from headrace.schemas.limits import FRAME_BYTES_MAX, MIB

ANSWER_BYTES_MAX = 32 * MIB
DETAIL_CHARACTERS_MAX = 200
_PASSING = frozenset({HTTPStatus.BAD_GATEWAY, HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.GATEWAY_TIMEOUT})
_GOOD = range(200, 300)
_RETRY_DELAY_S_MAX = 60.0

T = TypeVar("T")
Row = TypeVar("Row", bound=Entity)


@dataclass(frozen=True, slots=True)
class RetryTimes:
    """How long faults that pass are waited out; each pause is twice the one before."""

    attempts_max: int = 4
    delay_s: float = 1.0
    answer_s_max: float = 60.0


@dataclass(frozen=True, slots=True)
class PlatformLogin:
    """How to log in: the body is a form or JSON, as the API has it; `names` are the variables that hold the login."""

    path: str
    username: str
    password: str
    names: str
    as_json: bool = False


@dataclass(frozen=True, slots=True)
class PlatformImage:
    """A file that goes with a form."""

    name: str
    media_type: str
    body: bytes


class PlatformApiError(HeadraceError):
    """An API refused, or answered with something else than its definition says. `status` is HTTP's, 0: none came."""

    def __init__(self, where: str, what: str, status: int = 0, hint: str = "") -> None:
        super().__init__("api_fault", what, where=where, hint=hint or "repeat the import; what is done is not repeated")
        self.status = status


class _Passing(Exception):  # noqa: N818 - what happened; it may pass
    """No answer, or one that says to come again."""


class Api:
    """One API as one user; `name` is what it is called in errors."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        url: str,
        name: str,
        login: PlatformLogin,
        patience: RetryTimes,
        *,
        pictures: aiohttp.ClientSession | None = None,
    ) -> None:
        """Speak to the API through a session; `pictures` reads what the API names, and goes only where it may."""
        self._session = session
        self._pictures = pictures or session
        self.url = checked_url(url, name)
        self._name = name
        self._login = login
        self._patience = patience
        self._token: str | None = None
        self._is_refused = False
        self._logging_in = asyncio.Lock()

    async def get(self, path: str, kind: type[T], **params: str | int) -> T:
        """Read something, checked to be of a kind."""
        return self.checked(path, kind, await self.request("GET", path, params=params))

    async def rows(self, path: str, kind: type[Row], **params: str | int) -> list[Row | Unread]:
        """Read a list; a row that is not of the kind spoils none of the others.

        Raises:
            ApiFault: it is no list, or a row does not even have an id.
        """
        return [self._row(path, kind, one) for one in await self.get(path, list[Any], **params)]

    async def request(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str | int] | None = None,
        form: Mapping[str, str] | None = None,
        picture: PlatformImage | None = None,
        body: Mapping[str, Any] | None = None,
        settled: Callable[[], Awaitable[Any]] | None = None,
    ) -> Any:
        """Send a request and return the JSON that was answered.

        Raises:
            ApiFault: it was refused, or there is no usable answer after all attempts.
            HeadraceError: the login was refused, or nobody answers at the address.
        """
        try:
            return await self._patiently(
                lambda: self._authorised(method, path, params, lambda: _payload(form, picture), body), settled
            )
        except _Passing as fault:
            attempts = self._patience.attempts_max
            what = f"{method} {path} has no answer after {attempts} attempts: {fault}"
            raise PlatformApiError(self.url, what) from None

    async def log_in(self) -> None:
        """Log in, once a run; what is sent later does it by itself where the login has ended."""
        await self._renew(None)

    async def picture(self, url: str) -> bytes:
        """Read a picture from an address that the API named, without showing it the login.

        Raises:
            ApiFault: it is not there, over FRAME_BYTES_MAX, or on a host that is neither public nor in a listed
                network; the address's query, which may be a key, is not shown.
        """
        try:
            target = web.parse(url)
        except UrlRefusedError as refused:
            raise PlatformApiError(
                self.url, f"the address of a picture is not one that is read: {refused.what}"
            ) from None
        where = _bare(target.text)
        # Encoded as it came: what is signed must not be written in another way.
        address = URL(target.text, encoded=True)
        try:
            status, content = await self._patiently(
                lambda: self._sent("GET", address, headers={}, bytes_max=FRAME_BYTES_MAX, session=self._pictures)
            )
        except AddressRefusedError:
            raise PlatformApiError(
                where,
                "the picture is not read: its host is neither public nor in a listed network",
                hint="if it is yours, list its network in HEADRACE_URL_NETWORKS",
            ) from None
        except _Passing as fault:
            raise PlatformApiError(where, f"the picture cannot be had: {fault}") from None
        if status != HTTPStatus.OK:
            raise PlatformApiError(where, f"the picture cannot be had: HTTP {status}", status)
        return content

    def checked(self, path: str, kind: type[T], answer: Any) -> T:
        """Return an answer as a kind.

        Raises:
            ApiFault: it is something else; the first field that is wrong is named, its value is not.
        """
        try:
            return TypeAdapter(kind).validate_python(answer)
        except ValidationError as error:
            raise PlatformApiError(self.url, _not_as_defined(path, error)) from None

    def _row(self, path: str, kind: type[Row], answer: Any) -> Row | Unread:
        try:
            return kind.model_validate(answer)
        except ValidationError as error:
            known = self.checked(path, Entity, answer)
            return Unread(id=known.id, why=_not_as_defined(path, error))

    async def _patiently(
        self, call: Callable[[], Awaitable[T]], settled: Callable[[], Awaitable[T | None]] | None = None
    ) -> T:
        """Repeat a call while its fault may pass; what it raises at last goes through."""
        for attempt in range(1, self._patience.attempts_max):
            try:
                return await call()
            except _Passing as fault:
                get_log().debug(Action.RETRYING, service=self._name, why=str(fault))
            await asyncio.sleep(Backoff(self._patience.delay_s, _RETRY_DELAY_S_MAX).delay_s(attempt))
            if settled is not None and (found := await settled()) is not None:
                return found
        return await call()

    async def _authorised(
        self,
        method: str,
        path: str,
        params: Mapping[str, str | int] | None,
        payload: Callable[[], aiohttp.FormData | None],
        body: Mapping[str, Any] | None,
    ) -> Any:
        for _ in range(2):
            used = self._token or await self._renew(None)
            status, content = await self._sent(
                method,
                f"{self.url}/api/v1{path}",
                headers={"Authorization": f"Bearer {used}"},
                params=params,
                data=payload(),
                json=body,
            )
            if status != HTTPStatus.UNAUTHORIZED:
                return self._answer(method, path, status, content)
            await self._renew(used)
        raise PlatformApiError(self.url, f"{method} {path} is not allowed to this login", status, hint=self._hint)

    async def _renew(self, used: str | None) -> str:
        """Log in, unless somebody else did so after `used` had ended."""
        async with self._logging_in:
            if self._is_refused:  # asking again and again would lock it
                raise self._refusal
            if self._token is None or self._token == used:
                self._token = await self._new_token()
            return self._token

    async def _new_token(self) -> str:
        login = self._login
        said = {"username": login.username, "password": login.password}
        payload: dict[str, Any] = {"json": said} if login.as_json else {"data": said}
        try:
            status, content = await self._patiently(
                lambda: self._sent("POST", f"{self.url}/api/v1{login.path}", headers={}, **payload)
            )
        except _Passing as fault:
            raise HeadraceError(
                f"{self._name.lower().replace(' ', '_')}_unreachable",
                f"the {self._name} does not answer: {fault}",
                where=self.url,
                hint="check the address, and try again",
                exit_code=Exit.UNREACHABLE,
            ) from None
        if status in {HTTPStatus.UNAUTHORIZED, HTTPStatus.BAD_REQUEST, HTTPStatus.FORBIDDEN}:
            self._is_refused = True
            raise self._refusal
        answer = self._answer("POST", login.path, status, content)
        if not isinstance(answer, dict) or not isinstance(answer.get("access_token"), str):
            raise PlatformApiError(self.url, f"POST {login.path} answered without an access token", status)
        return str(answer["access_token"])

    async def _sent(
        self,
        method: str,
        url: str | URL,
        *,
        headers: Mapping[str, str],
        bytes_max: int = ANSWER_BYTES_MAX,
        session: aiohttp.ClientSession | None = None,
        **payload: Any,
    ) -> tuple[int, bytes]:
        timeout = aiohttp.ClientTimeout(total=self._patience.answer_s_max)
        try:
            async with (session or self._session).request(
                method, url, headers=headers, timeout=timeout, allow_redirects=False, **payload
            ) as answer:
                if answer.status in _PASSING:
                    raise _Passing(f"HTTP {answer.status}")
                content = bytearray()
                async for chunk in answer.content.iter_any():
                    content += chunk
                    if len(content) > bytes_max:
                        raise PlatformApiError(_bare(str(url)), f"the answer is over {bytes_max} bytes", answer.status)
                return answer.status, bytes(content)
        except TimeoutError:
            raise _Passing(f"no answer within {self._patience.answer_s_max:g} s") from None
        except aiohttp.InvalidURL:
            raise PlatformApiError(_bare(str(url)), "the address is none") from None
        except ConnectionFailedError as fault:
            raise _Passing(fault.what) from None
        except (aiohttp.ClientError, OSError) as error:
            raise _Passing(_no_answer(error)) from None

    def _answer(self, method: str, path: str, status: int, content: bytes) -> Any:
        if status not in _GOOD:
            raise PlatformApiError(
                self.url, f"{method} {path} was answered with HTTP {status}{_detail(content)}", status
            )
        if not content:
            return None
        try:
            return orjson.loads(content)
        except orjson.JSONDecodeError:
            raise PlatformApiError(
                self.url, f"{method} {path} was answered with something that is no JSON", status
            ) from None

    @property
    def _refusal(self) -> HeadraceError:
        return HeadraceError("login_refused", f"the {self._name} refuses the login", where=self.url, hint=self._hint)

    @property
    def _hint(self) -> str:
        return f"check {self._login.names}"


def checked_url(url: str, name: str) -> str:
    """Return an API's address without a slash at its end.

    Raises:
        HeadraceError: it is none, or holds a login, which would be shown.
    """
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname or "@" in parts.netloc or parts.query:
        raise HeadraceError(
            "option_invalid",
            f"the address of the {name} is not usable",
            hint="give http://host:port or https://host, without a login",
            exit_code=Exit.USAGE,
        )
    return url.rstrip("/")


def _detail(content: bytes) -> str:
    """Return what an answer says, in one line; a page that a proxy made for people says nothing."""
    said = " ".join(content.decode("utf-8", "replace").split())
    return f": {said[:DETAIL_CHARACTERS_MAX]}" if said and not said.startswith("<") else ""


def _not_as_defined(path: str, error: ValidationError) -> str:
    first = error.errors(include_url=False, include_input=False)[0]
    field = ".".join(map(str, first["loc"])) or "the whole"
    return f"{path} was answered with something else than defined: {field}: {first['msg']}"


def _no_answer(error: aiohttp.ClientError | OSError) -> str:
    """Say why no answer came; the errors' own texts may hold an address with its query."""
    match error:
        case aiohttp.ClientConnectorDNSError():
            return "its name has no address"
        case aiohttp.ClientSSLError() | aiohttp.ClientConnectorCertificateError():
            return "its certificate is not trusted, or there is no common TLS"
        case aiohttp.ClientConnectorError():
            return f"there is no connection: {os.strerror(error.os_error.errno or errno.ECONNREFUSED)}"
        case aiohttp.ClientResponseError():
            return "the answer is not HTTP as it should be"
        case _:
            return "the connection was lost"


def _bare(url: str) -> str:
    return url.split("?", 1)[0]


def _payload(form: Mapping[str, str] | None, picture: PlatformImage | None) -> aiohttp.FormData | None:
    """Return a form anew for each attempt: it can only be sent once."""
    if form is None:
        return None
    data = aiohttp.FormData()
    for name, value in form.items():
        data.add_field(name, value)
    if picture is not None:
        data.add_field("file", picture.body, filename=picture.name, content_type=picture.media_type)
    return data
