"""What each host's robots.txt says (RFC 9309), read once and kept."""

import asyncio
from collections.abc import Awaitable, Callable

from protego import Protego

from headrace.batch.fetch.errors import HttpStatusError, OptedOutError, TooLargeError
from headrace.batch.fetch.opt_out import token_of
from headrace.batch.fetch.policy import CRAWL_DELAY_S_MAX
from headrace.batch.fetch.url import WebUrl

_HOSTS_KEPT = 1000


class Robots:
    """Asks for each origin's robots.txt at its first URL; `read` fetches one and raises as a fetch does."""

    def __init__(self, agent: str, read: Callable[[str], Awaitable[bytes]]) -> None:
        self._token = token_of(agent)
        self._read = read
        self._known: dict[str, asyncio.Task[Protego]] = {}

    async def check(self, target: WebUrl) -> float:
        """Return how many seconds the host wants between requests.

        Raises:
            OptedOut: the host does not want this URL fetched.
            IngestError: its robots.txt cannot be had just now. Then RFC 9309 has us stay away.
        """
        rules = await self._rules(target.origin)
        if not rules.can_fetch(target.text, self._token):
            raise OptedOutError("the host's robots.txt asks programs not to fetch it", where=target.origin)
        return min(rules.crawl_delay(self._token) or 0.0, CRAWL_DELAY_S_MAX)

    async def _rules(self, origin: str) -> Protego:
        # A task, so that many URLs of one host wait for one request, and one that is given up does not end it.
        task = self._known.get(origin)
        if task is None:
            while len(self._known) >= _HOSTS_KEPT:
                del self._known[next(iter(self._known))]
            task = self._known[origin] = asyncio.ensure_future(self._parsed(origin))
            task.add_done_callback(lambda done: self._drop_failed(origin, done))
        return await asyncio.shield(task)

    def _drop_failed(self, origin: str, done: "asyncio.Task[Protego]") -> None:
        if (done.cancelled() or done.exception() is not None) and self._known.get(origin) is done:
            del self._known[origin]

    async def _parsed(self, origin: str) -> Protego:
        try:
            text = await self._read(origin)
        except HttpStatusError as error:
            if error.status == 429 or error.status >= 500:
                raise
            text = b""  # there is none, so there is nothing that is not wanted
        except TooLargeError:
            raise OptedOutError("the host's robots.txt is too large to be read", where=origin) from None
        return await asyncio.to_thread(Protego.parse, text.decode(errors="replace"))
