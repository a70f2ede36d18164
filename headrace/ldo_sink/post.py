"""The HTTP client of the service: one request at a time, each with a timeout."""

import base64
import http.client
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from headrace.ldo_sink.spool import boundary_of

ANSWER_S_MAX = 30.0  # timeout of each read and write; the gateway answers within 10 s
_ANSWER_BYTES_MAX = 500  # of a response body that are logged


@dataclass(frozen=True, slots=True)
class Answer:
    """The service's response; `body` is the beginning of its body."""

    status: int
    retry_after: str | None
    body: str


class LdoService:
    """The service at `http(s)://[user:password@]host[:port][/path]`; credentials are sent as HTTP Basic."""

    def __init__(self, url: str) -> None:
        """Parse the URL; nothing is sent yet.

        Raises:
            ValueError: it is not a usable URL.
        """
        parts = urlsplit(url)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise ValueError("it must be http://host:port or https://host")
        self._host, self._port = parts.hostname, parts.port
        self._is_secure = parts.scheme == "https"
        self._path = parts.path.rstrip("/") + "/ingest/ldo"
        named = f"[{self._host}]" if ":" in self._host else self._host
        self.where = f"{parts.scheme}://{named}" + (f":{self._port}" if self._port else "")
        self._login: dict[str, str] = {}
        if parts.username is not None:
            login = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
            self._login = {"Authorization": f"Basic {base64.b64encode(login.encode()).decode()}"}

    def post(self, path: Path) -> Answer:
        """Send a spooled LDO; a retry has the same idempotency key, so it is accepted once.

        Raises:
            OSError, http.client.HTTPException: there is no response.
        """
        boundary = boundary_of(path)
        kind = http.client.HTTPSConnection if self._is_secure else http.client.HTTPConnection
        connection = kind(self._host, self._port, timeout=ANSWER_S_MAX)
        try:
            # A service may reject a large video and close the connection before it has read all of it.
            with path.open("rb") as body, suppress(BrokenPipeError, ConnectionResetError):
                connection.request(
                    "POST",
                    self._path,
                    body,
                    {
                        "Content-Type": f"multipart/form-data; boundary={boundary}",
                        "Content-Length": str(path.stat().st_size),
                        "Idempotency-Key": boundary,
                        **self._login,
                    },
                )
            answer = connection.getresponse()
            beginning = answer.read(_ANSWER_BYTES_MAX).decode(errors="replace")
            return Answer(answer.status, answer.getheader("Retry-After"), beginning)
        finally:
            connection.close()
