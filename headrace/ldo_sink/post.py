"""The service that LDOs are sent to: one request at a time, each with a time limit."""

import base64
import http.client
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from headrace.ldo_sink.spool import boundary_of

ANSWER_S_MAX = 30.0  # for each read and write; the gateway answers within 10 s, durable or not
_ANSWER_BYTES_MAX = 500  # of it goes to the log


@dataclass(frozen=True, slots=True)
class Answer:
    """What the service said; `said` is the beginning of it."""

    status: int
    retry_after: str | None
    said: str


class LdoService:
    """`http(s)://[user:password@]host[:port][/path]`, as DATA_INGESTION_URL has it; credentials go as HTTP Basic."""

    def __init__(self, url: str) -> None:
        """Read the address; nothing is sent yet.

        Raises:
            ValueError: it is none.
        """
        parts = urlsplit(url)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise ValueError("it should be http://host:port or https://host")
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
        """Send a spooled LDO; a repetition has the same idempotency key, so it is taken once.

        Raises:
            OSError, http.client.HTTPException: there is no answer.
        """
        boundary = boundary_of(path)
        kind = http.client.HTTPSConnection if self._is_secure else http.client.HTTPConnection
        connection = kind(self._host, self._port, timeout=ANSWER_S_MAX)
        try:
            # Who refuses a large video may close the connection before all of it is there, and has answered.
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
            said = answer.read(_ANSWER_BYTES_MAX).decode(errors="replace")
            return Answer(answer.status, answer.getheader("Retry-After"), said)
        finally:
            connection.close()
