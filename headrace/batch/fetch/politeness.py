"""What a fetcher owes a host: a rate limit, its robots.txt (RFC 9309), and the opt-out headers of its answers.

`tdm-reservation: 1` is the W3C community group's TDM Reservation Protocol; `noai` and `noimageai` are values of
X-Robots-Tag that image hosts send.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from protego import Protego

from headrace.batch.fetch.errors import HttpStatusError, OptedOutError, TooLargeError
from headrace.batch.fetch.policy import CRAWL_DELAY_S_MAX
from headrace.batch.fetch.url import WebUrl

_HOSTS_KEPT = 1000
_OPT_OUT_RULES = frozenset({"noai", "noimageai"})


@dataclass(slots=True)
class _HostState:
    slots: asyncio.Semaphore
    next_start_s: float = 0.0
    users: int = 0


class HostRateLimit:
    """Limits the concurrent requests to each host and the interval between their starts.

    The state of an idle host is dropped once its interval is over.
    """

    def __init__(
        self,
        requests_max: int,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._requests_max = requests_max
        self._clock = clock
        self._sleep = sleep
        self._hosts: dict[str, _HostState] = {}

    @asynccontextmanager
    async def slot(self, host: str, interval_s: float) -> AsyncIterator[None]:
        """Wait for a slot and hold it; the next request starts `interval_s` seconds after this one at the earliest."""
        self._drop_idle()
        state = self._hosts.setdefault(host, _HostState(asyncio.Semaphore(self._requests_max)))
        state.users += 1
        try:
            async with state.slots:
                now_s = self._clock()
                start_s = max(now_s, state.next_start_s)
                state.next_start_s = start_s + interval_s
                await self._sleep(start_s - now_s)
                yield
        finally:
            state.users -= 1

    def _drop_idle(self) -> None:
        if len(self._hosts) < _HOSTS_KEPT:
            return
        now_s = self._clock()
        idle = [host for host, state in self._hosts.items() if not state.users and state.next_start_s <= now_s]
        for host in idle:
            del self._hosts[host]


class RobotsTxt:
    """Reads the robots.txt of each origin once; `read` fetches one and raises as a fetch does."""

    def __init__(self, agent: str, read: Callable[[str], Awaitable[bytes]]) -> None:
        self._token = agent_token(agent)
        self._read = read
        self._rules_by_origin: dict[str, asyncio.Task[Protego]] = {}

    async def check(self, target: WebUrl) -> float:
        """Return the seconds that the host asks for between requests.

        Raises:
            OptedOutError: robots.txt disallows this URL.
            IngestError: robots.txt is temporarily unavailable, which RFC 9309 treats as disallowing everything.
        """
        rules = await self._rules(target.origin)
        if not rules.can_fetch(target.text, self._token):
            raise OptedOutError("the host's robots.txt disallows this URL", where=target.origin)
        return min(rules.crawl_delay(self._token) or 0.0, CRAWL_DELAY_S_MAX)

    async def _rules(self, origin: str) -> Protego:
        # A shared task, so that many URLs of one host wait for one request, and cancelling one does not cancel it.
        task = self._rules_by_origin.get(origin)
        if task is None:
            while len(self._rules_by_origin) >= _HOSTS_KEPT:
                del self._rules_by_origin[next(iter(self._rules_by_origin))]
            task = self._rules_by_origin[origin] = asyncio.ensure_future(self._load(origin))
            task.add_done_callback(lambda done: self._drop_failed(origin, done))
        return await asyncio.shield(task)

    def _drop_failed(self, origin: str, done: "asyncio.Task[Protego]") -> None:
        failed = done.cancelled() or done.exception() is not None
        if failed and self._rules_by_origin.get(origin) is done:
            del self._rules_by_origin[origin]

    async def _load(self, origin: str) -> Protego:
        try:
            text = await self._read(origin)
        except HttpStatusError as error:
            if error.status == 429 or error.status >= 500:
                raise
            text = b""  # no robots.txt allows everything
        except TooLargeError:
            raise OptedOutError("the host's robots.txt is too large", where=origin) from None
        return await asyncio.to_thread(Protego.parse, text.decode("utf-8-sig", "replace"))


def opts_out(robots_tags: Iterable[str], reservations: Iterable[str], agent: str) -> bool:
    """Return whether the values of X-Robots-Tag or tdm-reservation forbid the use of an answer."""
    if any(value.strip() == "1" for value in reservations):
        return True
    return any(_forbids(value, agent_token(agent)) for value in robots_tags)


def agent_token(agent: str) -> str:
    """Return the product token that robots.txt matches: the agent without its version, in lower case."""
    return agent.partition("/")[0].strip().lower()


def _forbids(tag: str, token: str) -> bool:
    # "agent: rule, rule" applies to that agent only.
    agent, colon, rules = tag.rpartition(":")
    if colon and agent.strip().lower() not in {token, "*"}:
        return False
    return any(rule.strip().lower() in _OPT_OUT_RULES for rule in rules.split(","))
